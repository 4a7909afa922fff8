"""What `report` and `evaluate` say of conditional models: right figures, from the command line to the page."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from image_transformer import assess, checkpoint, measures
from image_transformer.assess import chain_rule
from image_transformer.boxes import box_mean
from image_transformer.cli import main
from image_transformer.data import load
from image_transformer.evaluate import bits_per_dim, classify
from image_transformer.report import Table, read_tables, save_tables, write_report

SMALL = [
    "--model.depth", "1", "--model.width", "16", "--model.heads", "2", "--model.feed-forward", "24",
    "--model.attention", "local1d:18:18", "--train.images", "8", "--data", "pets.npz",
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three runs on 144 images of 12 x 12 in three classes: super-resolution, its low resolution, and by class."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    base = rng.integers(40, 180, (144, 3, 1, 1)) + np.arange(12)[:, None] * 3 + np.arange(12) * 2
    images = np.clip(base + rng.integers(-9, 9, (144, 3, 12, 12)), 0, 255).astype(np.uint8)
    np.savez(folder / "pets.npz", train=images, train_labels=np.arange(144) % 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("IMAGE_TRANSFORMER_CACHE", str(folder / "cache"))
        for name, recipe, *flags in (
            ("sr", "superres-cifar10", "--model.shape", "3", "12", "12"),
            ("low", "tiny", "--model.shape", "3", "3", "3", "--data.size", "3", "3"),
            ("high", "tiny", "--model.shape", "3", "12", "12"),
            ("pets", "small-class", "--model.shape", "3", "12", "12"),
        ):
            assert main(["train", recipe, *SMALL, *flags, "--out", name]) == 0
    return folder


@pytest.fixture(autouse=True)
def _there(world, monkeypatch):
    monkeypatch.chdir(world)
    monkeypatch.setattr(
        assess, "fit_regression", lambda *args, **more: measures.fit_regression(*args, **more, updates=5)
    )


def rows_of(table):
    return {row[0]: row[1:] for row in table.rows}


def test_report_of_super_resolution(capsys):
    options = ["--images", "6", "--several", "3", "--samples", "2", "--temperatures", "1.0", "0.7"]
    assert main(["report", "sr", *options, "--chain", "low", "high"]) == 0
    likelihood, once, several, near, chain = read_tables("sr")
    model, test = checkpoint.load("sr"), load("pets.npz", "test", shape=(3, 12, 12)).images[:6]
    assert rows_of(likelihood)["bits/dim given the box means"][0] == f"{bits_per_dim(model, test):.4f}"
    held = bits_per_dim(model, test, consistent=True)
    assert rows_of(likelihood)["bits/dim of the consistent model"][0] == f"{held:.4f}"
    assert float(rows_of(likelihood)["gained by consistency"][0]) > 0
    figures = rows_of(once)
    assert list(figures) == [
        "nearest", "bicubic", "L2 regression", "sample at 1.0", "sample at 0.7", "sample, consistent",
    ]  # fmt: skip
    assert figures["nearest"][2] == figures["sample, consistent"][2] == "0.00"
    assert float(figures["sample at 1.0"][2]) > 0
    low = box_mean(np.array(test), 4)
    assert figures["bicubic"][0] == f"{measures.psnr(measures.bicubic(low, 4), test):.2f}"
    assert float(rows_of(several)["one sample at 0.7"][2]) < float(rows_of(several)["one sample at 1.0"][2])
    assert "mean of 2 samples at 0.7" in rows_of(several) and "3 test images" in several.caption
    assert len(near.rows) == 4 and "chain rule" in chain.caption
    page = (assess.Path("sr") / "report.html").read_text()
    assert page.count("<table>") == 5 and "gained by consistency" in page
    assert {p.stem for p in assess.Path("sr/pictures").glob("*.png")} == {"enlargements", "nearest-training-images"}
    printed = capsys.readouterr()
    assert "| sample, consistent |" in printed.out and "report.html" in printed.out and "temperature 0.7" in printed.err


def test_the_chain_rule_adds_what_the_models_say():
    sr, low, high = (checkpoint.load(name) for name in ("sr", "low", "high"))
    images = load("pets.npz", "test", shape=(3, 12, 12)).images[:5]
    figures = {name: float(row[0]) for name, row in rows_of(chain_rule(sr, low, high, images)).items()}
    first = bits_per_dim(low, box_mean(np.array(images), 4)) * 27 / 432
    assert figures["p(low)"] == pytest.approx(first, abs=1e-4)
    assert figures["p(low) p(high given low)"] == pytest.approx(first + bits_per_dim(sr, images), abs=1e-4)
    assert figures["difference"] == pytest.approx(
        first + bits_per_dim(sr, images) - bits_per_dim(high, images), abs=2e-4
    )
    with pytest.raises(ValueError, match="needs a model for super-resolution"):
        chain_rule(high, low, high, images)
    with pytest.raises(ValueError, match=r"one of its low-resolution images .* got"):
        chain_rule(sr, high, high, images)


def test_report_and_evaluation_of_classes(capsys):
    assert main(["report", "pets", "--images", "7"]) == 0
    model, test = checkpoint.load("pets"), load("pets.npz", "test", shape=(3, 12, 12))
    right = (classify(model, test.images[:7]) == test.labels[:7]).mean()
    (table,) = read_tables("pets")
    assert rows_of(table)["Bayes classifier, accuracy on 7"][0] == f"{100 * right:.1f} %"
    label = torch.from_numpy(test.labels[:7])
    assert rows_of(table)["bits/dim given the class"][0] == f"{bits_per_dim(model, test.images[:7], label=label):.4f}"
    assert (assess.Path("pets/pictures") / "classes.png").exists()
    capsys.readouterr()
    assert main(["evaluate", "pets", "--limit", "7", "--classify", "4", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["classified"] == 4
    assert figures["accuracy"] == (classify(model, test.images[:4]) == test.labels[:4]).mean()
    assert main(["evaluate", "pets", "--limit", "7"]) == 0
    assert re.search(r"% of 7 images are likeliest under their own class", capsys.readouterr().out)


def test_evaluation_of_super_resolution(capsys):
    assert main(["evaluate", "sr", "--limit", "4", "--consistent", "--samples", "3", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["bits_per_dim_consistent"] < figures["bits_per_dim"]
    assert [len(table["rows"]) for table in figures["tables"]] == [7, 9, 5]
    assert main(["evaluate", "sr", "--limit", "4", "--consistent", "--samples", "3"]) == 0
    printed = capsys.readouterr().out
    assert "bits/dim of the consistent model" in printed and "| sample at 0.8 |" in printed


def test_sample_and_complete_by_class(capsys):
    assert main(["sample", "pets", "--columns", "2", "--out", "rows.png"]) == 0
    assert main(["sample", "pets", "--label", "2", "--count", "2", "--out", "one.png"]) == 0
    rows, one = (np.asarray(Image.open(f"{name}.png")).shape for name in ("rows", "one"))
    assert rows[0] > 2 * one[0] and rows[1] > one[1]
    assert main(["complete", "pets", "--count", "2", "--samples", "2"]) == 0
    assert main(["complete", "sr", "--count", "2", "--samples", "2", "--keep-side", "left"]) == 0
    capsys.readouterr()
    for args, message in (
        (["sample", "pets", "--label", "cat"], "unknown class 'cat'; expected one of: 0, 1, 2"),
        (["sample", "high", "--label", "1"], "not conditional on label"),
        (["sample", "sr"], "sr enlarges images: image-transformer superres sr IMAGE..."),
        (["report", "high", "--images", "0"], "--images must be at least 1"),
        (["evaluate", "pets", "--data", "../nowhere.npz"], "no such file"),
    ):
        assert main(args) != 0
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_tables_survive_their_file_and_damage(tmp_path):
    table = Table("a < b & c", ["τ", "x"], [["one", "1 ± 2"]])
    save_tables([table], tmp_path)
    assert read_tables(tmp_path) == [table]
    assert table.markdown().splitlines()[2:] == ["| τ | x |", "| --- | --- |", "| one | 1 ± 2 |"]
    assert "a &lt; b &amp; c" in write_report(tmp_path).read_text()
    (tmp_path / "measures.json").write_text("[{")
    assert read_tables(tmp_path) == [] == read_tables(tmp_path / "nowhere")
