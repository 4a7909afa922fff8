"""The command `image-transformer`: reads flags, calls the library, prints what came of it.

Each verb is a dataclass whose fields are its flags (parsed by tyro). Only what a verb needs is imported when it runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from image_transformer.config import (
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    load_config,
    nearest,
)
from image_transformer.flags import UsageError, parse

if TYPE_CHECKING:
    from image_transformer.data import ImageData

USAGE = """usage: image-transformer VERB ...

Autoregressive image models with exact likelihoods.

  demo                     train, measure and sample a small model in a few minutes
  recipes                  list what can be trained
  train RECIPE             train a model (RECIPE may also be the config.yaml of a run)
  evaluate MODEL           exact bits/dim on held-out images
  sample MODEL             a picture of new images
  complete MODEL [IMAGE..] continue images of which a part is given
  superres MODEL IMAGE...  enlarge images of any size, in several ways

MODEL is a run folder or a checkpoint in it. image-transformer VERB --help shows the flags of a verb.
"""


@dataclass(frozen=True)
class Demo:
    """Train a small model on real photographs and show what it learned, all in one folder."""

    out: Path = Path("demo")
    """Folder for everything that is made."""
    images: int | None = None
    """Train on so many images instead of the recipe's."""

    def run(self) -> None:
        from image_transformer.demo import demo

        demo(self.out, self.images)


@dataclass(frozen=True)
class Recipes:
    """List the recipes that `train` knows."""

    def run(self) -> None:
        from rich.console import Console
        from rich.table import Table

        from image_transformer.recipes import RECIPES, names

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
    """Resize every image to this height and width."""
    skip_bad: bool = False
    """Leave out images that cannot be read, and say how many."""
    json: bool = False
    """Print machine-readable figures."""
    per_image: Path | None = None
    """Write bits/dim of each image to this CSV file."""
    picture: Path | None = None
    """Write a PNG of where in the first images the bits go."""


@dataclass(frozen=True)
class Sample:
    """Draw new images and write them as one PNG grid."""

    count: int = 16
    """Images to draw."""
    seed: int = 0
    """Image i depends on this and on i alone."""
    temperature: float = 1.0
    """Below 1 sharper, above 1 flatter; 1 is the model."""
    top_k: int | None = None
    """Draw each value from the k likeliest only."""
    top_p: float | None = None
    """Draw each value from the likeliest that hold this probability."""
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
    how much the completions differ: their root mean variance.
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
    """Resize the image files to this height and width."""
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name) and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    try:
        _dispatch(args)
    except UsageError as error:
        print(f"image-transformer: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stdout = None
        return 0
    except KeyboardInterrupt as stop:
        print(f"image-transformer: {stop if str(stop) else 'interrupted'}", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"image-transformer: {message}", file=sys.stderr)
        return 1
    return 0


def _dispatch(args: list[str]) -> None:
    verbs: dict[str, Callable[[list[str]], None]] = {
        "demo": lambda rest: parse(Demo, "demo", rest).run(),
        "recipes": lambda rest: parse(Recipes, "recipes", rest).run(),
        "train": _train,
        "evaluate": _evaluate,
        "sample": _sample,
        "complete": _complete,
        "superres": _superres,
    }
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
    elif args[0] == "--version":
        from image_transformer import __version__

        print(__version__)
    elif args[0] in verbs:
        verbs[args[0]](args[1:])
    else:
        raise UsageError(f"unknown verb {args[0]!r}; {nearest(args[0], list(verbs))}")


# ---- train ----

ALIASES = {"--data": "--data.source", "--size": "--data.size", "--skip-bad": "--data.skip-bad"}


def _train(args: list[str]) -> None:
    from image_transformer import recipes

    if args and args[0] in ("-h", "--help"):
        print("usage: image-transformer train RECIPE [flags]; flags with their defaults: train RECIPE --help\n")
        return Recipes().run()
    if not args or args[0].startswith("-"):
        raise UsageError("train needs a recipe first: image-transformer train RECIPE; see image-transformer recipes")
    name, *rest = args
    base = load_config(Path(name)) if name.endswith((".yaml", ".yml")) else _find_recipe(recipes.find, name)
    parts = (word.partition("=") for word in rest)
    rest = [ALIASES.get(flag, flag) + equals + value for flag, equals, value in parts]
    chosen = parse(Train, f"train {name}", rest, Train(base.model, base.data, base.train))
    out = chosen.out or Path("runs") / base.recipe
    if chosen.resume and (out / "config.yaml").exists():  # the run's own values, not the recipe's, are the defaults
        saved = load_config(out / "config.yaml")
        if saved.recipe != base.recipe:
            raise ValueError(f"{out} is a run of the recipe {saved.recipe}, not of {base.recipe}")
        chosen = parse(Train, f"train {name}", rest, Train(saved.model, saved.data, saved.train))
    config = RunConfig(base.recipe, chosen.model, chosen.data, chosen.train)

    from image_transformer.train import Interrupted, train

    again = f"image-transformer train {name} --out {out} --resume"
    try:
        best = train(config, out, resume=chosen.resume)
    except Interrupted as stop:
        raise Interrupted(f"{stop}; go on with: {again}") from None
    print(f"best checkpoint: {best}\nreport: {out / 'report.html'}\nnext: image-transformer evaluate {out}")


def _find_recipe(find: Callable[[str], RunConfig], name: str) -> RunConfig:
    try:
        return find(name)
    except ValueError as error:
        raise UsageError(str(error)) from None


# ---- evaluate ----


def _evaluate(args: list[str]) -> None:
    path, rest = _model_argument("evaluate", args)
    chosen = parse(Evaluate, "evaluate MODEL", rest)

    import numpy as np

    from image_transformer import checkpoint, pictures
    from image_transformer.data import has_splits
    from image_transformer.evaluate import bits, evaluate
    from image_transformer.files import write_atomically
    from image_transformer.progress import bar

    model = checkpoint.load(path)
    _at_least_one(batch=chosen.batch, limit=chosen.limit)
    trained_on = load_config(checkpoint.find(path) / "config.yaml").data
    other = chosen.data is not None and Path(chosen.data).resolve() != Path(trained_on.source).resolve()
    whole = other and chosen.split is None and not has_splits(chosen.data)
    data = _load_data(path, chosen.data, chosen.split or ("all" if whole else "test"), chosen.size, chosen.skip_bad)
    images = data.images[: chosen.limit]
    with bar("images") as progress:
        result = evaluate(model, images, batch=chosen.batch, progress=progress)
    if chosen.per_image:
        lines = ["image,bits_per_dim", *(f"{i},{value:.6f}" for i, value in enumerate(result.per_image))]
        write_atomically(chosen.per_image, "\n".join([*lines, ""]).encode())
    if chosen.picture:
        shown = np.asarray(images[:16])
        pictures.save_png(pictures.bits_map(shown, bits(model, shown).sum(1), columns=8), chosen.picture)
    figures = {
        "model": str(checkpoint.find(path)),
        "data": data.name,
        "split": data.split,
        "images": len(images),
        "bits_per_dim": result.bits_per_dim,
        "standard_error": result.standard_error if len(images) > 1 else None,
        "trained_with_flips": trained_on.augmentation is not None,
        "trained_with": trained_on.augmentation,
        "skipped": data.skipped,
    }
    if chosen.json:
        print(json.dumps(figures))
    else:
        skipped = f", {data.skipped} unreadable left out" if data.skipped else ""
        print(
            f"{result.bits_per_dim:.4f} bits/dim  (standard error {result.standard_error:.4f}; "
            f"{len(images):,} images of {data.name}, {data.split} split{skipped}"
            f"{f'; trained with {trained_on.augmentation}' if trained_on.augmentation else ''})"
        )


# ---- sample, complete, superres ----


def _sample(args: list[str]) -> None:
    path, rest = _model_argument("sample", args)
    chosen = parse(Sample, "sample MODEL", rest)

    from image_transformer import checkpoint, pictures
    from image_transformer.progress import bar
    from image_transformer.sample import generate

    _at_least_one(columns=chosen.columns)
    model = checkpoint.load(path)
    with bar("steps") as progress:
        images = generate(
            model, chosen.count, seed=chosen.seed, temperature=chosen.temperature, top_k=chosen.top_k,
            top_p=chosen.top_p, batch=chosen.batch, progress=progress,
        )  # fmt: skip
    pictures.save_png(pictures.grid(images.numpy(), chosen.columns), chosen.out)
    print(chosen.out)


def _complete(args: list[str]) -> None:
    path, rest = _model_argument("complete", args)
    files, rest = _file_arguments(rest)
    chosen = parse(Complete, "complete MODEL [IMAGE...]", rest)

    from image_transformer import checkpoint, pictures
    from image_transformer.complete import complete, known_side, read_mask
    from image_transformer.data import load_files
    from image_transformer.orientation import named
    from image_transformer.progress import bar

    _at_least_one(samples=chosen.samples, count=chosen.count)
    model = checkpoint.load(path)
    shape = model.config.shape
    if files:
        originals = load_files(files, shape=shape, size=chosen.size)
    else:
        originals = _load_data(path, chosen.data, "test", None, False).images[: chosen.count]
    known = read_mask(chosen.mask, shape) if chosen.mask else known_side(chosen.keep, shape, chosen.keep_side)
    orientations = load_config(checkpoint.find(path) / "config.yaml").data.trained_orientations
    if chosen.orientation != "auto":
        orientations = (named(chosen.orientation, orientations),)
    with bar("steps") as progress:
        done = complete(
            model, originals, known, samples=chosen.samples, orientations=orientations, seed=chosen.seed,
            temperature=chosen.temperature, top_k=chosen.top_k, top_p=chosen.top_p, progress=progress,
        )  # fmt: skip
    pictures.save_png(done.picture(), chosen.out)
    print(chosen.out, done.summary(), sep="\n")


def _superres(args: list[str]) -> None:
    path, rest = _model_argument("superres", args)
    files, rest = _file_arguments(rest)
    chosen = parse(Superres, "superres MODEL IMAGE...", rest)

    from image_transformer import checkpoint, superres
    from image_transformer.data import load_file
    from image_transformer.progress import bar

    if not files:
        raise UsageError("superres needs images: image-transformer superres MODEL IMAGE... [flags]")
    _at_least_one(samples=chosen.samples)
    model = checkpoint.load(path)
    factor = superres.model_factor(model, chosen.factor)
    _check_label(chosen.label, model.config.classes)
    if chosen.out.exists() and not chosen.out.is_dir():
        raise UsageError(f"--out {chosen.out} is a file, expected a folder")
    lows = [load_file(file, model.config.shape[0], size=chosen.size) for file in files]
    tiles = sum(superres.tiling(model, (low.shape[1], low.shape[2])).tiles for low in lows)
    print(f"images: {len(lows)}, tiles: {tiles:,}, samples of each: {chosen.samples}", flush=True)
    names, done = superres.names(files, chosen.out, chosen.samples), {}
    with bar("steps") as progress:
        for number, images in superres.enlarge_each(
            model, lows, samples=chosen.samples, seed=chosen.seed, temperature=chosen.temperature, top_k=chosen.top_k,
            top_p=chosen.top_p, label=chosen.label, consistent=chosen.consistent, progress=progress,
        ):  # fmt: skip
            done[number] = superres.write(chosen.out, names[number], lows[number], images, factor)
    print(chosen.out, *(done[number] for number in sorted(done)), sep="\n")


def _check_label(label: str | None, classes: Sequence[str] | None) -> None:
    if classes and label is None:
        few = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        raise UsageError(f"--label is missing: this model is class-conditional, on {few}")
    if label is not None and not classes:
        raise UsageError("--label: this model is not class-conditional")


# ---- shared ----


def _at_least_one(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")


def _model_argument(verb: str, args: list[str]) -> tuple[Path, list[str]]:
    if not args:
        raise UsageError(f"{verb} needs a model: image-transformer {verb} MODEL, a run folder or a checkpoint")
    if args[0] in ("-h", "--help"):
        return Path(), args
    if args[0].startswith("-"):
        raise UsageError(f"{verb} needs a model first: image-transformer {verb} MODEL [flags]")
    return Path(args[0]), args[1:]


def _file_arguments(args: list[str]) -> tuple[list[Path], list[str]]:
    """The arguments before the first flag as files, and the others."""
    number = next((i for i, word in enumerate(args) if word.startswith("-")), len(args))
    return [Path(word) for word in args[:number]], args[number:]


def _load_data(path: Path, source: str | None, split: str, size: tuple[int, int] | None, skip_bad: bool) -> ImageData:
    """The data asked for, or what the model at `path` was trained on, in the model's shape."""
    from image_transformer import checkpoint, data

    config = load_config(checkpoint.find(path) / "config.yaml")
    return data.load(
        source or config.data.source, split, shape=config.model.shape,
        size=size or (None if source else config.data.size), skip_bad=skip_bad or (not source and config.data.skip_bad),
    )  # fmt: skip


def run() -> None:
    """The entry point of the installed command."""
    sys.exit(main())


if __name__ == "__main__":
    run()
