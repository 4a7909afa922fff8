"""Enlarging images of any size: no seams, every pixel drawn once, overlaps given as they are; the verb that does it."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_model, random_images
from PIL import Image

from image_transformer import checkpoint
from image_transformer.cli.main import main
from image_transformer.cli.pictures import names, side_by_side
from image_transformer.conditions.low import Low
from image_transformer.config.model import Modern
from image_transformer.config.run import RunConfig
from image_transformer.data.loading import load_file
from image_transformer.geometry.boxes import box_mean, nearest
from image_transformer.geometry.order import Wavefront
from image_transformer.geometry.patterns import Local1D
from image_transformer.inference import memory, tiled
from image_transformer.inference import sampling as sample
from image_transformer.inference.sampling import generate
from image_transformer.inference.tiled import Tiling, enlarge, starts
from image_transformer.measures.quality import bicubic
from image_transformer.model import ImageModel

FACTOR, TILE = 2, (4, 3)
SHAPE = (3, 8, 6)


def random_model(shape=SHAPE, **fields):
    scheme = Wavefront(1), (Local1D(5, 9),)
    return make_model(scheme, shape, factor=FACTOR, encoder_depth=1, **fields)


def copying_model(shape):
    """It draws the value of the pixel's box: all weights are zero but the skip's from there, and scales are tiny."""
    model = ImageModel(Modern(shape=shape, conditions=(Low(FACTOR),), width=8, heads=1, depth=1, components=1))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    channels, skip = shape[0], model.network.skip
    before = skip.means.in_features - 2 * channels  # features of the neighbours
    with torch.no_grad():
        for row in range(skip.phases * channels):
            skip.means.weight[row, before + row % channels] = 1
        skip.bias.view(skip.phases, -1)[:, 1 + channels : 1 + 2 * channels] = -20.0  # log-scales
    return model.eval()


# ---- where the tiles lie ----


def test_tiles_are_as_many_as_promised():
    for length, tile in itertools.product(range(1, 40), range(1, 9)):
        size = max(length, tile)
        found = starts(size, tile)
        half = -(-tile // 2)
        assert len(found) == 1 + -(-(size - tile) // half)
        assert found[0] == 0 and found[-1] == size - tile
        assert (np.diff(found) > 0).all() and (np.diff(found) <= half).all()
    assert Tiling((24, 32), (8, 8)).tiles == 35


@pytest.mark.parametrize("tile", [(1, 1), (2, 3), (3, 4), (4, 4), (5, 2), (8, 8)], ids=str)
def test_every_pixel_is_drawn_once_and_no_tile_waits_for_one_of_its_group(tile):
    """And the tiles know exactly what tiles before them, row by row, have drawn: nothing was drawn out of turn."""
    for size in itertools.product((1, 3, 4, 7, 8, 9, 13, 17), (1, 2, 5, 8, 9, 14, 17, 23)):
        plan = Tiling(size, tile)
        in_turn, drawn = np.zeros(plan.size, np.bool_), np.zeros(plan.size, np.bool_)
        for number in range(plan.tiles):
            window = plan.window(number)
            assert np.array_equal(in_turn[window], plan.known(number))
            in_turn[window] = True
        order = []
        for group in plan.groups():
            order += group.tiles
            for number in group.tiles:
                assert np.array_equal(group.known, plan.known(number))
                assert np.array_equal(group.known, drawn[plan.window(number)])
            times = np.zeros(plan.size, int)
            for number in group.tiles:
                times[plan.window(number)] += ~group.known
            assert times.max() == 1 and not drawn[times == 1].any()
            drawn |= times == 1
        assert sorted(order) == list(range(plan.tiles))
        assert drawn.all()


# ---- what is drawn ----


@pytest.mark.parametrize("shape", [SHAPE, (1, 6, 4)], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (4, 3), (3, 2), (1, 20), (9, 3), (9, 11)], ids=str)
def test_a_model_that_copies_gives_the_nearest_enlargement_of_an_image_of_any_size(shape, size):
    low = random_images(2, (shape[0], *size))
    images = enlarge(copying_model(shape), low, samples=2, temperature=1e-3)  # scales have a least size
    expected = nearest(low.numpy(), FACTOR)
    assert np.array_equal(images.numpy(), np.stack([expected] * 2, 1))


def test_an_image_of_a_tiles_size_is_what_generate_draws():
    model, low = random_model(), random_images(1, (3, *TILE))
    how = {"seed": 3, "temperature": 0.8, "top_p": 0.9}
    expected = generate(model, 3, low=low.expand(3, -1, -1, -1), **how)
    assert torch.equal(enlarge(model, low, samples=3, **how)[0], expected)


def test_a_sample_depends_neither_on_batches_nor_on_other_samples_and_images(monkeypatch):
    model, low = random_model(), random_images(2, (3, 5, 4))
    images = enlarge(model, low, samples=3, seed=1)
    assert images.shape == (2, 3, 3, 10, 8)
    assert len({image.numpy().tobytes() for image in images.flatten(0, 1)}) == 6
    assert torch.equal(enlarge(model, low[1:], samples=2, seed=1)[0], images[1, :2])
    assert not torch.equal(enlarge(model, low, samples=3, seed=2), images)
    monkeypatch.setattr(memory, "MOST_AT_ONCE", 1)
    assert torch.equal(enlarge(model, low, samples=3, seed=1), images)


def test_images_that_are_told_apart_by_numbers():
    """`numbers` says which images of a seed are drawn."""
    model, low = random_model(), random_images(1, (3, *TILE)).expand(4, -1, -1, -1)
    assert torch.equal(generate(model, 2, low=low[:2], numbers=[3, 1]), generate(model, 4, low=low)[[3, 1]])
    for wrong in ([1], [-1, 2], [2**64, 2]):
        with pytest.raises(ValueError, match="numbers must hold 2 numbers from 0"):
            generate(model, 2, low=low[:2], numbers=wrong)


@pytest.mark.parametrize("likelihood", ["dmol", "categorical"])
def test_consistent_enlargements_have_the_given_box_means(likelihood):
    model = random_model(likelihood=likelihood)
    flat = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 6, 7)
    low = torch.cat([random_images(1, (3, 6, 7)), flat])
    images = enlarge(model, low, samples=2, consistent=True)
    assert torch.equal(box_mean(images.flatten(0, 1), FACTOR), low.repeat_interleave(2, 0))
    assert not torch.equal(box_mean(enlarge(model, low)[:, 0], FACTOR), low)
    small = random_images(1, (3, 1, 2))  # less than a tile
    assert torch.equal(box_mean(enlarge(model, small, consistent=True)[0], FACTOR), small)


def test_a_tile_is_given_what_earlier_ones_drew(monkeypatch):
    calls = []

    def recording(model, count, **how):
        drawn = generate(model, count, **how)
        calls.append((how["numbers"], how["low"], how["known"], how["known_mask"], drawn))
        return drawn

    monkeypatch.setattr(tiled, "generate", recording)
    low = random_images(1, (3, 7, 8))
    images = enlarge(random_model(), low, samples=2)[0]
    plan, seen = Tiling((7, 8), TILE), []
    for numbers, lows, known, mask, drawn in calls:
        seen += numbers
        for number, its_low, its_known, its_drawn in zip(numbers, lows, known, drawn, strict=True):
            sample, tile = divmod(number, plan.tiles)
            window = images[sample][plan.window(tile, FACTOR)]
            assert torch.equal(its_low, low[0][plan.window(tile)])
            assert torch.equal(its_known[:, mask], window[:, mask])
            assert torch.equal(its_drawn, window)
    assert sorted(seen) == list(range(2 * plan.tiles)), "each has noise of its own"


def test_other_noise_of_a_tile_changes_it_and_later_ones_that_overlap_it_and_nothing_before(monkeypatch):
    model, low = random_model(), random_images(1, (3, 8, 9))
    plan = Tiling((8, 9), TILE)
    number = len(plan.lefts) + 2  # in the second row
    images = enlarge(model, low)[0, 0]
    true_noise = sample.noise

    def other_noise(seed, numbers, each):
        return torch.cat([true_noise(seed + (n == number), [n], each) for n in numbers])

    monkeypatch.setattr(sample, "noise", other_noise)
    changed = (enlarge(model, low)[0, 0] != images).any(0)
    reached, own = {number}, np.full((16, 18), -1)  # own: the number of the tile that drew a pixel
    for other in range(plan.tiles):
        window = plan.window(other, FACTOR)
        if set(own[window[1:]][own[window[1:]] >= 0].tolist()) & reached:
            reached.add(other)
        own[window[1:]][~np.kron(plan.known(other), np.ones((FACTOR, FACTOR), bool))] = other
    moved = set(own[changed.numpy()].tolist())
    assert moved <= reached
    assert {number, number + 1, number + len(plan.lefts)} <= moved
    assert min(moved) == number


@pytest.mark.parametrize("consistent", [False, True])
def test_progress_counts_all_pixels(consistent):
    told = []
    for lows in ([(3, 8, 6)], [(3, 2, 2), (3, 7, 6), (3, 2, 2)]):
        images = [random_images(1, shape)[0].numpy() for shape in lows]
        told.clear()
        numbers = [
            number
            for number, _ in tiled.draw_each(
                random_model(),
                "low",
                images,
                FACTOR,
                samples=2,
                consistent=consistent,
                progress=lambda *now: told.append(now),
            )
        ]
        assert sorted(numbers) == list(range(len(lows)))
        assert all(before[0] <= now[0] for before, now in itertools.pairwise(told))
        assert len({total for _, total in told}) == 1
        assert told[-1][0] == told[-1][1] == 2 * FACTOR**2 * sum(image[0].size for image in images)


def test_images_of_several_sizes_are_enlarged_as_each_alone(monkeypatch):
    model = random_model()
    lows = [random_images(1, (3, *size), seed)[0].numpy() for seed, size in enumerate([(4, 5), (2, 2), (4, 5)])]
    for most in (tiled.MOST_BYTES, 1):
        monkeypatch.setattr(tiled, "MOST_BYTES", most)
        for number, images in tiled.draw_each(model, "low", lows, FACTOR, samples=2):
            assert np.array_equal(images, enlarge(model, torch.from_numpy(lows[number])[None], samples=2)[0].numpy())


def test_wrong_arguments_are_refused():
    model, low = random_model(classes=("cat", "dog")), random_images(1, (3, 5, 5))
    assert enlarge(model, low, label="dog").shape == (1, 1, 3, 10, 10)
    for given, options, message in (
        (low, {}, "label= is missing"),
        (low, {"label": "dgo"}, "unknown class 'dgo'; did you mean 'dog'"),
        (low, {"label": 1, "samples": 0}, "samples must be at least 1, got 0"),
        (low[0], {"label": 1}, r"low must have shape \(n, 3, h, w\) for this model, got \(3, 5, 5\)"),
        (low[:, :1], {"label": 1}, r"low must have shape \(n, 3, h, w\)"),
        (low.float(), {"label": 1}, "torch.uint8 tensor"),
        (low, {"label": 1, "numbers": [0]}, "numbers= is not for images that are drawn by tiles"),
        (low, {"label": 1, "guess": low}, "guess= is not for images that are drawn by tiles"),
    ):
        with pytest.raises(ValueError, match=message):
            enlarge(model, given, **options)
    with pytest.raises(ValueError, match=r"not for super-resolution.* train superres-cifar10"):
        enlarge(make_model(), low)


# ---- the verb ----


def save(model, run):
    config = RunConfig("superres-cifar10", model.config)
    checkpoint.save(run, 0, checkpoint.model_files(config, checkpoint.State(), model.state_dict()))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with models, and images of several kinds and sizes."""
    world = tmp_path_factory.mktemp("world")
    save(random_model().float(), world / "run")
    save(random_model(classes=("cat", "dog")).float(), world / "classes")
    save(make_model().float(), world / "plain")
    (world / "other").mkdir()
    pixels = random_images(1, (4, 7, 5))[0].permute(1, 2, 0).numpy()
    Image.fromarray(pixels[..., :3]).save(world / "photo.jpg")
    Image.fromarray(pixels[:4, :3]).save(world / "alpha.png")
    Image.fromarray(pixels[:2, :, 0]).save(world / "other/photo.png")
    (world / "text.png").write_text("no image")
    return world


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    """The test runs in a copy of that folder."""
    shutil.copytree(world, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")


def read(path):
    return load_file(Path(path), 3)


def test_superres_writes_all_pictures_of_ordinary_files(here, capsys):
    files = ["photo.jpg", "alpha.png", "other/photo.png"]
    assert main(["superres", "run", *files, "--samples", "2", "--out", "big", "--seed", "4"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "images: 3, tiles: 9, samples of each: 2",
        "big",
        "big/photo.png",
        "big/alpha.png",
        "big/photo_2.png",
    ]
    endings = ("", "-1", "-2", "-nearest", "-bicubic")
    names = ("photo", "alpha", "photo_2")
    assert {path.name for path in Path("big").iterdir()} == {f"{n}{e}.png" for n in names for e in endings}
    for file, name in zip(files, names, strict=True):
        low = load_file(Path(file), 3)
        assert np.array_equal(read(f"big/{name}-nearest.png"), nearest(low[None], FACTOR)[0])
        assert np.array_equal(read(f"big/{name}-bicubic.png"), bicubic(low[None], FACTOR)[0])
        drawn = enlarge(checkpoint.load("run"), torch.from_numpy(low.copy())[None], samples=2, seed=4)[0]
        for i in range(2):
            assert np.array_equal(read(f"big/{name}-{i + 1}.png"), drawn[i].numpy())
    assert read("big/photo.png").shape[2] > 4 * 10


def test_superres_consistent_sized_and_never_over_a_given_file(here):
    before = read("alpha.png")
    for _ in range(2):  # what is there already is replaced
        assert main(["superres", "run", "alpha.png", "--samples", "1", "--consistent", "--out", "."]) == 0
        assert np.array_equal(read("alpha.png"), before)
        assert np.array_equal(box_mean(read("alpha_2-1.png")[None], FACTOR)[0], before)
    assert main(["superres", "run", "photo.jpg", "--samples", "1", "--size", "2", "3"]) == 0
    assert read("enlarged/photo-1.png").shape == (3, 4, 6)
    assert main(["superres", "classes", "photo.jpg", "--samples", "1", "--label", "dog", "--out", "dogs"]) == 0


def test_names_differ_from_each_other_and_from_samples_of_others():
    files = [Path(name) for name in ("a/x.png", "b/x.png", "x-1.png", "x_2.png")]
    assert names(files, Path("out"), ["-1", "-2"]) == ["x", "x_2", "x-1_2", "x_2_2"]


def test_the_picture_of_a_large_or_narrow_image_stays_small():
    for size in ((3, 400), (300, 1), (300, 300)):
        picture = side_by_side(nearest(np.zeros((3, 1, *size), np.uint8), 4), [""] * 3)
        assert picture.width <= 3 * 530 and picture.height <= 600


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "superres needs a model"),
        (["run"], "superres needs images"),
        (["nowhere", "photo.jpg"], "no model at nowhere"),
        (
            ["plain", "photo.jpg"],
            "not for super-resolution: cifar10-superres is",
        ),
        (["run", "photo.jpg", "text.png"], "text.png: unreadable image"),
        (["run", "nothere.png"], "nothere.png: unreadable image"),
        (["run", "photo.jpg", "--samples", "0"], "--samples must be at least 1, got 0"),
        (["run", "photo.jpg", "--size", "0", "3"], "expected a positive height and width"),
        (["run", "photo.jpg", "--temperature", "0"], "temperature must be positive"),
        (["run", "photo.jpg", "--label", "dog"], "this model is not class-conditional"),
        (["run", "photo.jpg", "--out", "text.png"], "--out text.png is a file, expected a folder"),
        (["run", "photo.jpg", "--consistnet"], "did you mean --consistent?"),
        (["classes", "photo.jpg"], "--label is missing: this model is class-conditional, on cat, dog"),
        (["classes", "photo.jpg", "--label", "dgo"], "unknown class 'dgo'; did you mean 'dog'"),
        (["classes", "photo.jpg", "--label", "2"], "unknown class 2; the model knows 2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_superres_errors_are_one_line_and_leave_nothing_behind(args, message, here, capsys):
    before = sorted(Path().rglob("*"))
    assert main(["superres", *args]) != 0
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert sorted(Path().rglob("*")) == before
