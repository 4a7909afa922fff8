"""The seams: a condition, a network and a visitor that the library does not know, added from outside and used whole."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import LIKELIHOODS, SCHEMES, every_model, make_model, promised, random_images, tiny_config
from torch import distributed, nn
from torch.nn.functional import conv2d, relu
from torch.nn.parallel import DistributedDataParallel

import image_transformer as it
from image_transformer.cli.main import main
from image_transformer.conditions.base import Condition
from image_transformer.conditions.frames import Frames
from image_transformer.conditions.label import Label
from image_transformer.conditions.low import Low
from image_transformer.config.model import CONDITIONS, ModelConfig
from image_transformer.config.rivals import FAMILIES
from image_transformer.geometry.order import Order, Raster, Wavefront
from image_transformer.geometry.patterns import Full, Local1D
from image_transformer.inference.sampling import Drawing
from image_transformer.inference.steps import one_by_one, plan_of, walk
from image_transformer.likelihoods.base import to_unit
from image_transformer.model import NETWORKS
from image_transformer.networks.base import Network, Recomputing
from image_transformer.networks.modern import ModernTransformer
from image_transformer.networks.paper import PaperTransformer
from image_transformer.networks.transformer import Vector
from image_transformer.training.shards import cut
from image_transformer.training.update import Loss

# ---- a third condition: how bright an image is ----


@dataclass(frozen=True)
class Brightness(Condition):
    """Which of `levels` equal ranges the mean of all values lies in."""

    levels: int

    name: ClassVar[str] = "brightness"
    adjective: ClassVar[str] = "told the brightness"
    noun: ClassVar[str] = "the brightness"
    flag: ClassVar[str] = "Told the brightness: the level, 0 is dark."
    follows: ClassVar[bool] = True

    @property
    def choices(self):
        return tuple(map(str, range(self.levels)))

    def wanted(self, shape):
        return f"a level below {self.levels}"

    def check(self, value, count, shape):
        several = isinstance(value, list | torch.Tensor)
        levels = torch.tensor([int(one) for one in value] if several else int(value))
        if not ((levels >= 0) & (levels < self.levels)).all():
            raise ValueError(f"brightness must lie below {self.levels}, got {value}")
        return levels.expand(count)

    def of(self, data):
        means = np.asarray(data.images).reshape(len(data), -1).mean(1)
        return torch.from_numpy((means * self.levels / 256).astype(np.int64))


@pytest.fixture
def brightness(monkeypatch):
    """What adding it takes: a line of the configuration, and a reader for each family."""
    for module in ("config.run", "cli.flags", "show.page"):
        monkeypatch.setattr(f"image_transformer.{module}.CONDITIONS", (*CONDITIONS, Brightness))
    monkeypatch.setitem(ModernTransformer.VECTORS, Brightness, Vector)
    monkeypatch.setitem(PaperTransformer.VECTORS, Brightness, Vector)


@pytest.mark.parametrize("family", ["paper", "modern"])
def test_a_new_condition_reaches_every_prediction_and_every_sample(brightness, family):
    model = make_model((Raster(), (Full(), Local1D(3, 5))), family=family, conditions=(Brightness(3),))
    images = random_images(2, (3, 5, 4))
    dark, bright = (model(images, {"brightness": torch.full((2,), level)}) for level in (0, 2))
    assert (dark != bright).any(-1).all()
    told = {"brightness": ["2", 0]}
    assert torch.equal(it.generate(model, 2, **told), it.generate_naive(model, 2, **told))
    with pytest.raises(ValueError, match=r"brightness= is missing \(a level below 3\)"):
        it.generate(model, 2)
    with pytest.raises(ValueError, match="this model is not conditional on label"):
        it.generate(model, 2, label="cat", **told)
    scored = it.evaluate(model, images).per_image  # it follows from the images
    level = (images.double().flatten(1).mean(1) * 3 / 256).long()
    np.testing.assert_allclose(scored, it.evaluate(model, images, brightness=level.tolist()).per_image)


def test_a_new_condition_is_trained_evaluated_sampled_and_reported_by_the_command_line(
    brightness, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    base = np.where(np.arange(120) % 2, 40, 215)[:, None, None, None]
    np.save("images.npy", (base + rng.integers(-15, 15, (120, 3, 6, 7))).astype(np.uint8))
    small = ["--model.shape", "3", "6", "7", "--model.depth", "1", "--model.width", "16", "--model.heads", "2",
             "--model.feed-forward", "24", "--model.attention", "local1d:7:7", "--train.images", "800",
             "--train.lr", "1e-2", "--train.warmup", "0"]  # fmt: skip
    assert main(["train", "tiny", *small, "--data", "images.npy", "--model.conditions", "brightness:2"]) == 0
    model = it.load("runs/tiny")
    assert model.config.conditions == (Brightness(2),)
    dark, bright = (it.generate(model, 8, brightness=level).float().mean() for level in (0, 1))
    assert dark + 40 < bright
    assert main(["sample", "runs/tiny", "--brightness", "1", "--count", "3", "--out", "bright.png"]) == 0
    assert main(["sample", "runs/tiny", "--count", "2", "--out", "rows.png"]) == 0
    assert main(["complete", "runs/tiny", "--count", "2", "--samples", "1"]) == 0
    assert main(["report", "runs/tiny", "--images", "8"]) == 0
    assert "bits/dim given the brightness" in capsys.readouterr().out
    assert main(["evaluate", "runs/tiny", "--split", "all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] > 0.8
    assert main(["sample", "runs/tiny", "--label", "cat"]) != 0
    assert "--label: this model is not class-conditional" in capsys.readouterr().err
    assert len(list(Path("runs/tiny/samples").glob("*.png"))) == 1


@dataclass(frozen=True)
class Stripes(Brightness):
    """A second condition of few choices, which does not follow from the images: they must be told it."""

    name: ClassVar[str] = "stripes"
    noun: ClassVar[str] = "the stripes"
    follows: ClassVar[bool] = False

    def of(self, data):
        return torch.from_numpy(np.asarray(data.images)[:, 0, 0, 0].astype(np.int64) % self.levels)


def test_two_new_conditions_of_few_choices_go_together(brightness, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for module in ("config.run", "cli.flags", "show.page"):
        monkeypatch.setattr(f"image_transformer.{module}.CONDITIONS", (*CONDITIONS, Stripes, Brightness))
    monkeypatch.setitem(ModernTransformer.VECTORS, Stripes, Vector)
    config = tiny_config(tmp_path)
    config = replace(config, model=replace(config.model, conditions=(Stripes(3), Brightness(2))))
    it.train(config, "run", show_progress=False)
    assert main(["evaluate", "run"]) == 0
    assert "are likeliest under their own stripes" in capsys.readouterr().out
    assert main(["report", "run", "--images", "4"]) == 0
    assert "bits/dim given the stripes and the brightness" in capsys.readouterr().out
    assert main(["sample", "run", "--count", "1"]) != 0
    assert "--brightness is missing: 0, 1" in capsys.readouterr().err
    assert main(["sample", "run", "--count", "1", "--brightness", "1"]) == 0
    assert main(["sample", "run", "--count", "1", "--brightness", "1", "--stripes", "2"]) == 0
    assert main(["complete", "run", "--count", "2", "--samples", "1"]) == 0


# ---- a network without attention: a masked convolution ----


@dataclass(frozen=True)
class ConvolutionConfig(ModelConfig):
    family: ClassVar[str] = "convolution"

    order: Order = Raster()
    width: int = 24
    reach: int = 2


class MaskedConvolution(Network):
    """The pixels before in raster order within a square (PixelCNN's mask A), then two layers at each position."""

    def __init__(self, config, layout, likelihood):
        super().__init__()
        self.layout, side = layout, 2 * config.reach + 1
        self.weight = nn.Parameter(torch.randn(config.width, layout.channels, side, side) / side)
        self.register_buffer("mask", (torch.arange(side**2) < side**2 // 2).view(side, side).float(), persistent=False)
        self.hidden = nn.Linear(config.width, config.width)
        self.head = nn.Linear(config.width, likelihood.num_params)

    def forward(self, image, context=None):
        seen = conv2d(to_unit(image, self.weight.dtype), self.weight * self.mask, padding="same")
        return self.head(relu(self.hidden(seen.flatten(2).transpose(1, 2))))


@pytest.fixture
def convolution(monkeypatch):
    """What adding it takes: a line for its configuration, a line for the network."""
    monkeypatch.setitem(FAMILIES, "convolution", ConvolutionConfig)
    monkeypatch.setitem(NETWORKS, ConvolutionConfig, MaskedConvolution)


def convolution_model(**fields):
    torch.manual_seed(0)
    return it.ImageModel(ConvolutionConfig(shape=(3, 5, 4), components=3, **fields)).double().eval()


@pytest.mark.parametrize("likelihood", ["dmol", "chained"])
def test_a_network_without_attention_is_sampled_exactly_by_recomputation(convolution, likelihood):
    model = convolution_model(likelihood=likelihood)
    assert torch.equal(it.generate(model, 3), it.generate_naive(model, 3))
    known, mask = random_images(3, (3, 5, 4)), torch.zeros(5, 4, dtype=torch.bool)
    mask[:2] = mask[4, 1] = True
    how = {"known": known, "known_mask": mask, "temperature": 0.8, "top_p": 0.9}
    drawn = it.generate(model, 3, **how)
    assert torch.equal(drawn, it.generate_naive(model, 3, **how)) and torch.equal(drawn[..., mask], known[..., mask])
    assert it.complete(model, known, mask.numpy(), samples=2).images.shape == (3, 2, 3, 5, 4)


def test_known_pixels_cost_a_network_without_attention_no_passes(convolution, monkeypatch):
    model, passes = convolution_model(), []
    forward = model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda *given: (passes.append(1), forward(*given))[1])
    mask = torch.arange(20).view(5, 4) % 2 == 0
    it.generate(model, 2, known=random_images(2, (3, 5, 4)), known_mask=mask)
    assert len(passes) <= 11


def test_a_configuration_without_a_network_and_a_method_without_a_form_are_named():
    with pytest.raises(ValueError, match="no network for a ModelConfig, only for Paper, Modern"):
        it.ImageModel(it.ModelConfig())
    with pytest.raises(ValueError, match="method must be one of cached, naive, fixed-point, got 'nave'"):
        it.generate(make_model(), 1, method="nave")
    with pytest.raises(ValueError, match=r"unknown field model\.dept; did you mean 'depth'\?"):
        it.recipe("tiny", model={"dept": 3})


def test_a_network_without_attention_sees_the_square_before_a_pixel_and_nothing_else(convolution):
    model = convolution_model()
    images = random_images(1, (3, 5, 4)).double().requires_grad_()
    params = model(images)
    for position, (row, col) in enumerate(np.ndindex(5, 4)):
        (gradient,) = torch.autograd.grad(params[0, position].sum(), images, retain_graph=True)
        seen = {(r, c) for r, c in np.ndindex(5, 4) if gradient[0, :, r, c].abs().sum() > 0}
        near = {(r, c) for r, c in np.ndindex(5, 4) if abs(r - row) <= 2 and abs(c - col) <= 2}
        assert seen == {place for place in near if place < (row, col)}


def test_a_network_without_attention_trains_from_its_configuration_and_loads(convolution, tmp_path):
    config = tiny_config(tmp_path)
    often = {"validate_every": 800, "sample_every": 800, "save_every": 800}
    training = replace(config.train, optimizer="adamw", images=800, lr=1e-2, warmup=0, bf16="off", **often)
    run = replace(config, model=ConvolutionConfig(shape=(3, 8, 8), components=3), train=training)
    it.train(run, tmp_path / "run", show_progress=False)
    model, test = it.load(tmp_path / "run"), it.load_data(config.data.source, "test")
    assert isinstance(model.network, MaskedConvolution) and model.config == run.model
    torch.manual_seed(0)
    assert it.bits_per_dim(model, test.images) < it.bits_per_dim(it.ImageModel(run.model), test.images) - 0.5
    assert it.generate(model, 2).shape == (2, 3, 8, 8)


def test_a_network_says_what_it_cannot_be_told_and_what_cannot_be_optimised(convolution, tmp_path):
    model = it.ImageModel(ConvolutionConfig(shape=(3, 4, 6), components=3, conditions=(it.Low(2),)))
    with pytest.raises(ValueError, match="this network cannot be told low"):
        it.generate(model, 1, low=random_images(1, (3, 2, 3)))
    config = tiny_config(tmp_path)
    run = replace(config, model=ConvolutionConfig(shape=(3, 8, 8), components=3))
    with pytest.raises(ValueError, match="muon is for matrices inside `blocks`"):
        it.train(run, tmp_path / "run", show_progress=False)


# ---- another visitor of the steps: one that only scores ----


@every_model
def test_a_visitor_that_scores_sums_up_to_the_likelihood(scheme, family, likelihood):
    """By steps that go together, front by front, one by one, and around known positions."""
    model = make_model(scheme, family=family, likelihood=likelihood)
    images = random_images(2, model.config.shape)
    flat, nothing = images.flatten(1), np.zeros(model.layout.num_positions, np.bool_)
    upper = model.layout.positions.row < 2
    with torch.inference_mode():
        nats = model.log_prob(images).flatten(1)
        for plan, known in (
            (plan_of(model, nothing), nothing),
            (plan_of(model, nothing, in_order=True), nothing),
            (one_by_one(model.layout, nothing), nothing),
            (plan_of(model, upper), upper),
        ):
            total, visited = torch.zeros(2, dtype=torch.float64), []

            def score(params, at, total=total, visited=visited, known=known):
                new = torch.from_numpy(~known)[at]  # a step may hold known positions that later ones see
                total += model.likelihood.log_prob(params, flat[:, model.values[at]])[:, new].sum((1, 2))
                visited += at[new].tolist()

            decoder = plan.decoder(model.network, model.read({}), 2)
            assert list(walk(decoder, images, plan, score)) == list(range(1, len(plan.visited) + 1))
            assert sorted(visited) == np.flatnonzero(~known).tolist()
            expected = nats[:, model.values[torch.from_numpy(~known)].flatten()].sum(1)
            torch.testing.assert_close(total, expected, rtol=0, atol=1e-9)


def test_steps_are_reported_and_can_be_stopped_between_two():
    model = make_model((Wavefront(1), (Local1D(5, 4),)))
    plan = plan_of(model, np.zeros(20, np.bool_))
    none = torch.zeros(1, 3, 5, 4)
    uniform = torch.rand(1, 80, dtype=torch.float64)
    drawing = Drawing(model, none.byte(), none.bool(), uniform, it.Sampling())
    whole = Drawing(model, none.byte(), none.bool(), uniform, it.Sampling())
    list(walk(Recomputing(model.network, None), whole.image, plan, whole))
    for done in walk(Recomputing(model.network, None), drawing.image, plan, drawing):
        if done == 3:
            break
    drawn = np.isin(np.arange(20), np.concatenate(plan.visited[:3]))
    at = model.values[torch.from_numpy(drawn)]
    assert torch.equal(drawing.flat[:, at], whole.flat[:, at]) and drawing.flat.sum() == drawing.flat[:, at].sum()


def test_an_exception_of_the_progress_stops_a_generation_and_leaves_the_model_as_it_was():
    model = make_model().train()
    told = []

    def progress(done, total):
        told.append(done)
        if len(told) == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        it.generate(model, 2, progress=progress)
    assert len(told) == 4 and model.training


# ---- the loss as a module ----


@pytest.fixture
def one_process(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


KEYS = torch.arange(3, dtype=torch.int32)


def loss_of(family, likelihood):
    """A model that is told all there is, its loss, a batch, and the plain gradients."""
    scheme = (Raster(), (Full(), Local1D(4, 3)))
    told, fields = (Label(("a", "b")), Low(2)), {}
    if family == "modern":
        told, fields = (*told, Frames(1)), {"look": True, "encoder_depth": 1}
    model = make_model(scheme, (3, 4, 6), family=family, likelihood=likelihood, conditions=told, **fields)
    loss, images = Loss(model), random_images(3, (3, 4, 6))
    given = {"label": [0, 1, 1], "low": it.box_mean(images, 2), "frames": random_images(3, (1, 3, 4, 6), 2)}
    given = model.given(3, {one.name: given[one.name] for one in told})
    return model, loss, images, given, torch.autograd.grad(loss(images, given, KEYS), list(model.parameters()))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("family", ["paper", "modern"])
def test_the_loss_can_be_replicated(family, likelihood, one_process):
    """In DDP, which raises or waits for ever where a weight is used outside of what it wraps: the plain gradients."""
    model, loss, images, given, plain = loss_of(family, likelihood)
    wrapped = DistributedDataParallel(loss)
    for _ in range(2):  # the second pass raises if a weight of the first was not reduced
        model.zero_grad()
        wrapped(images, given, KEYS).backward()
        for expected, (name, weight) in zip(plain, model.named_parameters(), strict=True):
            torch.testing.assert_close(weight.grad, expected, msg=name)
            assert expected.abs().sum() > 0, name


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # of views: nothing is changed in place
@pytest.mark.parametrize("family", ["paper", "modern"])
def test_the_loss_can_be_sharded(family, one_process):
    """By FSDP2, block by block, whose weights are whole only while their own methods run: the plain gradients."""
    model, loss, images, given, plain = loss_of(family, "chained")
    cut(loss, torch.device("cpu"), 1)
    loss(images, given, KEYS).backward()
    for expected, (name, weight) in zip(plain, model.named_parameters(), strict=True):
        torch.testing.assert_close(weight.grad.full_tensor(), expected, msg=name)


# ---- what the seams may not change ----


def test_the_schedule_of_a_network_follows_from_its_inputs():
    """`inputs` and patterns are all that the schedule is made of, for networks that have them."""
    model = make_model(SCHEMES[8])
    inputs = model.network.inputs
    slot = np.zeros((model.layout.num_positions, model.layout.num_dims), bool)
    for q, sources in enumerate(inputs):
        slot[q, model.layout.values[sources[sources >= 0]].reshape(-1)] = True
    reach = promised(model, slot)
    step = model.schedule().step
    for q in range(model.layout.num_positions):
        sources = model.layout.position_of[np.flatnonzero(reach[q])]
        assert (step[sources] < step[q]).all()
