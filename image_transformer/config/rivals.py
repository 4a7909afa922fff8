"""The configurations of the rivals: networks of other papers, to be compared with at equal terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from image_transformer.config.checks import check, check_least
from image_transformer.config.model import ModelConfig, Modern, Paper
from image_transformer.geometry.order import Raster


@dataclass(frozen=True)
class Rival(ModelConfig):
    """What the rivals have in common: layers of feature maps over the whole image, in raster order."""

    whole_pixels: ClassVar[bool] = False
    """Whether the network predicts all channels of a pixel at once, and so by dmol or chained alone."""

    width: int = 128
    """Hidden units of a layer, h in the papers."""
    depth: int = 12
    """Layers."""
    linear_skip: bool = False
    """Add the best linear prediction from the nearest pixels, fitted before training, to the means (dmol, chained): not
    of the papers, but what `modern` starts from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, "model", 1, "depth")
        check(isinstance(self.order, Raster), f"the {self.family} family runs in raster order alone")
        check(
            self.likelihood != "categorical" or not self.whole_pixels,
            f"the {self.family} family predicts whole pixels: dmol or chained",
        )
        check(
            self.likelihood != "categorical" or not self.linear_skip,
            "model.linear_skip adds to means, which categorical has not: it goes with dmol and chained",
        )


@dataclass(frozen=True)
class Stack(Rival):
    """Layers of one kind, then layers at each pixel."""

    kernel: int = 3
    """Pixels to a side of what a layer sees; the first layer sees 7."""
    head_width: int = 1024
    """Feature maps of the layers before the output."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, "model", 1, "head_width")
        check(self.kernel >= 1 and self.kernel % 2 == 1, f"model.kernel must be odd, got {self.kernel}")


@dataclass(frozen=True)
class PixelRNN(Stack):
    """Long short-term memory along rows or diagonals (van den Oord et al., 2016, *Pixel recurrent neural networks*)."""

    family: ClassVar[str] = "pixelrnn"

    layer: Literal["row", "diagonal"] = "row"
    """Row LSTM, or Diagonal BiLSTM, which sees nearly all earlier pixels whatever the kernel."""


@dataclass(frozen=True)
class PixelCNN(Stack):
    """Masked convolutions, with their blind spot (van den Oord et al., 2016, *Pixel recurrent neural networks*)."""

    family: ClassVar[str] = "pixelcnn"

    depth: int = 15
    """Layers."""


@dataclass(frozen=True)
class GatedPixelCNN(Stack):
    """A vertical and a horizontal stack of gated convolutions, without a blind spot (van den Oord et al., 2016b)."""

    family: ClassVar[str] = "gated-pixelcnn"

    depth: int = 15
    """Layers."""
    kernel: int = 5
    """Pixels to a side of what a layer sees; the first layer sees 7."""


@dataclass(frozen=True)
class PixelCNNpp(Rival):
    """PixelCNN++ (Salimans et al., 2017): gated residual layers that go down to a quarter of the size and up again."""

    family: ClassVar[str] = "pixelcnn++"
    whole_pixels: ClassVar[bool] = True

    width: int = 160
    """Feature maps."""
    depth: int = 5
    """Residual layers of each size, on the way down, and on the way up, with one more at the two larger ones."""
    dropout: float = 0.5
    """Dropout in every residual layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.dropout < 1, f"model.dropout must lie in [0, 1), got {self.dropout}")
        _, height, width = self.shape
        check(
            height % 4 == 0 and width % 4 == 0,
            f"the pixelcnn++ family halves the image twice: 4 must divide height and width, got {height}x{width}",
        )


@dataclass(frozen=True)
class Megabyte(Rival):
    """MEGABYTE (Yu et al., 2023): a transformer over patches, and a small one over the pixels of each."""

    family: ClassVar[str] = "megabyte"
    whole_pixels: ClassVar[bool] = True

    width: int = 512
    """Hidden units of the global model: those of a patch."""
    depth: int = 12
    """Layers of the global model."""
    patch: int = 4
    """Pixels of a patch, one after another in raster order."""
    heads: int = 8
    """Attention heads of a layer, of either model."""
    local_width: int = 256
    """Hidden units of the local model."""
    local_depth: int = 4
    """Layers of the local model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, "model", 1, "patch", "heads", "local_width", "local_depth")
        pixels = self.shape[1] * self.shape[2]
        check(pixels % self.patch == 0, f"model.patch must divide the image's {pixels} pixels, got {self.patch}")
        check(self.width % self.patch == 0, f"model.patch must divide model.width, got {self.patch} and {self.width}")
        check(
            self.width % self.heads == 0 and self.local_width % self.heads == 0,
            f"model.heads must divide both widths, got {self.heads} and {self.width}, {self.local_width}",
        )


KINDS: tuple[type[ModelConfig], ...] = (Modern, Paper, PixelRNN, PixelCNN, GatedPixelCNN, PixelCNNpp, Megabyte)
FAMILIES: dict[str, type[ModelConfig]] = {kind.family: kind for kind in KINDS}
"""All families of networks, by name; the network of each is named in `NETWORKS` of `image_transformer/model.py`."""
