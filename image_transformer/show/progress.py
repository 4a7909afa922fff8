"""Progress bars on stderr. They vanish when done, and print nothing where stderr is not a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left, as a function of (done, total); `what` is counted."""
    with _progress(MofNCompleteColumn(), TextColumn(what)) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def training_bar(fraction: float, show: bool) -> Iterator[Callable[[float, int, float, float], None]]:
    """A bar as a function of (fraction done, images seen, images/s, bits/dim); the last one is shown smoothed."""
    figures = TextColumn("{task.fields[images]:,} images · {task.fields[rate]:.1f}/s · {task.fields[bpd]:.3f} bits/dim")
    with _progress(figures, show=show) as progress:
        task = progress.add_task("", total=1.0, images=0, rate=0.0, bpd=0.0)
        smooth: list[float] = []

        def advance(fraction: float, images: int, rate: float, bpd: float) -> None:
            smooth[:] = [0.95 * smooth[0] + 0.05 * bpd if smooth else bpd]
            progress.update(task, completed=fraction, images=images, rate=rate, bpd=smooth[0])

        progress.update(task, completed=fraction)
        yield advance


def _progress(*columns: ProgressColumn, show: bool = True) -> Progress:
    console = Console(stderr=True)
    columns = (BarColumn(), *columns, TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not (show and console.is_terminal))
