"""What an image shows, in words: a text as the bytes of its UTF-8. Any language will do; there is no list of words."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from textwrap import shorten
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from image_transformer.conditions.base import Condition, Shape
from image_transformer.data.captions import captions_of, class_captions
from image_transformer.data.images import DataError, ImageData, class_names

if TYPE_CHECKING:
    from torch import Tensor

REMEMBERED = 2**12  # texts whose states a frozen encoder keeps
BEGIN, PADDING, NUM_CODES = 256, 257, 258  # after the 256 bytes: what every text begins with, and what follows it


@dataclass(frozen=True)
class Text(Condition):
    """A text of at most `length` bytes of UTF-8. The empty one tells nothing.

    drop: the share of the training captions in whose place the empty text is told, so that the model also knows images
    of which it is told nothing. longer: what becomes of longer texts: `refused`, or `cut` after their last character
    that fits, with a warning. encoder: a frozen encoder of sentences that reads the texts instead of one that is
    trained with the model, a folder or an id of the hub (extra `[text]`); features: of its states, its own if 0.

    The value of n texts is int16 (n, 1 + bytes of the longest): `BEGIN`, the bytes, `PADDING`. With an encoder it is
    float32 (n, tokens of the longest, 1 + features): 1 and a token's state, or only 0.
    """

    length: int = 128
    drop: float = 0.1
    longer: Literal["refused", "cut"] = "refused"
    encoder: str = ""
    features: int = 0

    name: ClassVar[str] = "text"
    adjective: ClassVar[str] = "text-conditional"
    noun: ClassVar[str] = "the text"
    captioned: ClassVar[bool] = True
    needs: ClassVar[str] = "--text TEXT"
    flag: ClassVar[str] = 'Text-conditional: what the images show, or what to do, in words; "" says nothing.'

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"text needs a length of at least 1 byte, got {self.length}")
        if self.features < 0 or (self.features and not self.encoder):
            raise ValueError(f"text: {self.features} features are for an encoder that has so many")
        if not 0 <= self.drop < 1:
            raise ValueError(f"text: the share of captions to drop must lie in [0, 1), got {self.drop}")
        if self.longer not in ("refused", "cut"):
            raise ValueError(f"text: longer ones are refused or cut, got {self.longer!r}")

    @property
    def open(self) -> str | None:
        wanted = "text: how many features the states of its encoder have, where they are not those of training data"
        return wanted if self.encoder and not self.features else None

    def settled(self, data: ImageData) -> Text:
        if self.open is None:
            return self
        return replace(self, features=sentence_encoder(self.encoder)("").shape[1])

    def wanted(self, shape: Shape) -> str:
        return f'a text of at most {self.length} bytes, "" to say nothing'

    def check(self, value: Any, count: int, shape: Shape) -> Tensor:
        """Codes of one text for all images or of one for each. ValueError for what is not text, or too long."""
        import torch

        kind = (torch.float32, 3) if self.encoder else (torch.int16, 2)
        if isinstance(value, torch.Tensor) and (value.dtype, value.dim()) == kind:
            given: Any = value
        elif isinstance(value, str):
            given = [value] * count
        else:
            given = value.tolist() if isinstance(value, np.ndarray) else value
            if not isinstance(given, Sequence) or isinstance(given, str | bytes | bytearray):
                raise ValueError(f"text must be a str, or a list of one for each image, got {_kind(value)}")
        if isinstance(given, torch.Tensor) and given.dim() == 3 and given.shape[2] != 1 + self.features:
            raise ValueError(f"text: states must have 1 + {self.features} numbers each, got {given.shape[2]}")
        if kind[0] == torch.int16 and isinstance(given, torch.Tensor):
            fits = 1 <= given.shape[1] <= 1 + self.length and bool(((given >= 0) & (given < NUM_CODES)).all())
            if not fits or bool((given[:, 0] != BEGIN).any()):
                raise ValueError("text: codes must be those of Text.codes")
        if len(given) != count:
            raise ValueError(f"text must hold {count} texts, as many as there are images, got {len(given)}")
        if isinstance(given, torch.Tensor):
            return given
        self._say_cut(given)
        return self.codes(given)

    def codes(self, texts: Sequence[str]) -> Tensor:
        """The value of these texts."""
        import torch
        from torch.nn.functional import pad

        encoded = [self._bytes(text) for text in texts]
        if self.encoder:
            encode = sentence_encoder(self.encoder)
            states = [pad(encode(one.decode()), (1, 0), value=1.0)[: self.length + 2] for one in encoded]
            return torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
        codes = np.full((len(texts), 1 + max(map(len, encoded))), PADDING, np.int16)
        codes[:, 0] = BEGIN
        for row, found in zip(codes, encoded, strict=True):
            row[1 : 1 + len(found)] = np.frombuffer(found, np.uint8)
        return torch.from_numpy(codes)

    def of(self, data: ImageData) -> Tensor:
        """The first caption of each image."""
        return self.codes([wordings[0] for wordings in captions_of(data)])

    def suits(self, data: ImageData) -> None:
        try:
            texts = {one for wordings in captions_of(data) for one in wordings}
            if data.captions is None:  # of all classes, also where only some images are at hand
                texts.update(one for name in class_names(data) for one in class_captions(name))
            self._say_cut(sorted(texts))
        except ValueError as error:
            hint = "" if isinstance(error, DataError) else f"; text:{self.length}:{self.drop:g}:cut cuts longer ones"
            raise DataError(f"{data.name}: {error}{hint}") from None

    def varied(self, data: ImageData, draws: Sequence[int]) -> Tensor:
        """One of the captions of each image, or none: as `draws` has it, a number of 63 random bits for each."""
        texts = []
        for wordings, draw in zip(captions_of(data), draws, strict=True):
            dropped = (draw >> 32) * 2.0**-31 < self.drop
            texts.append("" if dropped else wordings[(draw & 0xFFFFFFFF) % len(wordings)])
        return self.codes(texts)

    def nothing(self, value: Tensor) -> Tensor:
        return (
            self.codes([""] * len(value)).to(value.device) if self.encoder else value.new_full((len(value), 1), BEGIN)
        )

    def example(self, images: Tensor) -> Tensor:
        return self.check("x" * self.length, len(images), (0, 0, 0))

    def said(self, value: Tensor) -> list[str]:
        return [] if self.encoder else [bytes(code for code in row if code < BEGIN).decode() for row in value.tolist()]

    def _say_cut(self, texts: Sequence[str]) -> None:
        """A warning if some are longer than what is read of them. ValueError as of `_bytes`."""
        cut = [text for text in texts if len(self._bytes(text)) < len(text.encode())]
        if cut:
            much = f"{shorten(cut[0], 40, placeholder='...')!a} has {len(cut[0].encode())} bytes"
            warnings.warn(f"longer texts are cut, {len(cut):,}: {much}, the model reads {self.length}", stacklevel=3)

    def _bytes(self, text: Any) -> bytes:
        """What is read of a text. ValueError for what is not text, or too long."""
        if not isinstance(text, str):
            raise ValueError(f"text must be a str, or a list of one for each image, got {_kind(text)} among them")
        shown = ascii(shorten(text, 40, placeholder="..."))
        try:
            found = text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"text: {shown} has half a character, a lone surrogate, at {error.start}") from None
        if len(found) <= self.length:
            return found
        if self.longer == "refused":
            raise ValueError(f"text: {shown} has {len(found)} bytes, the model reads {self.length}")
        return found[: self.length].decode(errors="ignore").encode()  # without the character that was cut in two


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


@lru_cache(maxsize=2)
def sentence_encoder(name: str) -> Callable[[str], Tensor]:
    """What makes of a text the float32 states (m, e) of its tokens: a frozen encoder, a folder or an id of the hub.

    Weights come from safetensors alone, and no code from the hub is run. Nothing notices that a hub changes them: name
    a folder where that matters. ValueError, in one line, if it cannot be had, or cannot read a text.
    """
    import torch

    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        raise ValueError(
            "text: a sentence encoder needs transformers: pip install 'image-transformer-pytorch[text]'"
        ) from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModel.from_pretrained(name, use_safetensors=True, dtype=torch.float32).eval().requires_grad_(False)
    except Exception as error:  # OSError, ValueError, ImportError, ...: whatever the hub and the files are missing
        raise ValueError(
            f"text: the sentence encoder {name!r} cannot be loaded: {str(error).splitlines()[0]}"
        ) from None
    model = model.get_encoder() if model.config.is_encoder_decoder else model

    @lru_cache(maxsize=REMEMBERED)
    def encode(text: str) -> Tensor:
        try:
            with torch.inference_mode():
                states: Tensor = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        except Exception as error:  # a text that is longer than it can read, or, of some, the empty one
            raise ValueError(f"text: {name} cannot read {text[:40]!a}: {str(error).splitlines()[0]}") from None
        return states

    return encode
