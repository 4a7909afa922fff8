"""Models for others: folders that say what they hold, and programs that run without this package."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from image_transformer import checkpoint
from image_transformer.config.run import RunConfig, to_dict
from image_transformer.model import ImageModel

PROGRAM = "log_prob.pt2"


def export(path: str | Path, out: str | Path, *, temperature: float | None = None, program: bool = False) -> Path:
    """Write the model at `path` alone, its weights rounded to 16 bits, as the folder `out`; returns that.

    About a seventh of a run's checkpoint: it loads as others do, but no run goes on from it. Beside the weights lie
    config.json and a model card, README.md, as the hub of Hugging Face expects them.
    temperature: to build in instead of the model's own. program: also write log_prob.pt2, what `torch.export` makes of
    `log_prob`: `torch.export.load(file).module()(images, *conditions)` needs no more than torch.
    CheckpointError if there is no model at `path`, OSError if `out` is there already or cannot be written.

    >>> it.load(it.export("runs/tiny", "runs/light")).config.shape
    (3, 8, 8)
    """
    folder, out = checkpoint.find(path), Path(out)
    if out.exists():
        raise FileExistsError(f"{out} is there already: choose another folder")
    state, config = checkpoint.read_state(folder), checkpoint.read_config(folder)
    if temperature is not None:
        state = replace(state, validation_bpd=None)
        config = replace(config, model=replace(config.model, temperature=temperature))
    write(config, state, checkpoint.read_weights(folder), out, program=program)
    return out


def write(
    config: RunConfig, state: checkpoint.State, weights: Mapping[str, Tensor], out: Path, *, program: bool = False
) -> None:
    """The folder that `export` makes, of a model with these `weights`."""
    rounded = {name: x.half() if x.dtype == torch.float32 else x for name, x in weights.items()}
    rounded = {name: x if x.isfinite().all() else weights[name] for name, x in rounded.items()}  # too large for 16 bits
    model = ImageModel(config.model)
    model.load_state_dict(rounded)
    files = checkpoint.model_files(config, state, rounded)
    files["config.json"] = json.dumps({"library_name": "image-transformer", **to_dict(config)}, indent=1).encode()
    files["README.md"] = model_card(model, config, state).encode()
    if program:
        files[PROGRAM] = program_of(model.eval())
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_folder(out, files)


def model_card(model: ImageModel, config: RunConfig, state: checkpoint.State) -> str:
    """What a stranger wants to know of a model, in Markdown, with the hub's fields on top."""
    channels, height, width = config.model.shape
    parameters = sum(p.numel() for p in model.parameters())
    told = ", ".join(f"{one.name}= ({one.noun})" for one in config.model.conditions)
    scored = "" if state.validation_bpd is None else f", {state.validation_bpd:.4f} bits/dim on validation images"
    augmented = f", {config.data.augmentation}" if config.data.augmentation else ""
    return f"""---
library_name: image-transformer
tags: [image-generation, autoregressive, exact-likelihood, {config.model.family}]
---

# {config.recipe}

An autoregressive model of {height} x {width} images with {channels} channel{"s" if channels > 1 else ""}: it scores any
such image exactly, in bits/dim, and draws new ones. {parameters:,} parameters, family `{config.model.family}`, recipe
`{config.recipe}`{f"; it is told {told}" if told else ""}.

```python
import image_transformer as it
import torch

model = it.load("this folder")
images = torch.zeros(1, {channels}, {height}, {width}, dtype=torch.uint8)
print(model.log_prob(images{"".join(f", {one.name}=..." for one in config.model.conditions)}).sum())  # nats
```

Trained on {config.data.source}{augmented}: {state.images_seen:,} views in {state.seconds / 60:,.0f} minutes{scored}.
Weights are rounded to 16 bits; samples are drawn at temperature {config.model.temperature:g}. `config.yaml` holds all
settings of the training, `SHA256SUMS` the digests of the files. Nothing here is unpickled by `it.load`.
"""


class LogProb(nn.Module):
    """`log_prob` of a model, its conditions in order after the images, as `torch.export` takes it."""

    def __init__(self, model: ImageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, *given: Tensor) -> Tensor:
        names = [condition.name for condition in self.model.config.conditions]
        return self.model.score(images, dict(zip(names, given, strict=True)))


def program_of(model: ImageModel) -> bytes:
    """A `torch.export` program of `log_prob` for any number of images, compared with the model on three of them.

    Texts are told it padded to their full length.

    RuntimeError if they differ by more than rounding.
    """
    shape = model.config.shape
    images = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    given = tuple(condition.example(images) for condition in model.config.conditions)
    two = (images[:2], *(x[:2] for x in given))
    batch = torch.export.Dim("batch", min=1)
    shapes: Any = ({0: batch}, tuple({0: batch} for _ in given)) if given else ({0: batch},)
    program = torch.export.export(LogProb(model), two, dynamic_shapes=shapes)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found")  # of buffers that are parts of one
        torch.export.save(program, buffer)
    buffer.seek(0)
    again = torch.export.load(buffer).module()
    with torch.inference_mode():
        difference = (again(images, *given) - LogProb(model)(images, *given)).abs().max().item()
    if not difference < 1e-3:
        raise RuntimeError(f"the exported program differs from the model by {difference:g} nats in a sub-pixel")
    return buffer.getvalue()
