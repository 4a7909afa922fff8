"""The frames before an image: a clip is drawn frame by frame, each given those before it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from image_transformer.conditions.base import Condition, Shape, check_sight
from image_transformer.conditions.label import Label
from image_transformer.data.images import NONE, DataError, ImageData

if TYPE_CHECKING:
    from torch import Tensor

MOST = 3  # pixels that a picture is guessed to move from one frame to the next, each way


@dataclass(frozen=True)
class Frames(Condition):
    """Video: the `count` frames before an image, uint8 (b, t, c, h, w), the last one last.

    Where there are fewer, as at the start of a clip, the model is told that they are not there; of more, it is told
    the last ones. sight: as in `Source`.
    """

    count: int = 2
    sight: Literal["near", "all"] = "near"

    name: ClassVar[str] = "frames"
    adjective: ClassVar[str] = "of clips"
    noun: ClassVar[str] = "the frames before"
    instead: ClassVar[tuple[str, str]] = ("continues clips", "rollout {model} CLIP")

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"frames needs at least one frame, got {self.count}")
        check_sight(self.name, self.sight)

    def wanted(self, shape: Shape) -> str:
        return f"uint8 frames (n, t, {', '.join(map(str, shape))}), the last one last"

    def check(self, value: Any, count: int, shape: Shape) -> Tensor:
        """int16 (count, self.count, c, h, w), -1 where there is no frame; of (t, c, h, w) for all, or one for each."""
        import torch

        kind = str(getattr(value, "dtype", ""))
        if kind not in ("torch.uint8", "torch.int16"):
            raise ValueError(
                f"frames must be a torch.uint8 tensor of values 0..255, got {kind or type(value).__name__}"
            )
        frames: Tensor = value[None].expand(count, *[-1] * value.dim()) if value.dim() == 4 else value
        if frames.dim() != 5 or tuple(frames.shape[2:]) != shape:
            expected = ", ".join(map(str, shape))
            raise ValueError(f"frames must have shape (b, t, {expected}) for this model, got {tuple(value.shape)}")
        if len(frames) != count:
            raise ValueError(f"frames must hold one clip for each of {count} images, got {len(frames)}")
        if kind == "torch.int16" and frames.numel() and not NONE <= int(frames.min()) <= int(frames.max()) <= 255:
            raise ValueError(f"int16 frames hold values 0..255, or {NONE} where there is no frame")
        missing = torch.full((count, max(0, self.count - frames.shape[1]), *shape), NONE, dtype=torch.int16)
        return torch.cat([missing.to(frames.device), frames[:, -self.count :].to(torch.int16)], 1)

    def of(self, data: ImageData) -> Tensor:
        import torch

        self.suits(data)
        assert data.past is not None
        return torch.from_numpy(data.past.before(self.count))

    def suits(self, data: ImageData) -> None:
        if data.past is None:
            raise DataError(
                f"{data.name}: the images are no frames of clips, which this model needs: bouncing has some, animated "
                "pictures, videos, folders of frames and what image-transformer record writes"
            )

    def example(self, images: Tensor) -> Tensor:
        return images[:, None].repeat_interleave(self.count, 1).short()

    def shown(self, value: Tensor) -> NDArray[np.uint8]:
        """The last frame; black where there is none."""
        return value[:, -1].clamp(min=0).cpu().numpy().astype(np.uint8)

    def guess(self, value: Tensor) -> Tensor:
        """The last frame, moved as the whole picture has moved before it; black where there is none."""
        import torch

        last = value[:, -1].clamp(min=0)
        if self.count == 1:
            return last.to(torch.uint8)
        before = value[:, -2].clamp(min=0)
        ways = [(0, 0), *(way for way in product(range(-MOST, MOST + 1), repeat=2) if way != (0, 0))]
        off = torch.stack([(_moved(before, way) - last).abs().flatten(1).sum(1) for way in ways])  # (ways, n)
        best = off.argmin(0).tolist()
        return torch.stack([_moved(one, ways[way]) for one, way in zip(last, best, strict=True)]).to(torch.uint8)


def _moved(images: Tensor, way: tuple[int, ...]) -> Tensor:
    """Images (..., h, w) moved so many pixels down and right; what comes in is like the side."""
    import torch

    row, col = (torch.arange(n) - by for n, by in zip(images.shape[-2:], way, strict=True))
    return images[..., row.clamp(0, len(row) - 1), :][..., col.clamp(0, len(col) - 1)]


@dataclass(frozen=True)
class Action(Label):
    """What was done before a frame, one of the actions `names`; of the first frame of a clip, `start`, their last.

    Left empty, the actions are those of the training data.
    """

    name: ClassVar[str] = "action"
    adjective: ClassVar[str] = "told actions"
    noun: ClassVar[str] = "the action"
    needs: ClassVar[str] = "--actions ACTION..."
    flag: ClassVar[str] = "Of play: the action before the frame, by name or number."
    word: ClassVar[tuple[str, str]] = ("action", "actions")
