"""Processes that do one work together, as `torchrun` starts them; one alone runs the same code."""

from __future__ import annotations

import atexit
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
PATIENCE = 600.0  # seconds in which all processes have to start
LONGEST_TURN = timedelta(days=3)  # of the first process, while the others wait: decoding a data set may take hours


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
        return self.all(thing)[0]

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
        if not self.several:
            yield
            return
        from torch import distributed

        late = int(os.environ.get("LOCAL_RANK", "0")) > 0
        if late:
            distributed.barrier(_patient)
        yield
        if not late:
            distributed.barrier(_patient)


_now = Processes()
_patient: Any = None  # the same processes, as a group whose members wait longer for each other


def processes() -> Processes:
    """Those that share the work at hand; alone outside of `together`."""
    return _now


def launch() -> str | None:
    """What torchrun calls the job that it has started this process for, and starts it again for; None if nothing."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")  # none: its oldest kind of rendezvous gives no name
    return None if name == "none" else name


def _agreed(store: Any, rank: int, count: int) -> str:
    """A name that only the processes of this start know, for what they write into the store.

    torchrun keeps the store when it brings workers back, and those that find the addresses of the dead wait for them.
    So the first process answers whoever has a new name, until each of them has shown that it got the answer.
    """
    own = uuid.uuid4().hex
    if rank > 0:
        store.set(f"name/{rank}", own)
        agreed: str = store.get(f"answer/{own}").decode()
        store.set(f"thanks/{agreed}/{rank}", "")
        return agreed
    waiting, answered, deadline = set(range(1, count)), set(), time.monotonic() + PATIENCE
    while waiting:
        for other in tuple(waiting):
            name = store.get(f"name/{other}").decode() if store.check([f"name/{other}"]) else None
            if name is not None and name not in answered:
                store.set(f"answer/{name}", own)
                answered.add(name)
            if store.check([f"thanks/{own}/{other}"]):
                waiting.discard(other)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {', '.join(map(str, sorted(waiting)))} of {count} did not come")
        time.sleep(0.01)
    return own


@contextmanager
def together() -> Iterator[Processes]:
    """Join the processes that `torchrun` has started beside this one: by gloo, and NCCL between GPUs; alone otherwise.

    Inside, `evaluate` and `generate` give every process the result of their common work.
    """
    global _now, _patient
    if _now.several or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield _now
        return
    import torch
    from torch import distributed

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not distributed.is_initialized():  # for good: there is no coming back to a group that was left
        store, rank, count = next(distributed.rendezvous("env://"))
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=distributed.PrefixStore(_agreed(store, rank, count), store), rank=rank, world_size=count,
        )  # fmt: skip
        atexit.register(distributed.destroy_process_group)
        _patient = distributed.new_group(backend="gloo", timeout=LONGEST_TURN)
    _now = Processes(distributed.get_rank(), distributed.get_world_size())
    try:
        yield _now
    finally:
        _now = Processes()
