"""Starting from a trained model: what of its weights another one takes over."""

from __future__ import annotations

from dataclasses import fields

import torch

from image_transformer.checkpoint import CheckpointError
from image_transformer.config.model import ModelConfig
from image_transformer.model import ImageModel

FREE = ("shape", "conditions", "look", "encoder_depth", "dropout", "temperature", "min_log_scale")  # may differ


@torch.no_grad()
def carry_over(source: ImageModel, model: ImageModel) -> list[str]:
    """Copy the weights of `source` into `model` as far as they fit; returns, in words, what was done to the others.

    Only shape and conditions may differ, how these are read, and what has no part in the weights: CheckpointError names
    another field. The vectors of a condition's choices go by their names, new ones get the mean of the old. How other
    weights fit another shape or other conditions is for the network to say (`Network.take_over`).
    """
    _check_same_network(source.config, model.config)
    found, state, said = source.state_dict(), model.state_dict(), []
    misfits = [
        name.split(".")
        for name, new in state.items()
        if name in found
        and found[name].shape != new.shape
        and model.network.take_over(name.removeprefix("network."), found[name], new, source.network) is None
    ]
    anew = {parts[2] for parts in misfits if parts[1] in ("encoders", "placed")}  # conditions whose readers begin anew
    for name, new in state.items():
        old = found.get(name)
        if old is None or anew.intersection(name.split(".")):
            said.append(f"{_module(name)} is new")
            continue
        choices = [_choices(name, one) for one in (source, model)]
        if choices[0] != choices[1] and all(choices):
            places = [choices[0].index(one) if one in choices[0] else None for one in choices[1]]
            new.copy_(torch.stack([old.mean(0) if place is None else old[place] for place in places]))
            known = [one for one in choices[1] if one in choices[0]]
            said.append(f"{name} is taken over for {', '.join(known) or 'none'}, the mean of all for the others")
        elif took := model.network.take_over(name.removeprefix("network."), old, new, source.network):
            new.copy_(took[0])
            said.append(f"{name} {took[1]}")
        elif old.shape == new.shape:
            new.copy_(old)
        else:
            raise CheckpointError(
                f"cannot start from a model of another network: its {name} is {tuple(old.shape)}, here "
                f"{tuple(new.shape)}"
            )
    said += [f"{_module(name)} is left out" for name in found if name not in state]
    return list(dict.fromkeys(said))


def _check_same_network(old: ModelConfig, new: ModelConfig) -> None:
    if type(old) is not type(new):
        raise CheckpointError(f"cannot start from a model of the {old.family} family, this one is {new.family}")
    for name in (f.name for f in fields(old) if f.name not in FREE):
        if getattr(old, name) != getattr(new, name):
            raise CheckpointError(
                f"cannot start from a model of another network: its model.{name} is {getattr(old, name)}, "
                f"here {getattr(new, name)}"
            )


def _module(name: str) -> str:
    """The part of the network that a tensor belongs to, such as network.encoders.low or network.blocks.1.cross."""
    parts = name.split(".")
    return ".".join(parts[: 4 if parts[1] == "blocks" else 3])


def _choices(name: str, model: ImageModel) -> tuple[str, ...]:
    """The choices of the condition whose vectors are the tensor `name`."""
    told = [one for one in model.config.conditions if name == f"network.vectors.{one.name}.weight"]
    return told[0].choices if told else ()
