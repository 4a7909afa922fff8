"""What an update costs with several processes: predicted from its parts, and measured.

    python benchmarks/scaling.py [--recipe small] [--batch 32] [--updates 20]
    python benchmarks/scaling.py --plan --recipe imagenet64 [--tflops 400] [--inside 450] [--between 50]

Parts are measured with one process: the gradient of an image, the optimizer's step; and, between N of them, an
all-reduce of as many numbers as the model has. An update of N processes with one thread each should then take
B / N gradients (times N / cores where there are more processes than cores), the all-reduce, and the step.

--plan measures nothing: it counts the arithmetic of a gradient, the memory and the traffic, and divides by what the
hardware is said to do: TFLOP/s of a GPU in training, and GB/s that a GPU sends inside a machine of 8 and between them.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import distributed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import image_transformer as it
from image_transformer.processes import together
from image_transformer.training.run import Run

CORES = len(os.sched_getaffinity(0))


def median(what, times: int) -> float:
    """Seconds of a call, the median of several."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        what()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def worker(chosen: argparse.Namespace) -> None:
    """One of the processes: trains some updates, and measures the parts."""
    torch.set_num_threads(chosen.threads)
    config = it.recipe(chosen.recipe, data={"source": "cifar10-mini"})
    train = replace(
        config.train,
        batch=chosen.batch,
        micro_batch=None,
        parallel=chosen.parallel,
        minutes=None,
        closed_form_start=False,
    )
    with together() as processes, tempfile.TemporaryDirectory() as folder:
        run = Run(replace(config, train=train), Path(folder) / "run")
        for _ in range(2):
            run.update()
        update = median(run.update, chosen.updates)
        parameters = sum(p.numel() for p in run.learner.model.parameters())
        found = {"processes": processes.count, "threads": chosen.threads, "parallel": chosen.parallel, "update": update}
        found["parameters"] = parameters
        if processes.several:
            numbers = torch.zeros(parameters)
            found["all_reduce"] = median(lambda: distributed.all_reduce(numbers), chosen.updates)
        else:
            views = run.passes(0)
            found["gradients"] = median(lambda: run.learner.accumulate(views), max(3, chosen.updates // 3))
            found["step"] = median(lambda: [one.step() for one in run.learner.optimizers], chosen.updates)
            before = time.perf_counter()
            run.save()
            found["save_waits"] = time.perf_counter() - before
            run.saver.wait()
            found["save"] = time.perf_counter() - before
        if processes.first:
            print(json.dumps(found))


def measured(chosen: argparse.Namespace, count: int, threads: int, parallel: str) -> dict:
    """The figures of so many processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = ["-m", "torch.distributed.run", f"--nproc-per-node={count}", "--rdzv-backend=c10d",
              f"--rdzv-endpoint=127.0.0.1:{port}"] if count > 1 else []  # fmt: skip
    arguments = [f"--{name}={getattr(chosen, name)}" for name in ("recipe", "batch", "updates")]
    command = [
        sys.executable,
        *launch,
        __file__,
        "--worker",
        *arguments,
        f"--threads={threads}",
        f"--parallel={parallel}",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def plan(chosen: argparse.Namespace) -> None:
    """What the formulas of docs/scaling.md say of a recipe."""
    config = it.recipe(chosen.recipe)
    with FakeTensorMode(allow_non_fake_inputs=True):  # shapes alone
        model = it.ImageModel(config.model)
        with FlopCounterMode(display=False) as counted:
            model.score(torch.zeros(1, *config.model.shape, dtype=torch.uint8), {}).mean().backward()
    weights = sum(p.numel() for p in model.parameters())
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and ".blocks." in name)
    work = counted.get_total_flops() * (4 / 3 if config.train.recompute else 1)
    batch, cut = config.train.batch, config.train.parallel == "fsdp"
    copies = 4 + (config.train.ema is not None) - matrices / weights  # weight, gradient, Adam's two or Muon's one
    work_said, speeds = f"{counted.get_total_flops() / 1e12:.2f} TFLOP for a gradient", (chosen.inside, chosen.between)
    print(f"{chosen.recipe}: {weights / 1e6:.0f} M parameters, {work_said}, batches of {batch}")
    print("{:g} TFLOP/s, {:g} GB/s inside a machine and {:g} between them\n".format(chosen.tflops, *speeds))
    print("| GPUs | images each | compute, ms | sent, GB | sending, ms | update, ms | efficiency | state, GiB |")
    print("|---|---|---|---|---|---|---|---|")
    count = 1
    while count <= batch:
        compute = 1e3 * work * batch / count / (chosen.tflops * 1e12)
        others = (count - 1) / count
        sent = (12 if cut else 8) * weights * others + (2 / count * 2 if cut else 2) * matrices * others
        sending = 1e3 * sent / (1e9 * (chosen.inside if count <= 8 else chosen.between))
        update = max(compute, sending)  # while blocks compute, others are on their way
        state = 4 * weights * copies / (count if cut else 1) / 2**30
        one = 1e3 * work * batch / (chosen.tflops * 1e12)
        print(f"| {count} | {batch // count} | {compute:.1f} | {sent / 1e9:.2f} | {sending:.1f} | {update:.1f} | "
              f"{100 * one / count / update:.0f} % | {state:.2f} |")  # fmt: skip
        count *= 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parallel", default="ddp")
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--tflops", type=float, default=400.0)
    parser.add_argument("--inside", type=float, default=450.0)
    parser.add_argument("--between", type=float, default=50.0)
    chosen = parser.parse_args()
    if chosen.plan:
        return plan(chosen)
    if chosen.worker:
        return worker(chosen)
    alone = measured(chosen, 1, 1, "ddp")
    print(f"{chosen.recipe}, {alone['parameters']:,} parameters, batches of {chosen.batch}, {CORES} cores")
    print(f"gradients {alone['gradients']:.3f} s, step {alone['step']:.4f} s; saving takes {alone['save']:.3f} s, "
          f"of which training waits {alone['save_waits']:.3f} s\n")  # fmt: skip
    print("| processes x threads | | update, s | predicted, s | images/s | all-reduce, s |\n|---|---|---|---|---|---|")
    rows = [(1, 1, "ddp"), (1, 2, "ddp"), (2, 1, "ddp"), (2, 1, "fsdp"), (4, 1, "ddp"), (4, 1, "fsdp")]
    for count, threads, parallel in rows:
        found = alone if (count, threads) == (1, 1) else measured(chosen, count, threads, parallel)
        crowded = max(1.0, count / CORES)
        reduce = found.get("all_reduce", 0.0)
        predicted = alone["gradients"] / count * crowded + reduce + alone["step"] * crowded
        said = f"{predicted:.3f}" if threads == 1 else ""
        print(f"| {count} x {threads} | {parallel if count > 1 else ''} | {found['update']:.3f} | {said} | "
              f"{chosen.batch / found['update']:.1f} | {reduce:.4f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
