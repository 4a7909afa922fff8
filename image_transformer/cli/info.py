"""`image-transformer info`: what compressed files hold, from their headers alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from image_transformer.cli.decompress import named, read
from image_transformer.cli.flags import arguments

KINDS = {1: "grey", 2: "grey with opacity", 3: "RGB", 4: "RGB with opacity"}


@dataclass(frozen=True)
class Info:
    """Say what compressed files hold: images, sizes, bytes, and the model that they need."""

    names: bool = False
    """Also the number and the name of each image."""


def run(args: list[str]) -> None:
    files, chosen = arguments(Info, "info FILE...", args)

    from image_transformer.codec.format import check_end, read_header
    from image_transformer.codec.models import CodingModelError, released

    for file in files:
        data = read(file)
        with named(file):
            header = read_header(data)
            check_end(data, header)
        sizes: Counter[str] = Counter()
        for group in header.groups:
            sizes[f"{group.height} x {group.width}, {KINDS[group.channels]}"] += group.count
        model = "an ordinary one (--float)" if header.floats else "a coding model of its own"
        if header.model and not header.floats:
            try:
                model = f"{released(header.fingerprint, header.model).name} (number {header.model})"
            except CodingModelError:
                model = f"number {header.model}, which this version does not have"
        print(f"{file}: version {header.version}, {len(data):,} bytes, {8 * len(data) / header.values:.3f} bits/dim")
        print(f"  model: {model}, fingerprint {header.fingerprint.hex()}")
        print(f"  images: {header.images:,}, decoded together in groups of up to {max(g.count for g in header.groups)}")
        for size, count in sizes.items():
            print(f"  {count:,} of {size}")
        if chosen.names:
            for number, name in enumerate(header.names, 1):
                print(f"  {number:6,}  {name}")
