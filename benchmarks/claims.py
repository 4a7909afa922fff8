"""Claims of the paper that need no study: what can be counted, and what one look at a trained model shows.

python benchmarks/claims.py [--seconds 60] [--count 100]

Numbers are those of the claims in docs/results.md. The last rows read the raw figures of the studies beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

import image_transformer as it
from image_transformer.geometry.order import Order, layout
from image_transformer.geometry.patterns import Pattern
from image_transformer.measures.stated import stated
from image_transformer.reproduce.study import study

RESULTS = Path(__file__).parent.parent / "docs" / "results"
MOST = 0.99  # of a squared gradient
FIELDS = ("modern, raster", "PixelCNN", "Gated PixelCNN", "Row LSTM")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="CPU time of each of two trainings")
    parser.add_argument("--count", type=int, default=100, help="photographs that are completed, four times each")
    parser.add_argument("--samples", type=int, default=500, help="samples of classes that a classifier looks at")
    args = parser.parse_args()
    parameters()
    outputs(args.seconds)
    classes(args.samples)
    directions()
    completions(args.count)
    seeds()


def parameters() -> None:
    """2. The number of parameters does not depend on how far attention reaches."""
    of = study("block-size")
    counts = {row: sum(p.numel() for p in it.ImageModel(of.config(row).model).parameters()) for row in of.rows}
    print("2. parameters: " + "; ".join(f"{row}: {count:,}" for row, count in counts.items()))


def outputs(seconds: float) -> None:
    """8. A mixture of logistics needs fewer outputs and less memory than a softmax, and its gradients are denser."""
    images = torch.from_numpy(it.load_data("cifar10-mini", "test").some(16).images.copy())
    pixels = images[:, 0].numel()
    for likelihood in ("dmol", "categorical"):
        model = trained(likelihood, seconds)
        found: list[Tensor] = []
        kept: dict[int, int] = {}

        def keep(x: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()  # some of it is kept twice
            return x

        def take(_module: object, _given: object, params: Tensor, found: list[Tensor] = found) -> None:
            params.retain_grad()
            found.append(params)

        model.register_forward_hook(take)
        with saved_tensors_hooks(keep, lambda x: x):
            model.log_prob(images).sum().backward()
        (params,) = found
        squares = params.grad.double().square().reshape(pixels, -1).sort(-1, descending=True).values
        carried = squares.cumsum(-1) / squares.sum(-1, keepdim=True)
        needed = float((carried < MOST).sum(-1).double().mean()) + 1  # of a pixel, the strongest first
        size = sum(kept.values()) / len(images) / 2**20
        print(
            f"8. {likelihood}: {squares.shape[1]} outputs a pixel, of which {needed:.1f} carry {MOST:.0%} of the "
            f"squared gradient; {size:.0f} MiB are kept of an image for its gradient"
        )


def trained(likelihood: str, seconds: float) -> it.ImageModel:
    config = it.recipe(
        "tiny-paper",
        model={"likelihood": likelihood},
        train={"images": 10**9, "minutes": seconds / 60, "clock": "cpu", "closed_form_start": False},
    )
    with tempfile.TemporaryDirectory() as folder:
        it.train(config, folder, show_progress=False)
        return it.load(folder)


def classes(count: int) -> None:
    """10. Samples show their class, to a classifier that learned from photographs."""
    model = it.load("cifar10-class")
    train, test = (it.load_data("cifar10", split) for split in ("train", "test"))
    test = test.some(count)
    words = [[test.classes[i] for i in labels] for labels in (train.labels, test.labels)]
    samples = it.generate(model, len(test), seed=0, label=words[1]).numpy()
    found = stated(train.images, words[0], test.images, samples, words[1])
    assert found is not None
    print("10." + found.markdown())


def directions() -> None:
    """12. Of the keys of 1D blocks most lie beside the query, not above it."""
    patterns: dict[str, tuple[Pattern, Order, bool]] = {
        "1D, 256 + 256 sub-pixels (the paper's)": (it.Local1D(256, 256), it.Raster(), True),
        "1D, 128 + 128 pixels": (it.Local1D(128, 128), it.Raster(), False),
        "2D, 8 x 8 and 8 + 8 around": (it.Local2D((8, 8), (8, 8)), it.BlockRaster((8, 8)), False),
    }
    for side in (32, 64):
        for name, (pattern, order, sub_pixels) in patterns.items():
            at = layout(order, (3, side, side), sub_pixels)
            p = at.positions
            lower = np.flatnonzero(p.row >= side // 2)  # whose memory is not cut off by the upper edge
            beside = above = 0
            for q in np.random.default_rng(0).choice(lower, 300, replace=False):
                seen = p[np.flatnonzero(pattern.sees(p[q], p))]
                down, right = np.abs(seen.row - p[q].row), np.abs(seen.col - p[q].col)
                beside += int((right > down).sum())
                above += int((right < down).sum())
            share = beside / (beside + above)
            print(f"12. {name}, images of {side} x {side}: {share:.0%} of the keys lie further beside than above")
    kept = json.loads((RESULTS / "models.json").read_text())
    for row in FIELDS:
        fields = [np.array(one["field"]) for one in kept.values() if one["row"] == row]
        looked = float(np.mean([beside_of(one) for one in fields]))
        print(f"12. {row}, trained: {looked:.0%} of the gradient lies further beside than above")


def beside_of(field: NDArray[np.float64]) -> float:
    """What share of a gradient, that of the pixel three quarters down in the middle, lies further beside than above."""
    down, right = (np.abs(axis) for axis in np.mgrid[: field.shape[0], : field.shape[1]])
    down, right = np.abs(down - 3 * field.shape[0] // 4), np.abs(right - field.shape[1] // 2)
    beside, above = field[right > down].sum(), field[right < down].sum()
    return float(beside / (beside + above))


def completions(count: int) -> None:
    """19. Completions of one image differ."""
    model = it.load("cifar10")
    images = it.load_data("cifar10-mini", "test").some(count).images
    known = it.known_side(0.5, model.config.shape)
    done = it.complete(model, images, known, samples=4, seed=0).images[..., ~known].astype(float)
    apart = [rms(one[i], one[j]) for one in done for i in range(4) for j in range(i)]
    others = [rms(a, b) for a, b in zip(images[..., ~known], np.roll(images, 1, axis=0)[..., ~known], strict=True)]
    print(
        f"19. lower halves, root mean squared difference in levels: {np.mean(apart):.1f} between completions of one "
        f"photograph, the closest two {min(apart):.1f}; {np.mean(others):.1f} between two photographs"
    )


def rms(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.square(a.astype(float) - b).mean()))


def seeds() -> None:
    """20. Training is stable: of all trainings with figures, those that did not stay finite."""
    lines = {key: line for path in RESULTS.glob("*.json") for key, line in json.loads(path.read_text()).items()}
    trained = [line for line in lines.values() if "failed" in line or "bits_per_dim" in line]
    failed = [line["row"] for line in trained if "failed" in line]
    print(f"20. {len(trained)} trials of the studies, {len(failed)} of which did not stay finite {failed or ''}")


if __name__ == "__main__":
    main()
