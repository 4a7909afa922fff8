"""Experiments that can be repeated: definitions hold together, verdicts follow from figures, nothing runs twice."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import make_model, random_images
from PIL import Image

import image_transformer as it
from image_transformer.cli.main import main
from image_transformer.data.images import ImageData
from image_transformer.data.made import MADE, ideal_bits_per_dim, make_splits
from image_transformer.geometry.patterns import Local1D
from image_transformer.measures.field import field_of
from image_transformer.reproduce import page, study
from image_transformer.reproduce.cost import cost_of
from image_transformer.reproduce.page import FAILS, HOLDS, OPEN, Results
from image_transformer.reproduce.study import Study, studies
from image_transformer.reproduce.trial import run_trial

STUDY = """
sizes:
  title: Two widths
  question: Is wider better?
  seconds: 1
  seeds: 1
  images: 6
  measures: [field]
  base:
    recipe: tiny
    model: {shape: [3, 6, 7], depth: 1, heads: 2, feed_forward: 24, attention: ["local1d:7:7"]}
    data: {source: images.npy}
  rows:
    width 16: {model: {width: 16}}
    width 32: {model: {width: 32}}
  claims:
    - {claim: Wider is better, below: [width 32, width 16]}
"""


def results(**rows):
    """Results of a study whose rows have these bits/dim, seed by seed; None for a training that diverged."""
    one = Study("s", "S", "?", {row: {"model": {"width": 16 * i}} for i, row in enumerate(rows, 2)}, seeds=9)
    lines = [
        (SimpleNamespace(row=row, seed=seed), {"failed": "not finite"} if value is None else {"bits_per_dim": value})
        for row, values in rows.items()
        for seed, value in enumerate(values)
    ]
    return Results(one, lines)


@pytest.mark.parametrize(
    ("test", "rows", "verdict"),
    [
        ("below", {"a": (3.00, 3.01), "b": (3.2, 3.21)}, HOLDS),
        ("below", {"a": (3.20, 3.21), "b": (3.0, 3.01)}, FAILS),
        ("below", {"a": (3.0, 3.2), "b": (3.2, 3.1)}, OPEN),
        ("below", {"a": (3.0, 3.0001), "b": (3.0003, 3.03)}, OPEN),  # two seeds that agree prove nothing
        ("below", {"a": (3.0,), "b": (3.01,)}, OPEN),
        ("below", {"a": (3.0,), "b": (3.03,)}, HOLDS),
        ("below", {"a": (3.0,), "b": (None,)}, OPEN),
        ("below", {"a": (3.0, None), "b": (None, 3.1)}, OPEN),  # no seed that both have
        ("below", {"a": (3.00, 3.01), "b": (3.2, 3.21), "c": (2.8, 2.81)}, FAILS),
        ("falls", {"a": (4.00, 4.01), "b": (3.5, 3.51), "c": (3.2, 3.21)}, HOLDS),
        ("falls", {"a": (4.00, 4.01), "b": (3.5, 3.51), "c": (3.6, 3.61)}, FAILS),
        ("first_gap_largest", {"a": (4.00, 4.01), "b": (3.5, 3.51), "c": (3.2, 3.21)}, HOLDS),
        ("first_gap_largest", {"a": (4.00, 4.01), "b": (3.8, 3.81), "c": (3.2, 3.21)}, FAILS),
        ("first_gap_largest", {"a": (4.0,), "b": (3.5,), "c": (3.4,), "d": (2.8,)}, FAILS),
        (
            "first_gap_largest",
            {"a": (4.00, 4.01), "b": (4.0, 4.01), "c": (4.2, 4.21)},
            OPEN,
        ),  # less of a loss is no gain
        ("same", {"a": (3.0, 3.0001), "b": (3.001, 3.0011)}, HOLDS),
        ("same", {"a": (3.00, 3.01), "b": (3.1, 3.11)}, FAILS),
        ("same", {"a": (3.0, 3.1), "b": (3.0, 3.14)}, OPEN),
    ],
)
def test_a_verdict_follows_from_the_figures_and_their_spread(test, rows, verdict):
    assert page.TESTS[test](results(**rows), list(rows))[1] == verdict


def test_a_verdict_is_wrong_one_time_in_twenty():
    """Where there is no difference: of 2 and of 3 seeds, in studies of 4 rows."""
    rng = np.random.default_rng(0)
    for seeds in (2, 3):
        found = [results(**{row: rng.normal(3, 0.01, seeds) for row in "abcd"}) for _ in range(400)]
        wrong = [page.below(one, ["a", "b"])[1] != OPEN for one in found]
        assert 0.02 < np.mean(wrong) < 0.09, seeds


def test_the_error_of_a_contrast_is_that_of_its_sum():
    """2 b - a - c of independent runs has 6 times the variance of one."""
    rng = np.random.default_rng(0)
    found = [results(**{row: rng.normal(3, 0.01, 2) for row in "abc"}) for _ in range(400)]
    values, errors, _ = zip(*(one.contrast({"a": -1, "b": 2, "c": -1}) for one in found), strict=True)
    assert np.std(values) == pytest.approx(np.sqrt(np.square(errors).mean()), rel=0.1)
    assert np.std(values) == pytest.approx(0.01 * np.sqrt(6 / 2), rel=0.1)


def test_a_row_that_does_not_settle_leaves_the_verdict_on_others():
    wild = results(a=(0.127, 0.128), b=(0.069, 0.070), c=(0.62, 0.23))
    assert page.below(wild, ["b", "a"]) == ("-0.058 ± 0.001", HOLDS) and page.below(wild, ["a", "c"])[1] == OPEN
    one = results(a=(0.127, 0.128), b=(0.069, 0.070), c=(0.62, 0.625))
    assert one.contrast({"a": 1, "b": -1}).freedom == 3, "spreads that chance explains are one"


def test_groups_of_one_spread_are_rarely_taken_for_others():
    rng = np.random.default_rng(0)
    for seeds in (2, 3):
        of_one = [page.alike([rng.normal(3, 0.01, seeds).tolist() for _ in range(6)]) for _ in range(1000)]
        of_two = [page.alike([rng.normal(3, s, seeds).tolist() for s in [0.3, *[0.001] * 5]]) for _ in range(1000)]
        assert 1 - np.mean(of_one) < 0.08 and np.mean(of_two) < 0.15, seeds


def test_a_claim_about_rows_that_were_not_run_is_open():
    found = results(a=(3.0,))
    found.study = replace(found.study, claims=({"claim": "x", "below": ["a", "b"]},))
    assert [one.verdict for one in found.verdicts()] == [OPEN]


@pytest.mark.parametrize("name", list(studies()))
def test_every_study_holds_together(name):
    one = studies()[name]
    trials = one.trials()
    assert len({trial.key for trial in trials}) == len(trials) == one.seeds * len(one.rows)
    assert all(trial.config.train.clock == "cpu" and trial.config.train.sample_every is None for trial in trials)
    for claim in map(dict, one.claims):
        claim.pop("claim")
        ((test, rows),) = claim.items()
        assert test in page.TESTS and set(rows) <= set(one.rows)
    assert {trial.config.data.source for trial in one.trials(quick=True)} <= {"cifar10-mini", *MADE}
    if one.ideal is not None:
        assert one.ideal == ideal_bits_per_dim(one.base["data"]["source"])


def test_all_studies_fit_into_eight_hours_of_two_cores():
    assert sum(one.seconds * len(one.trials()) for one in studies().values() if not one.by_name) < 2 * 8 * 3600


def test_the_key_of_a_trial_is_that_of_its_definition():
    one = results(a=(3.0,)).study
    (first, *_), (same, *_) = one.trials(), replace(one, title="T", rows={"other name": one.rows["a"]}).trials()
    longer, *_ = replace(one, seconds=301.0).trials()
    kept, *_ = replace(one, base={"train": {"keep": 3, "save_every": 7}}).trials()
    assert first.key == same.key == kept.key != longer.key
    assert len({trial.key for trial in one.trials()}) == one.seeds


# ---- what the command does; trials are figures here, not trainings ----


class Pool:
    """Stands for a pool of processes: each trial is done when it is submitted."""

    def __init__(self, jobs):
        self.jobs = jobs

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, run, trial, folder):
        future = Future()
        folder.mkdir(parents=True)
        RAN.append(trial.key)
        try:
            future.set_result(FIGURES(trial))
        except Exception as error:
            future.set_exception(error)
        return future


RAN: list = []
FIGURES = None
WHERE = {"processor": "abacus", "torch": "2", "commit": "abc", "date": "today", "version": "0"}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Two studies of which two rows are the same trial, and trials that cost nothing."""
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", np.zeros((60, 3, 6, 7), np.uint8))
    (tmp_path / "studies.yaml").write_text(STUDY + STUDY.replace("sizes:", "others:").replace("width 32:", "large:"))
    monkeypatch.setattr(study, "FILE", tmp_path / "studies.yaml")
    monkeypatch.setattr("image_transformer.cli.reproduce._workers", Pool)
    study.studies.cache_clear()
    RAN.clear()

    def figures(trial):
        line = {"bits_per_dim": 3 + trial.config.model.width / 100, "parameters": 7, "images": 9, "cpu_seconds": 1.0}
        return {**line, "scored": 6, "curve": [[1, 4, 3.5], [2, 8, 3.2]], "field": [[0, 1.0]], "where": WHERE}

    monkeypatch.setattr(sys.modules[__name__], "FIGURES", figures)
    yield tmp_path
    study.studies.cache_clear()


def test_a_worker_ends_when_its_parent_is_killed():
    code = """
import os, time
from image_transformer.cli.reproduce import _workers
workers = _workers(1)
print(workers.submit(os.getpid).result(), flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)  # it runs
        parent.kill()
    end, stat = time.time() + 20, Path(f"/proc/{worker}/stat")
    while stat.exists() and stat.read_text().rsplit(")")[-1].split()[0] != "Z":  # gone, or dead and not yet buried
        if time.time() > end:
            os.kill(worker, signal.SIGKILL)
            raise AssertionError("the worker waits for ever")
        time.sleep(0.1)


def test_what_serves_several_studies_is_run_once_and_nothing_twice(world, capsys):
    assert main(["reproduce", "sizes", "sizes", "others", "--out", "out", "--jobs", "2"]) == 0
    assert len(RAN) == len(set(RAN)) == 2, "the trials of both studies are the same"
    for name, row in (("sizes", "width 32"), ("others", "large")):
        text = (world / "out" / f"{name}.md").read_text()
        assert f"| {row} | 7 | 9 | 3.320 |" in text and "abacus" in text
    assert (world / "out" / "sizes.png").exists() and not any((world / "runs" / "reproduce").iterdir())
    index = (world / "out" / "README.md").read_text()
    assert (
        "[Two widths](sizes.md)" in index
        and "| [Wider is better](sizes.md) | +0.160 ± 0.010 | does not hold |" in index
    )
    assert main(["reproduce", "sizes", "--out", "out"]) == 0 and len(RAN) == 2
    assert main(["reproduce", "all", "--out", "out", "--pages"]) == 0 and len(RAN) == 2


def test_a_trial_that_fails_does_not_lose_those_before_it(world, monkeypatch, capsys):
    figures = FIGURES

    def second_fails(trial):
        if trial.row == "width 32":
            raise RuntimeError("the disk is full")
        return figures(trial)

    monkeypatch.setattr(sys.modules[__name__], "FIGURES", second_fails)
    assert main(["reproduce", "sizes", "--out", "out", "--jobs", "1"]) == 1
    assert (
        "the disk is full" in capsys.readouterr().err
        and len(json.loads((world / "out" / "sizes.json").read_text())) == 1
    )
    shutil.rmtree("runs")
    monkeypatch.setattr(sys.modules[__name__], "FIGURES", figures)
    assert main(["reproduce", "sizes", "--out", "out", "--jobs", "1"]) == 0
    assert len(RAN) == 3 and len(json.loads((world / "out" / "sizes.json").read_text())) == 2


def test_a_training_that_diverges_is_a_row_that_says_so(world, monkeypatch):
    figures = FIGURES
    diverged = {"failed": "the loss is not finite", "where": WHERE}
    monkeypatch.setattr(
        sys.modules[__name__], "FIGURES", lambda trial: diverged if trial.row == "width 16" else figures(trial)
    )
    assert main(["reproduce", "sizes", "--out", "out"]) == 0
    text = (world / "out" / "sizes.md").read_text()
    assert "| width 16 |  |  | diverged |" in text and "| Wider is better | diverged | not decided" in text
    monkeypatch.setattr(sys.modules[__name__], "FIGURES", lambda trial: diverged)
    assert main(["reproduce", "sizes", "--out", "none"]) == 0
    text = (world / "none" / "sizes.md").read_text()
    assert "Every trial failed." in text and "sizes.png" not in text and "| width 32 |  |  | diverged |" in text


def test_a_page_of_trials_that_are_defined_otherwise_now_is_left_alone(world, capsys):
    assert main(["reproduce", "sizes", "--out", "out"]) == 0
    (world / "studies.yaml").write_text(STUDY.replace("seconds: 1", "seconds: 2"))
    study.studies.cache_clear()
    before = (world / "out" / "sizes.md").read_text()
    assert main(["reproduce", "sizes", "--out", "out", "--pages"]) == 0
    assert "no results of its trials as they are defined now" in capsys.readouterr().err
    assert (world / "out" / "sizes.md").read_text() == before


def test_two_commands_do_not_write_into_one_folder(world, capsys):
    (world / "out").mkdir()
    with (world / "out" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert main(["reproduce", "sizes", "--out", "out"]) == 1
    assert "out is in use by another process" in capsys.readouterr().err


def test_pages_in_the_documentation_are_those_of_their_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "draw", lambda *args: None)
    monkeypatch.chdir(tmp_path)
    kept = Path(__file__).parent.parent / "docs" / "results"
    for path in kept.glob("*.json"):
        shutil.copy(path, tmp_path)
    assert main(["reproduce", *(path.stem for path in kept.glob("*.json")), "--pages", "--out", "."]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.md")) == sorted(path.name for path in kept.glob("*.md"))
    for path in tmp_path.glob("*.md"):
        assert path.read_text() == (kept / path.name).read_text(), f"image-transformer reproduce {path.stem} --pages"
        for name in re.findall(r"\]\((\S+\.png)\)", path.read_text()):
            assert (kept / name).exists()


@pytest.mark.parametrize("plot", ["bars", "curves", "fields"])
def test_every_plot_is_drawn(world, plot):
    text = (world / "studies.yaml").read_text()
    (world / "studies.yaml").write_text(text.replace("  seeds: 1", f"  seeds: 2\n  plot: {plot}"))
    study.studies.cache_clear()
    assert main(["reproduce", "sizes", "--out", "out"]) == 0
    looks = (world / "out" / "sizes.md").read_text()
    pictures = ["sizes.png"] if plot == "fields" else ["sizes.png", "sizes-fields.png"]  # fields were measured, too
    assert looks.count("pixels that have 99 % of the gradient") == 1 and looks.count(".png)") == len(pictures)
    for name in pictures:
        assert f"]({name})" in looks and np.asarray(Image.open(world / "out" / name)).std() > 10


def test_a_sweep_has_a_row_for_each_rate_of_a_recipe_or_of_what_it_changes(world):
    text = """
rates:
  title: Rates
  question: "?"
  sweep:
    tiny: [1.0e-3, 2.0e-3]
    wide: {recipe: pixelcnn, model: {width: 48}, train: {batch: 2}, rates: [0.5]}
"""
    (world / "studies.yaml").write_text(text)
    study.studies.cache_clear()
    found = {row: study.studies()["rates"].config(row) for row in study.studies()["rates"].rows}
    assert {row: (one.model.family, one.train.lr, one.train.batch) for row, one in found.items()} == {
        "tiny 0.001": ("modern", 1e-3, 4), "tiny 0.002": ("modern", 2e-3, 4), "wide 0.5": ("pixelcnn", 0.5, 2),
    }  # fmt: skip
    assert found["wide 0.5"].model.width == 48


def test_a_trial_is_trained_measured_and_goes_on_where_it_was_interrupted(world, monkeypatch, images_file):
    trial, *_ = study.studies()["sizes"].trials()
    trial = replace(trial, config=replace(trial.config, train=replace(trial.config.train, minutes=0.01)))
    first = run_trial(trial, world / "run")
    assert first["scored"] == 3 and first["images"] > 4 and first["cpu_seconds"] >= 0.6
    assert np.shape(first["field"]) == (6, 7) and 3 < first["bits_per_dim"] < 9
    again = run_trial(trial, world / "run")  # it is done: only measured
    assert again == first


def test_a_network_that_looks_values_up_is_measured_without_a_field(world, images_file):
    trial, *_ = study.studies()["sizes"].trials()
    model = make_model((it.Raster(), (Local1D(5, 3),)), (3, 6, 7), family="paper", likelihood="categorical").config
    train = replace(trial.config.train, minutes=0.001)
    found = run_trial(replace(trial, config=replace(trial.config, model=model, train=train)), world / "run")
    assert "field" not in found and 3 < found["bits_per_dim"] < 20


def test_a_cost_is_counted_and_timed():
    one, *_ = [t for t in studies()["cost"].trials() if t.row == "modern (tiny), 8 x 8"]
    found = cost_of(one)
    layers = 2 * 5 * 3 * 96 * 192 * 64 * 3  # products of the feed-forward layers alone, forward and backward
    assert layers < found["gflop"] * 1e9 < 4 * layers
    assert found["draw"] > 0 and 0 < found["learn"] < 5
    by_keys = [t for t in studies()["sight"].trials() if t.row.startswith("attention")]
    few, all_keys = (cost_of(one)["gflop"] for one in (by_keys[0], by_keys[-1]))  # 64 keys, and 1,024
    products = 2 * 2 * 3 * 3 * 1024 * 96 * (1024 - 128) / 1e9  # of queries with keys, and with values, in three layers
    assert all_keys - few > 0.9 * products


def test_an_unknown_study_offers_the_nearest(capsys):
    assert main(["reproduce", "block-sise"]) == 2
    assert "did you mean 'block-size'?" in capsys.readouterr().err
    assert main(["reproduce"]) == 2
    assert "reproduce needs a study: all, block-size" in capsys.readouterr().err


# ---- images whose bits are known ----


@pytest.mark.parametrize("name", list(MADE))
def test_made_images_hold_the_bits_that_they_are_said_to_hold(name):
    splits = make_splits(name)
    images = splits["train"][:, 0]
    varies = (images.min(0) != images.max(0)).reshape(-1)
    levels = images.reshape(len(images), -1)[:, varies]
    assert set(np.unique(levels)) == {64, 192}
    # places that always agree hold one bit together; the others are independent
    codes = (levels == 192).astype(np.float32)
    apart = np.unique(codes.T, axis=0)
    assert len(apart) == MADE[name][1] == round(ideal_bits_per_dim(name) * 256)
    correlation = np.corrcoef(apart) - np.eye(len(apart))
    assert abs(correlation).max() < 0.05 and abs(apart.mean(1) - 0.5).max() < 0.02
    assert {split: len(part) for split, part in splits.items()} == {"train": 20000, "validation": 1000, "test": 1000}
    np.testing.assert_array_equal(it.load_data(name, "test").images, splits["test"])


def test_made_images_repeat_their_bits_where_they_are_said_to():
    mirror, twins, bar = (make_splits(name)["test"][:, 0] for name in ("mirror", "twins", "bar"))
    assert (mirror == mirror[:, :, ::-1]).all() and (mirror[:, :, :8] != mirror[:, :, 8:]).any()
    assert (twins[:, 1:5, 1:5] == twins[:, 11:15, 11:15]).all() and (twins == 128).mean() == 1 - 32 / 256
    assert (bar[:, :5] == bar[:, :1]).all() and (bar[:, 11:] == bar[:, :1]).all() and (bar[:, 5:11] == 128).all()


# ---- receptive fields ----


def test_a_field_is_zero_where_a_network_cannot_look():
    model = make_model((it.Raster(), (Local1D(5, 3),)), (3, 6, 7), mix=0)
    data = ImageData("random", "test", random_images(4, (3, 6, 7)).numpy())
    found = field_of(model, data, 3, 2)
    assert found.sum() == pytest.approx(1) and found[3, 2] == 0 and (found.reshape(-1)[23:] == 0).all()
    assert found[3, 1] > 0 and found[2, 3] > 0
    far = field_of(make_model((it.Raster(), (it.Full(),)), (3, 6, 7)), data, 3, 2)
    unseen = np.flatnonzero(far.reshape(-1)[:23] == 0)
    assert unseen.tolist() == [20], "the last of the row above, which is no neighbour of any slot before"


def test_a_network_that_looks_values_up_has_no_field():
    model = make_model((it.Raster(), (Local1D(5, 3),)), (3, 6, 7), family="paper", likelihood="categorical")
    with pytest.raises(ValueError, match="looks values up in a table"):
        field_of(model, ImageData("random", "test", random_images(2, (3, 6, 7)).numpy()))
