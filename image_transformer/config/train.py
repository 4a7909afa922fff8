"""The configuration of a training: lengths of time are counted in images seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from image_transformer.config.checks import check, check_choices, check_least


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation: lengths of time are counted in images seen."""

    images: int = 100_000
    """Images to train on in all."""
    minutes: float | None = None
    """Stop after this many minutes of updates, if `images` are not reached before; the schedule follows the clock."""
    clock: Literal["wall", "cpu"] = "wall"
    """What `minutes` count: real time, or the processor's, which pauses and other work on the machine do not change."""
    batch: int = 16
    """Images per update."""
    micro_batch: int | Literal["auto"] | None = None
    """Images per pass: gradients are accumulated over the passes of one update, and are the same for any number. auto:
    all of them, or as many as fit into memory."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several processes, started by torchrun, divide the work: each has the whole model and some of the images; or
    besides only a part of every weight, of its gradient and of its optimizer's state, and so room for larger models."""
    recompute: bool = False
    """Keep of each block its input alone, and run it again for its gradient: a third more time, much less memory."""
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
    max_left_out: int = 10
    """How many updates in a row are left out because loss or gradient is not finite; one more ends the training."""
    ema: float | None = None
    """Decay per update of a moving average of the weights, which is then what is evaluated and saved for use."""
    noise: float = 0.0
    """Share of the pixels that the network sees through noise, in half of the training images; what it is to predict
    stays clean. Without it a model is thrown by its own small errors when it draws."""
    noise_levels: float = 15.0
    """Largest standard deviation of that noise in levels of 0 to 255; each image has its own, from 0 up."""
    init: str | None = None
    """Start from the weights of this model, a released one or a run folder, instead of from noise."""
    closed_form_start: bool = False
    """Before the first update: ridge regression on the neighbours (modern; rivals with a linear skip), and
    convolutions scaled to what they are given (rivals)."""
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
    sample_every: int | None = 50_000
    """Images between sample pictures; None: none are drawn."""
    save_every: int = 50_000
    """Images between checkpoints."""
    keep: int = 2
    """Newest checkpoints to keep, beside the best."""
    tensorboard: bool = False
    """Also write TensorBoard event files (needs the package tensorboard)."""

    def __post_init__(self) -> None:
        check_least(
            self, "train", 1, "images", "batch", "validation_images", "validate_every", "sample_every", "save_every",
            "keep",
        )  # fmt: skip
        check_least(self, "train", 0, "weight_decay", "warmup", "seed", "max_left_out")
        for name in ("minutes", "lr", "muon_lr", "clip"):
            value = getattr(self, name)
            check(value is None or value > 0, f"train.{name} must be positive, got {value}")
        check_choices(self, "train")
        if self.schedule == "vaswani":
            check_least(self, "train", 1, "warmup")
        if self.micro_batch != "auto":
            check_least(self, "train", 1, "micro_batch")
            micro = self.micro_batch or self.batch
            check(self.batch % micro == 0, f"train.micro_batch {micro} does not divide train.batch {self.batch}")
        elif self.parallel == "fsdp":
            raise ValueError("train.micro_batch auto cannot be tried out where weights are cut (fsdp): give a number")
        check(0 <= self.noise <= 1, f"train.noise must lie in [0, 1], got {self.noise}")
        check(self.noise_levels > 0, f"train.noise_levels must be positive, got {self.noise_levels}")
        check(0 <= self.decay <= 1, f"train.decay must lie in [0, 1], got {self.decay}")
        check(self.ema is None or 0 < self.ema < 1, f"train.ema must lie in (0, 1), got {self.ema}")
