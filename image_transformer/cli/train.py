"""`image-transformer train`: a recipe, or the configuration of a run, with other fields by flags."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from image_transformer.cli import UsageError, recipes
from image_transformer.cli.flags import parse
from image_transformer.config.data import DataConfig
from image_transformer.config.model import ModelConfig, Paper
from image_transformer.config.rivals import FAMILIES
from image_transformer.config.run import RunConfig, load_config, resuming
from image_transformer.config.train import TrainConfig
from image_transformer.files import begun_here
from image_transformer.geometry.patterns import attends
from image_transformer.recipes import recipe, starting_from
from image_transformer.words import did_you_mean

ALIASES = {
    "--init": "--train.init",
    "--data": "--data.source",
    "--size": "--data.size",
    "--skip-bad": "--data.skip-bad",
}


@dataclass(frozen=True)
class Train:
    """Train a model into a run folder: checkpoints, metrics, sample pictures and a report.

    --init MODEL starts from the weights of a trained model, and takes over its network. It stands for --train.init;
    --data, --size and --skip-bad, as the other verbs have them, for --data.source, --data.size, --data.skip-bad.
    --model.family puts another family of networks in the place of the recipe's: modern, paper, pixelrnn, pixelcnn,
    gated-pixelcnn, pixelcnn++ or megabyte.
    """

    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    out: Path | None = None
    """Run folder; runs/RECIPE if not given."""
    resume: bool = False
    """Go on with the run in the folder, from its newest checkpoint."""


def run(args: list[str]) -> None:
    if args and args[0] in ("-h", "--help"):
        print("usage: image-transformer train RECIPE [flags]; flags with their defaults: train RECIPE --help\n")
        return recipes.run([])
    if not args or args[0].startswith("-"):
        raise UsageError("train needs a recipe first: image-transformer train RECIPE; see image-transformer recipes")
    name, *rest = args
    base = load_config(Path(name)) if name.endswith((".yaml", ".yml")) else _find(name)
    parts = (word.partition("=") for word in rest)
    rest = [ALIASES.get(flag, flag) + equals + value for flag, equals, value in parts]
    chosen = parse_run(name, rest, base)
    out = chosen.out or Path("runs") / base.recipe
    exists = (out / "config.yaml").exists()
    chosen = replace(chosen, resume=chosen.resume or (exists and begun_here(out)))  # torchrun brings the command back
    if chosen.resume and exists:  # the run's own values, not the recipe's, are the defaults
        saved = load_config(out / "config.yaml")
        if saved.recipe != base.recipe:
            raise ValueError(f"{out} is a run of the recipe {saved.recipe}, not of {base.recipe}")
        chosen = replace(parse_run(name, rest, saved), resume=True)

    from image_transformer.training.errors import Interrupted
    from image_transformer.training.loop import train

    onward = resuming(name, out)
    try:
        best = train(RunConfig(base.recipe, chosen.model, chosen.data, chosen.train), out, resume=chosen.resume)
    except Interrupted as stop:
        raise Interrupted(f"{stop}; go on with: {onward}", stop.number) from None
    print(f"best checkpoint: {best}\nreport: {out / 'report.html'}\nnext: image-transformer evaluate {out}")


def _find(name: str) -> RunConfig:
    try:
        return recipe(name)
    except ValueError as error:
        raise UsageError(str(error)) from None


def parse_run(name: str, args: list[str], config: RunConfig) -> Any:
    """The verb with the fields of `config` as defaults.

    --train.init and --model.family come first: the other flags are about the fields of the model that they name.
    """
    init, _ = _taken("--train.init", args)
    config = starting_from(config, init)
    family, rest = _taken("--model.family", args)
    model = config.model if family is None else of_family(config.model, family)
    return parse(Train, f"train {name}", rest, Train(model, config.data, config.train))


def _taken(flag: str, args: list[str]) -> tuple[str | None, list[str]]:
    """The value of a flag that has to be known before the others, None if it has none, and the words without it."""
    for i, word in enumerate(args):
        name, equals, value = word.partition("=")
        if name == flag and equals:
            return value, args[:i] + args[i + 1 :]
        if name == flag and i + 1 == len(args):
            raise UsageError(f"{flag} needs a value")
        if name == flag:
            return args[i + 1], args[:i] + args[i + 2 :]
    return None, args


def of_family(model: ModelConfig, family: str) -> ModelConfig:
    """The model in another family of networks, with what it sets of the fields that both have."""
    if family not in FAMILIES:
        raise UsageError(f"--model.family: {did_you_mean(family, list(FAMILIES))}, got {family!r}")
    kind, own = FAMILIES[family], type(model)()
    kept = {f.name: getattr(model, f.name) for f in fields(kind) if hasattr(model, f.name)}
    if model.order == own.order:  # each family has an order of its own
        del kept["order"]
    if kind is Paper and "attention" in kept:  # its layers all attend
        kept["attention"] = tuple(one for one in kept["attention"] if attends(one)) or Paper.attention
    return kind(**kept)
