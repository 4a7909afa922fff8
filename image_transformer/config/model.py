"""The typed configuration of a run: what a recipe sets, the command line overrides and `config.yaml` stores.

Frozen dataclasses whose fields are flags (`--model.depth 6`). Importing this must not import torch: `--help` is fast.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from image_transformer.files import write_atomically
from image_transformer.geometry.order import BlockRaster, Order, Raster, Wavefront
from image_transformer.geometry.orientation import AS_IT_IS, EIGHT, LEFT_RIGHT, Orientation
from image_transformer.geometry.patterns import Dilated, Full, Local1D, Local2D, Pattern

ORDERS = (Raster, BlockRaster, Wavefront)
PATTERNS = (Full, Local1D, Local2D, Dilated)


@dataclass(frozen=True)
class ModelConfig:
    """The network and its likelihood."""

    family: Literal["paper", "modern"] = "modern"
    """Blocks of the paper (post-norm, ReLU, shifted inputs) or modern ones (pre-norm, rotary, neighbour inputs)."""
    shape: tuple[int, int, int] = (3, 32, 32)
    """Channels (1 or 3), height and width of the images."""
    likelihood: Literal["categorical", "dmol", "chained"] = "dmol"
    """256-way softmax per sub-pixel, a mixture of discretized logistics per pixel, or chained softmaxes per pixel."""
    components: int = 10
    """Logistics in the mixture (dmol only)."""
    order: Order = None  # type: ignore[assignment]  # set below
    """Generation order: raster, block-raster:ROWSxCOLUMNS, or wavefront:SLOPE (modern family only). If not given,
    wavefront:1 for the modern family and raster for the paper's."""
    attention: tuple[Pattern, ...] = (Local1D(256, 256),)
    """Patterns of the layers, repeated to the depth: full, local1d:QUERY:MEMORY, local2d:HxW:HxW,
    dilated:QUERY:MEMORY:COUNT:GAP."""
    depth: int = 12
    """Layers."""
    width: int = 512
    """Model width."""
    heads: int = 8
    """Attention heads."""
    kv_heads: int | None = None
    """Heads of keys and values, each shared by heads / kv_heads of the queries (modern family); as many as heads if
    not given. Fewer make the cache smaller."""
    attention_width: int | None = None
    """Total width of queries, keys and values; the model width if not given."""
    feed_forward: int = 2048
    """Hidden width of the feed-forward layers."""
    dropout: float = 0.0
    """Dropout on every residual branch and on the input."""
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    """Position codes of the paper family; the modern one is rotary."""
    classes: tuple[str, ...] | None = None
    """Class-conditional: the names of the classes; given empty, those of the training data. Not conditional if None."""
    factor: int | None = None
    """Super-resolution: the model is given the means of boxes of FACTOR x FACTOR pixels. Not conditional if None."""
    encoder_depth: int = 2
    """Layers of the encoder that reads the low-resolution image (super-resolution only)."""

    def __post_init__(self) -> None:
        if self.order is None:
            object.__setattr__(self, "order", Wavefront(1) if self.family == "modern" else Raster())
        _check_choices(self, "model")
        _check(len(self.shape) == 3, f"model.shape must be channels, height and width, got {self.shape}")
        _check(self.shape[0] in (1, 3), f"model.shape: channels must be 1 or 3, got {self.shape[0]}")
        _check(min(self.shape) >= 1, f"model.shape: height and width must be positive, got {self.shape}")
        _check(bool(self.attention), "model.attention: at least one pattern is needed")
        for name in ("components", "depth", "width", "heads", "feed_forward", "encoder_depth"):
            _check(getattr(self, name) >= 1, f"model.{name} must be at least 1, got {getattr(self, name)}")
        width = self.attention_width
        _check(width is None or width >= 1, f"model.attention_width must be at least 1, got {width}")
        kv = self.heads if self.kv_heads is None else self.kv_heads
        _check(kv >= 1 and self.heads % kv == 0, f"model.kv_heads must divide the {self.heads} heads, got {kv}")
        if self.family == "paper":
            _check(kv == self.heads, "model.kv_heads is an option of the modern family")
            _check(
                not isinstance(self.order, Wavefront),
                "the paper family shifts its inputs along the sequence, so no two pixels can be drawn together: "
                "the wavefront order needs the modern family, the paper's goes with --model.order raster",
            )
        for name in self.classes or ():
            _check((self.classes or ()).count(name) == 1, f"model.classes: {name!r} is there more than once")
        _, height, width_px = self.shape
        _check(
            self.factor is None or (self.factor > 1 and height % self.factor == 0 and width_px % self.factor == 0),
            f"model.factor must be at least 2 and divide the height {height} and width {width_px}, got {self.factor}",
        )
        _check(0 <= self.dropout < 1, f"model.dropout must lie in [0, 1), got {self.dropout}")
        total = self.attention_width or self.width
        multiple = self.heads * (4 if self.family == "modern" else 1)
        why = " (rotary positions need head widths that 4 divides)" if self.family == "modern" else ""
        _check(total % multiple == 0, f"{self.heads} heads do not divide the attention width {total} evenly{why}")
        if self.family == "paper" and self.positions == "sinusoidal":
            _check(
                self.width % 4 == 0,
                f"sinusoidal positions need a model.width that 4 divides, got {self.width}",
            )

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The pattern of each layer."""
        return tuple(self.attention[i % len(self.attention)] for i in range(self.depth))

    @property
    def low_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of the low-resolution image that the model is given; None if it is not."""
        channels, height, width = self.shape
        return (channels, height // self.factor, width // self.factor) if self.factor else None

    @property
    def head_width(self) -> int:
        return (self.attention_width or self.width) // self.heads


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from."""

    source: str = "cifar10-mini"
    """cifar10-mini, cifar10, a folder of images, Parquet file(s), a .npy or .npz of uint8, or a hub id."""
    size: tuple[int, int] | None = None
    """Resize every image to this height and width."""
    skip_bad: bool = False
    """Leave out images that cannot be read, instead of stopping."""
    flips: bool = False
    """Augment training with horizontal flips (reported wherever bits/dim are)."""
    orientations: bool = False
    """Augment training with all eight orientations (square images only), so that completion can start from any side."""

    @property
    def trained_orientations(self) -> tuple[Orientation, ...]:
        """The orientations in which a model sees its training images, equally often."""
        return EIGHT if self.orientations else (AS_IT_IS, LEFT_RIGHT) if self.flips else (AS_IT_IS,)

    @property
    def augmentation(self) -> str | None:
        """What is done to the training images, in one word: "orientations" (flips among them), "flips", or None."""
        return "orientations" if self.orientations else "flips" if self.flips else None


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation: lengths of time are counted in images seen."""

    images: int = 100_000
    """Images to train on in all."""
    minutes: float | None = None
    """Stop after this many minutes of training, if `images` are not reached before; the schedule follows the clock."""
    batch: int = 16
    """Images per update."""
    micro_batch: int | None = None
    """Images per pass: gradients are accumulated over the passes of one update."""
    optimizer: Literal["adam", "adamw", "muon"] = "muon"
    """The paper's Adam; AdamW; or Muon for the matrices of the blocks with AdamW for the rest."""
    schedule: Literal["vaswani", "wsd"] = "wsd"
    """Linear warm-up, then inverse square root of the updates; or warm-up, constant, linear decay to zero."""
    lr: float = 1e-3
    """Learning rate of Adam and AdamW. With the vaswani schedule, the tensor2tensor factor: 0.1 is Vaswani's own."""
    muon_lr: float = 0.02
    """Learning rate of Muon."""
    weight_decay: float = 0.0
    """Decoupled weight decay (adamw, muon)."""
    warmup: int = 1000
    """Updates of warm-up (vaswani) or images of warm-up (wsd)."""
    decay: float = 0.5
    """Last fraction of the training over which the learning rate falls to zero (wsd)."""
    clip: float | None = None
    """Largest gradient norm; none if not given."""
    ema: float | None = None
    """Decay per update of a moving average of the weights, which is then what is evaluated and saved for use."""
    closed_form_start: bool = False
    """Start the modern family from ridge regression on the neighbours, before the first update."""
    bf16: Literal["auto", "on", "off"] = "auto"
    """bfloat16 autocast in training where the hardware is fast at it; likelihoods are float32 always."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of the loss: auto is on for a GPU and off for a CPU, where it needs g++ and a minute."""
    seed: int = 0
    """Seed of weights, data order and dropout."""
    validate_every: int = 10_000
    """Images between validations."""
    validation_images: int | None = None
    """Validation images to use; all if not given."""
    sample_every: int = 50_000
    """Images between sample pictures."""
    save_every: int = 50_000
    """Images between checkpoints."""
    keep: int = 2
    """Newest checkpoints to keep, beside the best."""
    tensorboard: bool = False
    """Also write TensorBoard event files (needs the package tensorboard)."""

    def __post_init__(self) -> None:
        for name in (
            "images",
            "batch",
            "micro_batch",
            "validation_images",
            "validate_every",
            "sample_every",
            "save_every",
            "keep",
        ):
            value = getattr(self, name)
            _check(value is None or value >= 1, f"train.{name} must be at least 1, got {value}")
        for name in ("minutes", "lr", "muon_lr", "clip"):
            value = getattr(self, name)
            _check(value is None or value > 0, f"train.{name} must be positive, got {value}")
        for name in ("weight_decay", "warmup", "seed"):
            _check(getattr(self, name) >= 0, f"train.{name} must not be negative, got {getattr(self, name)}")
        _check_choices(self, "train")
        micro = self.micro_batch or self.batch
        _check(self.batch % micro == 0, f"train.micro_batch {micro} does not divide train.batch {self.batch}")
        _check(0 <= self.decay <= 1, f"train.decay must lie in [0, 1], got {self.decay}")
        _check(self.ema is None or 0 < self.ema < 1, f"train.ema must lie in (0, 1), got {self.ema}")


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a run."""

    recipe: str = "custom"
    """Name of the recipe it came from."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        _, height, width = self.model.shape
        _check(
            height == width or not self.data.orientations,
            f"data.orientations needs square images, model.shape has {height}x{width}",
        )


@dataclass(frozen=True)
class Plan:
    """How much to measure of a model on test images. ValueError, at once, for what cannot be measured."""

    images: int = 1000
    """Test images; a model for super-resolution draws each once at each temperature."""
    several: int = 64
    """Super-resolution: of these, images that are drawn several times, for their mean and diversity."""
    samples: int = 16
    """Super-resolution: how many times each of those is drawn."""
    temperatures: tuple[float, ...] = (1.0, 0.9, 0.8)
    """Super-resolution: temperatures to draw at."""
    seed: int = 0
    """The noise of all samples follows from this."""

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("several", 1), ("samples", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.temperatures or min(self.temperatures) <= 0:
            raise ValueError(f"temperatures must be some positive numbers, got {self.temperatures}")


def to_text(value: Order | Pattern) -> str:
    """An order or pattern as one word: its name and numbers, such as local2d:8x32:8x16. `from_text` reads it back."""
    numbers = [getattr(value, f.name) for f in fields(value)]
    return ":".join([value.name, *("x".join(map(str, n)) if isinstance(n, tuple) else str(n) for n in numbers)])


def from_text(text: str, kinds: tuple[Any, ...]) -> Any:
    """The order or pattern that `text` names: a name, then its numbers. ValueError says what is possible."""
    name, *words = text.strip().lower().split(":")
    kind = next((k for k in kinds if k.name == name), None)
    if kind is None:
        raise ValueError(f"unknown name {name!r}; {did_you_mean(name, [k.name for k in kinds])}")
    wanted = [f"{f.name.upper()}_ROWSxCOLUMNS" if "tuple" in f.type else f.name.upper() for f in fields(kind)]
    try:
        numbers = [
            tuple(map(int, w.split("x"))) if "tuple" in f.type else int(w)
            for f, w in zip(fields(kind), words, strict=False)
        ]
        if len(words) != len(wanted) or any(isinstance(n, tuple) and len(n) != 2 for n in numbers):
            raise ValueError
    except ValueError:
        raise ValueError(f"expected {':'.join([name, *wanted])}, got {text!r}") from None
    return kind(*numbers)


def did_you_mean(word: str, valid: Sequence[str]) -> str:
    """'did you mean ...?' for a mistyped word, or the list of valid ones."""
    close = difflib.get_close_matches(word, valid, n=1)
    return f"did you mean {close[0]!r}?" if close else f"expected one of: {', '.join(valid)}"


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain mappings, lists, strings and numbers, as YAML stores them."""

    def plain(value: Any) -> Any:
        if isinstance(value, ORDERS + PATTERNS):
            return to_text(value)
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        return [plain(v) for v in value] if isinstance(value, tuple) else value

    return plain(config)


def from_dict(kind: type, data: Any, where: str = "") -> Any:
    """The inverse of `to_dict`. ValueError names an unknown field (and the nearest valid one) or a wrong value."""
    if not isinstance(data, dict):
        raise ValueError(f"{where or 'the configuration'} must be a mapping of fields, got {type(data).__name__}")
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in data.items():
        if name not in hints:
            raise ValueError(f"unknown field {where}{name}; {did_you_mean(str(name), list(hints))}")
        values[name] = _parse(hints[name], value, f"{where}{name}")
    return kind(**values)


def _parse(hint: Any, value: Any, where: str) -> Any:
    args = typing.get_args(hint)
    try:
        if dataclasses.is_dataclass(hint) and hint not in ORDERS + PATTERNS:
            return from_dict(typing.cast(type, hint), value, f"{where}.")
        if hint == Order:
            return from_text(value, ORDERS)
        if hint == Pattern:
            return from_text(value, PATTERNS)
        if typing.get_origin(hint) is tuple:
            items = [args[0]] * len(value) if args[-1] is ... else args
            return tuple(_parse(item, v, where) for item, v in zip(items, value, strict=True))
        if typing.get_origin(hint) is Literal:
            if value not in args:
                raise ValueError(did_you_mean(str(value), [str(a) for a in args]))
            return value
        if isinstance(hint, types.UnionType):
            return None if value is None else _parse(args[0], value, where)
        if hint is float and type(value) is int:
            return float(value)
        if type(value) is not hint:
            raise ValueError(f"expected {hint.__name__}")
        return value
    except (ValueError, TypeError, AttributeError) as error:
        if str(error).startswith(("unknown field", where)):
            raise
        raise ValueError(f"{where}: {error}, got {value!r}") from None


def save_config(config: RunConfig, path: Path) -> None:
    """Write `config` as YAML that `load_config` reads back; the file is replaced whole or not at all."""
    write_atomically(path, yaml.safe_dump(to_dict(config), sort_keys=False).encode())


def load_config(path: Path) -> RunConfig:
    """The configuration in a YAML file. ValueError names the file and what is wrong in it."""
    try:
        return from_dict(RunConfig, yaml.safe_load(path.read_text()))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def _check_choices(config: Any, where: str) -> None:
    """ValueError if a field is not one of the values that its Literal type lists."""
    for name, hint in typing.get_type_hints(type(config)).items():
        if typing.get_origin(hint) is Literal:
            value, choices = getattr(config, name), typing.get_args(hint)
            _check(value in choices, f"{where}.{name}: {did_you_mean(str(value), choices)}, got {value!r}")


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
