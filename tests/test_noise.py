"""Noise is a function of the image, the layer and the place, alike in every batch; and it is random enough."""

import numpy as np
import pytest
import torch
from conftest import make_model, random_images

from image_transformer.conditions.frames import Frames
from image_transformer.conditions.source import Source
from image_transformer.conditions.text import Text
from image_transformer.config.rivals import PixelCNNpp
from image_transformer.model import ImageModel
from image_transformer.networks.noise import Dropout, normal, tell_keys, uniform
from image_transformer.training.update import Loss

RIVAL = PixelCNNpp(shape=(3, 4, 4), width=6, components=2, dropout=0.3)
KEYS = torch.tensor([5, 2**31 - 1, 0, 77], dtype=torch.int32)


def mixed(x):
    """lowbias32 as its author writes it, in unsigned integers."""
    with np.errstate(over="ignore"):
        x = np.asarray(x, np.uint32)
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
        return x ^ (x >> np.uint32(16))


def test_the_hash_is_the_published_one():
    with np.errstate(over="ignore"):
        base = mixed(mixed(KEYS.numpy().astype(np.uint32)) + np.uint32(3))[:, None]
    expected = (mixed(base ^ np.arange(1000, dtype=np.uint32)) >> np.uint32(8)) / 2**24
    assert (uniform(KEYS, 3, 1000).double().numpy() == expected).all()


def test_uniform_and_normal_numbers_are_what_they_say():
    keys = torch.arange(1000, dtype=torch.int32)
    flat = uniform(keys, 0, 500).double()
    counts = torch.histc(flat.flatten(), 64, 0, 1)
    assert ((counts - counts.mean()).square() / counts.mean()).sum() < 64 + 5 * (2 * 64) ** 0.5  # chi square
    assert flat.min() >= 0
    assert flat.max() < 1
    for other in (uniform(keys, 1, 500), uniform(keys + 1000, 0, 500), flat.roll(1, 0), flat.roll(1, 1)):
        agreement = ((flat - 0.5) * (other.double() - 0.5)).mean() * 12
        assert agreement.abs() < 5 / flat.numel() ** 0.5
    bell = normal(keys, 7, 500).double()
    moments = [bell.mean(), bell.square().mean() - 1, bell.pow(3).mean(), bell.pow(4).mean() - 3]
    assert all(
        abs(m) < 5 * s / bell.numel() ** 0.5 for m, s in zip(moments, (1, 2**0.5, 15**0.5, 96**0.5), strict=True)
    )


def test_dropout_keeps_the_share_and_the_mean():
    layer = Dropout(0.25).train()
    tell_keys(layer, torch.arange(200, dtype=torch.int32))
    out = layer(torch.ones(200, 30, 20))
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert abs((out == 0).double().mean() - 0.25) < 5 * (0.25 * 0.75 / out.numel()) ** 0.5
    assert torch.equal(layer.eval()(out), out)


@pytest.mark.parametrize("family", ["paper", "modern", "pixelcnn-pp"])
def test_an_image_has_the_same_noise_in_every_batch_and_other_noise_in_every_layer(family):
    model = ImageModel(RIVAL).double() if family == "pixelcnn-pp" else make_model(family=family, dropout=0.3)
    loss, images = Loss(model.train(), noise=0.5, levels=30.0), random_images(4, model.config.shape)
    together = loss(images, {}, KEYS)
    alone = torch.stack([loss(images[i : i + 1], {}, KEYS[i : i + 1]) for i in (2, 0, 3, 1)])
    torch.testing.assert_close(together, alone.mean())
    assert not torch.allclose(together, loss(images, {}, KEYS + 1))
    streams = [module.stream for module in model.modules() if isinstance(module, Dropout)]
    assert streams == list(range(len(streams)))
    assert len(streams) > 1


def test_every_dropout_is_called_once_in_a_pass():
    """Or two branches would lose the same numbers: also where a model is told a text, a source and earlier frames."""
    told = (Text(4), Source(), Frames(1))
    model = make_model(conditions=told, dropout=0.3, look=True, encoder_depth=1).train()
    images, called = random_images(2, model.config.shape), []
    for module in (module for module in model.modules() if isinstance(module, Dropout)):
        module.register_forward_hook(lambda module, *_: called.append(module))
    Loss(model)(images, model.given(2, {"text": "a", "source": images, "frames": images[:, None]}), KEYS[:2])
    assert len(called) == len(set(called)) > 8
