"""The command `image-transformer`: reads flags, calls the library, prints what came of it.

Each verb is a dataclass whose fields are its flags (parsed by tyro). Only what a verb needs is imported when it runs.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import re
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from image_transformer.config import (
    ORDERS,
    PATTERNS,
    DataConfig,
    ModelConfig,
    Order,
    Pattern,
    RunConfig,
    TrainConfig,
    from_text,
    load_config,
    nearest,
    to_text,
)

if TYPE_CHECKING:
    from image_transformer.assess import Assessment, Plan
    from image_transformer.data import ImageData
    from image_transformer.model import ImageTransformer

USAGE = """usage: image-transformer VERB ...

Autoregressive image models with exact likelihoods.

  demo                     train, measure and sample a small model in a few minutes
  recipes                  list what can be trained
  train RECIPE             train a model (RECIPE may also be the config.yaml of a run)
  evaluate MODEL           exact bits/dim on held-out images
  report RUN               all measures of a run, with pictures, as one page
  sample MODEL             a picture of new images
  complete MODEL [IMAGE..] continue images of which a part is given

MODEL is a run folder or a checkpoint in it. image-transformer VERB --help shows the flags of a verb.
"""


class UsageError(ValueError):
    """A command line that cannot be understood; the message is one line."""


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
    consistent: bool = False
    """Super-resolution: also bits/dim of the model whose box means are what is given by construction (slower)."""
    classify: int = 500
    """Class-conditional: try the Bayes classifier, the likeliest of all classes, on so many images."""
    samples: int = 0
    """Super-resolution: also enlarge so many of the images and measure how well; see the verb report for all of it."""
    per_image: Path | None = None
    """Write bits/dim of each image to this CSV file."""
    picture: Path | None = None
    """Write a PNG of where in the first images the bits go."""


@dataclass(frozen=True)
class Report:
    """Measure a model on test images, and write the run's page with all figures and pictures: report.html.

    For super-resolution: samples beside nearest, bicubic and regression enlargements. With two more models, an
    unconditional one of the low-resolution images and one of the images, the chain rule of their likelihoods.
    """

    images: int = 1000
    """Test images; each is drawn once at each temperature."""
    several: int = 64
    """Of these, images that are drawn several times, for their mean and their diversity."""
    samples: int = 16
    """How many times."""
    temperatures: tuple[float, ...] = (1.0, 0.9, 0.8)
    """Temperatures to draw at."""
    seed: int = 0
    """The noise of all samples follows from this."""
    chain: tuple[Path, Path] | None = None
    """Two more models, of the low-resolution images and of the images, both unconditional."""


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
        "demo": lambda rest: _parse(Demo, "demo", rest).run(),
        "recipes": lambda rest: _parse(Recipes, "recipes", rest).run(),
        "train": _train,
        "evaluate": _evaluate,
        "report": _report,
        "sample": _sample,
        "complete": _complete,
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
    chosen = _parse(Train, f"train {name}", rest, Train(base.model, base.data, base.train))
    out = chosen.out or Path("runs") / base.recipe
    if chosen.resume and (out / "config.yaml").exists():  # the run's own values, not the recipe's, are the defaults
        saved = load_config(out / "config.yaml")
        if saved.recipe != base.recipe:
            raise ValueError(f"{out} is a run of the recipe {saved.recipe}, not of {base.recipe}")
        chosen = _parse(Train, f"train {name}", rest, Train(saved.model, saved.data, saved.train))
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
    chosen = _parse(Evaluate, "evaluate MODEL", rest)

    import numpy as np
    import torch

    from image_transformer import checkpoint, pictures
    from image_transformer.assess import Plan
    from image_transformer.data import class_labels, has_splits
    from image_transformer.evaluate import bits, classify, evaluate
    from image_transformer.files import write_atomically
    from image_transformer.progress import bar

    model = checkpoint.load(path)
    _at_least_one(batch=chosen.batch, limit=chosen.limit)
    trained_on = load_config(checkpoint.find(path) / "config.yaml").data
    other = chosen.data is not None and Path(chosen.data).resolve() != Path(trained_on.source).resolve()
    whole = other and chosen.split is None and not has_splits(chosen.data)
    data = _load_data(path, chosen.data, chosen.split or ("all" if whole else "test"), chosen.size, chosen.skip_bad)
    images, classes = data.images[: chosen.limit], model.config.classes
    label = torch.from_numpy(class_labels(data, classes)[: chosen.limit]) if classes else None
    with bar("images") as progress:
        result = evaluate(model, images, label=label, batch=chosen.batch, progress=progress)
    if chosen.per_image:
        lines = ["image,bits_per_dim", *(f"{i},{value:.6f}" for i, value in enumerate(result.per_image))]
        write_atomically(chosen.per_image, "\n".join([*lines, ""]).encode())
    if chosen.picture:
        shown, of = np.asarray(images[:16]), None if label is None else label[:16]
        where = bits(model, shown, label=of).sum(1)
        pictures.save_png(pictures.bits_map(shown, where, columns=8), chosen.picture)
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
    more, tables = {}, []
    if chosen.consistent:
        with bar("images") as progress:
            held = evaluate(model, images, label=label, consistent=True, progress=progress)
        more["bits_per_dim_consistent"] = held.bits_per_dim
    if label is not None and chosen.classify:
        with bar("scores") as progress:
            right = classify(model, images[: chosen.classify], batch=chosen.batch, progress=progress)
        more["accuracy"] = float((right == label[: chosen.classify].numpy()).mean())
        more["classified"] = len(right)
    if model.config.factor and chosen.samples:
        tables = _assess(path, model, data, Plan(chosen.samples, min(chosen.samples, Plan.several))).tables[1:]
    if chosen.json:
        print(json.dumps({**figures, **more, **({"tables": [asdict(table) for table in tables]} if tables else {})}))
    else:
        skipped = f", {data.skipped} unreadable left out" if data.skipped else ""
        print(
            f"{result.bits_per_dim:.4f} bits/dim  (standard error {result.standard_error:.4f}; "
            f"{len(images):,} images of {data.name}, {data.split} split{skipped}"
            f"{f'; trained with {trained_on.augmentation}' if trained_on.augmentation else ''})"
        )
        if "bits_per_dim_consistent" in more:
            print(f"{more['bits_per_dim_consistent']:.4f} bits/dim of the consistent model")
        if "accuracy" in more:
            print(f"{100 * more['accuracy']:.1f} % of {more['classified']} images are likeliest under their own class")
        for table in tables:
            print(f"\n{table.markdown()}")


def _assess(path: Path, model: ImageTransformer, test: ImageData, plan: Plan) -> Assessment:
    from image_transformer.assess import assess

    train = _load_data(path, None, "train", None, False)
    return assess(model, train, test, plan, say=lambda text: print(f"{text} ...", file=sys.stderr))


def _report(args: list[str]) -> None:
    path, rest = _model_argument("report", args)
    chosen = _parse(Report, "report RUN", rest)

    from image_transformer import checkpoint
    from image_transformer.assess import Plan, chain_rule
    from image_transformer.report import write_report

    _at_least_one(images=chosen.images, several=chosen.several)
    model = checkpoint.load(path)
    folder = checkpoint.find(path)
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder
    test = _load_data(path, None, "test", None, False)
    plan = Plan(chosen.images, chosen.several, chosen.samples, chosen.temperatures, chosen.seed)
    found = _assess(path, model, test, plan)
    if chosen.chain:
        low, high = (checkpoint.load(other) for other in chosen.chain)
        found.tables.append(chain_rule(model, low, high, test.images[: chosen.images]))
    found.save(run)
    print("\n\n".join(table.markdown() for table in found.tables))
    print(f"\nreport: {write_report(run)}")


# ---- sample, complete ----


def _sample(args: list[str]) -> None:
    path, rest = _model_argument("sample", args)
    chosen = _parse(Sample, "sample MODEL", rest)

    from image_transformer import checkpoint, pictures
    from image_transformer.progress import bar
    from image_transformer.sample import generate

    _at_least_one(columns=chosen.columns, count=chosen.count)
    model = checkpoint.load(path)
    if model.config.factor:
        raise ValueError(f"{path} enlarges images: image-transformer superres {path} IMAGE...")
    classes = model.config.classes or ()
    in_rows = bool(classes) and chosen.label is None
    each = [name for name in classes for _ in range(chosen.columns)]
    count, label = (len(each), each) if in_rows else (chosen.count, chosen.label)
    with bar("steps") as progress:
        images = generate(
            model, count, seed=chosen.seed, temperature=chosen.temperature, top_k=chosen.top_k, top_p=chosen.top_p,
            label=label, batch=chosen.batch, progress=progress,
        ).numpy()  # fmt: skip
    if in_rows:
        rows = [(name, images[i * chosen.columns :][: chosen.columns]) for i, name in enumerate(classes)]
        picture = pictures.labelled_rows(rows)
    else:
        picture = pictures.grid(images, chosen.columns)
    pictures.save_png(picture, chosen.out)
    print(chosen.out)


def _complete(args: list[str]) -> None:
    path, rest = _model_argument("complete", args)
    files = []
    while rest and not rest[0].startswith("-"):
        files.append(Path(rest.pop(0)))
    chosen = _parse(Complete, "complete MODEL [IMAGE...]", rest)

    from image_transformer import checkpoint, pictures
    from image_transformer.complete import complete, known_side, read_mask
    from image_transformer.data import class_labels, load_files
    from image_transformer.orientation import named
    from image_transformer.progress import bar

    _at_least_one(samples=chosen.samples, count=chosen.count)
    model = checkpoint.load(path)
    shape = model.config.shape
    if files:
        originals, label = load_files(files, shape=shape, size=chosen.size), chosen.label
    else:
        data, classes = _load_data(path, chosen.data, "test", None, False), model.config.classes
        originals = data.images[: chosen.count]
        own = class_labels(data, classes)[: chosen.count].tolist() if classes and chosen.label is None else None
        label = own or chosen.label
    known = read_mask(chosen.mask, shape) if chosen.mask else known_side(chosen.keep, shape, chosen.keep_side)
    orientations = load_config(checkpoint.find(path) / "config.yaml").data.trained_orientations
    if chosen.orientation != "auto":
        orientations = (named(chosen.orientation, orientations),)
    with bar("steps") as progress:
        done = complete(
            model, originals, known, samples=chosen.samples, orientations=orientations, label=label, seed=chosen.seed,
            temperature=chosen.temperature, top_k=chosen.top_k, top_p=chosen.top_p, progress=progress,
        )  # fmt: skip
    pictures.save_png(done.picture(), chosen.out)
    print(chosen.out, done.summary(), sep="\n")


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


def _load_data(path: Path, source: str | None, split: str, size: tuple[int, int] | None, skip_bad: bool) -> ImageData:
    """The data asked for, or what the model at `path` was trained on, in the model's shape."""
    from image_transformer import checkpoint, data

    config = load_config(checkpoint.find(path) / "config.yaml")
    return data.load(
        source or config.data.source, split, shape=config.model.shape,
        size=size or (None if source else config.data.size), skip_bad=skip_bad or (not source and config.data.skip_bad),
    )  # fmt: skip


def _parse(verb: type, usage: str, args: list[str], default: Any = None) -> Any:
    """The verb's dataclass from its flags. UsageError, in one line, for what cannot be understood."""
    import tyro
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def orders_and_patterns(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        if info.type == Order:
            return PrimitiveConstructorSpec(
                nargs=1,
                metavar="ORDER",
                instance_from_str=lambda words: from_text(words[0], ORDERS),
                is_instance=lambda value: isinstance(value, ORDERS),
                str_from_instance=lambda value: [to_text(value)],
            )
        of = typing.get_args(info.type)  # tyro narrows tuple[Pattern, ...] to the types of its default's items
        if typing.get_origin(info.type) is tuple and (of[0] == Pattern or of[0] in PATTERNS):
            return PrimitiveConstructorSpec(
                nargs="*",
                metavar="PATTERN [PATTERN ...]",
                instance_from_str=lambda words: tuple(from_text(word, PATTERNS) for word in words),
                is_instance=lambda value: isinstance(value, tuple),
                str_from_instance=lambda value: [to_text(pattern) for pattern in value],
            )
        return None

    arguments: dict[str, Any] = {"prog": f"image-transformer {usage}", "args": args, "default": default}
    if default is None:
        del arguments["default"]
    printed = io.StringIO()
    try:
        with registry, contextlib.redirect_stderr(printed):
            value, unknown = tyro.cli(verb, return_unknown_args=True, **arguments)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_one_line(printed.getvalue())) from None
    if unknown:
        _refuse(unknown[0], _flags(verb))
    return value


def _refuse(word: str, flags: list[str]) -> NoReturn:
    close = difflib.get_close_matches(word.split("=")[0].replace("_", "-"), flags, n=1)
    hint = f"did you mean {close[0]}?" if close else "see --help"
    raise UsageError(f"unknown {'option' if word.startswith('-') else 'argument'} {word}; {hint}")


def _flags(kind: type, prefix: str = "--") -> list[str]:
    """All flags of a dataclass, nested ones dotted."""
    hints = typing.get_type_hints(kind)
    found = []
    for f in fields(kind):
        name = f.name.replace("_", "-")
        nested = is_dataclass(hints[f.name])
        found += _flags(hints[f.name], f"{prefix}{name}.") if nested else [prefix + name]
    return found


def _one_line(box: str) -> str:
    """The message in one of tyro's framed errors, on one line."""
    text = re.sub(r"[│╭╮╰╯]", " ", box)
    message = re.split(r"─{3,} *\n(?=.*\S)", text, maxsplit=1)[-1]  # below the title
    message = re.split(r"─{3,}", message, maxsplit=1)[0]  # above the help
    return " ".join(message.split()) or "cannot understand the command line; see --help"


def run() -> None:
    """The entry point of the installed command."""
    sys.exit(main())


if __name__ == "__main__":
    run()
