"""Clips: what came before reaches a frame and nothing else does; drawing by guesses is drawing step by step."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import LIKELIHOODS, assert_no_future, make_model, random_images
from PIL import Image
from torch import nn

import image_transformer as it
from image_transformer.cli.main import main
from image_transformer.conditions.frames import Action, Frames
from image_transformer.conditions.label import Label
from image_transformer.conditions.low import Low
from image_transformer.config.data import DataConfig
from image_transformer.config.run import RunConfig
from image_transformer.config.sampling import Plan, Sampling
from image_transformer.data import bouncing
from image_transformer.data import clips as clips_module
from image_transformer.data.clips import load_clips, read_clip
from image_transformer.data.images import DataError, Past
from image_transformer.data.recording import (
    About,
    outcome_of,
    read_recording,
    with_outcome,
    write_about,
)
from image_transformer.files import InUseError, locked
from image_transformer.geometry.order import BlockRaster, Raster, Wavefront
from image_transformer.geometry.patterns import Full, Local1D, Local2D, Nothing
from image_transformer.inference.drawing import Drawing, noise
from image_transformer.inference.fixed_point import FixedPoint, first_guess
from image_transformer.inference.rollout import FRAMES, Clips
from image_transformer.inference.sampling import generate, generate_naive
from image_transformer.measures import clips as measures
from image_transformer.play import recorder
from image_transformer.play.environments import Screen
from image_transformer.training.run import load_split
from image_transformer.words import from_text, to_text

SHAPE = (3, 4, 6)
SCHEMES = {
    "raster": (Raster(), (Local1D(5, 4), Full())),
    "blocks": (BlockRaster((2, 3)), (Local2D((2, 3), (1, 2)),)),
    "wavefront": (Wavefront(1), (Nothing(), Local1D(5, 4))),
}
ACTIONS = ("start", "left", "right")
every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)


def of_clips(scheme="wavefront", likelihood="dmol", sight="near", count=2, actions=False, **fields):
    conditions = (Frames(count, sight), *([Action(ACTIONS)] if actions else []))
    options = {"shape": SHAPE, "encoder_depth": 1, "conditions": conditions, "look": True} | fields
    return make_model(SCHEMES[scheme], likelihood=likelihood, **options)


def clips(count, length, shape=SHAPE, seed=1):
    return random_images(count * length, shape, seed).view(count, length, *shape)


# ---- what reaches a frame ----


@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize(("scheme", "likelihood"), list(itertools.product(SCHEMES, LIKELIHOODS)))
def test_no_clip_lets_the_future_in(scheme, likelihood, look):
    model = of_clips(scheme, likelihood, actions=True, look=look)
    given = model.given(1, {"frames": clips(1, 2, seed=2), "action": "left"})
    assert_no_future(model, random_images(1, SHAPE), given)


def test_the_frames_before_reach_a_frame_and_older_ones_do_not():
    model, image, before = of_clips(sight="all"), random_images(1, SHAPE), clips(1, 3, seed=2)
    with torch.inference_mode():
        params = model(image, model.given(1, {"frames": before}))
        for number, place in itertools.product(range(3), range(model.layout.num_dims)):
            other = before.clone()
            other[0, number].view(-1)[place] ^= 0x80
            changed = (model(image, model.given(1, {"frames": other})) != params).any(-1)
            assert changed.all() if number else not changed.any(), (number, place)


def test_a_look_needs_something_to_look_at():
    with pytest.raises(ValueError, match=r"^model.look needs a source or frames among model.conditions$"):
        it.Modern(look=True)


def test_a_missing_frame_is_no_black_one():
    model, image = of_clips(), random_images(1, SHAPE)
    black = torch.zeros(1, 1, *SHAPE, dtype=torch.uint8)
    known = [model.log_prob(image, frames=frames) for frames in (black[:, :0], black, black.repeat(1, 2, 1, 1, 1))]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(known, 2))
    assert model.config.condition(Frames).check(black, 1, SHAPE)[0, 0].eq(-1).all(), "the missing one comes first"


@every_likelihood
def test_total_probability_of_all_clips_is_one(likelihood):
    """Of two frames of one grey pixel: p(first) p(second | first)."""
    model = of_clips("raster", likelihood, shape=(1, 1, 1), count=1)
    values = torch.arange(256).byte()
    nothing = torch.zeros(256, 0, 1, 1, 1, dtype=torch.uint8)
    with torch.inference_mode():
        first = model.log_prob(values.view(-1, 1, 1, 1), frames=nothing).flatten()
        told = values.repeat_interleave(256).view(-1, 1, 1, 1, 1)
        second = model.log_prob(values.repeat(256).view(-1, 1, 1, 1), frames=told).view(256, 256)
    assert (first[:, None] + second).exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_gradients_reach_every_weight_of_the_reader():
    model = of_clips(actions=True)
    model.log_prob(random_images(2, SHAPE), frames=clips(2, 2), action=[1, 2]).sum().backward()
    network, looks = model.network, [block.looks for block in model.network.blocks]
    for name, weight in [*nn.ModuleList([network.placed, network.stem, *looks]).named_parameters()]:
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name


# ---- drawing by guesses ----

TOLD = {"nothing": (), "a class": (Label(("a", "b")),), "box means": (Low(2),), "frames": (Frames(2),)}


def told_of(kind, count):
    return {
        "nothing": {}, "a class": {"label": ["a", "b", "b"][:count]}, 
        "box means": {"low": random_images(count, (3, 2, 3))}, "frames": {"frames": clips(count, 2)},
    }[kind]  # fmt: skip


def same_by_all_methods(model, count, **options):
    guess = {"guess": options.pop("guess")} if "guess" in options else {}
    drawn = [generate(model, count, method=method, **options) for method in ("cached", "naive")]
    drawn.append(generate(model, count, method="fixed-point", **options, **guess))
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_look_that_does_not_reach_all_of_a_frame_is_drawn_alike(likelihood):
    """By whole passes, step by step, and by guesses; from nothing, and with pixels known."""
    shape = (1, 14, 18)
    model = of_clips("wavefront", likelihood, shape=shape)
    mask = torch.rand(shape[1:], generator=torch.Generator().manual_seed(0)) < 0.3
    known = {"known": random_images(2, shape, 4), "known_mask": mask}
    for options in ({}, known):
        same_by_all_methods(model, 2, frames=clips(2, 2, shape), **options)


@pytest.mark.parametrize(("likelihood", "kind"), list(itertools.product(LIKELIHOODS, TOLD)))
def test_guessing_draws_what_step_by_step_does(likelihood, kind):
    for scheme in SCHEMES:
        model = make_model(SCHEMES[scheme], SHAPE, likelihood=likelihood, conditions=TOLD[kind], encoder_depth=1)
        same_by_all_methods(model, 2, **told_of(kind, 2))


@pytest.mark.parametrize("options", [
    {"temperature": 0.7}, {"top_k": 9}, {"top_p": 0.8}, {"seed": 5, "numbers": [7, 3]}, {"batch": 1},
    {"guess": random_images(2, SHAPE, 9)},
    {"known": random_images(2, SHAPE, 4), "known_mask": random_images(1, SHAPE, 5)[0] > 150},
])  # fmt: skip
@every_likelihood
def test_guessing_takes_every_option(likelihood, options):
    same_by_all_methods(make_model(SCHEMES["wavefront"], SHAPE, likelihood=likelihood), 2, **options)


@every_likelihood
def test_guessing_keeps_to_box_means(likelihood):
    model = make_model(SCHEMES["wavefront"], SHAPE, likelihood=likelihood, conditions=(Low(2),), encoder_depth=1)
    same_by_all_methods(model, 2, consistent=True, **told_of("box means", 2))


@pytest.mark.parametrize("family", [it.Paper, it.GatedPixelCNN, it.PixelCNNpp])
def test_every_family_can_guess(family):
    fields = {"heads": 3, "feed_forward": 10, "attention": (Local1D(5, 4),)} if family is it.Paper else {}
    torch.manual_seed(0)
    model = it.ImageModel(family(shape=(3, 4, 4), width=12, conditions=(Label(("a", "b")),), **fields)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    drawn = [generate(model, 2, label=["a", "b"], method=method) for method in ("cached", "fixed-point")]
    assert torch.equal(*drawn)


def drawing_of(model, count, seed=0, temperature=1.0):
    nothing = torch.zeros(count, *model.config.shape, dtype=torch.uint8)
    uniform = noise(seed, range(count), model.layout.num_positions * model.likelihood.num_noise)
    return Drawing(model, nothing, nothing.bool(), uniform, Sampling(seed, temperature))


@every_likelihood
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_ends_at_a_fixed_point_after_at_most_as_many_passes_as_fronts_and_one(likelihood, dtype):
    model = make_model(SCHEMES["wavefront"], SHAPE, likelihood=likelihood).to(dtype)
    fixed, drawing = FixedPoint(model), drawing_of(model, 1)
    with torch.inference_mode():
        passes = len(list(fixed.draw(drawing, [{}], first_guess(model, 1, {}, None))))
        assert passes <= len(np.unique(model.layout.positions.front)) + 1 and not len(fixed.left)
        again = drawing_of(model, 1)
        assert len(list(fixed.draw(again, [{}], drawing.image))) == 1, "one more pass changes nothing"
    assert torch.equal(again.image, drawing.image)


def test_a_consistent_image_ends_after_at_most_as_many_passes_as_turns_and_one():
    """Pixels of a front that share a box take turns."""
    torch.manual_seed(0)
    model = make_model(SCHEMES["wavefront"], (3, 8, 8), conditions=(Low(4),), encoder_depth=1).double()
    low, front = random_images(1, (3, 2, 2)), model.layout.positions.front
    limits = model.limits(model.given(1, {"low": low}))
    turns = [len(list(limits.turns(model.values[np.flatnonzero(front == one), 0]))) for one in np.unique(front)]
    passes = []
    model.network.register_forward_hook(lambda *_: passes.append(1))
    generate(model, 1, low=low, consistent=True, method="fixed-point")
    assert len(passes) <= sum(turns) + 1 and max(turns) > 1


def test_each_pass_makes_at_least_a_front_final():
    model = make_model(SCHEMES["wavefront"], SHAPE)
    true, front = generate(model, 2), model.layout.positions.front
    for most in (1, 2, 4):
        fixed, drawing = FixedPoint(model), drawing_of(model, 2)
        with torch.inference_mode():
            list(fixed.draw(drawing, [{}], first_guess(model, 2, {}, None), most))
        right = (drawing.image == true)[fixed.left].flatten(1)[:, model.values].all(-1).numpy()
        assert len(fixed.left) and fixed.final[:, front < most].all(), "one for each pass"
        assert right[fixed.final].all() and not fixed.final.all()


def test_what_is_told_and_guessed_alike_shares_a_pass():
    model = of_clips(likelihood="chained")
    given = model.given(6, {"frames": clips(2, 2).repeat(3, 1, 1, 1, 1)})
    fixed, drawing = FixedPoint(model), drawing_of(model, 6)
    with torch.inference_mode():
        list(fixed.draw(drawing, [given], first_guess(model, 6, given, None), 1))
    assert fixed.passed == 2
    its = [generate(model, 1, numbers=[i], frames=clips(2, 2)[i % 2 : i % 2 + 1]) for i in range(6)]
    with torch.inference_mode():
        list(fixed.draw(drawing, [given], drawing.image.clone()))
    assert torch.equal(drawing.image, torch.cat(its))


def still(likelihood="chained"):
    """A model that is nearly sure that a frame is the one before."""
    torch.manual_seed(0)
    config = it.Modern(
        shape=(3, 4, 4), depth=1, width=12, heads=3, likelihood=likelihood, min_log_scale=-9, conditions=(Frames(1),),
        attention=(Nothing(),),
    )  # fmt: skip
    model = it.ImageModel(config).double()
    skip = model.network.skip
    with torch.no_grad():
        start = model.network.neighbours.num_features  # then the 3 x 3 pixels of the frame, by channel, then by place
        for channel in range(3):
            skip.means.weight[channel, start + 9 * channel + 4] = 1
        skip.bias[-3:] = -6.7
    return model


def test_a_frame_that_is_remembered_costs_no_pass_and_is_the_same():
    model, frames = still(), clips(8, 1, (3, 4, 4))
    frames[4:] = frames[:4]
    plain = it.rollout(model, frames, 6, method="cached")
    remembering = Clips(model, frames, Sampling(), fixed=FixedPoint(model, 1000))
    assert torch.equal(torch.stack([remembering.step() for _ in range(6)], 1), plain)
    fixed = remembering.fixed
    assert fixed.settled > 10, "a still world is remembered"
    assert not torch.equal(plain[:4], plain[4:]), "and its noise is not"
    narrow = Clips(model, frames, Sampling(), fixed=FixedPoint(model, 2))
    assert torch.equal(torch.stack([narrow.step() for _ in range(6)], 1), plain)
    assert len(narrow.fixed.drawn) == 2 and narrow.fixed.settled < fixed.settled


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_remembered_intervals_are_those_that_the_draw_inverts(temperature):
    model = still()
    image, given = random_images(1, (3, 4, 4)), {"frames": random_images(1, (3, 4, 4))[:, None].short()}
    fixed = FixedPoint(model, remember=1)
    with torch.inference_mode():
        params = model(image, given)
        fixed._keep(b"", params[0], image[0], temperature)
        _, lowest, highest, _ = fixed.drawn[b""][0]
        assert (lowest < highest).float().mean() > 0.9
        for level, inside in (
            (lowest + 1e-6, True),
            (highest - 1e-6, True),
            (lowest - 1e-5, False),
            (highest + 1e-5, False),
        ):
            drawing = drawing_of(model, 1, temperature=temperature)
            drawing.image.copy_(image)
            drawing.uniform[0] = level.double().clamp(0, 1 - 1e-9)
            changed = drawing.drawn(params, fixed.at)[0].flatten() != image[0].flatten()[model.values].flatten()
            wide = (highest - lowest > 1e-4)[model.values].flatten()
            possible = ((level >= 0) & (level < 1))[model.values].flatten()
            assert not changed[wide].any() if inside else changed[wide & possible].all()


# ---- clips ----


@pytest.mark.parametrize("method", ["cached", "naive", "fixed-point"])
@pytest.mark.parametrize("actions", [False, True])
def test_a_clip_that_is_cut_and_continued_is_the_clip(method, actions):
    model, begun = of_clips(actions=actions), clips(3, 2)
    done = {"action": [[1, 2, 1, 2, 2]] * 3} if actions else {}
    whole = it.rollout(model, begun, 5, method=method, **done)
    first = it.rollout(
        model, begun, 2, method=method, **{name: [row[:2] for row in rows] for name, rows in done.items()}
    )
    so_far = torch.cat([begun, first], 1)
    rest = it.rollout(
        model, so_far, 3, method=method, **{name: [row[2:] for row in rows] for name, rows in done.items()}
    )
    assert torch.equal(torch.cat([first, rest], 1), whole)


def test_rollouts_do_not_depend_on_the_batch_or_the_method():
    model, begun = of_clips(), clips(3, 2)
    whole = it.rollout(model, begun, 3, method="cached")
    assert torch.equal(it.rollout(model, begun, 3), whole)
    for i in range(3):
        assert torch.equal(it.rollout(model, begun[i : i + 1], 3, numbers=[i], method="naive"), whole[i : i + 1])
    own = generate_naive(model, 1, frames=begun[1:2], numbers=[FRAMES + 2])
    assert torch.equal(own, whole[1:2, 0]), "frame t of clip i is image i FRAMES + t"
    assert torch.equal(it.rollout(model, begun[:, :0], 1), it.rollout(model, begun[:1, :0].repeat(3, 1, 1, 1, 1), 1))


def test_what_is_no_clip_ends_in_one_line():
    model, frames = of_clips(actions=True), clips(2, 2)
    done = {"action": [[1], [1]]}
    for wrong, message in (
        (lambda: it.rollout(make_model(), frames, 1), "not of clips"),
        (lambda: it.rollout(model, frames[0], 1, **done), "frames must be"),
        (lambda: it.rollout(model, frames.int(), 1, **done), "frames must be"),
        (lambda: it.rollout(model, frames[..., :5], 1, **done), "frames must be"),
        (lambda: it.rollout(model, frames, 0, **done), "steps must be"),
        (lambda: it.rollout(model, frames, 2, **done), "a row of 2"),
        (lambda: it.rollout(model, frames, 1), "action= is missing"),
        (lambda: it.rollout(model, frames, 1, action=[["jump"], [1]]), "unknown action 'jump'"),
        (lambda: it.rollout(model, frames, 1, numbers=[1], **done), "one number for each"),
        (lambda: model.log_prob(frames[:, 0], frames=frames.float(), action=1), "torch.uint8"),
        (lambda: model.log_prob(frames[:, 0], frames=frames[:1], action=1), "one clip for each of 2"),
        (lambda: Frames(0), "at least one"),
        (lambda: Frames(1, "far"), "near or all"),
        (lambda: RunConfig(model=model.config, data=DataConfig(flips=True)), "do not turn clips"),
        (lambda: generate(make_model(), 2, method="fixed-point", guess=clips(1, 1)[0]), "guess must"),
        (lambda: generate(make_model(), 1, guess=clips(1, 1)[0]), "guess is for method="),
    ):
        with pytest.raises(ValueError, match=message) as error:
            wrong()
        assert "\n" not in str(error.value)


def test_conditions_are_words():
    for words in ("frames", "frames:3", "frames:4:all", "action:start,left"):
        assert to_text(from_text(words, (Frames, Action))) == words
    assert from_text("frames", (Frames, Action)) == Frames(2, "near")


# ---- data ----


def test_the_past_is_that_of_the_own_clip():
    frames = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    past = Past(frames, np.array([0, 0, 0, 3, 3, 5, 5, 5, 5, 5]), np.arange(10))
    assert past.before(2)[..., 0, 0, 0].tolist() == [
        [-1, -1], [-1, 0], [0, 1], [-1, -1], [-1, 3], [-1, -1], [-1, 5], [5, 6], [6, 7], [7, 8],
    ]  # fmt: skip
    some = past[np.array([8, 4])]
    assert some.before(1)[..., 0, 0, 0].tolist() == [[7], [3]] and some.place.tolist() == [3, 1]


@pytest.mark.parametrize("name", bouncing.BOUNCING)
def test_all_bits_of_bouncing_clips_are_known(name):
    made = bouncing.make_clips("bouncing", "train")
    after: dict = {}
    for clip in made:
        for a, b, c in zip(clip, clip[1:], clip[2:], strict=False):
            assert np.array_equal(after.setdefault((a.tobytes(), b.tobytes()), c), c), "two frames say the next"
    ideal = bouncing.ideal_bits(name)
    assert ideal[0] - ideal[2] == pytest.approx(np.log2(10 * 12 * 14))
    assert (ideal[2:] == (1024 if name == "bouncing-noisy" else 0)).all()
    first, counts = {}, []
    for clip in made:  # what the second frame says, given the first: at most two bits for each axis
        first.setdefault(clip[0].tobytes(), set()).add(clip[1].tobytes())
    counts = [len(seconds) for seconds in first.values()]
    assert max(counts) > 1 and 2 < ideal[1] - ideal[2] < 4
    noisy = bouncing.make_clips("bouncing-noisy", "test")
    assert np.array_equal(noisy // 16 * 16, bouncing.make_clips("bouncing", "test"))
    shares = np.bincount((noisy % 16).ravel(), minlength=16) / noisy.size
    assert np.abs(shares - 1 / 16).max() < 0.002, "four bits a pixel"


def test_the_second_frame_says_what_is_stated():
    """By all starts and speeds, with the frames themselves."""

    def frame(row, col):
        return bytes([row, col])

    total, starts = 0.0, 0
    for row, col in itertools.product(range(12), range(14)):
        seconds = [
            frame(bouncing._path(row, a, 11)[1], bouncing._path(col, b, 13)[1])
            for a, b in itertools.product(bouncing.SPEEDS, repeat=2)
        ]
        shares = np.array([seconds.count(one) for one in set(seconds)]) / 16
        total, starts = total - (shares * np.log2(shares)).sum(), starts + 1
    assert bouncing.ideal_bits("bouncing")[1] == pytest.approx(total / starts)


def written(folder, kind, frames):
    """One clip (t, h, w, 3) as a file or a folder of that kind."""
    if kind == "folder":
        folder.mkdir(parents=True)
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / f"{number}.png")
        return folder
    path = folder.with_suffix(f".{kind}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "npy":
        np.save(path, frames)
    else:
        options = {"lossless": True} if kind == "webp" else {}
        first, *rest = (Image.fromarray(frame) for frame in frames)
        first.save(path, save_all=True, append_images=rest, duration=50, **options)
    return path


def plain_frames(count, seed=0):
    """Of a few colours, which a GIF keeps."""
    rng = np.random.default_rng(seed)
    return rng.choice(np.array([0, 255], np.uint8), (count, 6, 5, 3))


@pytest.mark.parametrize("kind", ["folder", "gif", "webp", "png", "npy"])
def test_clips_are_read_from_files(tmp_path, kind):
    frames = plain_frames(12)
    path = written(tmp_path / "clip", kind, frames)
    assert np.array_equal(read_clip(path, 3), frames.transpose(0, 3, 1, 2))
    assert read_clip(path, 1, (3, 2)).shape == (12, 1, 3, 2)


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_what_is_transparent_in_a_clip_lies_on_white(tmp_path, kind):
    frames = [Image.new("RGBA", (6, 5), (9 * number, 0, 0, 255 * (number % 2))) for number in range(4)]
    frames[0].save(tmp_path / f"clip.{kind}", save_all=True, append_images=frames[1:], lossless=True, disposal=1)
    clip = read_clip(tmp_path / f"clip.{kind}", 3)
    assert [frame[:, 0, 0].tolist() for frame in clip] == [[255] * 3, [9, 0, 0], [255] * 3, [27, 0, 0]]


@pytest.mark.parametrize("kind", ["folder", "gif", "webp", "png"])
def test_folders_of_clips_are_data(tmp_path, kind):
    for number in range(5):
        written(tmp_path / "clips" / f"c{number}", kind, plain_frames(3 + number, number))
    data = {split: load_clips(str(tmp_path / "clips"), split) for split in ("train", "validation", "test", "all")}
    assert sum(len(data[split]) for split in ("train", "validation", "test")) == len(data["all"]) == 25
    lengths = np.bincount(data["all"].past.start)
    assert sorted(lengths[lengths > 0]) == [3, 4, 5, 6, 7]
    assert (data["train"].past.before(1)[data["train"].past.place == 0] == -1).all()


def test_splits_of_clips_are_kept(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for number in range(count):
            written(tmp_path / "clips" / split / f"c{number}", "gif", plain_frames(4, number))
        np.save(tmp_path / f"{split}.npy", np.stack([plain_frames(4)] * count))
    assert len(load_clips(str(tmp_path / "clips"), "test")) == 8
    assert (
        len(load_clips(str(tmp_path / "clips"), "train")) == 8
        and len(load_clips(str(tmp_path / "clips"), "validation")) == 4
    )
    assert len(load_clips(str(tmp_path / "test.npy"), "all", shape=(1, 6, 5))) == 8
    mixed = written(tmp_path / "mixed" / "stills", "folder", plain_frames(3))
    written(mixed / "1more", "folder", plain_frames(4))  # between its files, by name
    assert len(load_clips(str(tmp_path / "mixed"), "all")) == 7
    for split, count in (("train", 3), ("validation", 5), ("test", 7)):  # each of them one clip
        written(tmp_path / "stills" / split, "folder", plain_frames(count))
        written(tmp_path / "stills" / split / "deeper", "folder", plain_frames(count))
    for split, count in (("train", 3), ("validation", 5), ("test", 7)):
        assert len(load_clips(str(tmp_path / "stills"), split)) == 2 * count


def test_malformed_clips_end_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.gif").write_bytes(b"GIF89a broken")
    np.save(tmp_path / "ints.npy", np.zeros((2, 3, 4, 4, 3), np.int32))
    np.save(tmp_path / "flat.npy", np.zeros((4, 4), np.uint8))
    np.save(tmp_path / "five.npy", np.zeros((2, 3, 4, 4, 2), np.uint8))
    written(tmp_path / "mixed" / "a", "gif", plain_frames(3))
    written(tmp_path / "mixed" / "b", "npy", np.zeros((3, 4, 4, 3), np.uint8))
    written(tmp_path / "one" / "a", "folder", plain_frames(3))
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    cases = [
        ("nowhere", {}, "no such file or folder"), ("empty", {}, "found none"), ("broken.gif", {}, "unreadable"),
        ("ints.npy", {}, "uint8"), ("flat.npy", {}, "expected one clip"), ("five.npy", {}, "expected uint8 clips"),
        ("mixed", {"split": "all"}, "mixed sizes"), ("one", {}, "too few"), ("one", {"split": "later"}, "unknown"),
        ("one", {"split": "all", "shape": (3, 8, 8)}, "the model wants 8x8"), ("clip.mp4", {}, "video"),
    ]  # fmt: skip
    for name, options, message in cases:
        with pytest.raises(DataError, match=message) as error:
            load_clips(str(tmp_path / name), **options)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no frames of clips"):
        Frames(2).of(it.load_data("cifar10-mini", "test").some(3))


def test_training_on_clips_learns_and_its_verbs_run(tmp_path, capsys):
    model = it.Modern(
        shape=(1, 16, 16), depth=1, width=16, heads=2, feed_forward=16, attention=(Nothing(),), encoder_depth=1,
        likelihood="chained", conditions=(Frames(2),),
    )  # fmt: skip
    train = it.TrainConfig(
        images=64, batch=16, validate_every=64, validation_images=20, save_every=64, closed_form_start=True
    )
    config = RunConfig(model=model, data=DataConfig("bouncing"), train=train)
    it.train(config, tmp_path / "run", show_progress=False)
    trained, data = it.load(tmp_path / "run"), load_clips("bouncing", "test").some(40)
    told = it.bits_per_dim(trained, data.images, **trained.of(data))
    unsaid = it.bits_per_dim(trained, data.images, frames=torch.zeros(1, 1, 16, 16, dtype=torch.uint8)[:0])
    assert told < unsaid, "a frame is better known after the one before it"
    assert main(["evaluate", str(tmp_path / "run"), "--data", "bouncing-noisy", "--limit", "20"]) == 0
    assert "bouncing-noisy" in capsys.readouterr().out
    np.save(tmp_path / "own.npy", np.zeros((2, 4, 16, 16, 1), np.uint8))
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "own.npy")]) == 0
    assert "8 images" in capsys.readouterr().out


def test_clips_that_are_read_are_those_that_are_there(tmp_path):
    frames = np.random.default_rng(0).choice([0, 255], (3, 9, 9, 3)).astype(np.uint8)
    for number in range(3):
        written(tmp_path / "gifs" / f"{number}", "gif", frames[: number + 1])
    (tmp_path / "gifs" / ".hidden").mkdir()
    written(tmp_path / "gifs" / ".hidden" / "one", "gif", frames)
    data = load_clips(str(tmp_path / "gifs"), "all")
    assert np.diff(np.unique(data.past.start)).tolist() == [1, 2] and len(data) == 6, "one frame is a short clip"
    with pytest.raises(DataError, match="a folder of clips: name one"):
        read_clip(tmp_path / "gifs", 3)
    for number in range(2):
        written(tmp_path / "webps" / f"{number}", "webp", frames[: 2 * number + 1])
    assert np.unique(load_clips(str(tmp_path / "webps"), "all").past.start).tolist() == [0, 1]
    (tmp_path / "webps" / "x.webp").write_bytes(b"broken")
    with pytest.raises(DataError, match="unreadable as a clip"):
        load_clips(str(tmp_path / "webps"), "all")
    written(tmp_path / "split" / "train" / "a", "gif", frames)
    written(tmp_path / "split" / "b", "gif", frames)
    with pytest.raises(DataError, match=r"b.gif lies beside the folders of splits"):
        load_clips(str(tmp_path / "split"), "all")
    config = RunConfig(model=of_clips().config, data=DataConfig(str(tmp_path / "webps"), skip_bad=True))
    with pytest.raises(DataError, match="for images, not for clips"):
        load_split(config, "train")
    np.save(tmp_path / "nothing.npy", np.zeros((3, 0, 9, 9, 3), np.uint8))
    with pytest.raises(DataError, match="no frames in it"):
        load_clips(str(tmp_path / "nothing.npy"), "all")
    assert load_clips("bouncing", "test", shape=(3, 8, 8), size=(8, 8)).images.shape == (2000, 3, 8, 8)


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_frames_that_stand_still_are_read_as_often_as_they_are_shown(tmp_path, kind):
    frames = np.random.default_rng(0).choice([0, 255], (3, 9, 9, 3)).astype(np.uint8)[[0, 0, 0, 1, 1, 2]]
    assert np.array_equal(read_clip(written(tmp_path / "clip", kind, frames), 3), frames.transpose(0, 3, 1, 2))
    assert clips_module._times([40, 60, 50]) == [1, 1, 1], "no whole multiples"
    assert clips_module._times([None, 0]) == [1, 1]
    assert clips_module._times([20, 40, 30_000]) == [1, 2, 100], "held for who looks at it"


def test_rollout_is_told_what_generate_is(tmp_path):
    model, begun = of_clips(actions=True).double(), clips(2, 2)
    done = [["left", "right"], ["right", "right"]]
    drawn = it.rollout(model, begun, 2, seed=3, temperature=0.8, action=done)
    assert torch.equal(
        drawn, it.rollout(model, begun, 2, seed=3, temperature=0.8, action=torch.tensor([[1, 2], [2, 2]]))
    )
    assert not torch.equal(drawn, it.rollout(model, begun, 2, seed=3, action=done))
    for wrong in ([1, 2], None, "left", [["left"], ["left"]], [["left", "left"]]):
        with pytest.raises(ValueError, match="action must hold a row of 2"):
            it.rollout(model, begun, 2, action=wrong)
    for frames, numbers in ((begun[:0], []), (begun, [0, FRAMES]), (begun, [-1, 0])):
        with pytest.raises(ValueError, match="there must be clips"):
            it.rollout(model, frames, 1, numbers=numbers, action=[["left"]] * len(frames))
    with pytest.raises(ValueError, match="int16 frames hold"):
        model.log_prob(begun[:, 0], frames=torch.full((2, 1, *SHAPE), 999, dtype=torch.int16), action=["left"] * 2)


# ---- recordings ----


def test_outcomes_are_kept_in_a_row_of_the_frames():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (6, 3, 4, 5), np.uint8)
    rewards = np.array([0, 1, -1, 0.5, 7, -0.25], np.float32)
    ended = np.array([False, True, False, False, True, False])
    held = with_outcome(frames, rewards, ended)
    assert held.shape == (6, 3, 5, 5) and np.array_equal(held[:, :, :4], frames) and (held[:, :, 4, :-2] == 0).all()
    found, over = outcome_of(held)
    assert np.abs(found - np.clip(rewards, -1, 1)).max() <= 0.5 / 127 and np.array_equal(over, ended)
    assert found[0] == 0 and found[1] == 1 and found[2] == -1


def test_a_recording_is_data_with_actions(tmp_path):
    write_about(tmp_path, About("Made-v0", ("left", "right"), 0))
    frames = np.arange(5 * 2 * 3 * 3, dtype=np.uint8).reshape(5, 2, 3, 3)
    played = {"actions": np.array([-1, 1, 0, -1, 0], np.int16), "rewards": np.zeros(5, np.float32)}
    np.savez_compressed(tmp_path / "episodes-000000.npz", frames=frames, ended=np.arange(5) == 2, **played)
    (first, done), (second, others) = read_recording(tmp_path)[0]
    assert first.shape == (3, 3, 3, 3) and done.tolist() == [1, 0] and others.tolist() == [0] and len(second) == 2
    data = load_clips(str(tmp_path), "all")
    assert data.classes == ("left", "right", "start") and data.labels.tolist() == [2, 1, 0, 2, 0]
    assert data.past.start.tolist() == [0, 0, 0, 3, 3]
    assert Action(data.classes).of(data).tolist() == [2, 1, 0, 2, 0]
    with pytest.raises(DataError, match=r"need --model\.shape 3 3 3"):
        load_clips(str(tmp_path), "all", shape=(3, 33, 32))
    (tmp_path / "episodes-000001.npz").write_bytes(b"broken")
    with pytest.raises(DataError, match="unreadable as recorded episodes"):
        load_clips(str(tmp_path), "all")


class Made:
    """An environment of two actions: 1 ends it with a reward."""

    def __init__(self):
        self.actions, self.played = ("stay", "go"), 0

    def reset(self, *, seed):
        self.level = seed % 256
        return np.full((4, 3, 3), self.level, np.uint8), {}

    def step(self, action):
        self.played += 1
        self.level = (self.level + 1) % 256
        return np.full((4, 3, 3), self.level, np.uint8), float(action), action == 1, False, {}


def test_recording_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "PART", 10)
    about = About("Made-v0", ("stay", "go"), 3)
    once = recorder.record(Made(), tmp_path / "once", 40, about)
    recorder.record(Made(), tmp_path / "twice", 15, about)
    with locked(tmp_path / "twice"), pytest.raises(InUseError):
        recorder.record(Made(), tmp_path / "twice", 40, about)
    (tmp_path / "twice" / "episodes-000099.npz.tmp").write_bytes(b"killed")
    world = Made()
    assert recorder.record(world, tmp_path / "twice", 40, about) == once and world.played < 40
    first, second = (load_clips(str(tmp_path / name), "all") for name in ("once", "twice"))
    assert np.array_equal(first.images, second.images) and np.array_equal(first.labels, second.labels)
    rewards, over = outcome_of(first.images)
    assert np.array_equal(rewards > 0, over) and np.array_equal(over, first.labels == 1) and over.sum() == once[1]
    assert recorder.record(Made(), tmp_path / "twice", once[0], about, policy="another") == once, (
        "nothing is left to do"
    )
    more, _ = recorder.record(Made(), tmp_path / "twice", once[0] + 5, about, lambda *_: [0, 0, 1], policy="third")
    assert more == once[0] + 6, "whole episodes of three steps"
    with np.load(sorted((tmp_path / "twice").glob("*.npz"))[-1]) as part:
        assert part["actions"].tolist() == 2 * [-1, 0, 0, 1] and str(part["policy"]) == "third"
    plans = iter([[0, 1], [0, 0, 1], KeyboardInterrupt])

    def stopped(played, rng):
        plan = next(plans)
        if plan is KeyboardInterrupt:
            raise KeyboardInterrupt
        return plan

    before = len(load_clips(str(tmp_path / "twice"), "all"))
    with pytest.raises(KeyboardInterrupt):
        recorder.record(Made(), tmp_path / "twice", 10_000, about, stopped)
    assert len(load_clips(str(tmp_path / "twice"), "all")) == before + 3 + 4, "whole episodes are kept"
    with pytest.raises(ValueError, match="another seed: 3"):
        recorder.record(Made(), tmp_path / "once", 40, replace(about, seed=4))
    parts = sorted((tmp_path / "once").glob("*.npz"))
    parts[1].unlink()
    with pytest.raises(ValueError, match=f"{parts[1].name} is missing"):
        recorder.record(Made(), tmp_path / "once", 90, about)


def test_an_episode_without_an_end_is_left(tmp_path):
    class Endless(Made):
        def step(self, action):
            frame, *_ = super().step(action)
            return frame, 0.0, False, False, {}

    assert recorder.record(Endless(), tmp_path, 25, About("Endless-v0", ("stay", "go"), 0, longest=10)) == (
        30,
        3,
    )


def test_environments_are_recorded_and_continued_from_the_command_line(tmp_path, capsys):
    out = str(tmp_path / "play")
    line = ["record", "MiniGrid-Empty-5x5-v0", "--tile-size", "4", "--steps", "220", "--seed", "1", "--out", out]
    line += ["--actions", "left", "forward"]
    assert main(line) == 0 and "actions left, forward" in capsys.readouterr().out
    data = load_clips(out, "all")
    assert data.images.shape[1:] == (3, 21, 20) and data.classes == ("left", "forward", "start")
    for wrong, message in (
        (["record"], "needs an environment"), (["record", "Nowhere-v0"], "cannot be made"),
        ([*line[:-1], "fly"], "no action 'fly', only left, right"),
    ):  # fmt: skip
        assert main([*wrong, "--out", str(tmp_path / "no")] if len(wrong) > 1 else wrong) != 0
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1, said
    config = it.Modern(
        shape=(3, 21, 20), depth=1, width=8, heads=2, feed_forward=8, attention=(Nothing(),), encoder_depth=1,
        conditions=(Frames(1), Action()),
    )  # fmt: skip
    train = it.TrainConfig(images=4, batch=4, validation_images=4)
    it.train(RunConfig(model=config, data=DataConfig(out), train=train), tmp_path / "model", show_progress=False)
    clip = written(tmp_path / "clip", "gif", np.random.default_rng(0).choice([0, 255], (2, 20, 20, 3)).astype(np.uint8))
    line = ["rollout", str(tmp_path / "model"), str(clip), "--steps", "2", "--samples", "2"]
    line += ["--out", str(tmp_path / "out")]
    assert main([*line, "--actions", "forward"]) == 0
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["clip.gif", "clip.npy", "clip.png", "clip.webp"]
    drawn = np.load(tmp_path / "out" / "clip.npy")
    true = read_clip(clip, 3)
    assert drawn.shape == (2, 4, 21, 20, 3) and not drawn[:, :2, 20].any(), "a black row for rewards and ends"
    assert np.array_equal(drawn[0, :2, :20].transpose(0, 3, 1, 2), true)
    from_frames = it.rollout(
        it.load(tmp_path / "model"), torch.from_numpy(drawn[:, :2].transpose(0, 1, 4, 2, 3).copy()), 2,
        action=[["forward"] * 2] * 2,
    )  # fmt: skip
    assert np.array_equal(from_frames.numpy(), drawn[:, 2:].transpose(0, 1, 4, 2, 3))
    np.save(tmp_path / "whole.npy", drawn[:1, :3])
    again = [*line[:2], str(tmp_path / "whole.npy"), "--steps", "1", "--actions", "forward", "--out"]
    assert main([*again, str(tmp_path / "again")]) == 0
    assert np.array_equal(np.load(tmp_path / "again" / "whole.npy"), drawn[:1]), "continued, it is the same clip"
    assert main([*line[:2], "--steps", "2", "--actions", "left", "--out", str(tmp_path / "begun")]) == 0
    assert np.load(tmp_path / "begun" / "clip.npy").shape == (1, 3, 21, 20, 3), "a first frame, and one for each action"
    with Image.open(tmp_path / "out" / "clip.webp") as moving:
        assert moving.n_frames == 4
    said = capsys.readouterr().out
    assert "reward" in said and "sample 1, step" in said
    small = written(tmp_path / "small", "gif", np.random.default_rng(1).choice([0, 255], (2, 9, 9, 3)).astype(np.uint8))
    nowhere = [*line[:2], str(tmp_path / "none.gif"), *line[3:], "--actions", "left"]
    for wrong, message in (
        (line, "--actions is missing"), ([*line, "--actions", "forward", "left", "left"], "one for each of 2"),
        ([*line, "--actions", "fly"], "unknown action 'fly'"), (nowhere, "no such file"),
        ([*line, "--actions", "start"], "before the first frame"), ([*again, str(tmp_path)], "would be overwritten"),
        ([*line[:2], str(small), "--actions", "left"], "pass --size 20 20"),
        ([*line, "--size", "0", "9"], "at least 1"),
        (["sample", line[1]], "continues clips"), (["rollout", "cifar10"], "not of clips"),
    ):  # fmt: skip
        assert main(wrong) != 0
        said = capsys.readouterr().err
        assert message in said, said


def test_a_screen_is_shrunk_and_names_its_actions():
    screen = Screen("MiniGrid-Empty-5x5-v0", size=(10, 15), tile_size=4)
    assert screen.actions[:3] == ("left", "right", "forward") and screen.reset(seed=0)[0].shape == (10, 15, 3)
    frame, reward, over, stopped, _ = screen.step(2)
    assert frame.shape == (10, 15, 3) and frame.dtype == np.uint8 and reward == 0 and not over and not stopped
    screen.close()


def test_a_report_of_clips_counts_exact_frames(tmp_path):
    test = load_clips("bouncing", "test")
    config = it.Modern(
        shape=(1, 16, 16), depth=1, width=8, heads=2, feed_forward=8, attention=(Nothing(),), encoder_depth=1,
        likelihood="chained", conditions=(Frames(2),),
    )  # fmt: skip
    found = measures.clips(it.ImageModel(config), test, test.some(50), np.arange(50.0), Plan(), lambda text: None)
    bits, continued = found.tables
    assert [row[0] for row in bits.rows][-1] == "later ones" and bits.rows[-1][-1] == "0.00"
    assert [row[0] for row in continued.rows] == ["1", "2", "5", "10"] and all(
        row[1] == "0.0" for row in continued.rows
    )
    assert found.pictures["clips"].width > 300
