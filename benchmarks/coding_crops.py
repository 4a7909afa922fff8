"""The images that the coding models learn from: crops of photographs, mixed with data sets of small images.

python benchmarks/coding_crops.py crops.npy PHOTOGRAPH... [--data cifar10 imagenet200_32]

Any large photographs do; these were 38 from Debian's packages lomiri-wallpapers-16.04, lomiri-wallpapers-20.04,
mate-backgrounds and plasma-workspace-wallpapers, without the drawn and the rendered ones. Each is shrunk by 2, 3 and 4,
which takes away the traces of JPEG, and gives so many crops. One image in twenty is made grey.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import image_transformer as it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("photographs", type=Path, nargs="+")
    parser.add_argument("--data", nargs="*", default=["cifar10", "imagenet200_32"], help="whose training images go in")
    parser.add_argument("--each", type=int, default=2400, help="crops of each photograph")
    parser.add_argument("--side", type=int, default=32)
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    parts = [it.load_data(source, "train").images for source in args.data]
    for path in args.photographs:
        photograph = Image.open(path).convert("RGB")
        for by in (2, 3, 4):
            pixels = np.asarray(photograph.reduce(by))
            rows, cols = (rng.integers(0, length - args.side + 1, args.each // 3) for length in pixels.shape[:2])
            crops = [pixels[r : r + args.side, c : c + args.side] for r, c in zip(rows, cols, strict=True)]
            parts.append(np.stack(crops).transpose(0, 3, 1, 2))
    images = np.concatenate(parts)[rng.permutation(sum(map(len, parts)))]
    grey = rng.random(len(images)) < 0.05
    images[grey] = np.rint(images[grey].transpose(0, 2, 3, 1) @ [0.299, 0.587, 0.114]).astype(np.uint8)[:, None]
    np.save(args.out, images)
    print(f"{args.out}: {len(images):,} images of {args.side}x{args.side}")


if __name__ == "__main__":
    main()
