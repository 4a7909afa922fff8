"""How well bits/dim tell images that do not belong: AUROC of CIFAR-10's test images against others, as `score` does it.

python benchmarks/odd_ones.py [--count 500] [--model small]

0.5 is chance, 1 perfect, below 0.5 worse than chance: the others are then likelier than CIFAR-10's own.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

import image_transformer as it
from image_transformer.cli.score import scored

Images = NDArray[np.uint8]


def auroc(own: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """The chance that one of the others scores higher than one of ours."""
    return float(((others[:, None] > own).mean() + (others[:, None] >= own).mean()) / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--model", default="small")
    parser.add_argument("--own", default="cifar10", help="a model that was trained on CIFAR-10 alone")
    args = parser.parse_args()
    model, trained, rng = it.load_coding_model(args.model), it.load(args.own), np.random.default_rng(0)
    own = it.load_data("cifar10", "test").images[: args.count]
    flat = np.broadcast_to(rng.integers(0, 256, (args.count, 3, 1, 1), np.uint8), own.shape)
    others = {
        "faces (CelebA)": it.load_data("celeba32", "test").images[: args.count],
        "uniform noise": rng.integers(0, 256, own.shape, np.uint8),
        "flat images": flat,
        "slight noise on flat images": (flat // 2 + rng.integers(0, 8, own.shape, np.uint8)).astype(np.uint8),
        "themselves upside down": own[:, :, ::-1],
        "themselves, pixels shuffled in 8 x 8 tiles": shuffled(own, rng),
    }

    def scores(images: Images) -> dict[str, NDArray[np.float64]]:
        bits, webp, relative = scored(model, list(images)).T
        own, _, less = scored(trained, list(images)).T
        return {
            f"bits/dim of {args.model}": bits,
            "less WebP's": relative,
            f"bits/dim of {args.own}": own,
            "less WebP's ": own - webp,
            "less those of small": less,
        }

    ours = scores(own)
    print("| CIFAR-10 test against | " + " | ".join(ours) + " |")
    print("|---|" + "--:|" * len(ours))
    for what, images in others.items():
        theirs = scores(np.ascontiguousarray(images))
        print(f"| {what} | " + " | ".join(f"{auroc(ours[how], theirs[how]):.3f}" for how in ours) + " |", flush=True)


def shuffled(images: Images, rng: np.random.Generator) -> Images:
    tiles = images.reshape(len(images), 3, 4, 8, 4, 8).transpose(0, 2, 4, 1, 3, 5).reshape(len(images), 16, 3, 64)
    tiles = tiles[..., rng.permutation(64)].reshape(len(images), 4, 4, 3, 8, 8)
    return tiles.transpose(0, 3, 1, 4, 2, 5).reshape(images.shape)


if __name__ == "__main__":
    main()
