"""Whether samples show what their captions say, as a classifier sees it that learned from photographs and captions."""

from __future__ import annotations

import math
import re

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from image_transformer.data.images import Images
from image_transformer.measures.fitting import answers, classifier, descend, seeded, shuffled, tensor, to_unit
from image_transformer.show.records import Table

WORDS = 10
SHARE = 0.03  # of captions that a word must be in, and missing from
ALIKE = 0.9  # correlation from which two words say the same
SAY_NOTHING = {"a", "an", "the", "and", "or", "with", "of", "on", "in", "at", "to", "is", "are", "it", "one"}


def telling_words(captions: list[str], count: int = WORDS) -> list[str]:
    """The words that divide captions most evenly, no two of which are mostly there together."""
    words = sorted(set().union(*map(_words, captions)) - SAY_NOTHING)
    there = _presence(captions, words).astype(np.float64)
    shares = there.mean(0)
    chosen: list[int] = []
    for i in np.argsort(-shares * (1 - shares), kind="stable"):
        if len(chosen) == count or not SHARE <= shares[i] <= 1 - SHARE:
            break
        if all(abs(np.corrcoef(there[:, i], there[:, j])[0, 1]) < ALIKE for j in chosen):
            chosen.append(int(i))
    return [words[i] for i in chosen]


def stated(
    images: Images, captions: list[str], photographs: Images, samples: Images, told: list[str], *, seed: int = 0
) -> Table | None:
    """How often a classifier that learned from `images` and their captions finds in others what their captions state.

    photographs, samples: uint8 (n, c, h, w) with the captions that were `told`. Balanced accuracy: the mean of how
    often a word is found where it is stated, and not found where it is not; 50 % is chance. None where no words tell.
    """
    words = telling_words(captions)
    if not words:
        return None
    network = _fit(images, _presence(captions, words), seed)
    truth, rows = _presence(told, words), []
    seen, drawn = (answers(network, some) > 0 for some in (photographs, samples))
    right = [some == truth for some in (seen, drawn)]
    both = [_balanced(one, truth) for one in right]
    for i, word in enumerate(words):
        rows.append(
            [
                word,
                f"{100 * truth[:, i].mean():.0f}",
                *("" if math.isnan(each[i]) else f"{100 * each[i]:.1f}" for each in both),
            ]
        )
    tried = np.isfinite(both[0])  # words that some of the captions have, and some have not
    if tried.any():
        means = (_mean_and_error(one[:, tried], truth[:, tried]) for one in right)
        rows.append(["mean", "", *(f"{100 * mean:.1f} ± {100 * error:.1f}" for mean, error in means)])
    caption = (
        f"Whether {len(told):,} images show a word of their caption, by a classifier that learned from {len(images):,} "
        "photographs: balanced accuracy, %; 50 is chance"
    )
    return Table(caption, ["word", "captions with it, %", "photographs", "samples"], rows)


def _presence(captions: list[str], words: list[str]) -> NDArray[np.bool_]:
    """Which words each caption has, (n, words)."""
    said = [_words(caption) for caption in captions]
    return np.array([[word in some for word in words] for some in said])


def _words(caption: str) -> set[str]:
    return set(re.findall(r"\w+", caption.lower()))


def _balanced(right: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of each word, (words,); NaN of one that is everywhere or nowhere."""
    shares = [np.where(kind, right, 0).sum(0) / np.maximum(kind.sum(0), 1) for kind in (truth, ~truth)]
    both = truth.any(0) & ~truth.all(0)
    return np.where(both, np.mean(shares, 0), np.nan)


def _mean_and_error(right: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """The mean balanced accuracy of words that some have and some have not, and its standard error over the images."""
    shares = np.where(truth, 0.5 / truth.sum(0), 0.5 / (~truth).sum(0))
    of_each = (right * shares).mean(1)  # what an image adds to the mean
    return float(of_each.sum()), float(of_each.std() * math.sqrt(len(of_each)))


def _fit(images: Images, truth: NDArray[np.bool_], seed: int, updates: int = 1500, batch: int = 64) -> nn.Module:
    """A network (b, c, h, w) -> log-odds (b, words); where a word is rare, it counts for more."""
    rows, target = shuffled(len(images), batch, seed), torch.from_numpy(truth).float()
    rare = (1 - target.mean(0)) / target.mean(0)
    with seeded(seed):
        network = classifier(images.shape[1], truth.shape[1])

        def loss() -> Tensor:
            pick = np.sort(next(rows))
            return F.binary_cross_entropy_with_logits(
                network(to_unit(tensor(images[pick]))), target[pick], pos_weight=rare
            )

        descend(network, loss, updates, lr=2e-3, weight_decay=1e-2)
    return network.eval()
