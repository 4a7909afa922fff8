"""Continuing clips: each frame is drawn given those before it, as many as wanted, at a cost that is linear in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from image_transformer.conditions.base import Given, select
from image_transformer.conditions.frames import Frames
from image_transformer.config.sampling import Sampling
from image_transformer.inference.drawing import Drawing, noise
from image_transformer.inference.fixed_point import FixedPoint, first_guess, first_of, keys_of
from image_transformer.inference.sampling import Method, Progress, generate
from image_transformer.model import ImageModel, evaluating

FRAMES = 2**32  # more than a clip has: frame t of clip i is image i FRAMES + t
PATIENCE = 3  # passes after which frames that are not final are drawn step by step
FEW = 4  # clips for which guessing is faster than drawing all of them step by step


def rollout(
    model: ImageModel,
    frames: Tensor,
    steps: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    numbers: Sequence[int] | None = None,
    method: Method | None = None,
    progress: Progress | None = None,
    **told: Any,
) -> Tensor:
    """`steps` new frames of each clip, uint8 (n, t, c, h, w) -> (n, steps, c, h, w).

    frames: the clips so far, of any length, or none yet: (n, 0, c, h, w). The noise of a frame is a function of (seed,
    number of the clip, number of the frame), so a clip that is cut and continued is the clip.
    method: "fixed-point" guesses a frame, the one before it, moved as the picture has moved before, corrects that by
    passes over the whole frame, and draws step by step what is not settled after a few; "cached" and "naive" draw step
    by step at once. If not given, "fixed-point" for up to four clips and "cached" for more. The frames are the same but
    for rounding, and in float64 to the bit.
    seed, temperature, top_k, top_p: as in `generate`.
    told: what else the model is told, one value for each clip and step: action=[["left", "forward"]] of n x steps.
    progress: called with (frames done, frames in all).
    Raises ValueError for a model that is not of clips, and for arguments out of range or of a wrong shape.

    >>> it.rollout(video, clip, 3).shape                            # clip: uint8 (1, 2, 1, 8, 8)
    torch.Size([1, 3, 1, 8, 8])
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    rows = {name: _rows(name, value, len(frames), steps) for name, value in told.items()}
    method = method or ("fixed-point" if len(frames) <= FEW else "cached")
    clips = Clips(model, frames, Sampling(seed, temperature, top_k, top_p), numbers=numbers, method=method)
    drawn = []
    for step in range(steps):
        drawn.append(clips.step(**{name: [row[step] for row in value] for name, value in rows.items()}))
        if progress is not None:
            progress((step + 1) * len(frames), steps * len(frames))
    return torch.stack(drawn, 1)


def _rows(name: str, value: Any, count: int, steps: int) -> list[list[Any]]:
    """The rows of what is told, as lists; ValueError unless there is one of `steps` values for each clip."""
    value = value.tolist() if hasattr(value, "tolist") else value
    rows = list(value) if isinstance(value, list | tuple) else []
    if len(rows) != count or any(not isinstance(row, list | tuple) or len(row) != steps for row in rows):
        raise ValueError(f"{name} must hold a row of {steps}, one for each step, for each of {count} clips")
    return [list(row) for row in rows]


class Clips:
    """Clips in the making: every `step` draws a frame of each.

    fixed: what guesses, and remembers frames that have been drawn, perhaps for other clips, too.
    """

    def __init__(
        self, model: ImageModel, frames: Tensor, sampling: Sampling, *, numbers: Sequence[int] | None = None,
        method: Method = "fixed-point", fixed: FixedPoint | None = None,
    ) -> None:  # fmt: skip
        self.condition = check_clips(model, frames)
        if sampling.guidance != 1:
            raise ValueError("clips cannot be guided")
        self.model, self.sampling, self.method = model, sampling, method
        self.numbers = list(range(len(frames)) if numbers is None else numbers)
        if len(self.numbers) != len(frames):
            raise ValueError(f"numbers must hold one number for each of {len(frames)} clips, got {len(self.numbers)}")
        if not self.numbers or not 0 <= min(self.numbers) <= max(self.numbers) < FRAMES:
            raise ValueError(f"there must be clips, with numbers of at least 0 and below {FRAMES}, got {self.numbers}")
        self.time = frames.shape[1]
        self.window = frames[:, -self.condition.count :].cpu()
        self.fixed = fixed or FixedPoint(model)

    def step(self, **told: Any) -> Tensor:
        """The next frame of each clip, uint8 (n, c, h, w); what else the model is `told`, one value for each clip."""
        numbers = [number * FRAMES + self.time for number in self.numbers]
        how = self.sampling.options()
        told = {"frames": self.window, **told}
        if self.method != "fixed-point":
            frames = generate(self.model, len(numbers), numbers=numbers, method=self.method, **how, **told)
        else:
            frames = self._guessed(numbers, told)
        self.window = torch.cat([self.window, frames[:, None]], 1)[:, -self.condition.count :]
        self.time += 1
        return frames

    def keep(self, which: Sequence[int]) -> None:
        """Go on with these clips alone."""
        self.numbers, self.window = [self.numbers[i] for i in which], self.window[list(which)]

    def _guessed(self, numbers: list[int], told: dict[str, Any]) -> Tensor:
        model, count = self.model, len(numbers)
        given = model.given(count, told)
        nothing = torch.zeros(count, *model.config.shape, dtype=torch.uint8)
        with evaluating(model):
            uniform = noise(self.sampling.seed, numbers, model.layout.num_positions * model.likelihood.num_noise)
            drawing = Drawing(model, nothing, nothing.bool(), uniform, self.sampling)
            guess = first_guess(model, count, given, None)
            for rows in self._rounds(drawing, given):
                part, told, its = drawing.of_rows(rows), select(given, rows), [numbers[i] for i in rows.tolist()]
                for _ in self.fixed.draw(part, [told], guess[rows], PATIENCE):
                    pass
                if len(self.fixed.left):
                    self._finish(part, told, its)
                drawing.image[rows] = part.image
        return drawing.image.cpu()

    def _rounds(self, drawing: Drawing, given: Given) -> list[Tensor]:
        """Which are drawn together: where frames are remembered, one of those that are told the same, then the rest."""
        every = torch.arange(len(drawing.image))
        if not self.fixed.remember:
            return [every]
        first = first_of(keys_of(given, drawing), every.tolist())
        leads = torch.zeros(len(every), dtype=torch.bool)
        leads[list(first.values())] = True
        return [every[leads], every[~leads]] if not leads.all() else [every]

    def _finish(self, drawing: Drawing, given: Given, numbers: list[int]) -> None:
        """Draw those that are left step by step, from the first place where one of them is not final."""
        model, left = self.model, self.fixed.left.tolist()
        final = torch.from_numpy(self.fixed.final).all(0)[model.layout.position_of].view(model.config.shape)
        its, known, told = [numbers[i] for i in left], drawing.image[left].cpu(), select(given, left)
        how = self.sampling.options()
        drawn = generate(model, len(left), numbers=its, known=known, known_mask=final[None], **how, **told)
        drawing.image[left] = drawn.to(drawing.image.device)
        self.fixed.keep(drawing.of_rows(torch.tensor(left)), told)


def check_clips(model: ImageModel, frames: Tensor) -> Frames:
    """The model's condition; ValueError unless it is of clips, and `frames` (n, t, c, h, w) are of its shape."""
    condition: Frames | None = model.config.condition(Frames)
    if condition is None:
        raise ValueError("this model is not of clips; train one with: image-transformer train bouncing")
    shape = tuple(getattr(frames, "shape", ()))
    if str(getattr(frames, "dtype", "")) != "torch.uint8" or len(shape) != 5 or shape[2:] != model.config.shape:
        expected = ", ".join(map(str, model.config.shape))
        raise ValueError(f"frames must be a torch.uint8 tensor (n, t, {expected}) for this model, got {shape}")
    return condition
