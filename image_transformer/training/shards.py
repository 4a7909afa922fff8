"""Weights that are cut over processes, by FSDP2: each holds its rows of every weight, gradient and optimizer state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from image_transformer.model import ImageModel
from image_transformer.networks.transformer import LocalTransformer


def blocks(root: nn.Module) -> list[nn.Module]:
    """The layers of a transformer and of its encoders; none of another network."""
    if not any(isinstance(module, LocalTransformer) for module in root.modules()):
        return []
    stacks = (module for name, module in root.named_modules() if name.split(".")[-1] == "blocks")
    return [block for stack in stacks for block in stack.children()]


def cut(root: nn.Module, device: torch.device, count: int) -> None:
    """Cut the weights of a module over `count` processes, and make each block's whole only while it is used."""
    mesh = init_device_mesh(device.type, (count,))
    for block in blocks(root):
        fully_shard(block, mesh=mesh)
        for name in ("remember", "look_at"):  # what uses a block's weights beside `forward`
            if hasattr(block, name):
                register_fsdp_forward_method(block, name)
    fully_shard(root, mesh=mesh)


def cut_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole `tensor`, as `like` is cut; the tensor itself if that one is whole."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole(tensors: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """The tensors in one piece, on the CPU where they were cut; all processes have to ask.

    keep: whether this one wants them; else it only takes part.
    """
    found = {}
    for name, x in tensors.items():
        x = x.full_tensor().cpu() if isinstance(x, DTensor) else x
        if keep:
            found[name] = x
    return found


def whole_state(optimizer: Optimizer, keep: bool = True) -> dict[str, Any]:
    """What an optimizer remembers in one piece, as `load_whole_state` takes it."""
    found = optimizer.state_dict()
    return found | {"state": {i: whole(one, keep) for i, one in found["state"].items()}}


def whole_model(model: ImageModel) -> ImageModel:
    """A copy in one piece of a model that is cut."""
    copy = ImageModel(model.config)
    copy.load_state_dict(whole(model.state_dict()))
    return copy.to(model.device)


def load_whole(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Take in tensors in one piece, as `load_state_dict` does, whether or not the module is cut."""
    own = module.state_dict()
    module.load_state_dict({name: cut_like(x, own[name]) if name in own else x for name, x in state.items()})


def load_whole_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Take in what an optimizer remembers in one piece, each tensor cut as its weight is."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    own = {
        i: {name: cut_like(x, weights[i]) if _like(x, weights[i]) else x for name, x in of_one.items()}
        for i, of_one in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": own})


def _like(x: Any, weight: Tensor) -> bool:
    return isinstance(x, Tensor) and x.shape == weight.shape


def recompute(model: nn.Module) -> None:
    """Make every block keep its input alone, and run again for its gradient. ValueError for rivals."""
    found = blocks(model)
    if not found:
        raise ValueError("train.recompute is for the modern and the paper's family, not for rivals")
    for block in found:
        forward: Any = block.forward

        def again(*args: Any, forward: Any = forward, **options: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*args, **options)
            return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **options)

        block.forward = again
