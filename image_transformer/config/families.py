"""The families of networks by name.

To add one: a dataclass like those in `config/model.py` or `config/rivals.py`, a place in `KINDS`, and its network in
`networks/`, named in `NETWORKS` of `image_transformer/model.py`.
"""

from __future__ import annotations

from image_transformer.config.model import ModelConfig, Modern, Paper
from image_transformer.config.rivals import GatedPixelCNN, PixelCNN, PixelCNNpp, PixelRNN

KINDS: tuple[type[ModelConfig], ...] = (Modern, Paper, PixelRNN, PixelCNN, GatedPixelCNN, PixelCNNpp)
FAMILIES: dict[str, type[ModelConfig]] = {kind.family: kind for kind in KINDS}
