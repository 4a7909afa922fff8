"""Several processes do what one does: the same numbers, every image once; a run goes on with any number of them.

A training is compared by its losses and weights, in float32, whose sums are in another order: to a few last bits.
"""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from together import torchrun

import image_transformer as it
from image_transformer import checkpoint
from image_transformer.config.data import DataConfig
from image_transformer.config.model import Modern
from image_transformer.config.run import RunConfig
from image_transformer.config.train import TrainConfig
from image_transformer.geometry.patterns import Local1D
from image_transformer.processes import Processes, processes, together
from image_transformer.show.records import read_metrics
from image_transformer.training.loop import train

WORKER = str(Path(__file__).with_name("together.py"))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """All that could differ between processes: dropout, noise, flips, an average, two optimizers, several passes."""
    file = tmp_path_factory.mktemp("data") / "images.npy"
    rng = np.random.default_rng(0)
    base = rng.integers(0, 200, (60, 3, 1, 1)) + np.arange(7) * 5
    np.save(file, np.clip(base + rng.integers(-9, 9, (60, 3, 6, 7)), 0, 255).astype(np.uint8))
    model = Modern(shape=(3, 6, 7), attention=(Local1D(7, 7),), depth=2, width=16, heads=2, feed_forward=24,
                   components=2, dropout=0.2)  # fmt: skip
    training = TrainConfig(images=48, batch=6, micro_batch=2, ema=0.9, warmup=8, validate_every=24, sample_every=24,
                           save_every=24, keep=9, closed_form_start=True, clip=1.0, noise=0.3, bf16="off")  # fmt: skip
    return RunConfig("test", model, DataConfig(str(file), flips=True), training)


def losses(run):
    return [
        (m["images"], m["kind"], m["bpd"], m.get("norm", 0)) for m in read_metrics(run / "metrics.jsonl") if "bpd" in m
    ]


def assert_close_runs(one, other):
    """The same lines in the log, the same weights in the end."""
    a, b = losses(one), losses(other)
    assert [line[:2] for line in a] == [line[:2] for line in b]
    assert [x for line in a for x in line[2:]] == pytest.approx([x for line in b for x in line[2:]], rel=1e-4)
    a, b = (checkpoint.load(checkpoint.checkpoints(run)[-1]) for run in (one, other))
    for (name, weight), found in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(found, weight, rtol=1e-3, atol=1e-5, msg=name)


def first_half(run, out):
    """The run as if it had died after the first half."""
    shutil.copytree(run, out)
    for folder in checkpoint.checkpoints(out):
        if checkpoint.read_state(folder).images_seen > 24:
            shutil.rmtree(folder)


@pytest.fixture(scope="module")
def world(config, tmp_path_factory):
    """One process's runs, two processes' of the same configurations, and two that go on where one stopped."""
    folder = tmp_path_factory.mktemp("together")
    kinds = {
        "whole": config,
        "uneven": replace(config, train=replace(config.train, batch=5, micro_batch=None, images=20)),
    }
    for name, one in kinds.items():
        train(one, folder / f"{name}-alone", show_progress=False)
        (folder / f"{name}.task").write_bytes(pickle.dumps((one, False)))
    cut = replace(config, train=replace(config.train, parallel="fsdp", micro_batch=3))
    (folder / "cut.task").write_bytes(pickle.dumps((replace(cut, train=replace(cut.train, recompute=True)), False)))
    for name, one in {"alone-to-two": config, "alone-to-cut": cut}.items():
        first_half(folder / "whole-alone", folder / name)
        (folder / f"{name}.task").write_bytes(pickle.dumps((one, True)))
    code, out, err = torchrun(2, WORKER, "runs", str(folder))
    assert code == 0, out + err
    return folder


@pytest.mark.parametrize("kind", ["whole", "uneven", "cut"])
def test_two_processes_train_as_one(world, kind):
    alone = world / ("uneven-alone" if kind == "uneven" else "whole-alone")
    assert_close_runs(alone, world / kind)
    pictures = sorted(path.name for path in (alone / "samples").iterdir())
    assert sorted(path.name for path in (world / kind / "samples").iterdir()) == pictures


@pytest.mark.parametrize("kind", ["two", "cut"])
def test_a_run_goes_on_with_another_number_of_processes(world, config, tmp_path, kind):
    """From one to two, and from two to one; and so where the two have cut the weights."""
    assert_close_runs(world / "whole-alone", world / f"alone-to-{kind}")
    first_half(world / ("whole" if kind == "two" else "cut"), tmp_path / "to-alone")
    train(config, tmp_path / "to-alone", resume=True, show_progress=False)
    assert_close_runs(world / "whole-alone", tmp_path / "to-alone")


@pytest.mark.slow
def test_two_go_on_from_whole_weights_to_cut_ones_and_back(world, config, tmp_path):
    cut = replace(config, train=replace(config.train, parallel="fsdp", micro_batch=3))
    for before, after in {"whole": cut, "cut": config}.items():
        first_half(world / before, tmp_path / f"from-{before}")
        (tmp_path / f"from-{before}.task").write_bytes(pickle.dumps((after, True)))
    code, out, err = torchrun(2, WORKER, "runs", str(tmp_path))
    assert code == 0, out + err
    for before in ("whole", "cut"):
        assert_close_runs(world / "whole-alone", tmp_path / f"from-{before}")


def test_a_run_of_two_leaves_what_a_run_of_one_does(world):
    names = [
        sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.name != ".launch")
        for run in (world / "whole-alone", world / "whole")
    ]
    assert names[0] == names[1]


def test_evaluation_and_sampling_are_divided_and_the_same(world, config, tmp_path):
    """37 images in batches of 5: two processes take four batches each, and every image counts once, to the bit."""
    images = np.load(config.data.source)[:37]
    np.save(tmp_path / "images.npy", images)
    shutil.copytree(checkpoint.best(world / "whole"), tmp_path / "model")
    cut = replace(config, train=replace(config.train, parallel="fsdp", micro_batch=None, max_left_out=0))
    (tmp_path / "blamed.config").write_bytes(pickle.dumps((cut, tmp_path / "blamed")))
    code, out, err = torchrun(2, WORKER, "results", str(tmp_path))
    assert code == 0, out + err
    model = it.load(tmp_path / "model")
    scored = it.evaluate(model, torch.from_numpy(images), batch=5)
    drawn = it.generate(model.double(), 5, seed=3)
    for rank in range(2):
        found = json.loads((tmp_path / f"results-{rank}.json").read_text())
        assert found["calls"] == 4
        assert "first in network.blocks.1.down, for the images 0, 1, 2, 3, 4 and 1 more of the run" in found["said"]
        assert found["patience"] == 3  # days of decoding for which the second process waits
        assert found["bits"] == scored.bits_per_dim
        assert found["each"] == scored.per_image.tolist()
        assert torch.equal(torch.tensor(found["drawn"], dtype=torch.uint8), drawn)
    assert it.load(tmp_path / "blamed" / "not-finite").config == cut.model


def test_shares_are_all_there_is_once():
    for count in range(1, 9):
        for total in (0, 1, 7, 8, 64):
            shares = [Processes(rank, count).share(total) for rank in range(count)]
            assert [i for share in shares for i in share] == list(range(total))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_is_alone():
    with together() as alone:
        assert alone == processes() == Processes()
        assert alone.all("x") == ["x"]
        assert alone.told(3) == alone.largest(3) == 3
