"""Frozen encoders of sentences from the hub, in the place of the one that is trained with a model (extra `[text]`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

REMEMBERED = 2**12  # texts whose states are kept

Encode = Callable[[str], "Tensor"]  # a text -> float32 states (m, e) of its tokens


@lru_cache(maxsize=2)
def sentence_encoder(name: str) -> Encode:
    """The encoder of that name, a folder or an id of the hub, on the CPU; each text is read alone.

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
