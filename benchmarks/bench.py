"""Times training and sampling on this machine, side by side with plain forms and with what else can be installed.

The contestants in training, and single images in sampling, run in turn in one process, several rounds, so that a drift
of the machine's speed meets all of them; medians are printed. Batches of samples, peers' samples and large images are
timed once. Written to benchmarks/results.json, too. Under ten minutes on 2 cores: `make bench`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import PEERS, START, TOKENS, Peer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from image_transformer.checkpoint import default_device
from image_transformer.config.model import Modern
from image_transformer.config.train import TrainConfig
from image_transformer.geometry.order import Order, Raster, Wavefront
from image_transformer.geometry.patterns import Local1D, tiles
from image_transformer.inference.sampling import generate
from image_transformer.model import ImageModel
from image_transformer.recipes import recipe
from image_transformer.reproduce.trial import where
from image_transformer.training.update import use_bf16

# 6 layers, width 256, 8 heads, blocks of 256: gated feed-forward of 683 has the weights of a plain one of 1,024
STANDARD = Modern(attention=(Local1D(256, 256),), depth=6, width=256, heads=8, feed_forward=683)
DEVICE = default_device()
BATCH = 4
SIDES = (16, 32, 64, 128, 256)

console = Console(highlight=False, width=110)
results: dict[str, Any] = {}


# ---- contestants ----


class Dense(nn.Module):
    """Attention of all to all earlier positions, as it is written when nobody minds the waste."""

    def __init__(self, explicit: bool) -> None:
        super().__init__()
        self.explicit = explicit

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self.explicit:
            return scaled_dot_product_attention(q, k, v, is_causal=True)
        allowed = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
        scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(~allowed, -torch.inf)
        return scores.softmax(-1) @ v


def ours(order: Order, config: Modern = STANDARD, **changes: Any) -> ImageModel:
    torch.manual_seed(0)
    model = ImageModel(replace(config, order=order, **changes)).to(DEVICE)
    for parameter in model.parameters():  # nothing is zero, so that no product is easier than in a trained model
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model


def dense(explicit: bool, config: Modern = STANDARD, **changes: Any) -> ImageModel:
    model = ours(Raster(), config, **changes)
    model.network.tiled = nn.ModuleList(Dense(explicit) for _ in range(config.depth))
    return model


def pixels(batch: int, side: int = 32) -> Tensor:
    return torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8).to(DEVICE)


def update(model: nn.Module, loss: Callable[[], Tensor], bf16: bool) -> Callable[[], None]:
    """Forward and backward pass, without the optimizer, which all share."""

    def run() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            value = loss()
        value.backward()
        model.zero_grad(set_to_none=True)

    return run


def training(config: Modern = STANDARD, batch: int = BATCH) -> dict[str, Callable[[], Callable[[], None]]]:
    """Makers of the contestants in training: called, they build a model and give its update."""
    images = pixels(batch)
    tokens = torch.randint(0, 512, (batch, TOKENS)).to(DEVICE)

    def own(make: Callable[[], ImageModel], bf16: bool) -> Callable[[], Callable[[], None]]:
        def maker() -> Callable[[], None]:
            model = make()
            return update(model, lambda: -model.log_prob(images).mean(), bf16)

        return maker

    def other(number: int, bf16: bool) -> Callable[[], Callable[[], None]]:
        def maker() -> Callable[[], None]:
            (peer,) = all_peers(number)
            return update(peer.model.train(), lambda: peer.loss(tokens), bf16)

        return maker

    fast = use_bf16(TrainConfig(), DEVICE)
    found = {
        "ours, wavefront": own(lambda: ours(Wavefront(1), config), fast),
        "ours, raster": own(lambda: ours(Raster(), config), fast),
        "ours, wavefront, float32": own(lambda: ours(Wavefront(1), config), False),
        "(a) dense l x l mask, float32": own(lambda: dense(True, config), False),
        "(b) dense causal SDPA, float32": own(lambda: dense(False, config), False),
        "(b) dense causal SDPA, bfloat16": own(lambda: dense(False, config), True),
    }
    for number, name in enumerate(("local-attention", "x-transformers", "ImageGPT")):
        found[f"(c) {name}, float32"] = other(number, False)
        found[f"(c) {name}, bfloat16"] = other(number, True)
    return found


def all_peers(only: int | None = None) -> list[Peer]:
    torch.manual_seed(0)
    makers = PEERS if only is None else PEERS[only : only + 1]
    found = [make(STANDARD.width, STANDARD.depth, STANDARD.heads, 256) for make in makers]
    for peer in found:
        peer.model.to(DEVICE)
    return found


# ---- measuring ----


@dataclass
class Timing:
    """Medians over the rounds: seconds on the clock, and seconds of all cores together."""

    wall: float
    cpu: float


def side_by_side(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            synchronize()
            if number:  # the first round warms up
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: Timing(*map(statistics.median, zip(*values, strict=True))) for name, values in taken.items()}


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def peak_memory(name: str) -> float:
    """MB that the first update of a contestant adds to the peak of a process of its own."""
    command = [sys.executable, __file__, "--memory", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def memory_of(name: str) -> float:
    run = training()[name]()
    if DEVICE.type == "cuda":
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = peak_resident()
    run()
    return peak_resident() - before


def peak_resident() -> float:
    """The most MB that this process has held; Linux counts what `getrusage` says from before the process began."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def saved_bytes(model: ImageModel, images: Tensor, bf16: bool) -> int:
    """Bytes beside the weights that a forward pass keeps for the backward pass."""
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x),
        torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16),
    ):
        nats = model.log_prob(images)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return sum(size for place, size in storages.items() if place not in weights) + nats.nbytes


class _Enough(Exception):
    pass


def seconds_to_sample(model: ImageModel, batch: int, most: float = math.inf) -> Timing:
    """Seconds for `batch` images. After `most` seconds the rest is extrapolated from the number of steps.

    That is right where all steps have the same number of positions, as in raster order.
    """
    generate(model, 1)  # the schedule is made, the tables are there
    synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    share = 1.0

    def progress(done: int, total: int) -> None:
        nonlocal share
        share = done / total
        if time.perf_counter() - wall > most:
            raise _Enough

    with contextlib.suppress(_Enough):
        generate(model, batch, batch=batch, progress=progress)
    synchronize()
    return Timing((time.perf_counter() - wall) / share, (time.process_time() - cpu) / share)


@torch.inference_mode()
def seconds_to_sample_naively(model: ImageModel) -> Timing:
    """Seconds for one image: a pass of the whole network for each position."""
    image = pixels(1)
    once = side_by_side({"": lambda: model(image)}, 5)[""]
    return Timing(once.wall * model.layout.num_positions, once.cpu * model.layout.num_positions)


def flops(model: ImageModel, batch: int) -> float:
    """Products of matrices in an update, counted twice a multiply-add: weights, and the scores of all tiles."""
    config, positions = model.config, model.layout.num_positions
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    scores = sum(part.queries.size * part.keys.shape[1] for p in config.patterns for part in tiles(p, model.layout))
    return 6 * batch * (weights * positions + 2 * scores * config.heads * config.head_width)


def matmul_peak(dtype: torch.dtype) -> float:
    """FLOP/s of products of 2048 x 2048 matrices."""
    a = torch.randn(2048, 2048, device=DEVICE).to(dtype)
    return 2 * 2048**3 / side_by_side({"": lambda: a @ a}, 7)[""].wall


# ---- tables ----


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> None:
    table = Table(*columns, title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*(f"{x:.3g}" if isinstance(x, float) else str(x) for x in row))
    console.print(table)
    console.print(f"[dim]{note}[/]\n" if note else "")


def bench_training(rounds: int) -> None:
    runs = {name: maker() for name, maker in training().items()}
    taken = side_by_side(runs, rounds)
    first = taken["ours, wavefront"]
    rows = []
    for name, t in taken.items():
        memory = peak_memory(name)
        results[f"train: {name}"] = {
            "wall_s": t.wall,
            "cpu_s": t.cpu,
            "images_per_s": BATCH / t.wall,
            "peak_mb": memory,
        }
        rows.append((name, BATCH / t.wall, t.wall, t.cpu, round(memory), t.wall / first.wall))
    show(
        "Training: forward and backward pass, 4 images of 32 x 32, 1,024 positions",
        ("", "images/s", "seconds", "CPU-seconds", "peak MB", "times ours"),
        rows,
        "ours in bfloat16 where the hardware multiplies it faster"
        if use_bf16(TrainConfig(), DEVICE)
        else "all float32",
    )
    for dtype, name in ((torch.bfloat16, "ours, wavefront"), (torch.float32, "ours, wavefront, float32")):
        if name == "ours, wavefront" and not use_bf16(TrainConfig(), DEVICE):
            continue
        peak, reached = matmul_peak(dtype), flops(ours(Wavefront(1)), BATCH) / taken[name].wall
        results[f"share of peak, {dtype}"] = {"peak_gflops": peak / 1e9, "reached_gflops": reached / 1e9}
        console.print(
            f"{dtype}: training reaches {reached / 1e9:.0f} of {peak / 1e9:.0f} GFLOP/s of matrix products, "
            f"{reached / peak:.0%}; at the peak an update would take {flops(ours(Wavefront(1)), BATCH) / peak:.2f} s"
        )
    console.print()


def bench_sampling(rounds: int) -> None:
    raster, wavefront = ours(Raster()).eval(), ours(Wavefront(1)).eval()
    one = side_by_side({"raster": lambda: generate(raster, 1), "wavefront": lambda: generate(wavefront, 1)}, rounds)
    naive, first = seconds_to_sample_naively(wavefront), one["wavefront"]
    taken = {
        f"ours, wavefront, {len(wavefront.schedule().steps)} steps": {
            1: first, 8: seconds_to_sample(wavefront, 8), 64: seconds_to_sample(wavefront, 64)
        },
        f"ours, raster, {len(raster.schedule().steps)} steps": {
            1: one["raster"], 8: seconds_to_sample(raster, 8, most=15), 64: seconds_to_sample(raster, 64, most=15)
        },
        "ours, naive": {1: naive},
    }  # fmt: skip
    for peer in all_peers():
        taken[peer.name] = {batch: peer_seconds(peer, batch) for batch in (1, 8, 64)}
    rows = []
    for name, times in taken.items():
        batches = [times[b].cpu / b if b in times else "" for b in (8, 64)]
        rate = 64 / times[64].wall if 64 in times else ""
        rows.append((name, times[1].wall, times[1].cpu, *batches, rate, times[1].wall / first.wall))
    names = ("s, 1 image", "CPU-s", "CPU-s each of 8", "of 64", "images/s of 64", "times ours")
    for name, *values in rows:
        results[f"sample: {name}"] = dict(zip(names, values, strict=True))
    show("Sampling 32 x 32 images", ("", *names), rows,
         "extrapolated: naive from one pass, raster batches from 15 s, peers from mid-image")  # fmt: skip
    naively, gained = naive.wall / one["raster"].wall, one["raster"].wall / first.wall
    console.print(f"naive / raster {naively:.0f}, raster / wavefront {gained:.1f}\n")


@torch.no_grad()
def peer_seconds(peer: Peer, batch: int) -> Timing:
    tokens = torch.randint(0, 512, (batch, START)).to(DEVICE)
    steps = 32 if batch < 64 else 64  # enough to stand out of the first pass over the tokens that are there
    taken = side_by_side({str(n): lambda n=n: peer.sample(tokens, n) for n in (1, 1 + steps)}, 3 if batch < 64 else 1)
    short, long = taken["1"], taken[str(1 + steps)]
    return Timing(*((b - a) / steps * TOKENS for a, b in ((short.wall, long.wall), (short.cpu, long.cpu))))


def bench_scaling(rounds: int) -> None:
    base = recipe("tiny").model
    rows, train_s, sample_s, dense_s = [], [], [], []
    bf16 = use_bf16(TrainConfig(), DEVICE)
    for side in SIDES:
        model, images = ours(Wavefront(1), base, shape=(3, side, side)), pixels(1, side)
        runs = {"ours": update(model, lambda m=model, x=images: -m.log_prob(x).mean(), bf16)}
        if side <= 64:
            other = dense(False, base, shape=(3, side, side))
            runs["dense"] = update(other, lambda m=other, x=images: -m.log_prob(x).mean(), bf16)
        taken = side_by_side(runs, max(1, rounds if side < 256 else rounds // 2))
        kept = saved_bytes(model, images, bf16) / 2**20
        drawn = seconds_to_sample(model.eval(), 1)
        train_s.append(taken["ours"].wall)
        sample_s.append(drawn.wall)
        dense_s += [taken["dense"].wall] if "dense" in taken else []
        cache = model.network.decoder(None, 1, model.schedule()).num_bytes / 2**20
        rows.append((f"{side} x {side}", taken["ours"].wall, kept, taken["dense"].wall if "dense" in taken else "",
                     len(model.schedule().steps), drawn.wall, cache))  # fmt: skip

    def exponent(seconds: Sequence[float], since: int = 0) -> float:
        sizes = np.log([side**2 for side in SIDES[since : len(seconds)]])
        return float(np.polyfit(sizes, np.log(seconds[since:]), 1)[0])

    exponents = {"training": exponent(train_s), "dense": exponent(dense_s), "sampling": exponent(sample_s)}
    results["scaling"] = {"rows": rows, "exponents": exponents}
    names = ("", "s an update", "MB kept for it", "dense SDPA, s", "steps", "s a sample", "MB of cache")
    show("Scaling: the tiny model by wavefront, one image", names, rows,
         f"exponents of the number of pixels: update {exponents['training']:.2f}, dense update "
         f"{exponents['dense']:.2f} and rising, sample {exponents['sampling']:.2f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("training", "sampling", "scaling"), action="append")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    if chosen.memory:
        print(memory_of(chosen.memory))
        return
    began = time.perf_counter()
    here = where()
    about = {
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else here["processor"],
        "threads": torch.get_num_threads(),
        **{name: here[name] for name in ("torch", "commit", "date")},
    }
    console.print(" · ".join(f"{k} {v}" for k, v in about.items()) + "\n")
    for name, bench in (("training", bench_training), ("sampling", bench_sampling), ("scaling", bench_scaling)):
        if not chosen.only or name in chosen.only:
            bench(chosen.rounds)
    path = Path(__file__).parent / "results.json"
    earlier = json.loads(path.read_text())["results"] if chosen.only and path.exists() else {}
    path.write_text(json.dumps({"about": about, "results": earlier | results}, indent=1) + "\n")
    console.print(f"{math.ceil(time.perf_counter() - began)} s; written to {path}")


if __name__ == "__main__":
    main()
