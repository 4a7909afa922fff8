"""The command `image-transformer`: reads flags, calls the library, prints what came of it.

The verbs and their flags are in `verbs.py`. Only what a verb needs is imported when it runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_transformer.cli.flags import UsageError, parse
from image_transformer.cli.verbs import Complete, Demo, Evaluate, Recipes, Report, Sample, Superres, Train
from image_transformer.config.model import Plan, RunConfig, did_you_mean, load_config

if TYPE_CHECKING:
    from image_transformer.data.loading import ImageData

USAGE = """usage: image-transformer VERB ...

Autoregressive image models with exact likelihoods.

  demo                     train, measure and sample a small model in a few minutes
  recipes                  list what can be trained
  train RECIPE             train a model (RECIPE may also be the config.yaml of a run)
  evaluate MODEL           exact bits/dim on held-out images
  report RUN               all measures of a run, with pictures, as one page
  sample MODEL             a picture of new images
  complete MODEL [IMAGE..] continue images of which a part is given
  superres MODEL IMAGE...  enlarge images of any size, in several ways

MODEL is a run folder or a checkpoint in it. image-transformer VERB --help shows the flags of a verb.
"""

MANY_TILES = 2000  # from here on the user is told that it takes long


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
        "report": _report,
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
        raise UsageError(f"unknown verb {args[0]!r}; {did_you_mean(args[0], list(verbs))}")


# ---- train ----

ALIASES = {"--data": "--data.source", "--size": "--data.size", "--skip-bad": "--data.skip-bad"}


def _train(args: list[str]) -> None:
    from image_transformer.recipes import modern as recipes

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

    from image_transformer.training.loop import Interrupted, train

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

    from image_transformer import checkpoint
    from image_transformer.data.loading import has_splits
    from image_transformer.files import write_atomically
    from image_transformer.inference.scoring import bits, classify, evaluate
    from image_transformer.measures.assessment import enlargements, images_and_labels
    from image_transformer.show import grids as pictures
    from image_transformer.show.progress import bar

    model = checkpoint.load(path)
    _at_least(1, batch=chosen.batch, limit=chosen.limit)
    _at_least(0, classify=chosen.classify, enlarge=chosen.enlarge)
    if (chosen.consistent or chosen.enlarge) and not model.config.factor:
        raise UsageError(f"--consistent and --enlarge are for super-resolution, which {path} is not for")
    trained_on = load_config(checkpoint.find(path) / "config.yaml").data
    other = chosen.data is not None and Path(chosen.data).resolve() != Path(trained_on.source).resolve()
    whole = other and chosen.split is None and not has_splits(chosen.data)
    data = _load_data(path, chosen.data, chosen.split or ("all" if whole else "test"), chosen.size, chosen.skip_bad)
    images, label = images_and_labels(model, data, chosen.limit)
    with bar("images") as progress:
        result = evaluate(model, images, label=label, batch=chosen.batch, progress=progress)
    if chosen.per_image:
        lines = ["image,bits_per_dim", *(f"{i},{value:.6f}" for i, value in enumerate(result.per_image))]
        write_atomically(chosen.per_image, "\n".join([*lines, ""]).encode())
    if chosen.picture:
        where = bits(model, images[:16], label=None if label is None else label[:16]).sum(1)
        pictures.save_png(pictures.bits_map(images[:16], where, columns=8), chosen.picture)
    figures: dict[str, Any] = {
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
    said = [_said(figures)]
    if chosen.consistent:
        with bar("images") as progress:
            held = evaluate(model, images, label=label, consistent=True, batch=chosen.batch, progress=progress)
        figures["bits_per_dim_consistent"] = held.bits_per_dim
        said.append(f"{held.bits_per_dim:.4f} bits/dim of the consistent model")
    if label is not None and chosen.classify:
        with bar("scores") as progress:
            right = classify(model, images[: chosen.classify], batch=chosen.batch, progress=progress)
        accuracy = float((right == label[: chosen.classify].numpy()).mean())
        figures |= {"accuracy": accuracy, "classified": len(right)}
        said.append(f"{100 * accuracy:.1f} % of {len(right)} images are likeliest under their own class")
    if chosen.enlarge:
        train = _load_data(path, None, "train", None, False)
        tables = enlargements(model, train, data, Plan(chosen.enlarge, min(chosen.enlarge, Plan.several)), _say).tables
        figures["tables"] = [asdict(table) for table in tables]
        said += [f"\n{table.markdown()}" for table in tables]
    print(json.dumps(figures) if chosen.json else "\n".join(said))


def _said(figures: dict[str, Any]) -> str:
    error = figures["standard_error"]
    parts = [
        f"standard error {error:.4f}" if error is not None else "",
        f"{figures['images']:,} images of {figures['data']}, {figures['split']} split",
    ]
    skipped = f", {figures['skipped']} unreadable left out" if figures["skipped"] else ""
    trained = f"; trained with {figures['trained_with']}" if figures["trained_with"] else ""
    return f"{figures['bits_per_dim']:.4f} bits/dim  ({'; '.join(filter(None, parts))}{skipped}{trained})"


def _say(text: str) -> None:
    print(f"{text} ...", file=sys.stderr)


def _report(args: list[str]) -> None:
    path, rest = _model_argument("report", args)
    chosen = parse(Report, "report RUN", rest)

    from image_transformer import checkpoint
    from image_transformer.measures.assessment import assess, chain_rule, check_chain
    from image_transformer.show.page import write_report

    model, folder = checkpoint.load(path), checkpoint.find(path)
    chain = chosen.chain and (checkpoint.load(chosen.chain[0]), checkpoint.load(chosen.chain[1]))
    if chain:
        check_chain(model, *chain)
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder
    train, test = (_load_data(path, None, split, None, False) for split in ("train", "test"))
    found = assess(model, train, test, chosen, _say)
    if chain:
        _say("the chain rule")
        found.tables.append(chain_rule(model, *chain, test.images[: chosen.images]))
    found.save(run)
    print("\n\n".join(table.markdown() for table in found.tables))
    print(f"\nreport: {write_report(run)}")


# ---- sample, complete, superres ----


def _sample(args: list[str]) -> None:
    path, rest = _model_argument("sample", args)
    chosen = parse(Sample, "sample MODEL", rest)

    from image_transformer import checkpoint
    from image_transformer.inference.sampling import generate, generate_by_class
    from image_transformer.show import grids as pictures
    from image_transformer.show.progress import bar

    _at_least(1, columns=chosen.columns, count=chosen.count)
    model = checkpoint.load(path)
    if model.config.factor:
        raise ValueError(f"{path} enlarges images: image-transformer superres {path} IMAGE...")
    classes = model.config.classes
    _check_label(chosen.label, classes, needed=False)
    how: dict[str, Any] = {
        "seed": chosen.seed, "temperature": chosen.temperature, "top_k": chosen.top_k, "top_p": chosen.top_p,
        "batch": chosen.batch,
    }  # fmt: skip
    with bar("steps") as progress:
        if classes and chosen.label is None:
            drawn = generate_by_class(model, classes, chosen.count or 8, progress=progress, **how)
            picture = pictures.labelled_rows(list(zip(classes, drawn.numpy(), strict=True)))
        else:
            drawn = generate(model, chosen.count or 16, label=chosen.label, progress=progress, **how)
            picture = pictures.grid(drawn.numpy(), chosen.columns)
    pictures.save_png(picture, chosen.out)
    print(chosen.out)


def _complete(args: list[str]) -> None:
    path, rest = _model_argument("complete", args)
    files, rest = _file_arguments(rest)
    chosen = parse(Complete, "complete MODEL [IMAGE...]", rest)

    from image_transformer import checkpoint
    from image_transformer.data.loading import class_labels, load_files
    from image_transformer.geometry.orientation import named
    from image_transformer.inference.completion import complete, known_side, read_mask
    from image_transformer.show import grids as pictures
    from image_transformer.show.progress import bar

    _at_least(1, samples=chosen.samples, count=chosen.count)
    model = checkpoint.load(path)
    shape, classes = model.config.shape, model.config.classes
    _check_label(chosen.label, classes, needed=bool(files))
    if files:
        originals, label = load_files(files, shape=shape, size=chosen.size), chosen.label
    else:
        data = _load_data(path, chosen.data, "test", None, False)
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
    if model.config.factor:
        print("this model was also given the low resolution of the whole original, of the part to be drawn too")


def _superres(args: list[str]) -> None:
    path, rest = _model_argument("superres", args)
    files, rest = _file_arguments(rest)
    chosen = parse(Superres, "superres MODEL IMAGE...", rest)

    from image_transformer import checkpoint
    from image_transformer.data.loading import load_file
    from image_transformer.inference import enlarging as superres
    from image_transformer.show.progress import bar

    if not files:
        raise UsageError("superres needs images: image-transformer superres MODEL IMAGE... [flags]")
    _at_least(1, samples=chosen.samples)
    model = checkpoint.load(path)
    factor = superres.model_factor(model, chosen.factor)
    _check_label(chosen.label, model.config.classes, needed=True)
    if chosen.out.exists() and not chosen.out.is_dir():
        raise UsageError(f"--out {chosen.out} is a file, expected a folder")
    lows = [load_file(file, model.config.shape[0], size=chosen.size) for file in files]
    tiles = sum(superres.tiling(model, (low.shape[1], low.shape[2])).tiles for low in lows)
    print(f"images: {len(lows)}, tiles: {tiles:,}, samples of each: {chosen.samples}", flush=True)
    if tiles * chosen.samples > MANY_TILES:
        _say(f"{tiles * chosen.samples:,} tiles take long, often hours; --size HEIGHT WIDTH shrinks the images first")
    names, done = superres.names(files, chosen.out, chosen.samples), {}
    with bar("steps") as progress:
        for number, images in superres.enlarge_each(
            model, lows, samples=chosen.samples, seed=chosen.seed, temperature=chosen.temperature, top_k=chosen.top_k,
            top_p=chosen.top_p, label=chosen.label, consistent=chosen.consistent, progress=progress,
        ):  # fmt: skip
            done[number] = superres.write(chosen.out, names[number], lows[number], images, factor)
    print(chosen.out, *(done[number] for number in sorted(done)), sep="\n")


def _check_label(label: str | None, classes: Sequence[str] | None, *, needed: bool) -> None:
    from image_transformer.model import class_numbers

    if needed and classes and label is None:
        few = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        raise UsageError(f"--label is missing: this model is class-conditional, on {few}")
    if label is not None and not classes:
        raise UsageError("--label: this model is not class-conditional")
    if label is not None:
        class_numbers(label, 1, classes or ())


# ---- shared ----


def _at_least(least: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < least:
            raise UsageError(f"--{name} must be at least {least}, got {value}")


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
    from image_transformer import checkpoint
    from image_transformer.data import loading as data

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
