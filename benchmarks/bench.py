"""Times training and sampling on this machine, each against its plain form, interleaved in one process.

Prints medians and ratios and writes them to benchmarks/results.json. About two minutes on 2 cores.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from image_transformer import recipes
from image_transformer.model import ImageTransformer
from image_transformer.sample import generate, generate_naive


class DenseAttention(nn.Module):
    """The same pattern as one l x l mask: what local attention is written as when nobody minds the waste."""

    allowed: Tensor

    def __init__(self, model: ImageTransformer, layer: int) -> None:
        super().__init__()
        p = model.layout.positions
        sees = model.config.patterns[layer].sees(p[:, None], p[None])
        self.register_buffer("allowed", torch.from_numpy(sees), persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, self.allowed)


def dense(model: ImageTransformer) -> ImageTransformer:
    """A copy of the model, with the same weights and the same results, that masks instead of tiling."""
    copy = ImageTransformer(model.config)
    copy.load_state_dict(model.state_dict())
    copy.tiled = nn.ModuleList(DenseAttention(model, layer) for layer in range(model.config.depth))
    return copy


def seconds(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, run in turn so that a drift of the machine's speed meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def update(model: ImageTransformer, images: Tensor) -> None:
    model.log_prob(images).mean().neg().backward()
    model.zero_grad(set_to_none=True)


def main() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    results: dict[str, float] = {}
    for name in ("tiny", "small"):
        model = ImageTransformer(recipes.find(name).model)
        masked = dense(model)
        with torch.inference_mode():
            torch.testing.assert_close(masked.log_prob(images[:1]), model.log_prob(images[:1]), rtol=1e-3, atol=1e-3)
        timed = seconds(
            {"tiles": lambda m=model: update(m, images), "dense mask": lambda m=masked: update(m, images)}, 5
        )
        results |= {f"train {name}, images/s, {how}": 4 / value for how, value in timed.items()}
        results[f"train {name}, tiles / dense mask"] = timed["dense mask"] / timed["tiles"]
    model = ImageTransformer(recipes.find("tiny").model).eval()
    timed = seconds({"cached": lambda: generate(model, 1)}, 3)
    results["sample tiny, seconds for one image, cached"] = timed["cached"]
    known, mask = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.ones(32, 32, dtype=torch.bool)
    mask[-1] = False  # the naive form is timed on the last of 32 rows: it costs the same for every position
    timed = seconds({"naive": lambda: generate_naive(model, 1, known=known, known_mask=mask)}, 2)
    results["sample tiny, seconds for one image, naive"] = timed["naive"] * 32
    results["sample tiny, naive / cached"] = timed["naive"] * 32 / results["sample tiny, seconds for one image, cached"]
    batch = seconds({"batch": lambda: generate(model, 64)}, 1)["batch"]
    results["sample tiny, seconds an image in a batch of 64, cached"] = batch / 64

    table = Table("what", "value", box=None)
    for what, value in results.items():
        table.add_row(what, f"{value:.3g}")
    Console().print(table)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    about = {
        "commit": commit.stdout.strip(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "dtype": "float32",
    }
    path = Path(__file__).parent / "results.json"
    path.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")
    print(f"{', '.join(f'{k} {v}' for k, v in about.items())}\nwritten to {path}")


if __name__ == "__main__":
    main()
