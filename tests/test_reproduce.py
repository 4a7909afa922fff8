"""Experiments that can be repeated: definitions hold together, verdicts follow from figures, nothing runs twice."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_model, random_images

import image_transformer as it
from image_transformer.cli.main import main
from image_transformer.data.images import ImageData
from image_transformer.data.made import MADE, ideal_bits_per_dim, make_splits
from image_transformer.geometry.patterns import Local1D
from image_transformer.measures.field import field_of
from image_transformer.reproduce import page, study
from image_transformer.reproduce.page import FAILS, HOLDS, OPEN, Results
from image_transformer.reproduce.study import Study, studies

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
    """Results of a study whose rows have these bits/dim, seed by seed."""
    one = Study("s", "S", "?", {row: {"model": {"width": 16 * i}} for i, row in enumerate(rows, 2)}, seeds=9)
    keys = {(trial.row, trial.seed): trial.key for trial in one.trials()}
    lines = [
        {"key": keys[row, seed], "row": row, "seed": seed, "bits_per_dim": value, "standard_error": 0.01}
        for row, of in rows.items()
        for seed, value in enumerate(of)
    ]
    return Results(one, lines)


@pytest.mark.parametrize(
    ("test", "rows", "verdict"),
    [
        ("below", {"a": (3.0, 3.1), "b": (3.2, 3.3)}, HOLDS),
        ("below", {"a": (3.2, 3.3), "b": (3.0, 3.1)}, FAILS),
        ("below", {"a": (3.0, 3.3), "b": (3.2, 3.1)}, OPEN),
        ("below", {"a": (3.0,), "b": (3.01,)}, OPEN),
        ("below", {"a": (3.0,), "b": (3.03,)}, HOLDS),
        ("below", {"a": (3.0, 3.1), "b": (3.2, 3.3), "c": (2.9, 3.0)}, FAILS),
        ("falls", {"a": (4.0, 4.1), "b": (3.5, 3.6), "c": (3.2, 3.3)}, HOLDS),
        ("falls", {"a": (4.0, 4.1), "b": (3.5, 3.6), "c": (3.6, 3.7)}, FAILS),
        ("first_gap_largest", {"a": (4.0, 4.1), "b": (3.5, 3.6), "c": (3.2, 3.3)}, HOLDS),
        ("first_gap_largest", {"a": (4.0, 4.1), "b": (3.8, 3.9), "c": (3.2, 3.3)}, FAILS),
        ("same", {"a": (3.0, 3.1), "b": (3.001, 3.101)}, HOLDS),
        ("same", {"a": (3.0, 3.1), "b": (3.1, 3.2)}, FAILS),
        ("same", {"a": (3.0, 3.1), "b": (3.0, 3.14)}, OPEN),
    ],
)
def test_a_verdict_follows_from_differences_seed_by_seed(test, rows, verdict):
    assert page.TESTS[test](results(**rows), list(rows))[1] == verdict


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
    assert sum(one.cpu_seconds for one in studies().values() if not one.by_name) < 2 * 8 * 3600


def test_the_key_of_a_trial_is_that_of_its_definition():
    one = results(a=(3.0,)).study
    (first, *_), (same, *_) = one.trials(), replace(one, title="T", question="!").trials()
    longer, *_ = replace(one, seconds=301.0).trials()
    assert first.key == same.key != longer.key


def test_a_study_is_run_once_and_its_page_says_what_came(tmp_path, monkeypatch, images_file, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies.yaml").write_text(STUDY)
    monkeypatch.setattr(study, "FILE", tmp_path / "studies.yaml")
    study.studies.cache_clear()
    try:
        assert main(["reproduce", "sizes", "--out", "out", "--jobs", "1"]) == 0
        raw = json.loads((tmp_path / "out" / "sizes.json").read_text())
        assert {line["row"] for line in raw} == {"width 16", "width 32"}
        assert all(line["cpu_seconds"] >= 1 and line["scored"] == 3 and line["images"] > 8 for line in raw)
        text = (tmp_path / "out" / "sizes.md").read_text()
        assert "Is wider better?" in text and "| width 32 |" in text and "| Wider is better |" in text
        assert (tmp_path / "out" / "sizes.png").exists() and not any((tmp_path / "runs" / "reproduce").iterdir())
        monkeypatch.setattr("image_transformer.cli.reproduce.get_context", lambda kind: pytest.fail("ran again"))
        capsys.readouterr()
        assert main(["reproduce", "sizes", "--out", "out"]) == 0
        assert "left" not in capsys.readouterr().err
    finally:
        study.studies.cache_clear()


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
