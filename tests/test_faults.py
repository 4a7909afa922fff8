"""Bad days: whatever goes wrong, no more is lost than the time since the last checkpoint, and no number becomes wrong.

Moments and places of faults come from seeded generators; a failure names its seed.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from together import finished, meeting, torchrun

import image_transformer as it
from image_transformer import checkpoint
from image_transformer.checkpoint import CheckpointError
from image_transformer.cli.main import main
from image_transformer.config.data import DataConfig
from image_transformer.config.model import Modern
from image_transformer.config.rivals import GatedPixelCNN
from image_transformer.config.run import RunConfig, save_config
from image_transformer.config.train import TrainConfig
from image_transformer.data.images import DataError, ImageData
from image_transformer.files import InUseError, locked, user_of
from image_transformer.geometry.patterns import Local1D
from image_transformer.processes import Processes
from image_transformer.show.records import read_metrics
from image_transformer.training.diagnosis import Diagnosis, keep
from image_transformer.training.errors import TrainingError
from image_transformer.training.loop import RESUMABLE, train
from image_transformer.training.run import Run
from image_transformer.training.saving import Saver
from image_transformer.training.update import Loss


@pytest.fixture
def config(images_file):
    model = Modern(
        shape=(3, 6, 7), attention=(Local1D(7, 7),), depth=2, width=16, heads=2, feed_forward=24, components=2
    )
    training = TrainConfig(images=48, batch=4, warmup=8, validate_every=16, sample_every=None, save_every=12, keep=2,
                           closed_form_start=True, bf16="off")  # fmt: skip
    return RunConfig("test", model, DataConfig(str(images_file)), training)


def losses(run):
    return [(m["images"], m["kind"], m["bpd"]) for m in read_metrics(run / "metrics.jsonl") if "bpd" in m]


# ---- numbers that are not finite ----


def poison(monkeypatch, bad):
    """Make the loss of a batch not a number where it holds one of the images `bad` (bytes)."""
    forward = Loss.forward

    def poisoned(loss, images, given, keys):
        held = any(image.numpy().tobytes() in bad for image in images)
        return forward(loss, images, given, keys) * (float("nan") if held else 1.0)

    monkeypatch.setattr(Loss, "forward", poisoned)


def test_an_update_that_is_not_finite_is_left_out_and_counted(config, tmp_path, monkeypatch, capsys):
    """As if it had not been: the weights and all that optimizers remember stay as they were."""
    run = Run(config, tmp_path / "run")
    run.update()
    before = torch.save(run.learner.state(), tmp_path / "before.pt")
    poison(monkeypatch, {run.batch(4, 4)[0][2].numpy().tobytes()})
    run.update()
    torch.save(run.learner.state(), tmp_path / "after.pt")
    before, after = (torch.load(tmp_path / f"{name}.pt") for name in ("before", "after"))
    for optimizer in (*before["optimizers"], *after["optimizers"]):
        del optimizer["param_groups"]  # learning rates go with the images
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert run.state.left_out == 1 and run.state.images_seen == 8
    assert "not finite after 4 images: this update is left out (1 in a row of at most 10)" in capsys.readouterr().err
    run.update()
    assert run.in_a_row == 0 and run.state.left_out == 1


def test_a_run_counts_what_it_left_out_over_a_resume(config, tmp_path, monkeypatch):
    poison(monkeypatch, {Run(config, tmp_path / "other").batch(4, 4)[0][2].numpy().tobytes()})
    train(replace(config, train=replace(config.train, images=24)), tmp_path / "run", show_progress=False)
    train(config, tmp_path / "run", resume=True, show_progress=False)
    assert checkpoint.read_state(checkpoint.checkpoints(tmp_path / "run")[-1]).left_out == 1
    assert all(np.isfinite(bits) for _, _, bits in losses(tmp_path / "run"))


def test_too_many_in_a_row_end_the_run_with_the_images_to_blame(config, tmp_path, monkeypatch):
    config = replace(config, train=replace(config.train, max_left_out=1))
    reference = Run(config, tmp_path / "other")
    blamed = [reference.batch(n, 1)[0][0].numpy() for n in (21, 24, 26)]
    poison(monkeypatch, {image.tobytes() for image in blamed})
    with pytest.raises(TrainingError) as caught:
        train(config, tmp_path / "run", show_progress=False)
    said = str(caught.value)
    assert "the loss is not finite after 24 images, first in the likelihood, for the images 24, 26 of the run" in said
    assert "the last good checkpoint is" in said and "images-000000024" in said and "--train.clip" in said
    kept = np.load(tmp_path / "run" / "not-finite" / "images.npz")
    assert (kept["images"] == np.stack(blamed[1:])).all() and kept["views"].tolist() == [24, 26]
    assert (tmp_path / "run" / "not-finite" / "images.png").exists()
    model = it.load(tmp_path / "run" / "not-finite")
    assert all(weight.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_the_layer_to_blame_is_named(config, tmp_path, where):
    run = Run(replace(config, train=replace(config.train, max_left_out=0)), tmp_path / "run")
    if where == "forward":
        block = run.learner.model.network.blocks[1]
        with torch.no_grad():
            block.down.weight.fill_(3e38)
        expected = "the loss is not finite after 0 images, first in network.blocks.1.down"
    else:
        run.learner.model.network.blocks[0].gate_up.weight.register_hook(lambda gradient: gradient * float("inf"))
        expected = "the gradient is not finite after 0 images, first in network.blocks.0.gate_up.weight"
    with pytest.raises(TrainingError, match=expected):
        run.update()


def test_no_figure_of_a_log_is_not_a_number(config, tmp_path, capsys):
    """JSON has no NaN: other programs refuse a line with one."""
    run = Run(config, tmp_path / "run")
    run.start()
    run.log.write("train", images=4, bpd=5.0, images_per_s=1.0, lr=0.1, norm=float("nan"), memory=float("inf"))
    run.saver.close()
    save_config(config, tmp_path / "run" / "config.yaml")
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text and '"norm": null, "memory": null' in text
    assert main(["status", str(tmp_path / "run"), "--json"]) == 0
    json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert main(["status", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "learning rate 0.1\n" in said
    assert f"go on with: image-transformer train {config.recipe} --out {tmp_path}/run --resume" in said
    save_config(replace(config, recipe="custom"), tmp_path / "run" / "config.yaml")
    assert main(["status", str(tmp_path / "run")]) == 0
    assert f"train {tmp_path}/run/config.yaml --out {tmp_path}/run --resume" in capsys.readouterr().out


def test_an_earlier_diagnosis_leaves_nothing_behind(config, tmp_path):
    model = {"config.yaml": b"model"}
    keep(tmp_path, Diagnosis(("a",), (1,)), np.zeros((1, 3, 4, 4), np.uint8), model)
    folder = keep(tmp_path, Diagnosis((), ()), None, model)
    assert sorted(path.name for path in folder.iterdir()) == ["SHA256SUMS", "config.yaml", "diagnosis.txt"]


# ---- memory ----


def little_memory(monkeypatch, most):
    forward = Loss.forward

    def picky(loss, images, given, keys):
        if len(images) > most:
            raise torch.OutOfMemoryError("no more memory")
        return forward(loss, images, given, keys)

    monkeypatch.setattr(Loss, "forward", picky)


@pytest.mark.parametrize(("batch", "micro", "parallel", "count", "tries"), [
    (4, None, "ddp", 1, "--train.micro-batch 2 or auto, which changes no gradient, or --train.recompute"),
    (15, None, "ddp", 1, "--train.micro-batch 5 or auto, which changes no gradient, or --train.recompute"),
    (15, "auto", "ddp", 1, "--train.micro-batch 5, which changes no gradient, or --train.recompute"),
    (12, None, "ddp", 2, "--train.micro-batch 3 or auto, which changes no gradient, or --train.recompute, or "
     "--train.parallel fsdp"),
    (12, 3, "fsdp", 2, "--train.micro-batch 1, which changes no gradient, or --train.recompute"),
    (4, 1, "ddp", 1, "--train.recompute"),
    (4, "auto", "ddp", 2, "--train.micro-batch 1, which changes no gradient, or --train.recompute"),
])  # fmt: skip
def test_what_to_try_without_memory_is_allowed(config, batch, micro, parallel, count, tries):
    run = object.__new__(Run)
    run.processes = Processes(0, count)
    run.config = replace(config, train=replace(config.train, batch=batch, micro_batch=micro, parallel=parallel))
    said = str(run.too_large(batch // count if micro in (None, "auto") else micro))
    assert said.endswith(f"each: try {tries}")
    for number in re.findall(r"micro-batch (\d+)", said):
        replace(run.config.train, micro_batch=int(number))  # ValueError if it does not divide the batch


def test_a_rival_is_not_told_to_compute_again(config):
    run = object.__new__(Run)
    run.processes, run.config = Processes(0, 1), replace(config, model=GatedPixelCNN(shape=(3, 8, 8)))
    assert "recompute" not in str(run.too_large(4))


def test_a_run_out_of_memory_says_what_to_try(config, tmp_path, monkeypatch):
    little_memory(monkeypatch, 2)
    with pytest.raises(
        TrainingError, match=r"out of memory in passes of 4 images each: try --train.micro-batch 2 or auto"
    ):
        train(config, tmp_path / "run", show_progress=False)


def test_passes_of_the_size_that_fits_make_the_same_run(config, tmp_path, monkeypatch, capsys):
    train(replace(config, train=replace(config.train, micro_batch=2)), tmp_path / "two", show_progress=False)
    little_memory(monkeypatch, 3)
    train(replace(config, train=replace(config.train, micro_batch="auto")), tmp_path / "auto", show_progress=False)
    assert "out of memory: trying passes of 2 images" in capsys.readouterr().err
    assert losses(tmp_path / "two") == losses(tmp_path / "auto")


# ---- data ----


def test_other_data_are_refused_on_resume(config, images_file, tmp_path):
    short = replace(config, train=replace(config.train, images=16))
    train(short, tmp_path / "run", show_progress=False)
    images = np.load(images_file)
    images[7, 0, 0, 0] ^= 1
    np.save(images_file, images)
    with pytest.raises(DataError, match=r"is not what .*run was trained on: its fingerprint was"):
        train(config, tmp_path / "run", resume=True, show_progress=False)
    images[7, 0, 0, 0] ^= 1
    np.save(images_file, images)
    train(config, tmp_path / "run", resume=True, show_progress=False)


def test_a_digest_is_of_images_and_labels_in_their_order():
    images, labels = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 4)).astype(np.uint8), np.arange(50)
    prints = {
        ImageData("a", "train", *one).digest()
        for one in (
            (images, None),
            (images, labels),
            (images[::-1], labels),
            (images, labels[::-1]),
            (images[1:], None),
        )
    }
    assert len(prints) == 5
    assert ImageData("b", "test", images.copy(), labels).digest() in prints


@pytest.mark.parametrize("what", ["changed", "cut", "removed", "replaced"])
def test_data_that_change_under_a_run_stop_it_and_data_that_go_do_not(config, tmp_path, what):
    """A `.npy` of exactly the training images is mapped where it lies."""
    rng, folder = np.random.default_rng(0), tmp_path / "data"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        np.save(folder / f"{split}.npy", rng.integers(0, 256, (60, 3, 6, 7)).astype(np.uint8))
    config, file = replace(config, data=DataConfig(str(folder))), folder / "train.npy"
    run = Run(config, tmp_path / "run")
    run.update()
    if what == "changed":
        with file.open("r+b") as opened:
            opened.seek(500)
            opened.write(b"x")
    elif what == "cut":
        os.truncate(file, 1000)
    elif what == "removed":
        file.unlink()
    else:
        shutil.copy(file, tmp_path / "other.npy")
        os.replace(tmp_path / "other.npy", file)
    if what in ("changed", "cut"):
        with pytest.raises(DataError, match="has changed while the training was reading it"):
            run.update()
    else:
        run.update()


# ---- clocks, and two runs at once ----


def test_a_clock_that_is_put_back_does_not_change_a_run(config, tmp_path, monkeypatch):
    backwards = iter(range(10**9, 0, -(10**5)))
    monkeypatch.setattr(time, "time", lambda: float(next(backwards)))
    train(config, tmp_path / "run", show_progress=False)
    seconds = [line["seconds"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "seconds" in line]
    assert seconds == sorted(seconds) and 0 < seconds[-1] < 1000


def test_a_run_that_lives_has_its_folder_to_itself(config, tmp_path, capsys, monkeypatch):
    train(replace(config, train=replace(config.train, images=16)), tmp_path / "run", show_progress=False)
    with locked(tmp_path / "run"):
        assert user_of(tmp_path / "run") == f"process {os.getpid()} on {os.uname().nodename}"
        with pytest.raises(InUseError, match=f"run is in use by process {os.getpid()} on"):
            train(config, tmp_path / "run", resume=True, show_progress=False)
        assert main(["status", str(tmp_path / "run")]) == 0
        assert f"training, by process {os.getpid()}" in capsys.readouterr().out
    assert user_of(tmp_path / "run") is None
    assert main(["status", str(tmp_path / "run")]) == 0
    assert "test, finished" in capsys.readouterr().out
    train(config, tmp_path / "run", resume=True, show_progress=False)


def test_sigterm_saves_and_leaves_with_the_code_of_preemption(config, tmp_path, monkeypatch, capsys):
    update = Run.update

    def stopped(run):
        update(run)
        if run.state.images_seen == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "update", stopped)
    args = ["tiny", "--data", config.data.source, "--model.shape", "3", "6", "7", "--train.batch", "4",
            "--train.minutes", "None", "--train.images", "400", "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(["train", *args]) == 128 + signal.SIGTERM == 143
    assert "saved at 20 images; go on with: image-transformer train tiny" in capsys.readouterr().err
    assert checkpoint.checkpoints(tmp_path / "run")[-1].name == "images-000000020"


# ---- what starts again ----


def test_a_run_goes_on_by_itself_in_the_job_that_began_it_alone(config, tmp_path, monkeypatch, capsys):
    """torchrun gives the same command again when a process has died, on any machine, and the job keeps its name."""
    args = ["tiny", "--data", config.data.source, "--model.shape", "3", "6", "7", "--train.batch", "4",
            "--train.minutes", "None", "--train.images", "8", "--out", str(tmp_path / "run")]  # fmt: skip
    for job, code in (("", 0), ("a", 1), ("b", 1)):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", job or "none")
        assert main(["train", *args]) == code
    assert "already holds a run" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "run")
    for job, code in (("a", 0), ("a", 0), ("b", 1), ("none", 1), ("a", 0)):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", job)
        assert main(["train", *args]) == code, job


def test_a_kill_before_the_first_file_is_whole_does_not_block_the_folder(config, tmp_path):
    short = replace(config, train=replace(config.train, images=8))
    (tmp_path / "run").mkdir()
    for name in (".lock", ".launch", ".config.yaml.17"):
        (tmp_path / "run" / name).write_text("process 17")
    train(short, tmp_path / "run", show_progress=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(CheckpointError, match="is not empty"):
        train(short, tmp_path / "other", show_progress=False)


def test_what_killed_processes_left_goes_when_the_run_goes_on(config, tmp_path, monkeypatch):
    short = replace(config, train=replace(config.train, images=8))
    train(short, tmp_path / "run", show_progress=False)
    (tmp_path / "run" / "checkpoints" / ".partial-killed").mkdir()
    run = Run(config, tmp_path / "run")
    run.saver.close()
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
    monkeypatch.setattr(Saver, "close", lambda saver: saver._thread.shutdown())  # at once, not in the end
    (tmp_path / "run" / "checkpoints" / ".partial-killed" / "more").mkdir(parents=True)
    train(short, tmp_path / "run", resume=True, show_progress=False)
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1


def test_a_run_that_goes_on_may_change_all_that_is_promised(config, tmp_path):
    other = {"minutes": 9.0, "micro_batch": 2, "parallel": "fsdp", "recompute": True, "max_left_out": 3, "lr": 2e-3,
             "muon_lr": 0.01, "clip": 1.0, "bf16": "on", "compile": "off", "validate_every": 4,
             "sample_every": 8, "save_every": 8, "keep": 1, "tensorboard": False}  # fmt: skip
    assert set(other) == set(RESUMABLE) - {"images"}
    training = replace(config.train, images=4)
    train(replace(config, train=training), tmp_path / "run", show_progress=False)
    names = list(other)
    for some in (names[:6], names[6:]):
        training = replace(training, images=training.images + 4, **{name: other[name] for name in some})
        train(replace(config, train=training), tmp_path / "run", resume=True, show_progress=False)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    first, second = (line["changed"] for line in lines if line["kind"] == "resume")
    assert first["train.lr"] == [1e-3, 2e-3] and first["train.images"] == [4, 8] and "train.keep" in second
    assert set(first) | set(second) == {f"train.{name}" for name in RESUMABLE} - {"train.tensorboard"}
    with pytest.raises(CheckpointError, match=r"train.batch = 4, which --resume cannot change to 8"):
        train(replace(config, train=replace(training, batch=8)), tmp_path / "run", resume=True, show_progress=False)


def test_a_run_goes_on_at_the_learning_rates_that_it_is_given(config, tmp_path):
    training = replace(config.train, images=4, optimizer="muon")
    train(replace(config, train=training), tmp_path / "run", show_progress=False)
    before = checkpoint.read_weights(checkpoint.checkpoints(tmp_path / "run")[-1])
    slow = replace(training, images=8, lr=1e-12, muon_lr=1e-12)
    train(replace(config, train=slow), tmp_path / "run", resume=True, show_progress=False)
    after = checkpoint.read_weights(checkpoint.checkpoints(tmp_path / "run")[-1])
    assert all(torch.allclose(after[name], before[name], rtol=0, atol=1e-9) for name in before)


# ---- files ----


@pytest.fixture
def folder(config, tmp_path):
    run = Run(config, tmp_path / "run")
    run.update()
    files = checkpoint.model_files(config, run.state, run.weights.state_dict())
    return checkpoint.save(tmp_path / "run", 4, files | checkpoint.training_file(run.learner.state()))


def damage(folder, seed):
    """Flip a bit of a file of a checkpoint, cut it, or remove it; gives what to write to mend it."""
    rng = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = rng.choice(files)
    content = file.read_bytes()
    kind = rng.choice(["flip", "flip", "cut", "remove"])
    if kind == "remove":
        file.unlink()
    elif kind == "cut":
        os.truncate(file, rng.randrange(len(content)))
    else:
        place = rng.randrange(len(content))
        with file.open("r+b") as opened:
            opened.seek(place)
            opened.write(bytes([content[place] ^ (1 << rng.randrange(8))]))
    return file, content


def refusal(folder):
    """Why a checkpoint is refused; None if it is not."""
    try:
        checkpoint.check(folder)
    except CheckpointError as error:
        return str(error)
    return None


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_flip_and_cut_is_refused(folder, count):
    checkpoint.check(folder)
    for seed in range(count):
        file, content = damage(folder, seed)
        said = refusal(folder)
        assert said and "\n" not in said, f"seed {seed}: damage to {file}"
        file.write_bytes(content)
    checkpoint.check(folder)


def test_a_line_that_is_gone_from_the_sums_is_missed_and_one_too_many_is_refused(folder):
    lines = (folder / checkpoint.SUMS).read_text().splitlines(keepends=True)
    (folder / checkpoint.SUMS).write_text("".join([*lines, lines[0].replace("model", "other")]))
    assert f"{checkpoint.SUMS} is not what was written" in refusal(folder)
    for i in range(len(lines)):
        (folder / checkpoint.SUMS).write_text("".join(lines[:i] + lines[i + 1 :]))
        assert refusal(folder), lines[i]


@pytest.mark.parametrize("error", [28, 30], ids=["full", "read-only"])
def test_a_disk_that_cannot_be_written_ends_the_run_and_keeps_what_was_there(config, tmp_path, monkeypatch, error):
    """The writing goes on beside the training; the run hears of it."""
    fsync, calls = os.fsync, []

    def broken(descriptor):
        if "/.partial-" in os.readlink(f"/proc/self/fd/{descriptor}"):
            calls.append(1)
        if len(calls) > 7:
            raise OSError(error, os.strerror(error))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(
        OSError, match=rf"cannot save .*: {os.strerror(error)}; the checkpoints before it are untouched"
    ):
        train(config, tmp_path / "run", show_progress=False)
    monkeypatch.undo()
    (folder,) = checkpoint.checkpoints(tmp_path / "run")
    checkpoint.check(folder)
    assert not list((tmp_path / "run" / "checkpoints").glob(".partial*"))
    train(config, tmp_path / "run", resume=True, show_progress=False)


def test_a_training_hears_of_a_failed_save_before_the_next_one(config, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(checkpoint, "write_folder", full)
    config = replace(config, train=replace(config.train, images=10**6, save_every=4, validate_every=10**6))
    save, saves = Run.save, []

    def once(run):
        saves.append(run.state.images_seen)
        if len(saves) == 1:
            save(run)
            time.sleep(0.5)

    monkeypatch.setattr(Run, "save", once)
    with pytest.raises(OSError, match="No space left"):
        train(config, tmp_path / "run", show_progress=False)
    assert saves == [4]


def test_training_goes_on_while_a_checkpoint_is_written(config, tmp_path, monkeypatch):
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (time.sleep(0.3), fsync(descriptor)))
    run = Run(config, tmp_path / "run")
    run.update()
    expected = {name: weight.clone() for name, weight in run.weights.state_dict().items()}
    began = time.perf_counter()
    run.save()
    assert time.perf_counter() - began < 0.3
    run.update()
    assert not checkpoint.checkpoints(tmp_path / "run")
    run.save()  # the next one waits for it: no more than one is held in memory
    assert time.perf_counter() - began > 1.5  # five files
    (folder,) = checkpoint.checkpoints(tmp_path / "run")
    run.saver.wait()
    found = checkpoint.load(folder).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


# ---- kills: slow ----


KILLS = 10
ARGS = ["tiny", "--data", "{data}", "--model.shape", "3", "6", "7", "--model.dropout", "0.1", "--model.depth", "2",
        "--train.batch", "4", "--train.minutes", "None", "--train.images", "2000", "--train.save-every", "4",
        "--train.keep", "1", "--train.validate-every", "40", "--train.sample-every", "None", "--train.bf16", "off",
        "--train.ema", "0.9"]  # fmt: skip


def command(images_file, out):
    return ["train", *(word.format(data=images_file) for word in ARGS), "--out", str(out)]


def children(pid):
    """The processes that a process has started, and theirs."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    direct = [int(one) for one in found.read_text().split()] if found.exists() else []
    return direct + [one for child in direct for one in children(child)]


def wait_for_more(process, run):
    """Until a run has saved more than it has now."""

    def seen():
        return max((int(folder.name.split("-")[1]) for folder in checkpoint.checkpoints(run)), default=0)

    before, deadline = seen(), time.monotonic() + 300
    while seen() <= before:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return seen()


def same_end(one, other, exactly):
    a, b = (checkpoint.load(checkpoint.checkpoints(run)[-1]).state_dict() for run in (one, other))
    for name, weight in a.items():
        tolerance = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-3, "atol": 3e-4}  # another order of sums: 6e-5
        torch.testing.assert_close(b[name], weight, **tolerance, msg=name)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_while_saving_and_pruning_lose_nothing(images_file, tmp_path):
    """One process that saves after every update, and so is nearly always killed while it saves or prunes."""
    rng = random.Random(0)
    assert main(command(images_file, tmp_path / "whole")) == 0
    for kill in range(KILLS + 1):
        again = ["--resume"] if (tmp_path / "run" / "config.yaml").exists() else []
        process = subprocess.Popen(
            [sys.executable, "-m", "image_transformer", *command(images_file, tmp_path / "run"), *again],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        if kill < KILLS:
            seen = wait_for_more(process, tmp_path / "run")
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
        process.communicate()
        folders = checkpoint.checkpoints(tmp_path / "run")
        for folder in folders:
            checkpoint.check(folder)
        assert checkpoint.read_state(folders[-1]).images_seen >= seen, f"kill {kill} of seed 0 lost images"
    assert process.returncode == 0
    same_end(tmp_path / "whole", tmp_path / "run", exactly=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_workers_that_die_are_brought_back_by_torchrun(images_file, tmp_path, parallel):
    """One of two workers is killed again and again; no hand is lent."""
    rng = random.Random(1)
    extra = ["--train.parallel", parallel]
    code, out, err = torchrun(2, "-m", "image_transformer", *command(images_file, tmp_path / "whole"), *extra)
    assert code == 0, out + err
    process = torchrun(
        2, "-m", "image_transformer", *command(images_file, tmp_path / "run"), *extra, restarts=4, wait=False
    )
    for kill in range(4):
        wait_for_more(process, tmp_path / "run")
        time.sleep(rng.uniform(0, 0.3))
        assert process.poll() is None, f"it ended before kill {kill} of seed 1"
        workers = children(process.pid)
        os.kill(rng.choice(workers), signal.SIGKILL) if workers else None  # the last ones are still being replaced
    code, out, err = finished(process)
    assert code == 0, f"seed 1\n{out}\n{err}"
    same_end(tmp_path / "whole", tmp_path / "run", exactly=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_of_one_machine_dies_and_both_machines_go_on(images_file, tmp_path):
    """Two torchruns of one process each, as on two machines: the one that lost none starts its own again, too."""
    args = command(images_file, tmp_path / "run")
    met = meeting(machines=2)
    both = [
        torchrun(1, "-m", "image_transformer", *args, restarts=3, wait=False, met=met, LOGLEVEL="ERROR")
        for _ in range(2)
    ]
    for one in both:
        wait_for_more(one, tmp_path / "run")
        os.kill(children(one.pid)[0], signal.SIGKILL)
    for one in both:
        code, out, err = finished(one)
        assert code == 0, out + err
    assert main(command(images_file, tmp_path / "whole")) == 0
    same_end(tmp_path / "whole", tmp_path / "run", exactly=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_killed_and_preempted_runs_go_on(images_file, tmp_path):
    """Agent and workers killed at once; then SIGTERM to the agent, which saves and ends within seconds."""
    args = command(images_file, tmp_path / "run")
    process = torchrun(2, "-m", "image_transformer", *args, wait=False)
    wait_for_more(process, tmp_path / "run")
    for one in (*children(process.pid), process.pid):
        os.kill(one, signal.SIGKILL)
    process.communicate()
    process = torchrun(2, "-m", "image_transformer", *args, "--resume", wait=False)
    wait_for_more(process, tmp_path / "run")
    began = time.time()
    process.send_signal(signal.SIGTERM)
    code, out, err = finished(process)
    assert code != 0
    assert time.time() - began < 15
    assert "saved at" in err
    code, out, err = torchrun(2, "-m", "image_transformer", *args, "--resume")
    assert code == 0, out + err
    assert main(command(images_file, tmp_path / "whole")) == 0
    same_end(tmp_path / "whole", tmp_path / "run", exactly=False)
