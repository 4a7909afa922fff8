"""The command line: verbs, one-line errors, nothing half-written; recipes; configurations that survive YAML."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import random_images, shrunken, sixty_images
from PIL import Image

import image_transformer as it
from image_transformer import checkpoint
from image_transformer.cli.main import main
from image_transformer.conditions.frames import Frames
from image_transformer.conditions.low import Low
from image_transformer.conditions.source import Source
from image_transformer.config.model import ORDERS, PATTERNS, Modern
from image_transformer.config.run import RunConfig, from_dict, load_config, save_config, to_dict
from image_transformer.config.train import TrainConfig
from image_transformer.data.recording import About, write_about
from image_transformer.geometry.order import BlockRaster
from image_transformer.geometry.patterns import Dilated, Full, Local1D, Local2D
from image_transformer.inference.sampling import generate
from image_transformer.model import ImageModel
from image_transformer.recipes import recipe, recipe_names
from image_transformer.show.page import write_report
from image_transformer.show.records import read_metrics
from image_transformer.training.loop import train
from image_transformer.words import from_text, to_text

SMALL = [
    "--model.shape", "3", "6", "7", "--model.depth", "1", "--model.width", "16", "--model.heads", "2",
    "--model.feed-forward", "24", "--model.attention", "local1d:7:7", "full", "--train.images", "8",
    "--train.sample-every", "8", "--train.validate-every", "8", "--train.save-every", "4",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a trained run, made through the command line, and the images that it has learned from."""
    folder = tmp_path_factory.mktemp("trained")
    data = sixty_images(folder)
    assert main(["train", "tiny", *SMALL, "--data", str(data), "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def images_file(trained):
    return trained / "images.npy"


@pytest.fixture
def run(trained):
    """A copy of the trained run's folder, here."""
    return Path(shutil.copytree(trained / "run", "run"))


def photos(folder, count, size):
    """A folder of images (width, height) of one colour each, and a file that is none."""
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", size, (i, 2, 3)).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"not a picture")
    return folder


def error_of(args, capsys):
    """The one line on stderr of a command that must fail."""
    code = main(args)
    assert code != 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_help_is_fast_and_does_not_import_torch():
    code = (
        "import sys; from image_transformer.cli.main import main; main(['--help']); assert 'torch' not in sys.modules"
    )
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for verb in ("demo", "recipes", "train", "evaluate", "sample", "complete", "superres"):
        assert f"\n  {verb}" in text


@pytest.mark.parametrize("verb", ["demo", "evaluate", "sample", "complete", "superres", "recipes"])
def test_each_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"image-transformer {verb}" in capsys.readouterr().out


def test_help_of_train_shows_the_recipes_own_values(capsys):
    with pytest.raises(SystemExit):
        main(["train", "paper-cifar10-dmol", "--help"])
    text = capsys.readouterr().out
    assert "local1d:256:256" in text
    assert "(default: 14)" in text


def test_train_then_evaluate_sample_complete(run, images_file, capsys):
    assert main(["evaluate", "run", "--json", "--per-image", "bits.csv", "--picture", "where.png"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["split"] == "test"
    rows = list(csv.DictReader(Path("bits.csv").read_text().splitlines()))
    assert len(rows) == figures["images"]
    mean = np.mean([float(row["bits_per_dim"]) for row in rows])
    assert mean == pytest.approx(figures["bits_per_dim"], abs=1e-5)

    assert main(["evaluate", "run", "--split", "validation"]) == 0
    best = checkpoint.read_state(checkpoint.best(run)).validation_bpd
    assert capsys.readouterr().out.startswith(f"{best:.4f} bits/dim")

    assert main(["sample", "run", "--count", "3", "--columns", "3", "--seed", "2", "--out", "new.png"]) == 0
    drawn = generate(checkpoint.load("run"), 3, seed=2).numpy()
    picture = np.asarray(Image.open("new.png"))
    for image in drawn:
        colours = {tuple(pixel) for pixel in image.reshape(3, -1).T}
        assert colours <= {tuple(pixel) for pixel in picture.reshape(-1, 3)}

    Image.fromarray(np.load(images_file)[0].transpose(1, 2, 0)).save("photo.png")
    assert main(["complete", "run", "photo.png", "--samples", "2", "--out", "done.png"]) == 0
    assert main(["complete", "run", "--count", "2", "--samples", "2", "--keep", "0.25", "--out", "more.png"]) == 0
    assert Path("done.png").stat().st_size > 0
    assert Path("more.png").stat().st_size > 0


def test_complete_says_what_it_conditioned_on(images_file, capsys):
    """A model that was trained in all orientations is asked for the upper half, given the lower one."""
    square = ["--model.shape", "3", "6", "6", "--size", "6", "6", "--model.order", "raster", "--data.orientations"]
    assert main(["train", "tiny", *SMALL, *square, "--data", str(images_file), "--out", "run"]) == 0
    for args, line in (
        (["--keep-side", "bottom"], "drawn upside down: a drawn pixel was conditioned on 100 % of the given ones"),
        (
            ["--keep-side", "bottom", "--orientation", "as-it-is"],
            "drawn as it is: a drawn pixel was conditioned on 0 %",
        ),
        (["--keep-side", "left", "--samples", "1"], "drawn transposed: a drawn pixel was conditioned on 100 %"),
        (["--keep", "0"], "drawn as it is: nothing was given; diversity"),
    ):
        capsys.readouterr()
        assert main(["complete", "run", "--count", "2", "--samples", "3", *args]) == 0
        path, said = capsys.readouterr().out.splitlines()
        assert path == "completions.png"
        assert said.startswith(line)
        assert ("; diversity " in said) == ("1" not in args)
    assert main(["evaluate", "run", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["trained_with"], figures["trained_with_flips"]) == ("orientations", True)
    assert main(["evaluate", "run"]) == 0
    assert "; trained with orientations)" in capsys.readouterr().out


def test_resume_goes_on_and_the_config_file_reproduces_the_run(run, images_file, capsys):
    assert main(["train", "run/config.yaml", "--out", "again"]) == 0
    bpds = [[m["bpd"] for m in read_metrics(f"{name}/metrics.jsonl") if "bpd" in m] for name in ("run", "again")]
    assert bpds[0] == bpds[1]
    more = [*SMALL, "--data.source", str(images_file), "--out", "run", "--resume", "--train.images", "16"]
    assert main(["train", "tiny", *more]) == 0
    assert "image-transformer evaluate run" in capsys.readouterr().out
    assert read_metrics("run/metrics.jsonl")[-1]["images"] == 16
    assert main(["train", "tiny", "--out", "run", "--resume", "--train.images", "24"]) == 0  # its own other values
    assert read_metrics("run/metrics.jsonl")[-1]["images"] == 24


def test_a_folder_the_model_was_trained_on_is_scored_on_its_held_out_part(run, images_file, capsys):
    assert main(["evaluate", "run", "--data", str(images_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["split"] == "test"


def test_images_of_other_sizes_are_fitted_where_data_are_taken(run, tmp_path, capsys):
    folder = photos(tmp_path / "photos", 40, (14, 12))
    Image.new("RGB", (7, 6)).save("one.png")
    data, fit = ["--data", str(folder)], ["--size", "6", "7", "--skip-bad"]
    for verb in (
        ["complete", "run", "--count", "2", "--samples", "1", *data],
        ["score", "one.png", "--model", "run", "--count", "2", "--against", str(folder)],
        ["export", "run", "--calibrate", "2", *data],
        ["evaluate", "run", "--gap", "0", *data],
    ):
        assert "pass --size 6 7" in error_of([*verb, "--skip-bad"], capsys)
        assert main([*verb, *fit]) == 0
        capsys.readouterr()
    assert "--data is for" in error_of(["export", "run", "--to", "plain", *data], capsys)


def test_skipped_images_are_counted(run, tmp_path, capsys):
    folder = photos(tmp_path / "photos", 3, (7, 6))
    assert "broken.png" in error_of(["evaluate", "run", "--data", str(folder)], capsys)
    assert main(["evaluate", "run", "--data", str(folder), "--skip-bad"]) == 0
    assert "3 images" in (out := capsys.readouterr().out)
    assert "1 unreadable left out" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian", "tiny"], "unknown verb 'trian'; did you mean 'train'?"),
        (["train"], "needs a recipe"),
        (["train", "tinny"], "unknown recipe 'tinny'; did you mean 'tiny'?"),
        (["train", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "tiny", "--model.dpeth", "3"], "unknown option --model.dpeth; did you mean --model.depth?"),
        (["train", "tiny", "--model.depth", "many"], "--model.depth"),
        (["train", "tiny", "--model.depth", "0"], "model.depth must be at least 1, got 0"),
        (["train", "tiny", "--model.attention", "local3d:1:1"], "unknown name 'local3d'; did you mean 'local"),
        (["train", "tiny", "--model.attention", "local1d:4"], "expected local1d:QUERY:MEMORY, got 'local1d:4'"),
        (["train", "tiny", "--model.heads", "5"], "5 heads do not divide"),
        (["train", "tiny", "--train.optimizer", "sgd"], "sgd"),
        (["train", "tiny-paper", "--train.warmup", "0"], "train.warmup must be at least 1, got 0"),
        (["train", "tiny", "--model.conditions", "labl"], "unknown name 'labl'; did you mean 'label'?"),
        (["train", "tiny", "--model.conditions", "low"], "expected low:FACTOR, got 'low'"),
        (["train", "tiny", "--model.conditions", "low:5"], "must be at least 2 and divide the height 32"),
        (["train", "tiny", "--model.family", "papre"], "--model.family: did you mean 'paper'?, got 'papre'"),
        (["train", "tiny", "--model.family"], "--model.family needs a value"),
        (["train", "tiny", "--model.famly", "paper"], "did you mean --model.family?"),
        (["train", "tiny", "--train.micro-batch", "x"], "--train.micro-batch expects INT|{auto}"),
        (["train", "tiny", "--model.positions", "learned"], "unknown option --model.positions"),
        (["train", "tiny", "--data.source", "nowhere"], "nowhere"),
        (["train", "tiny", "--data.source", "cifar-10"], "did you mean cifar10"),
        (["evaluate"], "needs a model"),
        (["evaluate", "nowhere"], "no model at nowhere"),
        (["evaluate", "run", "--split", "tset"], "tset"),
        (["evaluate", "run", "--data", "cifar10-mini"], "32x32"),
        (["sample", "run", "--temperature", "0"], "temperature must be positive, got 0"),
        (["sample", "run", "--cuont", "3"], "did you mean --count?"),
        (["sample", "run", "--out", "."], "--out . is a folder, expected a file to write"),
        (["sample", "run", "--out", "new.jpg"], "--out new.jpg: expected a name that ends with .png"),
        (["sample", "run", "--out", "big.png/new.png"], "--out big.png is a file, expected a folder"),
        (["evaluate", "run", "--picture", "run"], "--picture run is a folder, expected a file to write"),
        (["evaluate", "run", "--per-image", "run"], "--per-image run is a folder, expected a file to write"),
        (["complete", "run", "big.png", "--out", "run"], "--out run is a folder, expected a file to write"),
        (["complete", "run", "big.png", "--count", "3"], "--count is for images of a data set, not for files"),
        (["score", "big.png", "--size", "3", "3"], "--size is for the data set --against"),
        (["sample", "run", "extra"], "unknown argument extra: image-transformer sample MODEL"),
        (["sample", "--seed", "1", "run"], "sample needs a model, by its run folder"),
        (["complete", "--keep", "0.5", "run", "big.png"], "image-transformer complete MODEL [IMAGE...] [flags]"),
        (["complete", "run", "nothere.png"], "nothere.png"),
        (["complete", "run", "--keep", "1.5"], "must lie in [0, 1], got 1.5"),
        (["complete", "run", "--mask", "big.png"], "the mask big.png is 9x8, the model's images are 6x7"),
        (["complete", "run", "big.png"], "big.png"),
        (["complete", "run", "--mask", "images.npy"], "cannot read the mask images.npy"),
        (["complete", "run", "--keep", "1"], "all pixels are given: nothing is left to draw"),
        (["complete", "run", "--keep-side", "above"], "--keep-side"),
        (
            ["complete", "run", "--orientation", "upside-down"],
            "not trained for the orientation upside-down, only for: as",
        ),
        (
            ["complete", "run", "--orientation", "sideways"],
            "unknown orientation 'sideways'; this model knows: as-it-is",
        ),
        (["train", "tiny", *SMALL, "--data.orientations"], "needs square images, model.shape has 6x7"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_errors_are_one_line_that_helps_and_leave_nothing_behind(args, message, run, capsys):
    Image.new("RGB", (8, 9)).save("big.png")
    before = sorted(Path().rglob("*"))
    assert message in error_of(args, capsys)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_value_that_a_field_refuses_is_said_and_nothing_else(encoding):
    """Whatever frame the terminal can show."""
    command = [sys.executable, "-m", "image_transformer", "train", "tiny", "--train.images", "0"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(it.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stderr == "image-transformer: train.images must be at least 1, got 0\n" and done.returncode == 2


def test_a_mistake_of_the_programs_says_its_kind(run, monkeypatch, capsys):
    monkeypatch.setattr("image_transformer.cli.status.standing", lambda path: {}["kind"])
    assert main(["status", "run"]) == 1
    assert capsys.readouterr().err == "image-transformer: KeyError: 'kind' (--debug shows where)\n"


@pytest.mark.parametrize("verb", ["models", "recipes"])
def test_who_reads_no_further_is_no_error(verb):
    read, write = os.pipe()
    os.close(read)
    program = [sys.executable, "-m", "image_transformer", verb]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(program, stdout=write, stderr=subprocess.PIPE, env=buffered, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_model_alone_is_no_run(run, capsys):
    assert main(["export", "run", "--to", "alone"]) == 0
    assert main(["status", "alone"]) == 1 and "alone is an exported model, not a run" in capsys.readouterr().err
    again = ["train", "tiny", *SMALL, "--data", "images.npy", "--out", "alone", "--resume"]
    assert main(again) == 1
    assert (
        "alone is an exported model, not a run: another run starts from it with --init alone" in capsys.readouterr().err
    )
    assert "--resume" not in write_report(Path("alone")).read_text("utf-8")
    it.load("alone")


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="no model at nowhere"):
        main(["evaluate", "nowhere", "--debug"])


def test_an_error_as_long_as_a_compilers_is_cut(monkeypatch, capsys):
    def fail(args):
        raise RuntimeError("error: " + "overflow in conversion\n" * 10_000)

    monkeypatch.setattr("image_transformer.cli.models.run", fail)
    said = error_of(["models"], capsys)
    assert said.startswith("image-transformer: error: overflow in") and len(said) < 1100 and "--debug" in said


def test_the_smallest_scale_reaches_the_likelihood():
    small, usual = (ImageModel(recipe("tiny", model={"min_log_scale": s}).model) for s in (-9.0, -7.0))
    assert (small.likelihood.min_log_scale, usual.likelihood.min_log_scale) == (-9, -7)


def test_a_wide_entropy_gap_comes_with_what_closes_it(run, images_file, capsys):
    assert main(["evaluate", str(run), "--gap", "0"]) == 0
    assert "entropy gap" not in capsys.readouterr().out
    assert main(["evaluate", str(run), "--gap", "2", "--json"]) == 0
    assert abs(json.loads(capsys.readouterr().out)["entropy_gap"]) > 0.1
    assert main(["evaluate", str(run), "--gap", "1"]) == 0
    assert "entropy gap" in capsys.readouterr().out


def test_a_recipe_can_be_trained_in_another_family(images_file, capsys):
    """With the fields that both families have; the others are flags of the family that was asked for."""
    paper = ["--model.family", "paper", "--model.positions", "learned"]
    assert main(["train", "tiny", *SMALL, *paper, "--data", str(images_file), "--out", "run"]) == 0
    config = checkpoint.load("run").config
    assert (config.family, config.positions, config.depth) == ("paper", "learned", 1)
    assert main(["train", "tiny", "--model.family=paper", "--model.order", "wavefront:1", "--out", "no"]) != 0
    assert "the wavefront order needs the modern family" in capsys.readouterr().err


# ---- recipes ----


def some_play(folder, shape):
    """A recording of eight episodes of three frames, which has a row less than they are seen with; or such clips."""
    folder.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (8, 3, shape[1], shape[2], shape[0]), np.uint8)
    if shape[0] == 1:
        np.save(folder / "clips.npy", frames)
        return folder / "clips.npy"
    write_about(folder, About("Made-v0", ("a", "b"), 0))
    played = {"actions": np.array([-1, 0, 1] * 8, np.int16), "rewards": np.zeros(24, np.float32)}
    seen = frames.reshape(24, *frames.shape[2:])[:, :-1]
    np.savez(folder / "episodes-000000.npz", frames=seen, ended=np.zeros(24, np.bool_), **played)
    return folder


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_trains_and_samples(name, images_file, tmp_path):
    """In a shrunken variant with the same parts."""
    images = np.load(images_file)
    np.savez(tmp_path / "labelled.npz", train=images, train_labels=np.arange(len(images)) % 3)
    config = shrunken(recipe(name))
    shape = config.model.shape
    edits = "local" if config.model.condition(Source) else "none"
    data = replace(config.data, source=str(tmp_path / "labelled.npz"), size=shape[1:], edits=edits)
    if config.model.condition(Frames):
        data = replace(config.data, source=str(some_play(tmp_path / "play", shape)), size=None)
    best = train(replace(config, data=data), tmp_path / "run", show_progress=False)
    assert checkpoint.read_state(best).images_seen == 8
    model = checkpoint.load(best)
    told = {
        "low": random_images(2, (3, 3, 4)),
        "label": ["0", "2"],
        "text": "a ring",
        "source": random_images(2, shape),
        "frames": random_images(2, shape)[:, None],
        "action": ["start", "b"],
    }
    told = {condition.name: told[condition.name] for condition in model.config.conditions}
    assert generate(model, 2, **told).shape == (2, *shape)
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 1


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_survives_its_yaml_and_is_named_after_its_function(name, tmp_path):
    config = recipe(name)
    assert config.recipe == name
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("paper-cifar10-categorical", 38.3),
        ("paper-cifar10-dmol", 11.1),
        ("paper-ablation-256", 25.7),
        ("paper-imagenet32", 38.3),
    ],
)
def test_the_papers_recipes_have_the_papers_sizes(name, millions):
    """Against the original's own counts: 38.33 M, 11.06 M plus positions, 25.7 M."""
    model = ImageModel(recipe(name).model)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


# ---- configuration ----


@pytest.mark.parametrize("value", [Full(), Local1D(3, 4), Local2D((2, 3), (4, 5)), Dilated(1, 2, 3, 4)], ids=str)
def test_patterns_are_words(value):
    assert from_text(to_text(value), PATTERNS) == value


def test_orders_are_words():
    assert to_text(BlockRaster((2, 3))) == "block-raster:2x3"
    assert from_text("block-raster:2x3", ORDERS) == BlockRaster((2, 3))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"model": {"dpeth": 3}}, "unknown field model.dpeth; did you mean 'depth'?"),
        ({"model": {"depth": "three"}}, "model.depth: expected int, got 'three'"),
        ({"model": {"family": "papre"}}, "model.family: did you mean 'paper'?, got 'papre'"),
        (
            {"model": {"attention": ["local1d:x:3"]}},
            "model.attention: expected local1d:QUERY:MEMORY, got 'local1d:x:3'",
        ),
        ({"model": {"shape": [3, 32]}}, "model.shape: expected 3 values, got [3, 32]"),
        ({"model": {"order": None}}, "model.order: expected a word, got None"),
        ({"model": {"conditions": [{"name": "low"}]}}, "model.conditions.factor is missing"),
        ({"model": {"conditions": ["low"]}}, "model.conditions must be a mapping of fields, got str"),
        ({"data": {"size": 32}}, "data.size: expected a list, got 32"),
        ({"train": {"lr": "fast"}}, "train.lr: expected a number, got 'fast'"),
        ({"train": {"images": 0}}, "train.images must be at least 1, got 0"),
        ({"train": {"batch": 6, "micro_batch": 4}}, "micro_batch 4 does not divide"),
        ({"trian": {}}, "unknown field trian; did you mean 'train'?"),
        ([1], "must be a mapping"),
    ],
    ids=str,
)
def test_wrong_configurations_are_refused(data, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below, as text)
        from_dict(RunConfig, data)
    assert message in str(caught.value)


def test_lists_are_tuples_and_what_is_neither_is_refused():
    """Or it would fail late, when the configuration is saved."""
    config = Modern(shape=[3, 8, 8], attention=[Full()], conditions=[Low(4)])
    assert config == Modern(shape=(3, 8, 8), attention=(Full(),), conditions=(Low(4),))
    assert from_dict(RunConfig, yaml.safe_load("train: {lr: 1e-3}")).train.lr == 1e-3
    assert it.DataConfig(size=[32, 32]) == it.DataConfig(size=(32, 32))
    for fields, message in (
        ({"attention": Full()}, r"model\.attention must be a tuple, got Full\(\)"),
        ({"attention": ("full",)}, r"model\.attention: 'full' is no pattern, such as Full\(\)"),
        ({"order": "raster"}, r"model\.order must be an order, such as Raster\(\), got 'raster'"),
    ):
        with pytest.raises(ValueError, match=message):
            Modern(**fields)


def test_any_configuration_survives_plain_data():
    config = RunConfig("x", Modern(attention=(Full(), Dilated(2, 3, 1, 1)), order=BlockRaster((4, 5))),
                       train=TrainConfig(minutes=2.5, clip=1.0, micro_batch=8))  # fmt: skip
    assert from_dict(RunConfig, to_dict(config)) == config
