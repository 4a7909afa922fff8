"""Run folders of earlier versions: fields of `config.yaml` and tensors of checkpoints that have other names today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")

TENSORS = {"network.labels.": "network.vectors.label.", "network.encoder.": "network.encoders.low."}
OF_ONE_FAMILY = {"positions": "paper", "kv_heads": "modern"}  # once fields of both


def fields_of_today(model: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a model's configuration; `classes` and `factor` were fields, and families were not apart."""
    found = dict(model)
    classes, factor = found.pop("classes", None), found.pop("factor", None)
    if classes is not None or factor is not None:
        told = [{"name": "label", "names": classes}] if classes is not None else []
        found["conditions"] = told + ([{"name": "low", "factor": factor}] if factor is not None else [])
    if found.get("family", "modern") == "modern":
        found.setdefault("mix", 0)  # every configuration that was written since has it
    for name, family in OF_ONE_FAMILY.items():
        if name in found and found.get("family", "modern") != family:
            del found[name]
    return found


def tensors_of_today(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """The tensors of a checkpoint, also of a moving average, by the names that they have now."""
    return {_renamed(name): tensor for name, tensor in tensors.items()}


def _renamed(name: str) -> str:
    for old, new in TENSORS.items():
        for prefix in ("", "module."):
            if name.startswith(prefix + old):
                return prefix + new + name.removeprefix(prefix + old)
    return name
