"""The verbs of the command line: each a dataclass whose fields are its flags and whose docstrings are its help.

What they do is in `cli.py`. Importing this must not import torch: `--help` is fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from image_transformer.config.model import DataConfig, ModelConfig, Plan, TrainConfig


@dataclass(frozen=True)
class Demo:
    """Train a small model on real photographs and show what it learned, all in one folder."""

    out: Path = Path("demo")
    """Folder for everything that is made."""
    images: int | None = None
    """Train on so many images instead of the recipe's."""

    def run(self) -> None:
        from image_transformer.cli.demo import demo

        demo(self.out, self.images)


@dataclass(frozen=True)
class Recipes:
    """List the recipes that `train` knows."""

    def run(self) -> None:
        from rich.console import Console
        from rich.table import Table

        from image_transformer.recipes.modern import RECIPES, names

        table = Table(box=None, pad_edge=False)
        table.add_column("recipe", no_wrap=True)
        table.add_column("what it is")
        for name, recipe in zip(names(), RECIPES, strict=True):
            table.add_row(name, (recipe.__doc__ or "").splitlines()[0])
        Console().print(table)


@dataclass(frozen=True)
class Train:
    """Train a model into a run folder: checkpoints, metrics, sample pictures and a report.

    --data, --size and --skip-bad, as the other verbs have them, stand for --data.source, --data.size, --data.skip-bad.
    """

    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    out: Path | None = None
    """Run folder; runs/RECIPE if not given."""
    resume: bool = False
    """Go on with the run in the folder, from its newest checkpoint."""


@dataclass(frozen=True)
class Evaluate:
    """Print the exact bits/dim of a split, every image once."""

    data: str | None = None
    """Data set, folder or file; what the model was trained on if not given."""
    split: Literal["train", "validation", "test", "all"] | None = None
    """Split of the data; if not given, test, or all of other --data that has no splits of its own."""
    limit: int | None = None
    """Use only the first images."""
    batch: int = 32
    """Images at once."""
    size: tuple[int, int] | None = None
    """Crop every image centrally to this aspect, then resize it to this HEIGHT WIDTH."""
    skip_bad: bool = False
    """Leave out images that cannot be read, and say how many."""
    json: bool = False
    """Print machine-readable figures."""
    consistent: bool = False
    """Super-resolution: also bits/dim of the model whose box means are what is given by construction (slower)."""
    classify: int = 500
    """Class-conditional: try the Bayes classifier, the likeliest of all classes, on so many images."""
    enlarge: int = 0
    """Super-resolution: enlarge so many of the images and measure how well, as report does (trains a regression network
    to compare with)."""
    per_image: Path | None = None
    """Write bits/dim of each image to this CSV file."""
    picture: Path | None = None
    """Write a PNG of where in the first images the bits go."""


@dataclass(frozen=True)
class Report(Plan):
    """Measure a model on test images, and write the run's page with all figures and pictures: report.html.

    For super-resolution: samples beside nearest, bicubic and regression enlargements. With two more models, an
    unconditional one of the low-resolution images and one of the images, the chain rule of their likelihoods.
    """

    chain: tuple[Path, Path] | None = None
    """Two more models, of the low-resolution images and of the images, both unconditional."""


@dataclass(frozen=True)
class Sample:
    """Draw new images and write them as one PNG grid."""

    count: int | None = None
    """Images to draw; 16 if not given. Of a class-conditional model without --label: so many of each class, 8."""
    seed: int = 0
    """Image i depends on this and on i alone."""
    temperature: float = 1.0
    """Below 1 sharper, above 1 flatter; 1 is the model."""
    top_k: int | None = None
    """Draw each value from the k likeliest only."""
    top_p: float | None = None
    """Draw each value from the likeliest that hold this probability."""
    label: str | None = None
    """Class-conditional: the class, by name or number; if not given, a row for each class."""
    out: Path = Path("samples.png")
    """Picture to write."""
    columns: int = 8
    """Images in a row of the picture."""
    batch: int | None = None
    """Images generated at once, which does not change them; as many as fit into memory if not given."""


@dataclass(frozen=True)
class Complete:
    """Keep a part of each image, draw the rest several times, and write one picture: given, completions, original.

    Prints how the images were turned before drawing, how much of what is given a drawn pixel was conditioned on, and
    how much the completions differ: their root mean variance. A model for super-resolution is also given the low
    resolution of the whole original, of the part to be drawn too.
    """

    samples: int = 6
    """Completions of each image."""
    keep: float = 0.5
    """Fraction of the rows, or columns, that is given."""
    keep_side: Literal["top", "bottom", "left", "right"] = "top"
    """Side on which they lie."""
    mask: Path | None = None
    """An image of the model's size that is white where pixels are given, instead of --keep and --keep-side."""
    orientation: str = "auto"
    """How to turn the images before drawing, such as upside-down, if the model was trained for it (--data.flips,
    --data.orientations); auto: so that most of what is given is conditioned on."""
    data: str | None = None
    """Without image files: take the first test images of this data; what the model was trained on if not given."""
    count: int = 6
    """Without image files: how many images to take."""
    size: tuple[int, int] | None = None
    """Crop the image files centrally to this aspect, then resize them to this HEIGHT WIDTH."""
    label: str | None = None
    """Class-conditional: the class of all images, by name or number; if not given, that of each test image."""
    seed: int = 0
    """The noise of every completion follows from this."""
    temperature: float = 1.0
    """Below 1 sharper, above 1 flatter; 1 is the model."""
    top_k: int | None = None
    """Draw each value from the k likeliest only."""
    top_p: float | None = None
    """Draw each value from the likeliest that hold this probability."""
    out: Path = Path("completions.png")
    """Picture to write."""


@dataclass(frozen=True)
class Superres:
    """Enlarge image files of any size, each in several ways, by a model for super-resolution.

    A file's pixels are the low-resolution image: to try it with a photograph, shrink that with --size. For each
    NAME.jpg the folder gets NAME-1.png, NAME-2.png, ..., the plain enlargements NAME-nearest.png and NAME-bicubic.png,
    and NAME.png with all of them side by side; what is there already is replaced, except for the given files.
    """

    factor: int | None = None
    """Enlarge by this factor, which must be the model's; only for saying so."""
    samples: int = 4
    """Enlargements of each image."""
    consistent: bool = False
    """Draw only what has exactly the given image as the means of its boxes of pixels."""
    label: str | None = None
    """Class of the images, by name or number; for class-conditional models."""
    size: tuple[int, int] | None = None
    """Resize the image files to this height and width first."""
    seed: int = 0
    """The noise of every sample follows from this."""
    temperature: float = 1.0
    """Below 1 sharper, above 1 flatter; 1 is the model."""
    top_k: int | None = None
    """Draw each value from the k likeliest only."""
    top_p: float | None = None
    """Draw each value from the likeliest that hold this probability."""
    out: Path = Path("enlarged")
    """Folder for the pictures."""
