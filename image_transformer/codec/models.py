"""Coding models: networks in integers, in files, and those that come with the package.

codec/models/1-small.safetensors    int8 and int16 weights, float32 scales; beside them its number and its known answers

A released one is never replaced: files that it wrote say its number and its fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_transformer.codec.coder import checksum, encode_images, image_bits
from image_transformer.codec.integers import IntegerNetwork
from image_transformer.data.images import first_line
from image_transformer.files import write_atomically
from image_transformer.model import ImageModel
from image_transformer.words import did_you_mean

HOME = Path(__file__).parent / "models"
DEFAULT = "small"
TALL = (31, 11)  # the image of the second known answer
TALLER = {"1b1322a6": "261f7e02"}  # the second answer of models that were released without


class CodingModelError(ValueError):
    """A coding model that is not there, is damaged, or does not compute here what it must; the message is one line."""


@dataclass(frozen=True, eq=False)
class CodingModel:
    """A network in integers, and what files call it."""

    network: IntegerNetwork
    fingerprint: bytes  # four, of all its numbers
    number: int = 0  # of a released one
    name: str = ""

    @classmethod
    def of(cls, model: ImageModel, images: Tensor, number: int = 0, name: str = "") -> CodingModel:
        """The coding model of a trained one. Its hidden values are scaled to what uint8 `images` (b, 3, h, w) make of
        them: some that are like those to be coded.

        Raises ValueError unless the model is of the modern family with `attention=none`, `places=none`, `gate=relu`,
        mixing, `order=wavefront:1`, a mixture of logistics with `min_log_scale=-8` and `temperature=1`, RGB, and no
        conditions: what a network in integers has.
        """
        network = IntegerNetwork.of(deepcopy(model).cpu(), images.cpu())  # there the sums are exact
        return cls(network, _fingerprint(network), number, name)

    def bits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The bits `(n,)` that each of uint8 `images` (n, c, h, w), grey or RGB of any size, takes in a file."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
            raise ValueError(
                f"images must be uint8 (n, c, h, w) with 1 or 3 channels, got {images.dtype} {images.shape}"
            )
        return image_bits(self.network, np.ascontiguousarray(images))

    def save(self, path: str | Path) -> None:
        """Write one file, which `load_coding_model` reads."""
        parts = {name: _narrow(part) for name, part in self.network.parts.items()}
        told = {
            "number": self.number, "name": self.name, "components": self.network.components,
            "answer": known_answer(self.network), "taller": known_answer(self.network, *TALL),
        }  # fmt: skip
        write_atomically(path, safetensors.torch.save(parts, {"coding model": json.dumps(told)}))


def coding_model_names() -> list[str]:
    """The names of the coding models that come with the package, from the fastest to the one with the fewest bits.

    >>> "small" in it.coding_model_names()
    True
    """
    return list(_released())


def load_coding_model(which: str | Path = DEFAULT) -> CodingModel:
    """A coding model by its name, or from a file.

    Raises CodingModelError if there is none, or if it does not compute on this machine what it computed where it was
    made: then nothing that it wrote could be read elsewhere.

    >>> it.load_coding_model("small").number
    1
    """
    path = _released().get(str(which), Path(which))
    if not path.is_file():
        known = f"; {did_you_mean(str(which), coding_model_names())}"
        raise CodingModelError(f"no coding model {str(which)!r}, neither by this name nor as a file{known}")
    return _load(path, path.stat().st_mtime_ns)


def released(fingerprint: bytes, number: int = 0) -> CodingModel:
    """The released coding model of that fingerprint, sought first where its number says; or CodingModelError."""
    for path in sorted(_files(), key=lambda path: _number(path) != number):
        if (model := _load(path, path.stat().st_mtime_ns)).fingerprint == fingerprint:
            return model
    raise CodingModelError(f"none of the released coding models has the fingerprint {fingerprint.hex()}")


@lru_cache(8)
def _load(path: Path, changed: int) -> CodingModel:
    try:
        with safetensors.safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["coding model"])
            parts = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (no mapping)
        network = IntegerNetwork(parts, told["components"], 3)
        model = CodingModel(network, _fingerprint(network), told["number"], told["name"])
        taller = told.get("taller", TALLER.get(model.fingerprint.hex()))
        right = known_answer(network) == told["answer"] and taller in (None, known_answer(network, *TALL))
    except Exception as error:
        raise CodingModelError(f"{path}: not a coding model, or a damaged one ({first_line(error)})") from None
    if not right:
        raise CodingModelError(
            f"{path}: this machine does not compute what the coding model computed where it was made: "
            "the file is damaged, or sums of whole numbers are not exact here"
        )
    return model


def known_answer(network: IntegerNetwork, height: int = 16, width: int = 24) -> str:
    """What a network makes of an image that holds slopes, noise and white, as a checksum of its bytes."""
    row, col = np.indices((height, width))
    noise = np.random.PCG64(0).random_raw(3 * row.size).reshape(3, height, width) % 64  # raw streams never change
    slopes = np.stack([5 * row + 3 * col, 255 - 7 * col, 9 * row])
    image = np.where(row + col > 30, 255, (slopes + noise * (col > 8)).clip(0, 255)).astype(np.uint8)
    return f"{checksum(encode_images(network, image[None], 2, 0)):08x}"


def _files() -> list[Path]:
    """The files of all released models, by number."""
    return sorted(HOME.glob("*.safetensors"), key=_number)


def _number(path: Path) -> int:
    return int(path.name.split("-")[0])


def _released() -> dict[str, Path]:
    """The files of the released models by name, the smallest one first; of several of one name the newest."""
    newest = {path.stem.split("-", 1)[1]: path for path in _files()}
    return dict(sorted(newest.items(), key=lambda one: one[1].stat().st_size))


def _narrow(part: Tensor) -> Tensor:
    """Whole numbers in as few bits as hold them."""
    if torch.equal(part, part.round()):
        for kind in (torch.int8, torch.int16):
            if torch.equal(part.to(kind).float(), part):
                return part.to(kind).contiguous()
    return part.contiguous()


def _fingerprint(network: IntegerNetwork) -> bytes:
    digest = hashlib.sha256(bytes([network.components]))
    for name, part in sorted(network.parts.items()):
        digest.update(f"{name} {tuple(part.shape)}".encode())
        digest.update(part.numpy().astype("<f4").tobytes())
    return digest.digest()[:4]
