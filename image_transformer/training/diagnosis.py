"""Where numbers stopped being finite: in which layer, for which images. All of it is kept for inspection."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from image_transformer import checkpoint
from image_transformer.data.images import Images
from image_transformer.files import write_atomically
from image_transformer.processes import Processes, processes
from image_transformer.show import grids
from image_transformer.training.update import Learner, Views

FOLDER = "not-finite"  # in the folder of the run
MANY = 64  # images that are kept


@dataclass(frozen=True)
class Diagnosis:
    """What an update that was left out would have done."""

    places: tuple[str, ...]
    """Layers whose output is the first that is not finite, or weights whose gradient is the first on the way back."""
    views: tuple[int, ...]
    """The numbers of the views, in the order of the run, that cause it, each by itself."""

    def __str__(self) -> str:
        if not self.places:
            return "each image by itself gives finite numbers"
        numbers = ", ".join(f"{view:,}" for view in self.views[:5])
        more = f" and {len(self.views) - 5:,} more" if len(self.views) > 5 else ""
        return f"first in {' and '.join(self.places)}, for the images {numbers}{more} of the run"


def diagnose(learner: Learner, batches: Sequence[tuple[int, Views]], processes: Processes) -> Diagnosis:
    """What is wrong with the images of an update, one after another; each batch with the number of its first view."""
    loss, places, views = learner.whole_loss(), [], []
    names = {module: name for name, module in loss.named_modules()}
    first: list[str] = []

    def look(module: nn.Module, given: Any, output: Any) -> None:
        several = output if isinstance(output, tuple) else (output,)
        if not first and any(isinstance(x, Tensor) and not x.isfinite().all() for x in several):
            first.append(names[module].removeprefix("model."))

    hooks = [module.register_forward_hook(look) for module in names if not list(module.children())]
    try:
        for start, (images, given, keys) in batches:
            for i in range(len(images)):
                first.clear()
                row = slice(i, i + 1)
                loss.zero_grad(set_to_none=True)
                with torch.autocast(learner.device.type, torch.bfloat16, enabled=learner.bf16):
                    bits = loss(images[row], {name: value[row] for name, value in given.items()}, keys[row])
                if bits.isfinite():
                    bits.backward()
                    wrong = [n for n, p in loss.model.named_parameters() if not _finite(p.grad)]
                    if not wrong:
                        continue
                    first[:] = wrong[-1:]  # nearest to the loss
                places += first or ["the likelihood"]
                views.append(start + i)
    finally:
        for hook in hooks:
            hook.remove()
        loss.zero_grad(set_to_none=True)
    found = processes.all(Diagnosis(tuple(places), tuple(views)))
    return Diagnosis(
        tuple(dict.fromkeys(p for one in found for p in one.places)), tuple(v for one in found for v in one.views)
    )


def _finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(gradient.isfinite().all())


def keep(run: Path, found: Diagnosis, images: Images | None, model: dict[str, bytes]) -> Path:
    """Write the images that are to blame, as a picture and as numbers, and the files of the model; the folder."""
    folder = run / FOLDER
    if processes().first:
        shutil.rmtree(folder, ignore_errors=True)  # an earlier one
    if images is not None:
        numbers = io.BytesIO()
        np.savez(numbers, images=images, views=np.array(found.views[: len(images)]))
        write_atomically(folder / "images.npz", numbers.getvalue())
        grids.save_png(grids.grid(images[:MANY], columns=8), folder / "images.png")
    write_atomically(folder / "diagnosis.txt", f"{found}\n".encode())
    for name, content in {**model, checkpoint.SUMS: checkpoint.sums(model)}.items():
        write_atomically(folder / name, content)
    return folder
