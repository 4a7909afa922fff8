"""Editing: a source is read whole or nearby and lets nothing of the future in; edits and made scenes are exact."""

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LIKELIHOODS, assert_no_future, make_model, random_images, shrunken
from PIL import Image

import image_transformer as it
from image_transformer.cli.main import main
from image_transformer.conditions.label import Label
from image_transformer.conditions.low import Low
from image_transformer.conditions.source import Source
from image_transformer.conditions.text import Text
from image_transformer.config.data import DataConfig
from image_transformer.config.sampling import Plan
from image_transformer.data import shape_edits
from image_transformer.data.edits import EDITS, HOLE, edited, possible
from image_transformer.data.images import DataError, ImageData
from image_transformer.data.shapes import COLOURS, KINDS, OTHER_WORDS, Dice, draw, held_out
from image_transformer.geometry.order import BlockRaster, Raster, Wavefront, layout
from image_transformer.geometry.patterns import Around, Full, Local1D, Local2D, Nothing, tiles
from image_transformer.inference import tiled
from image_transformer.inference.sampling import generate, generate_naive
from image_transformer.measures import edits as measures
from image_transformer.measures.scenes import is_scene, read_scene
from image_transformer.networks.attention import Look
from image_transformer.recipes import recipe
from image_transformer.sharing import program_of
from image_transformer.training.batches import Batches
from image_transformer.training.run import Run
from image_transformer.words import from_text, to_text

SHAPE = (3, 4, 6)
SCHEMES = {
    "raster": (Raster(), (Local1D(5, 4), Full())),
    "blocks": (BlockRaster((2, 3)), (Local2D((2, 3), (1, 2)),)),
    "wavefront": (Wavefront(1), (Nothing(), Local1D(5, 4))),
}
SIGHTS = ("near", "all")
every_editor = pytest.mark.parametrize(
    ("scheme", "likelihood", "sight"), list(itertools.product(SCHEMES, LIKELIHOODS, SIGHTS))
)


def editor(scheme="wavefront", likelihood="dmol", sight="near", text=True, **fields):
    conditions = (Source(sight), *([Text(24)] if text else []))
    options = {"shape": SHAPE, "encoder_depth": 1, "conditions": conditions, "look": sight == "all"} | fields
    return make_model(SCHEMES[scheme], likelihood=likelihood, **options)


# ---- what a source reaches ----


@every_editor
def test_no_source_lets_the_future_in(scheme, likelihood, sight):
    given = {"source": random_images(1, SHAPE, seed=2), "text": Text(24).codes(["darker"])}
    assert_no_future(editor(scheme, likelihood, sight), random_images(1, SHAPE), given)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_all_of_a_source_and_the_text_reach_every_prediction(likelihood):
    model, image, source = editor("raster", likelihood, "all"), random_images(1, SHAPE), random_images(1, SHAPE, seed=2)
    with torch.inference_mode():
        params = model(image, model.given(1, {"source": source, "text": "darker"}))
        for place in range(model.layout.num_dims):
            other = source.clone()
            other.view(-1)[place] ^= 0x80
            assert (model(image, {"source": other, "text": Text(24).codes(["darker"])}) != params).any(-1).all()
        assert (model(image, {"source": source, "text": Text(24).codes(["darkes"])}) != params).any(-1).all()


@pytest.mark.parametrize("look", [False, True])
def test_a_near_source_moves_what_is_drawn_around_it(look):
    """Where pixels see no others: those of blocks whose reader sees it, or that look at what such a reader reads."""
    shape = (1, 20, 24)
    fields = {"shape": shape, "mix": 0, "encoder_depth": 1, "conditions": (Source(),), "look": look}
    model = make_model((Wavefront(1), (Nothing(),)), **fields)
    image, source, p = random_images(1, shape), random_images(1, shape, 2), model.layout.positions
    pixels = layout(Raster(), shape, False).positions
    down, right = abs(pixels.row[:, None] - pixels.row), abs(pixels.col[:, None] - pixels.col)
    read = Around((8, 8), (4, 4)).sees(pixels[:, None], pixels[None]) @ ((down <= 1) & (right <= 1))
    looked_at = Around((8, 8), (4, 4)).sees(p[:, None], pixels[None]) @ read  # (positions, pixels of the source)
    told = looked_at if look else read[p.row * 24 + p.col]
    with torch.inference_mode():
        params = model(image, {"source": source})
        for pixel in range(0, len(pixels), 7):
            other = source.clone()
            other.view(-1)[pixel] ^= 0x80
            moved = (model(image, {"source": other}) != params).any(-1)[0].numpy()
            assert (moved == told[:, pixel]).all(), pixel
    assert not told.all(), "or nothing is far"


def test_a_near_reader_does_not_know_where_it_is():
    """Of a source moved by a whole block the states move with it, beside a text, too; near the sides they differ."""
    shape = (3, 40, 40)
    model, source = editor("raster", shape=shape), random_images(1, shape)
    reader, read = model.network.placed["source"], [model.network.encoders["text"](Text(24).codes(["darker"]))]
    with torch.inference_mode():
        before, after = (reader(one, read)[0].view(40, 40, -1) for one in (source, source.roll((8, 8), (2, 3))))
    torch.testing.assert_close(before[8:24, 8:24], after[16:32, 16:32], rtol=0, atol=1e-6)
    assert (before[8:24, 8:24] - before[16:32, 16:32]).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(4, 6), (5, 9), (7, 3)])
def test_tiles_around_are_what_a_block_sees(size):
    pattern, whole = Around((2, 3), (1, 2)), layout(Raster(), (1, *size), False)
    p = whole.positions
    sees = pattern.sees(p[:, None], p[None])
    found = np.zeros_like(sees)
    for part in tiles(pattern, whole):
        for queries, keys, allowed in zip(part.queries, part.keys, np.broadcast_to(
            part.allowed, (len(part.queries), *part.allowed.shape[1:])
        ), strict=True):  # fmt: skip
            found[np.ix_(queries, keys)] |= allowed
    assert (found == sees).all()
    later = p.index[None] > p.index[:, None]
    assert (sees & later).any() and (sees & later.T).any(), "what comes before, and what comes after"


@pytest.mark.parametrize("sub_pixels", [False, True])
def test_a_look_sees_the_pixels_around_of_a_whole_image_as_of_some_positions(sub_pixels):
    pattern, shape = Around((2, 3), (1, 2)), (3, 5, 8)
    image, picture = layout(Wavefront(1), shape, sub_pixels), layout(Raster(), shape, False)
    look, p = Look(pattern, image, picture), image.positions
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, len(its), 4, dtype=torch.float64) for its in (p, *[picture.positions] * 2))
    sees = torch.from_numpy(pattern.sees(p[:, None], picture.positions[None]))
    assert not sees.all() and len(p) == len(sees) == (120 if sub_pixels else 40)
    expected = (q @ k.mT / 2).masked_fill(~sees, -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(look.of(slice(None))(q, k, v), expected)
    for at in torch.randperm(len(p)).split(7):
        torch.testing.assert_close(look.of(at)(q[:, :, at], k, v), expected[:, :, at])


def test_gradients_reach_every_weight_of_the_reader():
    model = editor("raster", "categorical", "all")
    model.log_prob(random_images(2, SHAPE), source=random_images(2, SHAPE, 3), text=["a", "b"]).sum().backward()
    for name, weight in model.network.placed.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name


# ---- exact likelihoods and samples ----


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("sight", SIGHTS)
def test_total_probability_is_one_given_a_source(likelihood, sight):
    """Of images of two grey pixels with a first value, as likely as that value."""
    model = editor("raster", likelihood, sight, text=False, shape=(1, 1, 2))
    source = random_images(1, (1, 1, 2)).expand(256, -1, -1, -1)
    with torch.inference_mode():
        values = torch.arange(256).byte().view(-1, 1, 1, 1).expand(-1, 1, 1, 2)
        first = model.log_prob(values, source=source).flatten(1)[:, 0].exp()
        assert first.sum().item() == pytest.approx(1, abs=1e-9)
        for value in range(0, 256, 15):
            images = torch.stack([torch.full((256,), value), torch.arange(256)], 1).byte().view(-1, 1, 1, 2)
            total = model.log_prob(images, source=source).flatten(1).sum(1).exp().sum().item()
            assert total == pytest.approx(first[value].item(), abs=1e-9)


@every_editor
def test_cached_equals_naive_with_a_source(scheme, likelihood, sight):
    model = editor(scheme, likelihood, sight)
    options = {"source": random_images(3, SHAPE, 5), "text": ["darker", "", "mirror it"], "guidance": 1.5}
    assert torch.equal(generate(model, 3, batch=2, **options), generate_naive(model, 3, **options))
    del options["guidance"]
    assert torch.equal(generate(model, 3, batch=2, **options), generate_naive(model, 3, **options))


def test_a_source_does_not_depend_on_the_batch():
    model, images, sources = editor(sight="near"), random_images(3, SHAPE), random_images(3, SHAPE, 2)
    told = ["a", "bcd", ""]
    together = model.log_prob(images, source=sources, text=told)
    alone = [model.log_prob(images[i : i + 1], source=sources[i : i + 1], text=told[i]) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-12)


def test_what_is_no_source_is_refused():
    model = editor()
    for wrong, message in (
        (None, "source= is missing"),
        (random_images(2, SHAPE), "source must hold one image for each of 1, got 2"),
        (random_images(1, (3, 4, 7)), "source must have shape"),
        (random_images(1, SHAPE).float(), "source must be a torch.uint8 tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(model, 1, source=wrong, text="")
    with pytest.raises(ValueError, match="sight must be near or all, got 'far'"):
        Source("far")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the paper family cannot be told the source"):
        make_model(family="paper", conditions=(Source(),))
    for one in (Source(), Source("all")):
        assert from_text(to_text(one), (Source,)) == one


# ---- images of any size ----


def test_an_image_of_a_tiles_size_becomes_what_generate_draws():
    for sight in SIGHTS:
        model, source = editor(sight=sight), random_images(2, SHAPE)
        texts = ["darker", "brighter"]
        drawn = it.edit(model, source, samples=2, text=texts, seed=3)
        assert torch.equal(drawn[:, 0], generate(model, 2, source=source, text=texts, seed=3, numbers=[0, 0]))
        assert torch.equal(drawn[:, 1], generate(model, 2, source=source, text=texts, seed=3, numbers=[1, 1]))


@pytest.mark.parametrize("size", [(9, 11), (2, 3), (1, 20)])
def test_images_of_any_size_are_edited_by_tiles(size):
    model, source = editor(), random_images(2, (3, *size))
    drawn = it.edit(model, source, samples=2, text=["a", "b"])
    assert drawn.shape == (2, 2, 3, *size)
    assert torch.equal(it.edit(model, source, samples=1, text=["a", "b"])[:, 0], drawn[:, 0])
    assert torch.equal(it.edit(model, source[1:], samples=2, text="b")[0], drawn[1])
    assert not torch.equal(drawn[:, 0], drawn[:, 1])


def test_a_change_of_the_source_far_away_changes_nothing_before_it():
    """Tiles of 4 x 6 begin 2 rows and 3 columns apart: those that end before the changed pixel stay what they were."""
    model, source = editor(), random_images(1, (3, 12, 18))
    other = source.clone()
    other[..., 11, 17] ^= 0x80
    before, after = (it.edit(model, one, text="a")[0, 0] for one in (source, other))
    assert torch.equal(before[:, :8], after[:, :8]) and torch.equal(before[..., :12], after[..., :12])
    assert not torch.equal(before[:, 8:, 12:], after[:, 8:, 12:])


def test_an_editor_that_sees_all_takes_its_own_size_alone():
    model = editor(sight="all")
    with pytest.raises(ValueError, match="this model edits 4x6 images only, got 5x6: resize it"):
        it.edit(model, random_images(1, (3, 5, 6)), text="")
    with pytest.raises(ValueError, match="this model is not for editing"):
        it.edit(make_model(), random_images(1, (3, 5, 4)))
    for wrong, message in (
        (random_images(1, (1, 9, 9)), "source must have shape"),
        (random_images(1, (3, 9, 9)).float(), "source must be a torch.uint8 tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            it.edit(editor(), wrong, text="")
    with pytest.raises(ValueError, match="samples must be at least 1"):
        it.edit(editor(), random_images(1, SHAPE), text="", samples=0)


def test_images_of_several_sizes_are_edited_as_each_alone():
    model = editor()
    sources = [random_images(1, (3, *size), seed)[0].numpy() for seed, size in enumerate([(4, 9), (5, 6), (4, 9)])]
    told: list[tuple[int, int]] = []
    for number, images in tiled.draw_each(
        model, "source", sources, samples=2, text="a", progress=lambda *now: told.append(now)
    ):
        alone = it.edit(model, torch.from_numpy(sources[number])[None], samples=2, text="a")
        assert np.array_equal(images, alone[0].numpy())
    assert told[-1][0] == told[-1][1]


# ---- edits of photographs ----


def edit_of(wordings):
    return next(name for name, edit in EDITS.items() if edit.wordings == wordings)


def photos(count=60, side=8, channels=3):
    images = random_images(count, (channels, side, side), seed=7).numpy()
    return ImageData("photos", "train", images)


def test_edits_of_levels_by_hand():
    """Of a pixel of levels 100, 40 and 220."""
    pixel = np.array([100, 40, 220], np.uint8).reshape(1, 3, 1, 1)
    results = {
        "darker": (60, 24, 132), "brighter": (162, 126, 234), "grey": (120, 120, 120), "greyer": (110, 80, 170),
        "warmer": (130, 40, 190), "colder": (70, 40, 250), "contrast": (86, 0, 255), "flatter": (111, 75, 183),
        "negative": (155, 215, 35),
    }  # fmt: skip
    assert set(results) == {name for name, edit in EDITS.items() if edit.local}
    for name, levels in results.items():
        assert tuple(EDITS[name].result(pixel).reshape(-1)) == levels, name
        assert (EDITS[name].source(pixel) == pixel).all()


def test_edits_of_places_by_hand():
    """Of the pixels 1 to 16 in four rows."""
    image = np.arange(1, 17, dtype=np.uint8).reshape(1, 1, 4, 4)
    results = {
        "mirror": [[4, 3, 2, 1], [8, 7, 6, 5], [12, 11, 10, 9], [16, 15, 14, 13]],
        "upside down": [[16, 15, 14, 13], [12, 11, 10, 9], [8, 7, 6, 5], [4, 3, 2, 1]],
        "left": [[4, 8, 12, 16], [3, 7, 11, 15], [2, 6, 10, 14], [1, 5, 9, 13]],
        "right": [[13, 9, 5, 1], [14, 10, 6, 2], [15, 11, 7, 3], [16, 12, 8, 4]],
        "border": [[0, 0, 0, 0], [0, 6, 7, 0], [0, 10, 11, 0], [0, 0, 0, 0]],
        "middle": image[0, 0].tolist(),
    }
    assert set(results) == {name for name, edit in EDITS.items() if not edit.local}
    for name, rows in results.items():
        assert EDITS[name].result(image)[0, 0].tolist() == rows, name
        erased = [[1, 2, 3, 4], [5, HOLE, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]
        assert EDITS[name].source(image)[0, 0].tolist() == (erased if name == "middle" else image[0, 0].tolist())


@pytest.mark.parametrize("name", [name for name, edit in EDITS.items() if edit.local])
def test_local_edits_go_by_the_pixel_wherever_it_lies(name):
    """So they are the same on a part of an image as on the whole, which is what tiles need."""
    images = photos(4).images
    part = (..., slice(2, 7), slice(1, 5))
    assert (EDITS[name].result(images)[part] == EDITS[name].result(images[part])).all()


def test_each_photograph_is_edited_by_its_number_alone():
    data = photos(300)
    for which in ("local", "whole", "all"):
        found = edited(data, which)
        names = [edit_of(wordings) for wordings in found.captions]
        assert set(names) == set(possible(which, (3, 8, 8)))
        for i, name in enumerate(names):
            one = data.images[i : i + 1]
            assert (found.images[i] == EDITS[name].result(one)[0]).all()
            assert (found.sources[i] == EDITS[name].source(one)[0]).all()
        changed = replace(data, images=np.concatenate([data.images[:150], data.images[:150]]))
        assert edited(changed, which).captions == found.captions
        assert edited(replace(data, split="test"), which).captions != found.captions
    assert (data.images == photos(300).images).all(), "the photographs themselves stay what they are"
    assert found.digest() != replace(found, sources=found.images).digest()
    one = found.rows(np.array([5]))
    assert (one.sources[0] == found.sources[5]).all() and one.captions == found.captions[5:6]


def test_edits_that_cannot_be_are_not_drawn():
    assert not {"grey", "greyer", "warmer", "colder"} & set(possible("all", (1, 8, 8)))
    assert not {"left", "right"} & set(possible("all", (3, 8, 9))) and "mirror" in possible("all", (3, 8, 9))
    every = [wording for edit in EDITS.values() for wording in edit.wordings]
    assert len(set(every)) == len(every), "what a wording asks for is clear"
    with pytest.raises(DataError, match="at least 4x4 pixels"):
        edited(photos(3, side=3), "local")
    with pytest.raises(ValueError, match=r"data\.edits: did you mean 'local'"):
        DataConfig(edits="locl")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="unknown edits 'locl'"):
        edited(photos(), "locl")  # type: ignore[arg-type]


def test_sources_turn_with_their_images():
    data = edited(photos(40), "local")
    taken = Batches(data, DataConfig(flips=True), 0).take(0, 40)
    turned = 0
    for image, source, wordings in zip(taken.images, taken.sources, taken.captions, strict=True):
        assert (EDITS[edit_of(wordings)].result(source[None])[0] == image).all()
        turned += not any((source == one).all() for one in data.sources)
    assert 8 < turned < 32


# ---- edits of made scenes ----


@pytest.fixture(scope="module")
def worlds():
    return {name: [part[:200] for part in shape_edits.make_edits(name, "test")] for name in shape_edits.EDIT_WORLDS}


def test_the_results_are_the_scenes_that_were_asked_for(worlds):
    """As the program reads them; and the sources are not."""
    for name, (sources, results, _) in worlds.items():
        for edit, source, result in zip(shape_edits.edits_of(name, "test"), sources, results, strict=False):
            assert is_scene(edit.before, read_scene(source)) and is_scene(edit.after, read_scene(result))
            assert not is_scene(edit.after, read_scene(source))
            assert (edit.before.tone, edit.before.texture) == (edit.after.tone, edit.after.texture)


def test_what_is_held_out_is_in_one_world_alone(worlds):
    for name in worlds:
        for edit in shape_edits.edits_of(name, "test")[:200]:
            assert bool(held_out(edit.before) or held_out(edit.after)) == name.endswith("unseen")
    assert {edit.kind for edit in shape_edits.edits_of("shapes-edits", "test")} == set(shape_edits.KINDS)


SYNONYMS = {other: word for word, others in OTHER_WORDS.items() for other in others}


def followed(before, text):
    """The things of a scene after an instruction, by its words alone: the thing that they name must be one."""
    words = [SYNONYMS.get(word, word) for word in text.split()]

    def named(some):
        kinds, colours = ([word for word in some if word in all_of] for all_of in (KINDS, COLOURS))
        fits = [
            i for i, thing in enumerate(before.things)
            if (not kinds or thing.kind == kinds[0]) and (not colours or thing.colour == colours[0])
        ]  # fmt: skip
        assert len(fits) == 1, (text, before.things)
        return fits[0]

    things = list(before.things)
    if words[0] in ("swap", "exchange", "let"):
        if "and" in words:
            middle = words.index("and")
            assert {named(words[:middle]), named(words[middle:])} == {0, 1}
        one, two = things
        return (one._replace(row=two.row, col=two.col), two._replace(row=one.row, col=one.col))
    if words[0] in ("remove", "take", "delete", "erase"):
        del things[named(words)]
    elif words[0] in ("move", "shift", "push"):
        i, (down, right) = named(words), {"left": (0, -6), "right": (0, 6), "up": (-6, 0), "down": (6, 0)}[words[-1]]
        things[i] = things[i]._replace(row=things[i].row + down, col=things[i].col + right)
    else:
        i = named(words[:-1])
        things[i] = things[i]._replace(colour=words[-1])
    return tuple(things)


def test_instructions_say_what_is_done(worlds):
    """In 200 scenes of each world, five wordings each: their words, followed, give the result; all bytes are read."""
    length, verbs = recipe("shapes-edit").model.condition(Text).length, set()
    for name in worlds:
        for number, edit in enumerate(shape_edits.edits_of(name, "test")[:200]):
            dice = Dice(number)
            for _ in range(5):
                text = shape_edits.instruction(edit, dice)
                assert len(text.encode()) <= length
                assert followed(edit.before, text) == edit.after.things, text
                verbs.add(text.split()[0])
    assert len(verbs) == 15


def test_edits_by_seed_and_number():
    one = shape_edits.scene_edit(3, 5)
    assert one == shape_edits.scene_edit(3, 5) != shape_edits.scene_edit(3, 6) != shape_edits.scene_edit(4, 5)
    assert (draw(one.before, 3, 5) != draw(one.after, 3, 5)).any()


def test_a_world_of_edits_is_loaded_and_cached_with_its_sources(monkeypatch):
    monkeypatch.setattr(shape_edits, "edits_of", shape_edits.edits_of.__wrapped__)
    monkeypatch.setitem(shape_edits.EDIT_WORLDS["shapes-edits-unseen"], "test", 30)
    sources, results, captions = shape_edits.make_edits("shapes-edits-unseen", "test")
    for _ in range(2):
        data = it.load_data("shapes-edits-unseen", "test")
        assert (data.images == results).all() and (data.sources == sources).all() and list(data.captions) == captions
        monkeypatch.setattr("image_transformer.data.sources.make_edits", lambda *args: pytest.fail("made again"))
    with pytest.raises(DataError, match="no train split, only test"):
        it.load_data("shapes-edits-unseen", "train")


# ---- training, measuring, the command line ----


def small(name: str, data: str = "cifar10-mini"):
    config = shrunken(recipe(name))
    return replace(
        config, model=replace(config.model, shape=(3, 8, 8)), data=replace(config.data, source=data, size=(8, 8))
    )


def test_a_model_is_told_the_sources_of_its_data(tmp_path):
    run = Run(small("photo-edit"), tmp_path / "run")
    views, given, _ = run.batch(0, 4)
    for image, source, text in zip(views.numpy(), given["source"].numpy(), Text(80).said(given["text"]), strict=True):
        name = next((name for name, edit in EDITS.items() if text in edit.wordings), None)
        assert name is None or (EDITS[name].result(source[None])[0] == image).all()
    run.update()
    plain = small("photo-edit")
    with pytest.raises(DataError, match="have no sources, which a model for editing needs"):
        Run(replace(plain, data=replace(plain.data, edits="none")), tmp_path / "other")
    with pytest.raises(DataError, match="does not work with data"):
        Run(replace(plain, data=replace(plain.data, stream=True)), tmp_path / "other")
    told = replace(plain, model=replace(plain.model, conditions=(Text(80),)))
    assert Run(told, tmp_path / "other").data.sources is None


def test_the_start_copies_what_stays():
    """The skip alone predicts an edit that changes nothing to a level or so."""
    data = photos(64)
    data = replace(data, sources=data.images, captions=(("nothing",),) * 64)
    model = it.ImageModel(it.Modern(shape=(3, 8, 8), depth=1, width=16, heads=2, conditions=(Source(), Text(24))))
    images = torch.from_numpy(data.images)
    before = it.bits_per_dim(model, images, source=images, text="nothing")
    model.network.closed_form_start(images, model.of(data))
    assert it.bits_per_dim(model, images, source=images, text="nothing") < 0.2 * before


def test_editing_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("image_transformer.cli.train.recipe", small)
    for name in ("photo-edit", "shapes-edit"):
        extra = [] if name == "photo-edit" else ["--data.source", "cifar10-mini", "--data.edits", "all"]
        assert main(["train", name, "--out", name, *extra]) == 0
    for i, size in enumerate([(11, 9), (8, 8)]):
        Image.fromarray(random_images(1, (*size, 3))[0].numpy()).save(f"{i}.png")
    capsys.readouterr()
    line = ["edit", "photo-edit", "0.png", "1.png", "--text", "make it darker", "--samples", "2", "--out", "o"]
    assert main([*line, "--guidance", "2"]) == 0
    said = capsys.readouterr()
    assert "images: 2, tiles: 5, samples of each: 2" in said.out and "guidance 2: what is drawn is not" in said.err
    assert sorted(path.name for path in Path("o").iterdir()) == [
        "0-1.png", "0-2.png", "0.png", "1-1.png", "1-2.png", "1.png"
    ]  # fmt: skip
    with Image.open("o/0-1.png") as edit:
        assert edit.size == (9, 11)
    assert main(["evaluate", "photo-edit"]) == 0
    for args, message in (
        (
            ["shapes-edit", "0.png", "--text", "a"],
            "0.png: this model edits 8x8 images only, got 11x9: resize it, as --size does",
        ),
        (["photo-edit", "--text", "a"], "edit needs images"),
        (["cifar10-class", "0.png", "--text", "a"], "this model is not for editing"),
        (["photo-edit", "0.png"], "--text is missing: this model is text-conditional"),
        (["photo-edit", "0.png", "--text", "x" * 81], "has 81 bytes, the model reads 80"),
        (["photo-edit", "0.png", "--text", "a", "--samples", "0"], "--samples must be at least 1"),
        (["photo-edit", "0.png", "--text", "a", "--out", "1.png"], "--out 1.png is a file"),
        (["photo-edit", "none.png", "--text", "a"], "none.png"),
    ):
        assert main(["edit", *args]) != 0
        assert message in capsys.readouterr().err
    Path("texts.txt").write_text("a")
    for verb in (["sample"], ["complete", "0.png"], ["read", "0.png", "--texts", "texts.txt"]):
        assert main([verb[0], "photo-edit", *verb[1:]]) != 0
        assert "edits images: image-transformer edit photo-edit IMAGE... --text TEXT" in capsys.readouterr().err
    monkeypatch.setattr(measures, "fit_regression", partial(measures.fit_regression, updates=20))
    assert main(["report", "photo-edit", "--images", "8"]) == 0
    page = Path("photo-edit/report.html").read_text()
    assert "Mean difference to the true result" in page and "nothing done" in page
    assert main(["evaluate", "shapes-edit", "--data", "photo-edit"]) != 0


def test_a_report_measures_edits(monkeypatch):
    """A model that draws the true results is right everywhere, one that does nothing nowhere."""
    model, data = editor(shape=(3, 32, 32)), it.load_data("shapes-edits", "test")
    monkeypatch.setattr(measures, "picture", lambda *args: None)
    for what in ("images", "sources"):
        monkeypatch.setattr(measures, "draw", lambda model, data, seed, what=what: getattr(data, what))
        first, second = measures.edits(model, data, data, Plan(images=40), lambda text: None).tables
        assert "shapes-edits-unseen" in first.caption and second.rows[-1][:2] == ["all", "40"]
        for table in (first, second):
            assert {row[2] for row in table.rows} == ({"100.0"} if what == "images" else {"0.0"})
            assert {row[4] for row in table.rows} == {"0.00"}, "outside, a source is right"


def test_photographs_are_measured_beside_nothing_and_regression(monkeypatch):
    monkeypatch.setattr(measures, "picture", lambda *args: None)
    data = edited(it.load_data("cifar10-mini", "train").some(400), "local")
    monkeypatch.setattr(measures, "draw", lambda model, data, seed: data.images)
    monkeypatch.setattr(measures, "fit_regression", partial(measures.fit_regression, updates=60))
    test = data.rows(np.arange(50))
    (table,) = measures.edits(editor(), data, test, Plan(images=50), lambda text: None).tables
    assert table.columns == ["", "edits", "nothing done", "one sample", "regression"]
    name, count, nothing, sample, regression = table.rows[-1]
    assert (name, count, sample) == ("all", "50", "0.00")
    assert 1 < float(regression) < 0.7 * float(nothing)
    for captions in ((("of my own",),) * 50, None):
        own = replace(test, captions=captions)
        (table,) = measures.edits(editor(text=False), data, own, Plan(images=50), lambda text: None).tables
        assert table.rows == [["all", "50", nothing, "0.00"]]


def test_pairs_of_ones_own(tmp_path, monkeypatch):
    """Named by metadata.jsonl: results are the images, sources are none; a missing one is named."""
    images = random_images(6, (8, 8, 3)).numpy()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / ".old").mkdir()
    for i in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / ".old" / f"{i}.png")
    (tmp_path / ".old" / "metadata.jsonl").write_text('{"file_name": "0.png", "source": "1.png", "text": "x"}')
    with pytest.raises(DataError, match='the field "source" is called "source_file_name" now'):
        it.load_data(str(tmp_path / ".old"), "all")
    lines = [f'{{"file_name": "{i}.png", "source_file_name": "{i + 3}.png", "text": "edit {i}"}}' for i in range(3)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    for _ in range(2):  # the second time from the cache
        data = it.load_data(str(tmp_path), "all")
        assert (data.images == images[:3].transpose(0, 3, 1, 2)).all() and (
            data.sources == images[3:].transpose(0, 3, 1, 2)
        ).all()
        assert data.captions == (("edit 0",), ("edit 1",), ("edit 2",))
        assert it.load_data(str(tmp_path), "all", edits="local").captions == data.captions, "pairs stay as they are"
    (tmp_path / "4.png").unlink()
    for skip_bad in (False, True):
        with pytest.raises(DataError, match=r"4\.png"):
            it.load_data(str(tmp_path), "all", skip_bad=skip_bad)


def test_local_edits_may_be_learned_in_all_orientations(tmp_path):
    config = small("photo-edit")
    Run(replace(config, data=replace(config.data, flips=True)), tmp_path / "run").update()
    with pytest.raises(ValueError, match="are not turned with images"):
        Run(replace(config, data=replace(config.data, flips=True, edits="all")), tmp_path / "other")


@pytest.mark.parametrize("options", [
    pytest.param({"sight": "all"}, marks=pytest.mark.slow),
    {"sight": "near", "text": False, "look": True, "shape": (1, 10, 12)},
])  # fmt: skip
def test_a_program_of_an_editor(options):
    """`log_prob` by `torch.export`, the text padded to its length; of a look at what is near, too."""
    assert program_of(editor(**options).float())


def test_the_order_of_conditions_does_not_matter_to_the_skip():
    both = [
        it.ImageModel(it.Modern(shape=(3, 8, 8), depth=1, width=16, heads=2, encoder_depth=1, conditions=its))
        for its in ((Source("near"), Low(2)), (Low(2), Source("near")))
    ]
    assert [one.network.skip.phases for one in both] == [4, 4], "a map for each place in a box"


def test_labels_and_sources_go_together():
    model = make_model(SCHEMES["wavefront"], shape=SHAPE, encoder_depth=1, conditions=(Source(), Label(("a", "b"))))
    sources = random_images(2, SHAPE)
    drawn = generate(model, 2, source=sources, label=["a", "b"])
    assert torch.equal(drawn, generate_naive(model, 2, source=sources, label=["a", "b"]))
