"""Processes that do one work together, as `torchrun` starts them; one alone runs the same code."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process, `rank`, among `count`. All have to call what waits for the others, in the same order."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.count > 1

    def share(self, total: int) -> range:
        """Which of `total` things are this process's: consecutive ones, about as many as each other's."""
        return range(total * self.rank // self.count, total * (self.rank + 1) // self.count)

    def told(self, thing: T) -> T:
        """The first process's `thing`, which can be pickled."""
        if not self.several:
            return thing
        from torch import distributed

        carrier: list[Any] = [thing]
        distributed.broadcast_object_list(carrier, src=0)
        return carrier[0]

    def all(self, thing: T) -> list[T]:
        """Every process's `thing`, by rank."""
        if not self.several:
            return [thing]
        from torch import distributed

        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, thing)
        return found

    def largest(self, number: float) -> float:
        if not self.several:
            return number
        import torch
        from torch import distributed

        carrier = torch.tensor(number, dtype=torch.float64)
        distributed.all_reduce(carrier, distributed.ReduceOp.MAX)
        return carrier.item()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of every process's `tensor`, in place."""
        if self.several:
            from torch import distributed

            distributed.all_reduce(tensor)
        return tensor

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process of each machine goes first, then its others: what it has made they find there."""
        late = self.several and int(os.environ.get("LOCAL_RANK", "0")) > 0
        if late:
            self.wait()
        yield
        if not late:
            self.wait()

    def wait(self) -> None:
        """Until all are here."""
        if self.several:
            from torch import distributed

            distributed.barrier()


_now = Processes()


def processes() -> Processes:
    """Those that share the work at hand; alone outside of `together`."""
    return _now


@contextmanager
def together() -> Iterator[Processes]:
    """Join the processes that `torchrun` has started beside this one: by gloo, and NCCL between GPUs; alone otherwise.

    Inside, `evaluate` and `generate` give every process the result of their common work.
    """
    global _now
    if _now.several or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield _now
        return
    import torch
    from torch import distributed

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not distributed.is_initialized():  # once for all: the addresses of a group that was left stay in the store
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(distributed.destroy_process_group)
    _now = Processes(distributed.get_rank(), distributed.get_world_size())
    try:
        yield _now
    finally:
        _now = Processes()
