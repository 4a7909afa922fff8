"""`image-transformer read`: which of some texts fits an image, by Bayes."""

from __future__ import annotations

import csv
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from image_transformer.cli import UsageError
from image_transformer.cli.flags import Sized, arguments, lines, refuse_others


@dataclass(frozen=True)
class Read(Sized):
    """Print how probable each text is given each image, as CSV, the likeliest first.

    By Bayes, from the likelihoods p(image | text), where all texts were equally likely before. The column `bits` says
    how many bits the text saves: log2 of p(image | text) / p(image).
    """

    texts: Path | None = None
    """A file with a text in each line."""


def run(args: list[str]) -> None:
    (path, *files), chosen = arguments(Read, "read MODEL IMAGE...", args)
    if chosen.texts is None:
        raise UsageError("read needs texts: image-transformer read MODEL IMAGE... --texts FILE")
    texts = lines(chosen.texts)

    from image_transformer.checkpoint import load
    from image_transformer.data.loading import load_files
    from image_transformer.inference.scoring import nats_of_choices, posterior
    from image_transformer.show.progress import bar

    model = load(path)
    refuse_others(path, model.config, following=True)
    images = load_files(files, shape=model.config.shape, size=chosen.size)
    with bar("scores") as progress:
        nats = nats_of_choices(model, images, "text", ["", *texts], progress=progress)
    saved, probable = (nats[:, :1] - nats[:, 1:]) / math.log(2), posterior(nats[:, 1:])
    table = csv.writer(sys.stdout)
    table.writerow(["file", "probability", "bits", "text"])
    for file, bits, row in zip(files, saved, probable, strict=True):
        for number in (-row).argsort(kind="stable"):
            table.writerow([file, f"{row[number]:.4f}", f"{bits[number]:.2f}", texts[number]])
