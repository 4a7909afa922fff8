"""What `report` and `evaluate` say of conditional models: right figures, from the command line to the page."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from image_transformer import checkpoint
from image_transformer.cli.main import main
from image_transformer.data.loading import load_data
from image_transformer.geometry.boxes import box_mean
from image_transformer.inference.completion import complete, known_side
from image_transformer.inference.scoring import bits_per_dim, classify
from image_transformer.measures import enlargements as assess
from image_transformer.measures import quality as measures
from image_transformer.measures.chain_rule import follow_chain_rule
from image_transformer.measures.enlargers import fit_regression
from image_transformer.show.page import write_report
from image_transformer.show.records import Table, read_tables, save_tables

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
            (
                "both",
                "superres-cifar10",
                "--model.shape",
                "3",
                "12",
                "12",
                "--model.conditions",
                "label:0,1,2",
                "low:4",
            ),
        ):
            assert main(["train", recipe, *SMALL, *flags, "--out", name]) == 0
    return folder


@pytest.fixture(autouse=True)
def _there(world, monkeypatch):
    monkeypatch.chdir(world)
    monkeypatch.setattr(assess, "fit_regression", lambda *args, **more: fit_regression(*args, **more, updates=5))


BOTH = ["--model.conditions", "label:0,1,2", "low:4"]


def rows_of(table):
    return {row[0]: row[1:] for row in table.rows}


def test_report_of_super_resolution(capsys):
    options = ["--images", "6", "--several", "3", "--samples", "2", "--temperatures", "1.0", "0.7"]
    options += ["--gan", "1e-6"]
    assert main(["report", "sr", *options, "--chain", "low", "high"]) == 0
    likelihood, gap, once, several, near, chain = read_tables("sr")
    model, test = checkpoint.load("sr"), load_data("pets.npz", "test", shape=(3, 12, 12)).some(6).images
    assert rows_of(likelihood)["bits/dim given the box means"][0] == f"{bits_per_dim(model, test):.4f}"
    held = bits_per_dim(model, test, consistent=True)
    assert rows_of(likelihood)["bits/dim of the consistent model"][0] == f"{held:.4f}"
    assert float(rows_of(likelihood)["gained by consistency"][0]) > 0
    assert "6 images that it drew" in gap.caption
    assert rows_of(gap)["all rows"][0] == f"{bits_per_dim(model, test):.3f}"
    figures = rows_of(once)
    assert list(figures) == [
        "nearest", "bicubic", "L2 regression", "sample of the GAN", "sample at 1.0", "sample at 0.7",
        "sample, consistent",
    ]  # fmt: skip
    assert float(figures["sample at 1.0"][-1]) > 0
    assert figures["nearest"][2] == figures["sample, consistent"][2] == "0.00"
    assert float(figures["sample at 1.0"][2]) > 0
    low = box_mean(np.array(test), 4)
    assert figures["bicubic"][0] == f"{measures.psnr(measures.bicubic(low, 4), test):.2f}"
    assert float(rows_of(several)["one sample at 0.7"][2]) < float(rows_of(several)["one sample at 1.0"][2])
    assert "mean of 2 samples at 0.7" in rows_of(several) and "3 test images" in several.caption
    assert "mean of 2 samples of the GAN" in rows_of(several)
    assert len(near.rows) == 5 and "chain rule" in chain.caption
    page = (Path("sr") / "report.html").read_text()
    assert page.count("<table>") == 6 and "gained by consistency" in page
    assert {p.stem for p in Path("sr/pictures").glob("*.png")} == {"enlargements", "nearest-training-images"}
    printed = capsys.readouterr()
    assert "| sample, consistent |" in printed.out and "report.html" in printed.out and "temperature 0.7" in printed.err


def test_the_chain_rule_adds_what_the_models_say():
    sr, low, high = (checkpoint.load(name) for name in ("sr", "low", "high"))
    images = load_data("pets.npz", "test", shape=(3, 12, 12)).images[:5]
    figures = {name: float(row[0]) for name, row in rows_of(follow_chain_rule(sr, low, high, images)).items()}
    first = bits_per_dim(low, box_mean(np.array(images), 4)) * 27 / 432
    assert figures["p(low)"] == pytest.approx(first, abs=1e-4)
    assert figures["p(low) p(high given low)"] == pytest.approx(first + bits_per_dim(sr, images), abs=1e-4)
    assert figures["difference"] == pytest.approx(
        first + bits_per_dim(sr, images) - bits_per_dim(high, images), abs=2e-4
    )
    with pytest.raises(ValueError, match="needs a model for super-resolution"):
        follow_chain_rule(high, low, high, images)
    with pytest.raises(ValueError, match=r"one of its low-resolution images .* got"):
        follow_chain_rule(sr, high, high, images)


def test_report_and_evaluation_of_classes(capsys):
    assert main(["report", "pets", "--images", "7"]) == 0
    model, test = checkpoint.load("pets"), load_data("pets.npz", "test", shape=(3, 12, 12))
    some = test.some(7)
    right = (classify(model, some.images) == some.labels).mean()
    table, gap = read_tables("pets")
    assert rows_of(table)["Bayes classifier, accuracy on 7, %"][0] == f"{100 * right:.1f}"
    label = torch.from_numpy(some.labels)
    assert rows_of(table)["bits/dim given the class"][0] == f"{bits_per_dim(model, some.images, label=label):.4f}"
    assert rows_of(gap)["all rows"][0] == f"{bits_per_dim(model, some.images, label=label):.3f}"
    assert (Path("pets/pictures") / "classes.png").exists()
    with np.load("pets.npz") as pets:
        np.savez("others.npz", train=pets["train"][:9], train_labels=pets["train_labels"][:9])
    assert main(["report", "pets", "--images", "30", "--data", "others.npz"]) == 0
    assert read_tables("reports/pets-others")[0].caption == "9 images of others.npz"
    assert read_tables("pets")[0] == table, "the page of the run's own data stays"
    assert main(["report", "high", "--images", "2", "--data", "others.npz", "--size", "12", "12"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "pets", "--limit", "7", "--classify", "4", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["classified"], figures["samples"]) == (4, 7)
    assert figures["entropy_gap"] == pytest.approx(figures["bits_per_dim_of_samples"] - figures["bits_per_dim"])
    some = some.some(4)
    assert figures["accuracy"] == (classify(model, some.images) == some.labels).mean()
    assert main(["evaluate", "pets", "--limit", "7"]) == 0
    assert re.search(r"% of 7 images are likeliest under their own class", capsys.readouterr().out)


def test_what_a_report_needs_is_looked_for_before_the_work(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    monkeypatch.setattr("image_transformer.measures.assessment.bits_of_rows", None)
    assert main(["report", "sr", "--images", "2"]) == 1
    assert "PSNR and SSIM need torchmetrics" in capsys.readouterr().err


def test_evaluation_of_super_resolution(capsys):
    assert main(["evaluate", "sr", "--limit", "4", "--consistent", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["bits_per_dim_consistent"] < figures["bits_per_dim"]
    assert main(["evaluate", "sr", "--limit", "4", "--consistent"]) == 0
    assert "bits/dim of the consistent model" in capsys.readouterr().out


def test_sample_and_complete_by_class(capsys):
    assert main(["sample", "pets", "--count", "3", "--out", "rows.png"]) == 0
    assert main(["sample", "pets", "--label", "2", "--count", "2", "--out", "one.png"]) == 0
    rows, one = (np.asarray(Image.open(f"{name}.png")).shape for name in ("rows", "one"))
    assert rows[0] * 3 > rows[1] * 2.5 and one[0] * 3 < one[1] * 2, "three rows of three, one row of two"
    assert main(["complete", "pets", "--count", "2", "--samples", "2"]) == 0
    assert main(["complete", "sr", "--count", "2", "--samples", "2", "--keep-side", "left"]) == 0
    capsys.readouterr()
    for args, message in (
        (["sample", "pets", "--label", "cat"], "unknown class 'cat'; expected one of: 0, 1, 2"),
        (["sample", "high", "--label", "1"], "--label: this model is not class-conditional"),
        (["sample", "sr"], "sr enlarges images: image-transformer superres sr IMAGE..."),
        (["sample", "both"], "both enlarges images"),
        (["complete", "pets", "one.png"], "--label is missing: this model is class-conditional, on 0, 1, 2"),
        (["complete", "high", "one.png", "--label", "1"], "--label: this model is not class-conditional"),
        (["report", "high", "--images", "0"], "images must be at least 1"),
        (["report", "sr", "--samples", "1"], "samples must be at least 2"),
        (["report", "sr", "--temperatures", "1", "0"], "temperatures must be some positive numbers"),
        (["report", "sr", "--chain", "nowhere", "high"], "no model at nowhere"),
        (["report", "sr", "--chain", "high", "high"], "the chain rule needs a model for super-resolution"),
        (["report", "both", "--chain", "low", "high"], "the chain rule needs a model for super-resolution"),
        (["evaluate", "high", "--consistent"], "--consistent is for super-resolution"),
        (["evaluate", "pets", "--classify", "-2"], "--classify must be at least 0"),
        (["evaluate", "pets", "--data", "../nowhere.npz"], "no such file"),
    ):
        assert main(args) != 0
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_every_sample_of_a_report_has_its_own_conditions_and_temperature(monkeypatch):
    model, data = checkpoint.load("both"), {s: load_data("pets.npz", s, shape=(3, 12, 12)) for s in ("train", "test")}
    calls = []

    def record(model, count, **options):
        calls.append(options)
        return torch.zeros(count, 3, 12, 12, dtype=torch.uint8) + round(100 * options["temperature"])

    monkeypatch.setattr(assess, "generate", record)
    plan = assess.Plan(images=7, several=4, samples=3, temperatures=(1.0, 0.7))
    found = assess.enlargements(model, data["train"], data["test"], plan, say=lambda text: None)
    some = data["test"].some(7)
    truth, labels = some.images, torch.from_numpy(some.labels)
    low = torch.from_numpy(box_mean(truth, 4))
    assert [call["temperature"] for call in calls] == [1.0, 0.7, 1.0, 1.0, 0.7]
    assert [call["consistent"] for call in calls] == [False, False, True, False, False]
    for call in calls[:3]:
        assert torch.equal(call["label"], labels) and torch.equal(call["low"], low)
    for call in calls[3:]:
        assert torch.equal(call["label"], labels[:4].repeat_interleave(3))
        assert torch.equal(call["low"], low[:4].repeat_interleave(3, 0))
    drawn = rows_of(found.tables[0])["sample at 0.7"]
    assert drawn[0] == f"{measures.psnr(np.full_like(truth, 70), truth):.2f}"


def test_the_nearest_training_images_are_shown_beside_what_they_are_near_to(monkeypatch):
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (9, 3, 4, 4), dtype=np.uint8)
    near, drawn = np.array([4, 2, 8, 2, 0]), []
    samples = np.clip(train[near].astype(int) + np.array([1, 2, 3, 4, 50])[:, None, None, None], 0, 255).astype(
        np.uint8
    )
    monkeypatch.setattr(assess.grids, "labelled_rows", lambda rows, headers: drawn.extend(row for _, row in rows))
    table, _ = assess._copies({"bicubic": samples, "sample at 1.0": samples}, train[:5], train)
    assert rows_of(table)["test images"] == ["0.0", "0.0"]
    _, distance = measures.nearest_neighbours(samples, train)
    assert rows_of(table)["sample at 1.0"] == [f"{np.median(distance):.1f}", f"{distance.min():.1f}"]
    for i, (sample, its, photograph, its_own) in enumerate(drawn):
        assert np.array_equal(sample, samples[i]) and np.array_equal(its, train[near[i]])
        assert np.array_equal(photograph, train[i]) and np.array_equal(its_own, train[i])


def test_completions_of_several_images_each_have_their_class():
    """As of one image alone: noise aside, which is that of the image's number."""
    model, images = (
        checkpoint.load("both").double(),
        np.array(load_data("pets.npz", "test", shape=(3, 12, 12)).images[:2]),
    )
    torch.nn.init.normal_(model.network.vectors.label.weight, std=3)  # after eight images classes hardly differ
    for block in model.network.blocks:
        torch.nn.init.normal_(block.down.weight, std=0.5)
    known = known_side(0.5, (3, 12, 12))
    both = complete(model, images, known, samples=2, label=["0", "2"]).images
    assert np.array_equal(both[0], complete(model, images[:1], known, samples=2, label="0").images[0])
    assert not np.array_equal(both[1], complete(model, images, known, samples=2, label="0").images[1])


def test_tables_survive_their_file_and_damage(tmp_path):
    table = Table("a < b & c", ["τ", "x"], [["one", "1 ± 2"]])
    save_tables([table], tmp_path)
    assert read_tables(tmp_path) == [table]
    assert table.markdown().splitlines()[2:] == ["| τ | x |", "| --- | --- |", "| one | 1 ± 2 |"]
    assert "a &lt; b &amp; c" in write_report(tmp_path).read_text()
    (tmp_path / "measures.json").write_text("[{")
    assert read_tables(tmp_path) == [] == read_tables(tmp_path / "nowhere")
