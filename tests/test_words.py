"""Texts: read whole, padding unheard, nothing of the future let in; guidance and reading follow from exact masses."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import LIKELIHOODS, assert_no_future, make_model, random_images, shrunken
from PIL import Image

import image_transformer as it
from image_transformer.cli.main import main
from image_transformer.conditions.label import Label
from image_transformer.conditions.low import Low
from image_transformer.conditions.text import BEGIN, PADDING, Text, sentence_encoder
from image_transformer.config.data import DataConfig
from image_transformer.data.captions import captions_of, face_captions
from image_transformer.data.images import DataError, ImageData
from image_transformer.geometry.boxes import box_mean
from image_transformer.geometry.order import BlockRaster, Raster, Wavefront
from image_transformer.geometry.patterns import Full, Local1D, Local2D, Nothing
from image_transformer.inference.sampling import generate, generate_naive
from image_transformer.inference.scoring import classify, evaluate, rank
from image_transformer.likelihoods.base import Guided
from image_transformer.networks.attention import full_attention
from image_transformer.networks.readers import RUN_CODES, RUNS, _run_codes
from image_transformer.recipes import recipe
from image_transformer.training.run import Run
from image_transformer.words import from_text, to_text

SHAPE = (3, 4, 6)
TEXTS = ("a red ring", "", "two blue boxes")
SCHEMES = {
    "raster": (Raster(), (Local1D(5, 4), Full())),
    "blocks": (BlockRaster((2, 3)), (Local2D((2, 3), (1, 2)),)),
    "wavefront": (Wavefront(1), (Nothing(), Local1D(5, 4))),
}
every_worded = pytest.mark.parametrize(("scheme", "likelihood"), list(itertools.product(SCHEMES, LIKELIHOODS)))


def worded_model(scheme="wavefront", likelihood="dmol", length=24, more=(), **fields):
    options = {"shape": SHAPE, "encoder_depth": 2, "conditions": (Text(length), *more)} | fields
    return make_model(SCHEMES[scheme], likelihood=likelihood, **options)


def codes(*texts, length=24):
    return Text(length).codes(texts)


# ---- what a text reaches ----


@every_worded
def test_no_text_lets_the_future_in(scheme, likelihood):
    assert_no_future(worded_model(scheme, likelihood), random_images(1, SHAPE), {"text": codes("a ring")})


@every_worded
def test_every_byte_reaches_every_prediction(scheme, likelihood):
    """By the gradients of each place's embedding: bytes at the ends and in the middle, and none of the padding."""
    model, image = worded_model(scheme, likelihood), random_images(1, SHAPE)
    embedded = []
    model.network.encoders.text.bytes.register_forward_hook(lambda *call: embedded.append(call[-1]) or call[-1])
    long, short = codes("äpfel", "x" * 20)[:1], codes("äpfel")
    params = model(image, {"text": long})[0]
    weight = torch.randn(params.shape[-1], dtype=params.dtype)
    for position in range(len(params)):
        (grad,) = torch.autograd.grad(params[position] @ weight, embedded[0], retain_graph=True)
        heard = grad[0].abs().sum(-1) > 0
        assert heard[: short.shape[1]].all() and not heard[short.shape[1] :].any(), position


def test_runs_of_bytes_are_numbered_by_what_they_are():
    """A run's number follows from its bytes alone, wherever it stands; few of a thousand share one."""
    one, other = codes("a red ring", length=99)[0], codes("three red rings", length=99)[0]
    first, second = (_run_codes(text[None])[0] for text in (one, other))
    for number, length in enumerate(RUNS):
        for i, j in itertools.product(range(len(one)), range(len(other))):
            same = i + 1 >= length <= j + 1 and torch.equal(one[i + 1 - length : i + 1], other[j + 1 - length : j + 1])
            assert not same or first[i, number] == second[j, number], (length, i, j)
    found = _run_codes(torch.randint(0, 256, (1, 1000), generator=torch.Generator().manual_seed(0)))[0]
    for number in range(len(RUNS)):
        assert found[:, number].min() >= 0 and found[:, number].max() < RUN_CODES
        assert len(found[:, number].unique()) > 0.95 * RUN_CODES * (1 - math.exp(-1000 / RUN_CODES))


def test_every_layer_hears_the_text():
    """Also one that sees no other pixels: with the cross-attention of all others cut off."""
    model, image = worded_model("wavefront"), random_images(1, SHAPE)
    for kept in model.network.blocks:
        before = {block: block.cross for block in model.network.blocks}
        for block in model.network.blocks:
            block.cross = block.cross if block is kept else None
        one, two = (model(image, {"text": codes(text)}) for text in ("a ring", "a king"))
        assert (one != two).any()
        for block, cross in before.items():
            block.cross = cross


@pytest.mark.parametrize("more", [(), (Low(2), Label(("cat", "dog")))], ids=["alone", "with others"])
def test_padding_never_matters(more):
    model, images = worded_model(more=more), random_images(3, SHAPE)
    told = {"low": box_mean(images, 2), "label": 1} if more else {}
    alone = [
        model.log_prob(
            images[i : i + 1], text=TEXTS[i], **{k: v[i : i + 1] if k == "low" else v for k, v in told.items()}
        )
        for i in range(3)
    ]
    together = model.log_prob(images, text=list(TEXTS), **told)
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-12)
    longest = model.log_prob(images, text=codes(*TEXTS, "x" * 24)[:3], **told)
    torch.testing.assert_close(longest, together, rtol=0, atol=1e-12)
    differ = (model.log_prob(images, text="", **told) - together).flatten(1).abs().amax(1)
    assert (differ > 1e-3).tolist() == [True, False, True]


def test_bfloat16_on_cpus_hears_no_padding_either():
    """The attention by chunks, forwards and backwards, against the fused one."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 4, requires_grad=True) for n in (7, 5, 5))
    there = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])[:, None, None]
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        out = full_attention(*(x.to(dtype) for x in (q, k, v)), there).float()
        results.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v))])
    for plain, rough in zip(*results, strict=True):
        torch.testing.assert_close(plain, rough, rtol=0.1, atol=0.1)
    assert results[1][2][1, :, 2:].abs().sum() == 0 and results[1][2][1, :, :2].abs().sum() > 0


def test_the_empty_text_is_the_dropped_one():
    model, images = worded_model(), random_images(2, SHAPE)
    text = model.config.condition(Text)
    data = ImageData("", "", images.numpy(), captions=(("a ring", "a hoop"), ("a box",)))
    dropped = replace(text, drop=0.999).varied(data, [0, 0])
    torch.testing.assert_close(model.score(images, {"text": dropped}), model.log_prob(images, text=""), rtol=0, atol=0)
    assert model.without({"text": codes("a ring", "a box")})["text"].tolist() == dropped.tolist() == [[BEGIN]] * 2


def test_gradients_reach_every_weight_of_the_encoder():
    model = worded_model("raster", "categorical", more=(Low(2),))
    images = random_images(2, SHAPE)
    model.log_prob(images, text=["x" * 24, "ab"], low=box_mean(images, 2)).sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name
    assert model.network.encoders.text.bytes.weight.grad[[PADDING, ord("z")]].abs().sum() == 0


# ---- a frozen encoder of sentences ----


def stub(text):
    """Of each word five features that follow from its letters, and one state for the end."""
    words = [[float(hash_of) for hash_of in (len(word), *map(ord, word[:4].ljust(4)))] for word in text.split()]
    return torch.tensor([*words, [1.0] * 5]) / 100


@pytest.fixture
def frozen(monkeypatch):
    monkeypatch.setattr("image_transformer.conditions.text.sentence_encoder", lambda name: stub)
    return Text(24, encoder="some/encoder", features=5)


def test_a_frozen_encoder_reads_in_the_place_of_the_trained_one(frozen):
    model, images = worded_model(conditions=(frozen,)), random_images(3, SHAPE)
    together = model.log_prob(images, text=list(TEXTS))
    alone = [model.log_prob(images[i : i + 1], text=TEXTS[i]) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-12)
    assert (model.log_prob(images, text="a red king") != model.log_prob(images, text="a red ring")).any()
    options = {"text": list(TEXTS), "guidance": 2.0}
    assert torch.equal(generate(model, 3, **options), generate_naive(model, 3, **options))
    assert_no_future(model, images[:1], {"text": frozen.codes(["a ring"])})
    data = ImageData("", "", images.numpy(), captions=(("a ring", "a hoop"), ("a box",), ("",)))
    assert frozen.of(data).shape == (3, 3, 6) and frozen.said(frozen.of(data)) == []
    model.score(images, {"text": frozen.varied(data, [0, 1, 2])}).sum().backward()
    assert model.network.encoders.text.project.weight.grad.abs().sum() > 0


def test_the_width_of_a_frozen_encoder_is_its_own(frozen):
    unsettled = replace(frozen, features=0)
    with pytest.raises(ValueError, match="how many features the states of its encoder have"):
        worded_model(conditions=(unsettled,))
    assert unsettled.settled(ImageData("", "", np.zeros((1, 3, 4, 6), np.uint8))) == frozen
    for one in (Text(), Text(112), Text(112, longer="cut"), frozen, unsettled):
        assert from_text(to_text(one), (Text,)) == one
    assert to_text(Text(112)) == "text:112" and to_text(frozen) == "text:24:0.1:refused:some/encoder:5"
    with pytest.raises(ValueError, match="has 25 bytes, the model reads 24"):
        frozen.check("x" * 25, 1, SHAPE)


def test_an_encoder_of_transformers(tmp_path):
    """A small one with random weights, as the hub would give it; and what is no encoder."""
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "ring"]))
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    text = Text(24, encoder=str(tmp_path)).settled(ImageData("", "", np.zeros((1, 3, 4, 6), np.uint8)))
    model, images = worded_model(conditions=(text,)), random_images(2, SHAPE)
    assert text.features == 8 and text.codes(["a red ring", ""]).shape == (2, 5, 9)
    assert (model.log_prob(images, text="a red ring") != model.log_prob(images, text="a ring")).any()
    with pytest.raises(ValueError, match=r"the sentence encoder .*nowhere. cannot be loaded: "):
        sentence_encoder(str(tmp_path / "nowhere"))


# ---- exact likelihoods and samples ----


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("firsts", [(0, 200), pytest.param(range(256), marks=pytest.mark.slow)], ids=["some", "all"])
def test_total_probability_is_one_under_every_text(likelihood, firsts):
    """Over images of two grey pixels: all of them, or those with some first values, as likely as these together."""
    model = worded_model("raster", likelihood, shape=(1, 1, 2))
    with torch.inference_mode():
        for text in ("a red ring", ""):
            total = 0.0
            for first in firsts:
                images = torch.stack([torch.full((256,), first), torch.arange(256)], 1).byte().view(-1, 1, 1, 2)
                nats = model.log_prob(images, text=text).flatten(1)
                assert nats[:, 1].exp().sum().item() == pytest.approx(1, abs=1e-9)
                total += nats.sum(1).exp().sum().item()
            values = torch.arange(256).byte().view(-1, 1, 1, 1).expand(-1, 1, 1, 2)
            of_first = model.log_prob(values, text=text).flatten(1)[:, 0].exp()
            assert of_first.sum().item() == pytest.approx(1, abs=1e-9)
            assert total == pytest.approx(of_first[list(firsts)].sum().item(), abs=1e-9)


@every_worded
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_cached_equals_naive_with_a_text(scheme, likelihood, guidance):
    model = worded_model(scheme, likelihood)
    options = {"text": list(TEXTS), "guidance": guidance, "temperature": 0.9}
    fast = generate(model, 3, batch=2, **options)
    assert torch.equal(fast, generate_naive(model, 3, **options))
    known, mask = random_images(3, SHAPE, seed=4), torch.zeros(SHAPE[1:], dtype=torch.bool)
    mask[:2, :4] = True
    options |= {"known": known, "known_mask": mask}
    assert torch.equal(generate(model, 3, **options), generate_naive(model, 3, **options))


def test_a_text_is_read_once_for_a_batch_of_samples():
    model, calls = worded_model(), []
    model.network.encoders.text.register_forward_hook(lambda *call: calls.append(1))
    generate(model, 3, text=list(TEXTS))
    assert len(calls) == 1


def test_one_text_or_one_for_each():
    model, images = worded_model(), random_images(2, SHAPE)
    same = model.log_prob(images, text="a ring")
    for told in (["a ring"] * 2, ("a ring", "a ring"), np.array(["a ring"] * 2), codes("a ring", "a ring")):
        assert torch.equal(model.log_prob(images, text=told), same)
    assert not torch.equal(generate(model, 2, text="a ring"), generate(model, 2, text="a king"))
    for wrong in (codes("x" * 24, "y")[:, 1:], codes("a", "b") + 90, torch.full((2, 26), 256, dtype=torch.int16)):
        with pytest.raises(ValueError, match=r"codes must be those of Text\.codes"):
            model.log_prob(images, text=wrong)


# ---- guidance ----


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_guided_masses_by_hand(likelihood):
    model, image = worded_model("raster", likelihood), random_images(1, SHAPE)
    told, untold = (model(image, {"text": codes(text)}) for text in ("a ring", ""))
    plain = model.likelihood
    given = model.values.new_zeros(1, told.shape[1], 0)
    masses = {g: Guided(plain, g).conditional(torch.cat([told, untold], -1), given) for g in (0.0, 1.0, 3.0)}
    torch.testing.assert_close(masses[1.0].exp(), plain.conditional(told, given).exp(), rtol=0, atol=1e-12)
    torch.testing.assert_close(masses[0.0].exp(), plain.conditional(untold, given).exp(), rtol=0, atol=1e-12)
    by_hand = plain.conditional(told, given).exp() ** 3 / plain.conditional(untold, given).exp() ** 2
    by_hand /= by_hand.sum(-1, keepdim=True)
    torch.testing.assert_close(masses[3.0].exp(), by_hand, rtol=1e-9, atol=1e-12)


def test_guidance_of_one_is_the_model_and_of_none_knows_no_text():
    model = worded_model(likelihood="categorical")
    plain = generate(model, 4, text="a ring")
    assert torch.equal(plain, generate(model, 4, text="a ring", guidance=1.0))
    assert torch.equal(generate(model, 4, text="a ring", guidance=0.0), generate(model, 4, text=""))
    assert not torch.equal(plain, generate(model, 4, text="a ring", guidance=2.0))
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="guidance must be a number of at least 0"):
            generate(model, 1, text="", guidance=wrong)
    with pytest.raises(ValueError, match="guidance= is for models that can be told nothing"):
        generate(make_model(), 1, guidance=2.0)


# ---- reading ----


def test_rank_is_bayes():
    model, images = worded_model(), random_images(3, SHAPE)
    nats = torch.stack([model.log_prob(images, text=text).double().flatten(1).sum(1) for text in TEXTS], 1)
    seen = []
    found = rank(model, images, TEXTS, batch=2, progress=lambda *at: seen.append(at))
    np.testing.assert_allclose(found, nats.softmax(1).detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1)
    assert seen[-1] == (9, 9)
    with pytest.raises(ValueError, match="not conditional on text"):
        rank(make_model(), random_images(1, (3, 5, 4)), TEXTS)
    with pytest.raises(ValueError, match="at least one text to choose from"):
        rank(model, images, [])
    with pytest.raises(ValueError, match="texts must be a list of texts, got a single string"):
        rank(model, images, "a red circle")


def test_a_model_of_classes_and_words_still_classifies():
    model, images = worded_model(more=(Label(("cat", "dog")),)), random_images(4, SHAPE)
    nats = [evaluate(model, images, text="a ring", label=c).per_image for c in (0, 1)]
    assert classify(model, images, text="a ring").tolist() == np.stack(nats).argmin(0).tolist()
    assert classify(model, images, text="a ring", label=[0] * 4).tolist() == np.stack(nats).argmin(0).tolist()


# ---- what is text ----


@pytest.mark.parametrize(
    "text", ["a\x00b", "\x7f", "é", "\u07ff", "ᄀ", "\uffff", "𝒳", "\U0010ffff", "👩‍🚀", "שָׁלוֹם", "e\u0301"], ids=ascii
)
def test_texts_of_every_plane_are_read_and_told_back(text):
    condition, model = Text(24), worded_model()
    value = condition.check(text, 2, SHAPE)
    assert value.shape == (2, 1 + len(text.encode())) and value[0, 0] == BEGIN and condition.said(value) == [text] * 2
    assert model.log_prob(random_images(1, SHAPE), text=text).isfinite().all()


def test_what_is_not_text_is_refused_in_one_line():
    model, images = worded_model(), random_images(2, SHAPE)
    wrong = {
        "got bytes": b"a ring", "got int": 3, "got float": 0.5, "got dict": {"a": 1},
        "got None among them": ["a", None], "got Tensor": torch.zeros(2, 3),
        "got bytes among them": ["a", b"a"], "got int among them": ["a", 1], "a lone surrogate, at 2": "a \ud800 ring",
        "text must hold 2 texts, as many as there are images, got 1": ["a ring"],
        "has 25 bytes, the model reads 24": "x" * 25,
    }  # fmt: skip
    for call in (lambda **given: model.log_prob(images, **given), lambda **given: generate(model, 2, **given)):
        for said, value in wrong.items():
            with pytest.raises(ValueError, match=said) as caught:
                call(text=value)
            assert "\n" not in str(caught.value) and str(caught.value).isascii()
        for missing in ({}, {"text": None}):
            with pytest.raises(ValueError, match=r'text= is missing \(a text of at most 24 bytes, "" to say nothing\)'):
                call(**missing)
    with pytest.raises(ValueError, match="the paper family cannot be told the text"):
        worded_model("raster", family="paper")


@pytest.mark.parametrize(("text", "kept"), [("x" * 25, "x" * 24), ("x" * 22 + "€", "x" * 22), ("é" * 13, "é" * 12)])
def test_a_longer_text_is_cut_between_characters_and_it_is_said(text, kept):
    condition = Text(24, longer="cut")
    with pytest.warns(
        UserWarning, match=f"longer texts are cut, 1: .* has {len(text.encode())} bytes, the model reads 24"
    ):
        assert condition.said(condition.check(text, 1, SHAPE)) == [kept]


def test_a_text_condition_is_a_word_and_wrong_ones_are_refused():
    kinds = (Text,)
    for word in ("text", "text:96", "text:96:0.25", "text:96:0.1:cut"):
        assert from_text(to_text(from_text(word, kinds)), kinds) == from_text(word, kinds)
    assert from_text("text:96:0.25:cut", kinds) == Text(96, 0.25, "cut")
    for word, said in (
        ("text:0", "at least 1 byte"),
        ("text:9:1", r"in \[0, 1\)"),
        ("text:9:0.1:no", "refused or cut"),
        ("text:x", "LENGTH"),
    ):
        with pytest.raises(ValueError, match=said):
            from_text(word, kinds)


# ---- captions of data ----


def captioned(folder, count=8):
    """A folder of images with captions, one wording or several."""
    folder.mkdir()
    rng, lines = np.random.default_rng(0), []
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append({"file_name": f"{i}.png", "text": f"number {i}" if i % 2 else [f"number {i}", f"no {i}"]})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_captions_of_a_folder(tmp_path):
    folder = captioned(tmp_path / "photos")
    data = it.load_data(str(folder), "all")
    assert data.captions[:2] == (("number 0", "no 0"), ("number 1",)) and len(data.captions) == 8
    again = it.load_data(str(folder), "all")
    assert again.captions == data.captions and again.digest() == data.digest() != replace(data, captions=None).digest()
    assert data.rows(np.array([3, 0])).captions == (("number 3",), ("number 0", "no 0"))
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "another"}')
    assert it.load_data(str(folder), "all").captions == (("another",), *[("",)] * 7)
    lines = [
        {"file_name": "1.png", "text": "a\u2028b"},
        {"file_name": "2.png", "label": 3},
        {"file_name": "3.png", "text": {}},
    ]
    text = "\ufeff" + "\r\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (folder / "metadata.jsonl").write_text(text, "utf-8")
    assert it.load_data(str(folder), "all").captions == (("",), ("a\u2028b",), *[("",)] * 6)
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "label": 3}')
    assert it.load_data(str(folder), "all").captions is None
    gone = [json.dumps({"file_name": name}) for name in ("0.png", "9.png")]
    (folder / "metadata.jsonl").write_text("\n".join(gone))
    with pytest.raises(DataError, match=r"metadata\.jsonl, line 2: there is no .*photos/9\.png"):
        it.load_data(str(folder), "all")
    (folder / "below").mkdir()
    (folder / "below" / "metadata.jsonl").write_text('{"file_name": "../1.png", "text": "above"}')
    (folder / "metadata.jsonl").unlink()
    assert it.load_data(str(folder), "all").captions[1] == ("above",)
    (folder / "below" / "metadata.jsonl").unlink()
    for wrong in ("{", "[]", "\xe9", '{"file_name": 1}', '{"text": "a"}'):
        (folder / "metadata.jsonl").write_text(wrong)
        with pytest.raises(DataError, match=r"metadata\.jsonl, line 1: expected"):
            it.load_data(str(folder), "all")


def test_captions_of_parquet_columns(tmp_path):
    datasets = pytest.importorskip("datasets")
    pixels = [Image.fromarray(np.full((4, 4, 3), i, np.uint8)) for i in range(30)]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    told = {"image": pixels, "text": [f"number {i}" for i in range(30)]}
    datasets.Dataset.from_dict(told, features=features).to_parquet(tmp_path / "train.parquet")
    assert it.load_data(str(tmp_path / "train.parquet"), "all").captions[7] == ("number 7",)
    for kind, values, wanted in (
        (datasets.Value("int64"), list(range(30)), None),
        ({"en": datasets.Value("string")}, [{"en": "a"}] * 30, None),
        (datasets.Sequence(datasets.Value("string")), [["a", None, "b"], None] * 15, (("a", "b"), ("",)) * 15),
    ):  # no captions at all, and several
        features = datasets.Features({"image": datasets.Image(), "text": kind})
        made = datasets.Dataset.from_dict({"image": pixels, "text": values}, features=features)
        made.to_parquet(tmp_path / f"{type(wanted)}-{type(kind).__name__}.parquet")
        found = it.load_data(str(tmp_path / f"{type(wanted)}-{type(kind).__name__}.parquet"), "all")
        assert found.captions == wanted
    faces = {
        "image": pixels,
        "Smiling": [True] * 30,
        "Male": [False] * 30,
        "Young": [True] * 30,
        "Eyeglasses": [True] * 30,
    }
    (tmp_path / "faces").mkdir()
    typed = {name: datasets.Value("bool") for name in list(faces)[1:]} | {"image": datasets.Image()}
    datasets.Dataset.from_dict(faces, features=datasets.Features(typed)).to_parquet(
        tmp_path / "faces" / "train.parquet"
    )
    assert it.load_data(str(tmp_path / "faces"), "all").captions[0][0] == "a smiling young woman with glasses"


def test_captions_of_classes_and_attributes():
    data = it.load_data("cifar10-mini", "test")
    said = captions_of(data)
    frog = said[int(np.flatnonzero(data.labels == data.classes.index("frog"))[0])]
    assert (
        frog[0] == "a photo of a frog"
        and "a picture of a toad" in frog
        and "an image of an airplane" in said[int(np.flatnonzero(data.labels == 0)[0])]
    )
    attributes = {
        "Smiling": False,
        "Male": True,
        "Young": False,
        "No_Beard": False,
        "Gray_Hair": True,
        "Mustache": True,
    }
    assert face_captions(attributes)[0] == "an older man with a moustache and grey hair"
    assert all(face_captions({}))
    with pytest.raises(DataError, match="the images have no captions, which a text-conditional model needs"):
        captions_of(replace(data, labels=None))


def test_emoji_are_drawings_on_white_with_their_names(tmp_path):
    """Laid out as the npm packages are, unpacked; the sheets beside the single drawings are none of them."""
    names = [("GRINNING FACE", ["grinning", "big_grin"]), ("Egypt Flag", ["flag-eg"]), ("GOAT", ["goat"])]
    for number, kind in enumerate(("twitter", "google")):
        folder = tmp_path / kind / "package" / "img" / kind / "64"
        folder.mkdir(parents=True)
        told = [
            {
                "name": name,
                "short_names": short,
                "image": f"{i}.png",
                "category": "Flags" if "Flag" in name else "Faces",
            }
            for i, (name, short) in enumerate(names)
        ]
        (tmp_path / kind / "package" / "emoji.json").write_text(json.dumps(told))
        for i in range(3 - number):  # one set lacks a drawing
            drawn = np.zeros((64, 64, 4), np.uint8)
            drawn[8:16] = (10 * i, 20, 30, 255)
            Image.fromarray(drawn).save(folder / f"{i}.png")
        Image.new("RGB", (99, 99)).save(folder.parent / "sheet.png")
    data = it.load_data(str(tmp_path), "all")
    assert data.images.shape == (5, 3, 64, 64) and data.classes == ("Faces", "Flags")
    assert (data.images[:, :, :8] == 255).all() and data.images[3, :, 8, 0].tolist() == [10 * 1, 20, 30]
    assert data.captions[0] == ("grinning face", "grinning", "big grin") and data.captions[1] == (
        "egypt flag",
        "flag eg",
    )
    (folder / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0\.png: unreadable image"):
        it.load_data(str(folder.parents[2]), "all")
    (folder.parents[2] / "emoji.json").write_text("[{}]")
    with pytest.raises(DataError, match="expected the index of an emoji-datasource package"):
        it.load_data(str(folder.parents[2]), "all")


def test_training_draws_wordings_and_drops_captions_by_the_number_of_the_view(tmp_path):
    """A pure function of seed and view: in batches of any size the same, a tenth of them nothing."""
    folder = captioned(tmp_path / "photos", 40)
    config = shrunken(recipe("shapes-text"))
    config = replace(config, data=DataConfig(str(folder)), model=replace(config.model, shape=(3, 8, 8)))
    run = Run(config, tmp_path / "run")
    text = config.model.condition(Text)
    whole = text.said(run.batch(0, 400)[1]["text"])
    assert whole == [one for first in range(0, 400, 8) for one in text.said(run.batch(first, 8)[1]["text"])]
    data = run.batches.take(0, 400)
    assert all(said in ("", *wordings) for said, wordings in zip(whole, data.captions, strict=True))
    assert 20 < whole.count("") < 62 and 60 < sum(said.startswith("no ") for said in whole) < 120
    assert text.said(run.told["text"]) == [one[0] for one in run.validation.captions]
    run.update()


def test_captions_that_are_too_long_stop_a_training_before_it_begins(tmp_path):
    folder, config = captioned(tmp_path / "photos", 40), shrunken(recipe("shapes-text"))
    config = replace(config, data=DataConfig(str(folder)), model=replace(config.model, shape=(3, 8, 8)))
    lines = (folder / "metadata.jsonl").read_text().replace("no 38", "é" * 57)
    (folder / "metadata.jsonl").write_text(lines)
    with pytest.raises(DataError, match=r"photos: text: .* has 114 bytes, the model reads 112; text:112:0\.1:cut cuts"):
        Run(config, tmp_path / "run")
    shorter = replace(config, model=replace(config.model, conditions=(Text(112, longer="cut"),)))
    with pytest.warns(UserWarning, match="longer texts are cut, 1: "):
        Run(shorter, tmp_path / "run").update()


def test_captions_are_for_models_that_are_told_them(tmp_path):
    """Others go on as before with data that has come to have captions; images are not turned under a caption."""
    folder, config = captioned(tmp_path / "photos", 40), shrunken(recipe("shapes-text"))
    config = replace(config, data=DataConfig(str(folder)), model=replace(config.model, shape=(3, 8, 8)))
    untold = replace(config, model=replace(config.model, conditions=()))
    before = Run(untold, tmp_path / "run").state.data
    assert Run(config, tmp_path / "run").state.data != before
    (folder / "metadata.jsonl").unlink()
    assert Run(untold, tmp_path / "run").state.data == before
    captioned(tmp_path / "others", 40)
    with pytest.raises(ValueError, match="captions, such as of what is left, are not turned"):
        Run(replace(config, data=DataConfig(str(tmp_path / "others"), flips=True)), tmp_path / "run")


# ---- the command line ----


@pytest.fixture
def words_run(tmp_path, monkeypatch):
    """A run of the recipe made small, on captioned images."""
    monkeypatch.chdir(tmp_path)
    captioned(tmp_path / "photos", 30)
    small = shrunken(recipe("shapes-text"))
    monkeypatch.setattr(
        "image_transformer.cli.train.recipe", lambda name: replace(small, model=replace(small.model, shape=(3, 8, 8)))
    )
    assert main(["train", "shapes-text", "--data", "photos", "--out", "run"]) == 0
    (tmp_path / "texts.txt").write_text("number 1\nwords\n")
    return tmp_path


def test_words_become_images_and_images_are_read(words_run, capsys):
    assert main(["sample", "run", "--text", "a ring", "--count", "2", "--guidance", "2", "--out", "one.png"]) == 0
    assert "not from the model's own distribution" in capsys.readouterr().err
    assert main(["sample", "run", "--texts", "texts.txt", "--count", "2", "--out", "rows.png"]) == 0
    with Image.open("rows.png") as rows, Image.open("one.png") as one:
        assert rows.height > one.height
    assert main(["read", "run", "photos/0.png", "photos/1.png", "--texts", "texts.txt"]) == 0
    table = capsys.readouterr().out.splitlines()[-5:]
    assert table[0] == "file,probability,bits,text" and len(table) == 5
    rows = [line.split(",") for line in table[1:]]
    assert float(rows[0][1]) + float(rows[1][1]) == pytest.approx(1, abs=1e-3) and float(rows[0][1]) >= float(
        rows[1][1]
    )
    assert main(["evaluate", "run"]) == 0


def test_wrong_lines_about_words_are_refused_in_one_line(words_run, capsys):
    wrong = {
        "--text is missing: a text of at most": ["sample", "run"],
        "only one of the two": ["sample", "run", "--text", "a", "--texts", "texts.txt"],
        "cannot be read as text": ["sample", "run", "--texts", "photos/0.png"],
        "has 200 bytes": ["sample", "run", "--text", "x" * 200],
        "read needs texts": ["read", "run", "photos/0.png"],
        "needs a model": ["read"],
    }
    for said, line in wrong.items():
        capsys.readouterr()
        assert main(line) != 0, line
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1, (line, err)
