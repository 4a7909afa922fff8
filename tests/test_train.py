"""A resumed run equals one that never stopped; accumulated gradients equal one batch; failures leave no mess."""

import json
import math
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_model, random_images
from torch import nn

from image_transformer import checkpoint
from image_transformer.checkpoint import CheckpointError
from image_transformer.config.data import DataConfig
from image_transformer.config.model import Modern
from image_transformer.config.run import RunConfig, save_config
from image_transformer.config.train import TrainConfig
from image_transformer.geometry.orientation import EIGHT
from image_transformer.geometry.patterns import Local1D
from image_transformer.networks.modern import ModernTransformer
from image_transformer.networks.noise import tell_keys
from image_transformer.show.records import read_metrics
from image_transformer.training.batches import random_seed
from image_transformer.training.errors import Interrupted, TrainingError
from image_transformer.training.loop import train
from image_transformer.training.optim import Muon, make_optimizers, orthogonal, vaswani, warmup_constant_decay
from image_transformer.training.run import Run
from image_transformer.training.update import noisy


@pytest.fixture
def config(images_file):
    """Everything on that could break resuming: dropout, moving average, flips, accumulation, two optimizers."""
    model = Modern(shape=(3, 6, 7), attention=(Local1D(7, 7),), depth=2, width=16, heads=2, feed_forward=24,
                        components=2, dropout=0.2)  # fmt: skip
    training = TrainConfig(images=48, batch=4, micro_batch=2, ema=0.9, warmup=8, validate_every=16, sample_every=24,
                           save_every=12, keep=9, closed_form_start=True, clip=1.0)  # fmt: skip
    return RunConfig("test", model, DataConfig(str(images_file), flips=True), training)


def losses(run):
    return [(m["images"], m["kind"], m["bpd"]) for m in read_metrics(run / "metrics.jsonl") if "bpd" in m]


def weights(folder):
    training = checkpoint.read_training(folder)
    return {**training["model"], **{f"average.{k}": v for k, v in training["average"].items()}}


def assert_same_run(one, other):
    assert losses(one) == losses(other)
    ends = [checkpoint.checkpoints(run)[-1] for run in (one, other)]
    assert ends[0].name == ends[1].name
    for (name, a), b in zip(weights(ends[0]).items(), weights(ends[1]).values(), strict=True):
        assert torch.equal(a, b), name
    bytes_ = [(end / "model.safetensors").read_bytes() for end in ends]
    assert bytes_[0] == bytes_[1]


@pytest.mark.parametrize("likelihood", ["dmol", "chained"])
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(config, tmp_path, monkeypatch, likelihood):
    config = replace(config, model=replace(config.model, likelihood=likelihood))
    monkeypatch.setattr("image_transformer.training.due.LOG_EVERY", 4)  # does not divide the updates before the cut
    train(config, tmp_path / "whole", show_progress=False)
    train(replace(config, train=replace(config.train, images=48)), tmp_path / "cut", show_progress=False)
    for folder in checkpoint.checkpoints(tmp_path / "cut"):  # as if it had died after 24 images
        if checkpoint.read_state(folder).images_seen > 24:
            shutil.rmtree(folder)
    train(config, tmp_path / "cut", resume=True, show_progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_ctrl_c_finishes_the_update_saves_and_can_be_resumed(config, tmp_path, monkeypatch):
    monkeypatch.setattr("image_transformer.training.due.LOG_EVERY", 1)
    train(config, tmp_path / "whole", show_progress=False)
    update = Run.update

    def interrupted_update(run):
        if run.state.images_seen == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return update(run)

    monkeypatch.setattr(Run, "update", interrupted_update)
    with pytest.raises(Interrupted, match="saved at 24 images"):
        train(config, tmp_path / "cut", show_progress=False)
    monkeypatch.setattr(Run, "update", update)
    assert checkpoint.read_state(checkpoint.checkpoints(tmp_path / "cut")[-1]).images_seen == 24
    train(config, tmp_path / "cut", resume=True, show_progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_the_clock_of_the_processor_does_not_count_waiting(config, tmp_path, monkeypatch, clock):
    config = replace(config, train=replace(config.train, clock=clock, minutes=100.0))
    run = Run(config, tmp_path / "run")
    passes = run.passes
    monkeypatch.setattr(run, "passes", lambda seen: (time.sleep(0.5), passes(seen))[1])
    run.update()
    assert (run.state.seconds >= 0.5) == (clock == "wall")
    assert run.progress == max(run.state.images_seen / config.train.images, run.state.seconds / 6000)


def test_resumed_run_knows_the_best_score_so_far(config, tmp_path):
    train(config, tmp_path / "run", show_progress=False)
    run = Run(config, tmp_path / "run", fresh=False)
    run.restore(checkpoint.checkpoints(tmp_path / "run")[-1])
    assert run.best == min(bpd for _, kind, bpd in losses(tmp_path / "run") if kind == "validation")


@pytest.mark.slow
def test_a_compiled_loss_has_the_gradients_of_the_plain_one_and_is_compiled_once(config, tmp_path):
    run = Run(replace(config, train=replace(config.train, compile="on", bf16="off", noise=0.5)), tmp_path / "run")
    for _ in range(2):
        run.update()
    views = run.batch(0, 2)
    parameters = list(run.learner.model.parameters())
    with (
        torch.compiler.set_stance("fail_on_recompile"),
        torch.autocast("cpu", torch.bfloat16, enabled=run.learner.bf16),
    ):
        plain = torch.autograd.grad(run.learner.loss(*views), parameters)
        fast = torch.autograd.grad(run.learner.call(*views), parameters)
    with torch.compiler.set_stance("fail_on_recompile"):
        run.update()
    torch.testing.assert_close(plain, fast, rtol=1e-3, atol=1e-5)


def test_training_goes_on_where_compiling_fails(config, tmp_path, monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def broken(function):
        def call(*batch):
            raise TorchDynamoException("no compiler here")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    run = Run(replace(config, train=replace(config.train, compile="on")), tmp_path / "run")
    with pytest.warns(UserWarning, match="without torch.compile, which failed: no compiler here"):
        run.update()
    run.update()
    assert run.state.images_seen == 8


def test_moving_average_follows_its_formula(config, tmp_path):
    run = Run(config, tmp_path / "run")
    name = "network.stem.bias"
    expected = None
    for _ in range(3):
        run.update()
        weight = run.learner.model.state_dict()[name].clone()
        expected = weight if expected is None else 0.9 * expected + 0.1 * weight
    torch.testing.assert_close(run.weights.state_dict()[name], expected)
    assert not torch.equal(expected, weight)


def test_clipping_bounds_the_gradient(config, tmp_path, monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def measured(optimizer):
        grads = [p.grad.norm() for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack(grads).norm().item())
        return step(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", measured)
    for clip in (None, 1e-3):
        training = replace(config.train, optimizer="adamw", clip=clip)
        Run(replace(config, train=training), tmp_path / "run").update()
    assert norms[0] > 1e-2
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


def test_accumulated_gradients_equal_one_batch(config, tmp_path):
    """The gradients themselves: what an update makes of them may not depend on their size. With dropout and noise,
    which are functions of the image."""
    gradients = []
    for micro in (None, 1, 2):
        training = replace(config.train, micro_batch=micro, bf16="off", noise=0.5)
        run = Run(replace(config, train=training), tmp_path / f"micro-{micro}")
        run.learner.accumulate(run.passes(0))
        gradients.append(torch.cat([p.grad.flatten() for p in run.learner.model.parameters()]))
    assert gradients[0].norm() > 0.1
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-4, atol=1e-6)


def test_every_image_is_seen_once_an_epoch_in_an_order_of_the_seed(config, tmp_path):
    config = replace(config, data=replace(config.data, flips=False))
    run = Run(config, tmp_path)
    epoch = len(run.data)

    def seen(first):
        return sorted(image.numpy().tobytes() for image in run.batch(first, epoch)[0])

    assert seen(0) == seen(epoch) == sorted(image.tobytes() for image in np.asarray(run.data.images))
    assert not torch.equal(run.batch(0, epoch)[0], run.batch(epoch, epoch)[0])
    assert torch.equal(run.batch(epoch - 2, 4)[0], torch.cat([run.batch(epoch - 2, 2)[0], run.batch(epoch, 2)[0]]))


def test_flips_turn_half_of_the_images_and_are_reported(config, tmp_path):
    flipped = Run(config, tmp_path)
    plain = Run(replace(config, data=replace(config.data, flips=False)), tmp_path)
    a, b = flipped.batch(0, 40)[0], plain.batch(0, 40)[0]
    turned = [bool((x == y.flip(-1)).all()) for x, y in zip(a, b, strict=True)]
    assert all(bool((x == y).all()) != t for x, y, t in zip(a, b, turned, strict=True))
    assert 8 < sum(turned) < 32
    train(config, tmp_path / "run", show_progress=False)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[0]["flips"] is True


def test_orientations_turn_an_eighth_of_the_images_each_way(config, images_file, tmp_path):
    """As a pure function of the seed and the number of the view, however the views are batched."""
    square = tmp_path / "square.npy"
    np.save(square, np.load(images_file)[..., :6])
    config = replace(config, model=replace(config.model, shape=(3, 6, 6)))
    turned, plain = (
        Run(replace(config, data=DataConfig(str(square), orientations=on)), tmp_path / "run") for on in (True, False)
    )
    a, b = turned.batch(0, 800)[0], plain.batch(0, 800)[0]
    matches = torch.stack([(a == orientation.apply(b)).flatten(1).all(1) for orientation in EIGHT])
    assert (matches.sum(0) == 1).all()
    assert ((matches.sum(1) - 100).abs() < 5 * np.sqrt(800 * 1 / 8 * 7 / 8)).all()
    again = Run(turned.config, tmp_path / "run")
    assert torch.equal(torch.cat([again.batch(3, 20)[0], again.batch(0, 3)[0]]), torch.cat([a[3:23], a[:3]]))
    other = Run(replace(turned.config, train=replace(config.train, seed=1)), tmp_path / "run")
    assert not torch.equal(other.batch(0, 20)[0], a[:20])
    turned.out.mkdir()
    turned.start()
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[0]["orientations"] is True


def test_flipped_views_are_those_of_earlier_versions(config, tmp_path):
    run = Run(config, tmp_path)
    plain = Run(replace(config, data=replace(config.data, flips=False)), tmp_path).batch(0, 40)[0]
    odd = [random_seed(0, "flips", n) % 2 == 1 for n in range(40)]
    plain[odd] = plain[odd].flip(-1)
    assert torch.equal(run.batch(0, 40)[0], plain)


def test_a_run_leaves_what_the_design_promises(config, tmp_path):
    best = train(config, tmp_path / "run", show_progress=False)
    run = tmp_path / "run"
    assert (run / "config.yaml").exists()
    assert (run / "report.html").exists()
    assert sorted(p.name for p in (run / "samples").iterdir()) == ["images-000000024.png", "images-000000048.png"]
    assert checkpoint.read_state(best).validation_bpd == min(m[2] for m in losses(run) if m[1] == "validation")
    rates = [m["lr"] for m in read_metrics(run / "metrics.jsonl") if m["kind"] == "train"]
    assert rates[-1] == pytest.approx(1e-3 * (4 / 48) / 0.5)  # the decay over the last half, at the last update
    kinds = {m["kind"] for m in read_metrics(run / "metrics.jsonl")}
    assert kinds == {"start", "train", "validation"}
    model = checkpoint.load(run)
    assert not model.training
    assert model.config == config.model


def test_only_the_newest_and_the_best_checkpoints_are_kept(config, tmp_path):
    config = replace(config, train=replace(config.train, keep=1, save_every=4))
    best = train(config, tmp_path / "run", show_progress=False)
    kept = checkpoint.checkpoints(tmp_path / "run")
    assert kept[-1].name == "images-000000048"
    assert set(kept) == {best, kept[-1]}


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(config, tmp_path, monkeypatch):
    batch = Run.batch

    def poisoned(run, first, count):
        if first >= 32:
            with torch.no_grad():
                next(run.learner.model.parameters()).fill_(math_nan)
        return batch(run, first, count)

    math_nan = float("nan")
    monkeypatch.setattr(Run, "batch", poisoned)
    with pytest.raises(TrainingError, match=r"not finite after 32 images.*images-000000024.*--train.clip.*--train.lr"):
        train(config, tmp_path / "run", show_progress=False)
    for parameter in checkpoint.load(tmp_path / "run").parameters():
        assert parameter.isfinite().all()


def test_a_full_disk_leaves_the_previous_checkpoint_and_no_rest(config, tmp_path, monkeypatch):
    train(replace(config, train=replace(config.train, images=16)), tmp_path / "run", show_progress=False)
    before = checkpoint.checkpoints(tmp_path / "run")
    fsync = os.fsync
    calls = []

    def full(descriptor):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        train(config, tmp_path / "run", resume=True, show_progress=False)
    assert checkpoint.checkpoints(tmp_path / "run") == before
    assert not list((tmp_path / "run" / "checkpoints").glob(".partial*"))
    checkpoint.load(tmp_path / "run")


# ---- folders and checkpoints that do not fit ----


def test_the_report_is_written_at_each_validation_and_once_at_the_end(config, tmp_path, monkeypatch):
    """The last one when all is on the disk, and again by a resume that has nothing left to do."""
    seen = []

    def note(run):
        seen.append([line["images"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "validation"])
        if seen[-1][-1] == config.train.images:
            assert checkpoint.checkpoints(run)[-1].name == "images-000000048"

    for module in ("due", "loop"):
        monkeypatch.setattr(f"image_transformer.training.{module}.write_report", note)
    train(config, tmp_path / "run", show_progress=False)
    assert seen == [[16], [16, 32], [16, 32, 48]]
    train(config, tmp_path / "run", resume=True, show_progress=False)
    assert seen[3:] == [[16, 32, 48]]

    def interrupted(run):
        if run.finished:
            os.kill(os.getpid(), signal.SIGINT)

    seen.clear()
    monkeypatch.setattr("image_transformer.training.due.draw_samples", interrupted)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "interrupted", show_progress=False)
    assert seen == [[16], [16, 32], [16, 32, 48]]


@pytest.fixture
def run_folder(config, tmp_path):
    train(replace(config, train=replace(config.train, images=16)), tmp_path / "run", show_progress=False)
    return tmp_path / "run"


def test_a_folder_with_a_run_is_not_overwritten(config, run_folder):
    with pytest.raises(CheckpointError, match="already holds a run: go on with --resume"):
        train(config, run_folder, show_progress=False)


def test_a_folder_with_other_files_is_not_filled(config, tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(CheckpointError, match="not empty"):
        train(config, tmp_path, show_progress=False)


def test_there_must_be_a_run_to_resume(config, tmp_path):
    with pytest.raises(CheckpointError, match="holds no run to resume"):
        train(config, tmp_path / "none", resume=True, show_progress=False)


def test_a_run_that_died_before_its_first_checkpoint_starts_anew(config, run_folder):
    shutil.rmtree(run_folder / "checkpoints")
    train(replace(config, train=replace(config.train, images=16)), run_folder, resume=True, show_progress=False)
    assert [m["kind"] for m in read_metrics(run_folder / "metrics.jsonl")].count("start") == 1


def test_tensorboard_is_optional(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match="pip install tensorboard"):
        train(replace(config, train=replace(config.train, tensorboard=True)), tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_recipe_is_not_resumed(config, run_folder):
    other = replace(config, model=replace(config.model, depth=3))
    with pytest.raises(CheckpointError, match=r"model.depth = 2, which --resume cannot change to 3"):
        train(other, run_folder, resume=True, show_progress=False)


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt"])
def test_a_truncated_file_is_named(config, run_folder, name):
    for folder in checkpoint.checkpoints(run_folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="truncated or damaged") as caught:
        checkpoint.load(run_folder) if name == "model.safetensors" else train(config, run_folder, resume=True)
    assert "\n" not in str(caught.value)


def write_sums(folder):
    """As if what is in the folder had been written so."""
    (folder / checkpoint.SUMS).unlink()
    (folder / checkpoint.SUMS).write_bytes(checkpoint.sums({f.name: f.read_bytes() for f in folder.iterdir()}))


def test_another_format_is_refused(run_folder):
    folder = checkpoint.checkpoints(run_folder)[-1]
    state = json.loads((folder / "state.json").read_text()) | {"format": 99}
    (folder / "state.json").write_text(json.dumps(state))
    write_sums(folder)
    with pytest.raises(CheckpointError, match="format 99, expected 3 or 4"):
        checkpoint.load(run_folder)


def test_weights_of_another_model_are_refused(config, run_folder):
    folder = checkpoint.checkpoints(run_folder)[-1]
    save_config(replace(config, model=replace(config.model, width=32)), folder / "config.yaml")
    write_sums(folder)
    with pytest.raises(CheckpointError, match="holds another model"):
        checkpoint.load(folder)


@pytest.mark.parametrize(("path", "message"), [("nowhere", "no model at"), (".", "neither a run folder")])
def test_a_folder_without_a_model_is_named(tmp_path, path, message):
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(tmp_path / path)


def test_loaded_weights_score_as_the_trained_ones(run_folder):
    model = checkpoint.load(run_folder)
    again = checkpoint.load(checkpoint.best(run_folder))
    images = random_images(2, (3, 6, 7))
    assert torch.equal(model.log_prob(images), again.log_prob(images))


# ---- schedules, optimizers, seeds ----


def test_vaswani_schedule_is_that_of_the_papers():
    """Peak rates of the original's sets: learning_rate, warm-up and width to peak (10 lr d^-.5 w^-.5)."""
    for lr, warmup, width, peak in ((0.5, 4000, 512, 3.49e-3), (0.1, 4000, 256, 9.88e-4), (0.2, 12000, 512, 8.07e-4)):
        rates = [lr * vaswani(step, warmup, width) for step in range(0, 3 * warmup, 7)]
        assert max(rates) == pytest.approx(peak, rel=2e-3)
        assert np.argmax(rates) * 7 == pytest.approx(warmup, abs=8)


def test_warmup_constant_decay():
    assert warmup_constant_decay(50, 0.0, 100, 0.5) == 0.5
    assert warmup_constant_decay(500, 0.3, 100, 0.5) == 1
    assert warmup_constant_decay(500, 0.75, 100, 0.5) == 0.5
    assert warmup_constant_decay(500, 1.0, 100, 0.5) == 0
    assert warmup_constant_decay(1, 0.5, 0, 0) == 1


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
def test_every_parameter_is_optimised_once(optimizer):
    model = make_model()
    optimizers = make_optimizers(model, TrainConfig(optimizer=optimizer))
    chosen = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(chosen) == sorted(id(p) for p in model.parameters())


def test_noise_reaches_a_share_of_the_pixels_of_half_of_the_images_and_no_target(config, tmp_path):
    images, keys = torch.full((400, 3, 8, 8), 128, dtype=torch.uint8), torch.arange(400, dtype=torch.int32)
    moved = noisy(images, keys, 0.25, 20.0).float() - 128
    pixels = (moved != 0).any(1)
    touched = pixels.flatten(1).any(1)
    assert 0.4 < touched.float().mean() < 0.6
    assert 0.2 < pixels[touched].float().mean() < 0.25  # noise of small deviations rounds to nothing
    spread = moved[touched].transpose(0, 1)[:, pixels[touched]].std()
    assert 9 < spread < 14  # of a deviation that is uniform up to 20: 20 / sqrt(3)
    assert torch.equal(noisy(images, keys, 0.0, 20.0), images)
    model = make_model()
    clean, seen = random_images(2, (3, 5, 4), seed=1), random_images(2, (3, 5, 4), seed=2)
    params, values = model(seen), clean.flatten(1)[:, model.values]
    expected = model.likelihood.log_prob(params, values)
    torch.testing.assert_close(model.score(clean, {}, seen=seen).sum(), expected.sum())
    run = Run(replace(config, train=replace(config.train, noise=0.5, bf16="off")), tmp_path / "run")
    images, given, keys = run.batch(0, 4)
    found = run.learner.accumulate([lambda: (images, given, keys)])
    seen = noisy(images, keys, 0.5, 15.0)
    assert not torch.equal(seen, images)
    tell_keys(run.learner.model, keys)
    expected = -run.learner.model.score(images, given, seen=seen).mean() / math.log(2)
    torch.testing.assert_close(found, expected.detach())


def test_a_run_that_started_from_a_model_goes_on_without_it(config, tmp_path):
    train(config, tmp_path / "first", show_progress=False)
    second = replace(config, train=replace(config.train, init=str(tmp_path / "first")))
    train(second, tmp_path / "second", show_progress=False)
    shutil.rmtree(tmp_path / "first")
    longer = replace(second, train=replace(second.train, images=2 * second.train.images))
    train(longer, tmp_path / "second", resume=True, show_progress=False)


def test_muon_is_that_of_torch():
    """Three steps on matrices of two shapes, tall and wide; torch multiplies in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 4), (5, 4), (4, 9))
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    ours, theirs = ([nn.Parameter(p.clone()) for p in start] for _ in range(2))
    one, other = Muon(ours, 0.1, 0.3, torch.bfloat16), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.3)
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = q.grad = torch.randn(p.shape, generator=generator)
        one.step()
        other.step()
    for p, q, before in zip(ours, theirs, start, strict=True):
        assert (p - before).abs().max() > 0.1
        torch.testing.assert_close(p, q, atol=0.01, rtol=0)


def test_muon_treats_queries_keys_and_values_that_share_a_matrix_as_three():
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(12, 4, generator=generator)
    whole, parts = nn.Parameter(torch.zeros(12, 4)), [nn.Parameter(torch.zeros(4, 4)) for _ in range(3)]
    whole.grad = gradient
    for part, its in zip(parts, gradient.chunk(3), strict=True):
        part.grad = its
    Muon([whole], 0.1, 0.0, torch.float32).step()
    Muon(parts, 0.1, 0.0, torch.float32).step()
    torch.testing.assert_close(whole, torch.cat(list(parts)))


def test_orthogonal_draws_singular_values_to_one_and_keeps_the_directions():
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    values = torch.diagonal(u.mT @ orthogonal(x) @ v.mT, dim1=1, dim2=2)
    assert ((values > 0.5) & (values < 1.5)).all()
    torch.testing.assert_close(orthogonal(x.mT), orthogonal(x).mT)


def test_groups_have_the_rates_of_the_configuration_times_the_factor(config, tmp_path):
    run = Run(replace(config, train=replace(config.train, lr=3e-3, muon_lr=5e-2, warmup=16)), tmp_path / "run")
    run.update()  # 4 of 16 images of warm-up
    rates = [group["lr"] for optimizer in run.learner.optimizers for group in optimizer.param_groups]
    assert rates == pytest.approx([5e-2 / 4, 3e-3 / 4])


def test_seeds_differ_by_purpose_and_number():
    seeds = [random_seed(s, what, n) for s in (0, 1) for what in ("weights", "order", "noise") for n in (0, 1, 2)]
    assert len(set(seeds)) == len(seeds)
    assert random_seed(3, "order", 5) == random_seed(3, "order", 5)


# ---- a class-sorted folder ----


def test_a_part_of_a_sorted_data_set_stands_for_all_of_it(config, tmp_path, monkeypatch):
    """Validation, the closed-form start and sample pictures see all classes, not the first one."""
    images, labels = np.load(config.data.source), np.repeat(np.arange(4), 15)
    np.savez(tmp_path / "sorted.npz", train=images, train_labels=labels)
    training = replace(config.train, validation_images=3)
    config = replace(config, data=DataConfig(str(tmp_path / "sorted.npz")), train=training)
    monkeypatch.setattr("image_transformer.training.run.START_PIXELS", 12 * 6 * 7)
    seen = []
    start = ModernTransformer.closed_form_start
    monkeypatch.setattr(
        ModernTransformer, "closed_form_start", lambda net, image, given: (seen.append(image), start(net, image, given))
    )
    run = Run(config, tmp_path / "run")
    assert len(run.validation) == 3 and len(set(run.validation.labels)) > 1
    of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert len(seen[0]) == 12 and len({of[image.numpy().tobytes()] for image in seen[0]}) == 4


# ---- checkpoints on bad days ----


def test_a_single_flipped_bit_in_any_file_is_refused_in_one_line_that_names_it(config, run_folder):
    folder, rng = checkpoint.checkpoints(run_folder)[-1], np.random.default_rng(0)
    for name in ("model.safetensors", "config.yaml", "state.json", "training.pt", checkpoint.SUMS):
        whole = (folder / name).read_bytes()
        for bit in rng.integers(8 * len(whole), size=20):
            broken = bytearray(whole)
            broken[bit // 8] ^= 1 << (bit % 8)
            (folder / name).write_bytes(broken)
            with pytest.raises(CheckpointError, match=rf"{folder}.* damaged") as caught:
                checkpoint.check(folder)
            assert "\n" not in str(caught.value) and (name in str(caught.value) or name == checkpoint.SUMS)
            if name in ("model.safetensors", "config.yaml", "state.json"):
                with pytest.raises(CheckpointError, match="damaged"):
                    checkpoint.load(folder)
        (folder / name).write_bytes(whole)
    checkpoint.check(folder)


def test_a_checkpoint_without_checksums_is_refused(run_folder):
    folder = checkpoint.checkpoints(run_folder)[-1]
    (folder / checkpoint.SUMS).unlink()
    with pytest.raises(CheckpointError, match=r"damaged: SHA256SUMS is missing"):
        checkpoint.load(folder)


def test_a_run_goes_on_from_the_newest_whole_checkpoint_and_says_so(config, tmp_path, capsys):
    train(config, tmp_path / "whole", show_progress=False)
    train(config, tmp_path / "cut", show_progress=False)
    newest = checkpoint.checkpoints(tmp_path / "cut")[-1]
    broken = bytearray((newest / "training.pt").read_bytes())
    broken[len(broken) // 2] ^= 1
    (newest / "training.pt").write_bytes(broken)
    capsys.readouterr()
    train(config, tmp_path / "cut", resume=True, show_progress=False)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "images-000000048/training.pt is truncated or damaged" in said
    assert "going on from" in said and "images-000000036" in said and "is now damaged-images-000000048" in said
    ends = [checkpoint.checkpoints(tmp_path / name)[-1] for name in ("whole", "cut")]
    assert [end.name for end in ends] == ["images-000000048"] * 2
    for a, b in zip(*(weights(end).values() for end in ends), strict=True):
        assert torch.equal(a, b)


def test_damaged_checkpoints_do_not_take_the_place_of_whole_ones(config, tmp_path):
    """With keep=1 and damage to the newest two, what is saved after going on from an earlier one stays."""
    train(config, tmp_path / "run", show_progress=False)
    for folder in checkpoint.checkpoints(tmp_path / "run")[-2:]:
        (folder / "training.pt").write_bytes(b"")
    few = replace(config, train=replace(config.train, keep=1, images=28))
    train(few, tmp_path / "run", resume=True, show_progress=False)
    left = checkpoint.checkpoints(tmp_path / "run")
    assert left[-1].name == "images-000000028" and checkpoint.best(tmp_path / "run") in left
    for folder in left:
        checkpoint.check(folder)
    aside = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("damaged-*"))
    assert [name.rsplit("-", 1)[0] for name in aside] == ["damaged-images-000000036", "damaged-images-000000048"]


def test_a_checkpoint_of_another_format_or_that_cannot_be_read_is_no_damage(config, run_folder, monkeypatch):
    """It is refused, not put aside: another version, or another day, may read it."""
    folder = checkpoint.checkpoints(run_folder)[-1]
    state = json.loads((folder / "state.json").read_text()) | {"format": 99, "new": 1}
    (folder / "state.json").write_text(json.dumps(state))
    write_sums(folder)
    with pytest.raises(CheckpointError, match="format 99, expected 3 or 4"):
        train(config, run_folder, resume=True, show_progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
            train(config, run_folder, resume=True, show_progress=False)
    assert folder.exists()


def test_the_end_is_saved_logged_validated_and_drawn_whatever_the_intervals(config, tmp_path):
    often = {"images": 20, "validate_every": 1000, "sample_every": 1000, "save_every": 1000}
    train(replace(config, train=replace(config.train, **often)), tmp_path / "run", show_progress=False)
    assert [folder.name for folder in checkpoint.checkpoints(tmp_path / "run")] == ["images-000000020"]
    kinds = [m["kind"] for m in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert kinds == ["start", "train", "validation"] and (tmp_path / "run" / "samples/images-000000020.png").exists()


def test_a_damaged_best_checkpoint_is_refused_and_the_others_are_named(run_folder):
    best = checkpoint.best(run_folder)
    (best / "model.safetensors").write_bytes(b"x")
    others = [folder.name for folder in checkpoint.checkpoints(run_folder) if folder != best]
    with pytest.raises(CheckpointError, match=rf"damaged.*also holds {', '.join(others)}") as caught:
        checkpoint.load(run_folder)
    assert others and "\n" not in str(caught.value)


def test_checkpoints_are_ordered_by_number_whatever_their_digits(tmp_path):
    names = ["images-999999999", "images-1000000000", "images-000000007", "images-000000007-2"]
    for name in [*names, "images-old", ".partial-x"]:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    found = [folder.name for folder in checkpoint.checkpoints(tmp_path)]
    assert found == [*names[2:], *names[:2]]


def test_a_second_save_of_one_moment_leaves_the_first(config, run_folder):
    run = Run(config, run_folder, fresh=False)
    run.restore(checkpoint.checkpoints(run_folder)[-1])
    before = {folder: (folder / "state.json").stat().st_mtime_ns for folder in checkpoint.checkpoints(run_folder)}
    run.save()
    run.saver.close()
    assert before == {folder: (folder / "state.json").stat().st_mtime_ns for folder in before}
    assert list(before) == checkpoint.checkpoints(run_folder)


def test_tensorboard_shows_every_point_once_after_a_resume(config, tmp_path, monkeypatch):
    points = []

    class Writer:
        """Stands for SummaryWriter, of which TensorBoard hides what is from `purge_step` on."""

        def __init__(self, folder, purge_step):
            folder.mkdir(exist_ok=True)
            points[:] = [point for point in points if point[1] < purge_step]

        def add_scalar(self, name, value, step):
            points.append((name, step))

        def add_image(self, name, pixels, step, dataformats):
            assert dataformats == "HWC" and pixels.ndim == 3
            self.add_scalar(name, pixels.mean(), step)

        def close(self):
            pass

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setattr("image_transformer.training.due.LOG_EVERY", 1)
    config = replace(config, train=replace(config.train, tensorboard=True))
    train(config, tmp_path / "run", show_progress=False)
    for folder in checkpoint.checkpoints(tmp_path / "run")[-2:]:
        shutil.rmtree(folder)
    train(config, tmp_path / "run", resume=True, show_progress=False)
    assert len(points) == len(set(points)) and ("train/bpd", 48) in points and ("train/bpd", 4) in points
    assert {("train/norm", 4), ("train/memory", 4), ("samples", 24), ("samples", 48)} <= set(points)
    shutil.rmtree(tmp_path / "run" / "tensorboard")  # as if it had not been asked for before
    points.clear()
    longer = replace(config, train=replace(config.train, images=52))
    train(longer, tmp_path / "run", resume=True, show_progress=False)
    assert {("train/norm", 4), ("train/norm", 48), ("train/norm", 52), ("samples", 24)} <= set(points)
