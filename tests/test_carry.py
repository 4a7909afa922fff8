"""Starting from a trained model: what fits is taken over, what does not is said, and nothing else changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_model, random_images, shrunken

from image_transformer import checkpoint
from image_transformer.checkpoint import CheckpointError, State, model_files, save
from image_transformer.cli.main import main
from image_transformer.conditions.frames import Frames
from image_transformer.conditions.label import Label
from image_transformer.conditions.low import Low
from image_transformer.conditions.source import Source
from image_transformer.conditions.text import Text
from image_transformer.geometry.boxes import box_mean
from image_transformer.geometry.order import Raster, Wavefront
from image_transformer.geometry.patterns import Local1D
from image_transformer.model import ImageModel
from image_transformer.recipes import recipe
from image_transformer.sharing import export
from image_transformer.training.carry import carry_over
from image_transformer.training.loop import train

SCHEME = (Wavefront(1), (Local1D(4, 4), Local1D(6, 3)))


def fresh(shape=(3, 4, 4), **fields):
    model = make_model(SCHEME, shape, **fields)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=7)
    return model


@pytest.mark.parametrize("fields", [{}, {"classes": ("a", "b")}, {"factor": 2}], ids=["plain", "label", "low"])
def test_the_same_model_is_taken_over_whole(fields):
    source, model = make_model(SCHEME, (3, 4, 4), **fields), fresh(**fields)
    assert carry_over(source, model) == []
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_other_sizes_stretch_the_tables_of_places_and_nothing_else():
    source, model = make_model(SCHEME, (3, 4, 4)), fresh((3, 7, 4))
    said = carry_over(source, model)
    assert said == ["network.rows.weight is stretched from 4 to 7"]
    old, new = (one.network.rows.weight for one in (source, model))
    torch.testing.assert_close(new[::2], old)  # 0, 2, 4, 6 of 7 lie on 0, 1, 2, 3 of 4
    torch.testing.assert_close(new[1], (old[0] + old[1]) / 2)


def test_classes_go_by_their_names():
    source, model = make_model(SCHEME, classes=("cat", "dog", "ship")), fresh((3, 5, 4), classes=("dog", "owl"))
    (said,) = carry_over(source, model)
    assert "taken over for dog" in said
    old, new = (one.network.vectors["label"].weight for one in (source, model))
    torch.testing.assert_close(new, torch.stack([old[1], old.mean(0)]))


def test_a_model_that_forgets_the_class_keeps_the_rest_and_one_that_is_told_more_starts_from_it():
    by_class, plain = make_model(SCHEME, classes=("a", "b")), make_model(SCHEME)
    assert carry_over(by_class, plain) == ["network.vectors.label is left out"]
    images = random_images(2, (3, 5, 4))
    before = plain.log_prob(images)
    told = make_model(SCHEME, classes=("a", "b"))
    assert carry_over(plain, told) == ["network.vectors.label is new"]
    torch.nn.init.zeros_(told.network.vectors["label"].weight)
    torch.testing.assert_close(told.log_prob(images, label="a"), before)


def test_a_model_that_looks_starts_from_one_that_does_not():
    fields = {"conditions": (Frames(1),), "encoder_depth": 1}
    source, model = make_model(SCHEME, **fields), make_model(SCHEME, **fields, look=True)
    said = carry_over(source, model)
    assert said and all(one.endswith(".looks is new") for one in said)
    images = random_images(2, (3, 5, 4))
    frames = images.flip(0)[:, None]
    assert not torch.allclose(model.log_prob(images, frames=frames), source.log_prob(images, frames=frames))
    for block in model.network.blocks:  # as they start
        torch.nn.init.zeros_(block.looks["frames"].output.weight)
    torch.testing.assert_close(model.log_prob(images, frames=frames), source.log_prob(images, frames=frames))


def test_a_recipe_with_init_looks_where_it_has_something_to_look_at(tmp_path):
    """Not where the model that it starts from did."""
    looking, plain = tmp_path / "looking", tmp_path / "plain"
    for run, name in ((looking, "bouncing"), (plain, "tiny")):
        config = recipe(name)
        save(run, 0, model_files(config, State(), ImageModel(config.model).state_dict()))
    assert not recipe("tiny", train={"init": str(looking)}).model.look
    assert not recipe("tiny-paper", train={"init": str(looking)}).model.look
    assert recipe("bouncing", train={"init": str(plain)}).model.look


def test_inputs_of_a_new_condition_start_at_zero():
    source, model = make_model(SCHEME, (3, 4, 4)), fresh(factor=2)
    said = carry_over(source, model)
    old, new = (one.network.stem.weight for one in (source, model))
    assert torch.equal(new[:, : old.shape[1]], old)
    assert (new[:, old.shape[1] :] == 0).all()
    assert f"network.stem.weight is taken over for {old.shape[1]} of {new.shape[1]} inputs" in said
    assert "network.encoders.low is new" in said and len(said) < 12
    with torch.no_grad():  # without what is new, it says what the other one says
        for block in model.network.blocks:
            block.cross.output.weight.zero_()
    images = random_images(2, (3, 4, 4))
    torch.testing.assert_close(model.log_prob(images, low=box_mean(images, 2)), source.log_prob(images))


def test_inputs_of_conditions_go_by_their_names():
    """In another order, beside others, and not to those of another condition with as many."""
    both, turned = (Low(2), Source()), (Source(), Low(2))
    source, model = (make_model(SCHEME, (3, 4, 4), conditions=one) for one in (both, turned))
    carry_over(source, model)
    images, told = random_images(2, (3, 4, 4)), {"source": random_images(2, (3, 4, 4), 5)}
    told |= {"low": box_mean(images, 2)}
    torch.testing.assert_close(model.log_prob(images, **told), source.log_prob(images, **told))
    lowest, other = make_model(SCHEME, (3, 4, 4), conditions=(Low(2),)), fresh((3, 4, 4), conditions=(Source(),))
    said = carry_over(lowest, other)
    near = other.network.neighbours.num_features
    for weight in (other.network.stem.weight, other.network.skip.means.weight):
        assert (weight[:, near:] == 0).all() and (weight[:, :near] != 0).any()
    assert f"network.stem.weight is taken over for {near} of {near + 27} inputs" in said


def test_longer_texts_and_shorter_ones_are_read_as_before():
    source = make_model(SCHEME, (3, 4, 4), conditions=(Text(9),))
    images = random_images(2, (3, 4, 4))
    for length, common in ((5, 6), (20, 10)):
        model = fresh((3, 4, 4), conditions=(Text(length),))
        said = carry_over(source, model)
        assert said == [f"network.encoders.text.places.weight is taken over for {common} of {length + 1} places"]
        torch.testing.assert_close(model.log_prob(images, text="five"), source.log_prob(images, text="five"))


def test_a_reader_whose_weights_do_not_fit_begins_anew_as_a_whole():
    fields = {"look": True, "encoder_depth": 1}
    source = make_model(SCHEME, (3, 4, 4), conditions=(Frames(1),), **fields)
    model = fresh((3, 4, 4), conditions=(Frames(2),), **fields)
    said = carry_over(source, model)
    assert {"network.placed.frames is new", "network.blocks.0.looks is new"} <= set(said)
    new, old = model.state_dict(), source.state_dict()
    for name, weight in new.items():
        if weight.is_floating_point() and name in old and weight.shape == old[name].shape and weight.numel() > 1:
            assert torch.equal(weight, old[name]) != ("frames" in name.split(".")), name


def test_super_resolution_goes_on_at_other_sizes_and_back_to_a_plain_model():
    source = make_model(SCHEME, (3, 4, 4), factor=2)
    larger = fresh((3, 8, 6), factor=2)
    said = carry_over(source, larger)
    assert "network.encoders.low.rows.weight is stretched from 2 to 4" in said
    assert torch.equal(larger.network.skip.means.weight, source.network.skip.means.weight)
    plain = fresh((3, 4, 4))
    carry_over(source, plain)
    phases = source.network.skip.means.weight.unflatten(0, (4, 3)).mean(0)
    torch.testing.assert_close(plain.network.skip.means.weight, phases[:, : plain.network.stem.in_features])


def test_another_network_is_refused_by_the_first_field_that_differs():
    with pytest.raises(CheckpointError, match=r"another network: its model\.width is 16, here 12"):
        carry_over(make_model(SCHEME, width=16, heads=4), make_model(SCHEME, heads=3))
    other = (Wavefront(2), SCHEME[1])  # whose neighbours are others, in weights of the same shapes
    with pytest.raises(CheckpointError, match=r"another network: its model\.order is Wavefront\(slope=2\)"):
        carry_over(make_model(other), make_model(SCHEME))
    raster = (Raster(), SCHEME[1])
    with pytest.raises(CheckpointError, match="a model of the paper family, this one is modern"):
        carry_over(make_model(raster, family="paper"), make_model(raster))


@pytest.fixture
def trained(images_file, tmp_path):
    config = shrunken(recipe("tiny", data={"source": str(images_file)}))
    train(config, tmp_path / "first", show_progress=False)
    return tmp_path / "first"


def test_a_run_starts_from_a_model_and_says_what_it_could_not_take_over(trained, tmp_path, capsys):
    rng = np.random.default_rng(1)
    np.save(tmp_path / "others.npy", rng.integers(0, 256, (40, 3, 8, 7)).astype(np.uint8))
    out = tmp_path / "second"
    words = f"train small --init {trained} --data {tmp_path / 'others.npy'} --out {out} --model.shape 3 8 7"
    assert main([*words.split(), "--train.images", "4", "--train.lr", "1e-9", "--train.muon-lr", "1e-9"]) == 0
    error = capsys.readouterr().err
    assert f"from {trained}: network.rows.weight is stretched from 6 to 8" in error
    old, new = checkpoint.load(trained), checkpoint.load(out)
    assert replace(new.config, shape=old.config.shape) == old.config  # the network of the model, not of the recipe
    torch.testing.assert_close(new.network.head.weight, old.network.head.weight, atol=1e-6, rtol=0)


def test_starting_from_a_model_that_is_not_there_is_one_line(capsys):
    assert main(["train", "tiny", "--init", "nowhere"]) == 1
    assert "no model at nowhere" in capsys.readouterr().err


def test_a_recipe_with_init_has_the_network_of_that_model_and_its_own_conditions(trained):
    calibrated = export(trained, trained.parent / "calibrated", temperature=0.9)
    config = recipe("small-class", train={"init": str(calibrated)})
    assert config.model.temperature == 1.0
    assert config.model.width == 16
    assert config.model.conditions == (Label(),)
    assert config.train.init == str(calibrated)
