"""The configuration of a model: one frozen dataclass for each family of networks, whose fields are flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from image_transformer.conditions.base import Condition
from image_transformer.conditions.frames import Action, Frames
from image_transformer.conditions.label import Label
from image_transformer.conditions.low import Low
from image_transformer.conditions.source import Source
from image_transformer.conditions.text import Text
from image_transformer.config.checks import check, check_choices, check_least, check_lists
from image_transformer.geometry.order import BlockRaster, Order, Raster, Wavefront
from image_transformer.geometry.patterns import Dilated, Full, Local1D, Local2D, Nothing, Pattern, attends

ORDERS = (Raster, BlockRaster, Wavefront)
PATTERNS = (Full, Local1D, Local2D, Dilated, Nothing)
CONDITIONS: tuple[type[Condition], ...] = (Label, Low, Source, Text, Frames, Action)


@dataclass(frozen=True)
class ModelConfig:
    """What every model has, whatever its network."""

    family: ClassVar[str]

    shape: tuple[int, int, int] = (3, 32, 32)
    """Channels (1 or 3), height and width of the images."""
    likelihood: Literal["categorical", "dmol", "chained"] = "dmol"
    """256-way softmax per sub-pixel, a mixture of discretized logistics per pixel, or chained softmaxes per pixel."""
    components: int = 10
    """Logistics in the mixture (dmol only)."""
    min_log_scale: float = -7.0
    """The smallest log-scale of a logistic, on values of [-1, 1] (dmol, chained): with -7 a value that is certain still
    costs 0.039 bits (dmol), with -8 0.00002. Drawings need less than photographs."""
    temperature: float = 1.0
    """Built into the model, in its likelihoods as in its samples: below 1 its conditionals are sharper. `export
    --calibrate` finds the one at which samples are as likely as photographs."""
    order: Order = Raster()
    """Generation order: raster, block-raster:ROWSxCOLUMNS, or wavefront:SLOPE (modern family only)."""
    conditions: tuple[Condition, ...] = ()
    """What the model is told of an image: label (its class; label:NAME,NAME,... if not those of the data; all families
    but pixelrnn, pixelcnn and megabyte); in the modern and the paper's family also low:FACTOR (super-resolution: the
    means of its boxes of FACTOR x FACTOR pixels); in the modern one also text:LENGTH:DROP (a caption of at most LENGTH
    bytes; a share DROP of those of the training are left out; docs/words.md has more of its fields), source:SIGHT (an
    image that it is made of; SIGHT is near, for edits that go by what lies around a pixel, or all), frames:COUNT:SIGHT
    (the COUNT frames of a clip before it) and action (what was done before it; action:NAME,NAME,... if not those of
    the data)."""
    width: int = 512
    """Model width."""

    def __post_init__(self) -> None:
        check_lists(self, "model")
        check_choices(self, "model")
        check(isinstance(self.order, ORDERS), f"model.order must be an order, such as Raster(), got {self.order!r}")
        check(len(self.shape) == 3, f"model.shape must be channels, height and width, got {self.shape}")
        check(self.shape[0] in (1, 3), f"model.shape: channels must be 1 or 3, got {self.shape[0]}")
        check(min(self.shape) >= 1, f"model.shape: height and width must be positive, got {self.shape}")
        check_least(self, "model", 1, "components", "width")
        check(self.temperature > 0, f"model.temperature must be positive, got {self.temperature}")
        check(-20 <= self.min_log_scale <= 0, f"model.min_log_scale must lie in [-20, 0], got {self.min_log_scale}")
        names = [condition.name for condition in self.conditions]
        check(len(set(names)) == len(names), f"model.conditions: each may be there once, got {', '.join(names)}")
        for condition in self.conditions:
            try:
                condition.fit(self.shape)
            except ValueError as error:
                raise ValueError(f"model.conditions: {error}") from None

    @property
    def captioned(self) -> bool:
        """Whether training takes what the model is told from captions."""
        return any(condition.captioned for condition in self.conditions)

    def condition(self, kind: type[Condition]) -> Any:
        """The model's condition of this kind; None if it has none."""
        return next((condition for condition in self.conditions if isinstance(condition, kind)), None)


@dataclass(frozen=True)
class Transformer(ModelConfig):
    """What the transformers have in common."""

    attention: tuple[Pattern, ...] = (Local1D(256, 256),)
    """Patterns of the layers, repeated to the depth: full, local1d:QUERY:MEMORY, local2d:HxW:HxW,
    dilated:QUERY:MEMORY:COUNT:GAP, none (a feed-forward layer alone; modern family only)."""
    depth: int = 12
    """Layers."""
    heads: int = 8
    """Attention heads."""
    attention_width: int | None = None
    """Total width of queries, keys and values; the model width if not given."""
    feed_forward: int = 2048
    """Hidden width of the feed-forward layers."""
    dropout: float = 0.0
    """Dropout on every residual branch and on the input."""
    encoder_depth: int = 2
    """Layers of each encoder: of the low-resolution image, the text, the source, the frames."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(self.attention), "model.attention: at least one pattern is needed")
        for one in self.attention:
            check(isinstance(one, PATTERNS), f"model.attention: {one!r} is no pattern, such as Full()")
        check_least(self, "model", 1, "depth", "heads", "attention_width", "feed_forward", "encoder_depth")
        check(0 <= self.dropout < 1, f"model.dropout must lie in [0, 1), got {self.dropout}")
        total = self.attention_width or self.width
        rotary = " (rotary positions need head widths that 4 divides)" if self.head_multiple > 1 else ""
        check(
            total % (self.heads * self.head_multiple) == 0,
            f"{self.heads} heads do not divide the attention width {total} evenly{rotary}",
        )

    head_multiple: ClassVar[int] = 1  # what the width of a head must be a multiple of

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The pattern of each layer."""
        return tuple(self.attention[i % len(self.attention)] for i in range(self.depth))

    @property
    def head_width(self) -> int:
        return (self.attention_width or self.width) // self.heads

    @property
    def groups(self) -> int:
        """How many heads of queries share one head of keys and values."""
        return 1


@dataclass(frozen=True)
class Paper(Transformer):
    """The paper's blocks: post-norm, ReLU, inputs shifted along the sequence."""

    family: ClassVar[str] = "paper"

    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    """Position codes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            not isinstance(self.order, Wavefront),
            "the paper family shifts its inputs along the sequence, so no two pixels can be drawn together: "
            "the wavefront order needs the modern family, the paper's goes with --model.order raster",
        )
        check(
            all(attends(one) for one in self.attention),
            "every layer of the paper family attends: none is for the modern family",
        )
        check(
            self.positions != "sinusoidal" or self.width % 4 == 0,
            f"sinusoidal positions need a model.width that 4 divides, got {self.width}",
        )


@dataclass(frozen=True)
class Modern(Transformer):
    """Modern blocks: pre-norm, rotary, gated, inputs from generated neighbours."""

    family: ClassVar[str] = "modern"
    head_multiple: ClassVar[int] = 4

    order: Order = Wavefront(1)
    """Generation order: raster, block-raster:ROWSxCOLUMNS, or wavefront:SLOPE."""
    kv_heads: int | None = None
    """Heads of keys and values, each shared by heads / kv_heads of the queries; as many as heads if not given. Fewer
    make the cache smaller."""

    mix: int = 6
    """Nearest generated pixels whose states every feed-forward layer mixes into a position's own; 0 for none."""
    places: Literal["learned", "none"] = "learned"
    """Codes of rows and columns; with none, and no attention, a model does not know where in an image it is."""
    look: bool = False
    """Whether every layer attends to the source or the frames before, near or all of it as the condition says; if not,
    a pixel is only given what was read at its own place. Helps where things move; training and drawing take longer."""
    gate: Literal["silu", "relu"] = "silu"
    """What opens the gates of the feed-forward layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.mix <= 17, f"model.mix must lie between 0 and 17, got {self.mix}")
        seen = self.condition(Source) or self.condition(Frames)
        check(seen is not None or not self.look, "model.look needs a source or frames among model.conditions")
        kv = self.heads if self.kv_heads is None else self.kv_heads
        check(kv >= 1 and self.heads % kv == 0, f"model.kv_heads must divide the {self.heads} heads, got {kv}")

    @property
    def groups(self) -> int:
        return self.heads // (self.kv_heads or self.heads)
