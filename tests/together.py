"""What several processes do in the tests of them: `torchrun tests/together.py TASK FOLDER`. Also how tests start it."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path

LIMIT = 240  # seconds until all of them are killed


def meeting(machines: int = 1) -> tuple[str, ...]:
    """Words for a torchrun on each of so many machines, which find each other on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = (f"--rdzv-endpoint=127.0.0.1:{port}", f"--rdzv-id={uuid.uuid4().hex}")
    return (f"--nnodes={machines}", "--rdzv-backend=c10d", *where)


def torchrun(count: int, *what: str, restarts: int = 0, wait: bool = True, met: tuple[str, ...] = (), **variables: str):
    """Start `count` processes of a program (a path, or -m and a module), in a session of their own."""
    command = [
        sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", f"--max-restarts={restarts}",
        *(met or meeting()), "--monitor-interval=0.1", *what,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"} | variables, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    return finished(process) if wait else process


def finished(process, limit: float = LIMIT) -> tuple[int, str, str]:
    """Exit code, output and errors of what `torchrun` started; killed with all its children if it takes too long."""
    try:
        out, err = process.communicate(timeout=limit)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        error.add_note(f"{out}\n{err}")
        raise
    return process.returncode, out, err


def runs(folder: Path) -> None:
    """Every run in the folder, a pickled (configuration, whether to resume): trained, and nothing else."""
    from image_transformer.training.loop import train

    for file in sorted(folder.glob("*.task")):
        config, resume = pickle.loads(file.read_bytes())
        train(config, folder / file.stem, resume=resume, show_progress=False)


def blamed(config, out) -> str:
    """What a run says whose weights, cut over the processes, are too large in one layer."""
    from image_transformer.training.errors import TrainingError
    from image_transformer.training.run import Run

    run = Run(config, out)
    for weight in run.learner.model.network.blocks[1].down.parameters():
        weight.detach().fill_(3e38)
    try:
        run.update()
    except TrainingError as error:
        return str(error)
    return "nothing"


def results(folder: Path) -> None:
    """bits/dim of each image, and images that are drawn, as every process sees them."""
    import numpy as np
    import torch

    import image_transformer as it
    from image_transformer import processes as groups
    from image_transformer.processes import together

    with together() as processes:
        model, images = it.load(folder / "model"), torch.from_numpy(np.load(folder / "images.npy"))
        score, calls = model.score, []
        model.score = lambda *args: (calls.append(1), score(*args))[1]
        scored = it.evaluate(model, images, batch=5)
        drawn = it.generate(model.double(), 5, seed=3)
        config, out = pickle.loads((folder / "blamed.config").read_bytes())
        said = blamed(config, out)
        patience = groups._patient._get_backend(torch.device("cpu")).options._timeout
        found = {
            "bits": scored.bits_per_dim,
            "each": scored.per_image.tolist(),
            "drawn": drawn.tolist(),
            "calls": len(calls),
            "said": said,
            "patience": patience.days,
        }
        (folder / f"results-{processes.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
