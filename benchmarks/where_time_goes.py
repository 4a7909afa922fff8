"""Profile of one update: the share of each kind of work, in bfloat16 where that is used, or with --float32.

python benchmarks/where_time_goes.py [--float32] [--model standard | tiny | small]
"""

from __future__ import annotations

import argparse

import torch
from bench import BATCH, STANDARD, flops, ours, pixels, update
from rich.console import Console
from rich.table import Table
from torch.profiler import profile

from image_transformer.checkpoint import default_device
from image_transformer.config.train import TrainConfig
from image_transformer.geometry.order import Wavefront
from image_transformer.recipes import recipe
from image_transformer.training.update import use_bf16

KINDS = {
    "products of matrices": ("aten::mm", "aten::addmm"),
    "products of attention": ("aten::bmm", "aten::baddbmm", "aten::matmul"),
    "fused attention": ("scaled_dot_product", "_efficient_attention", "_flash_attention"),
    "softmax": ("softmax",),
    "copies, casts, concatenations": ("aten::copy_", "aten::cat", "aten::clone", "aten::_to_copy", "aten::index"),
    "norms, rotations, gates, additions": ("aten::",),
    "bookkeeping": ("",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--model", default="standard", choices=("standard", "tiny", "small"))
    chosen = parser.parse_args()
    bf16 = use_bf16(TrainConfig(), default_device()) and not chosen.float32
    model = ours(Wavefront(1), STANDARD if chosen.model == "standard" else recipe(chosen.model).model)
    images = pixels(BATCH)
    run = update(model, lambda: -model.log_prob(images).mean(), bf16)
    run()
    with profile() as recorded:
        for _ in range(3):
            run()
    seconds = dict.fromkeys(KINDS, 0.0)
    for event in recorded.key_averages():
        kind = next(kind for kind, names in KINDS.items() if any(name in event.key for name in names))
        seconds[kind] += event.self_cpu_time_total / 3e6
    total = sum(seconds.values())
    table = Table("kind of work", "CPU-seconds", "share", box=None)
    for kind, value in sorted(seconds.items(), key=lambda item: -item[1]):
        table.add_row(kind, f"{value:.3f}", f"{value / total:.0%}")
    table.add_row("all", f"{total:.3f}", f"{flops(model, BATCH) / 1e9:.0f} GFLOP of products")
    Console().print(f"{chosen.model}, {'bfloat16' if bf16 else 'float32'}, {torch.get_num_threads()} threads", table)


if __name__ == "__main__":
    main()
