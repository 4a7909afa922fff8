"""Frozen encoders of sentences from the hub, in the place of the one that is trained with a model (extra `[text]`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

REMEMBERED = 2**16  # texts whose states are kept

Encode = Callable[[str], "Tensor"]  # a text -> float32 states (m, e) of its tokens


@lru_cache(maxsize=2)
def sentence_encoder(name: str) -> Encode:
    """The encoder of that name: a folder, or an id of the hub; each text is read alone, once.

    Weights come from safetensors alone, and no code from the hub is run. ValueError, in one line, if it cannot be had.
    """
    import torch

    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        raise ValueError("text: a sentence encoder needs transformers: pip install image-transformer[text]") from None
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
        with torch.inference_mode():
            states: Tensor = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        return states

    return encode
