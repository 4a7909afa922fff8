"""`image-transformer reproduce`: run experiments again, and write the pages that say what came of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_transformer.cli import UsageError
from image_transformer.cli.flags import at_least, parse, say
from image_transformer.files import write_atomically

if TYPE_CHECKING:
    from image_transformer.reproduce.study import Trial

Result = dict[str, Any]


@dataclass(frozen=True)
class Reproduce:
    """Run the trials of a study that are not done yet, and write its page, its plot and its raw figures."""

    out: Path = Path("docs/results")
    """Folder for NAME.md, NAME.png and NAME.json; trials whose figures are there already are not run again."""
    jobs: int = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    """Trials at once, each with one thread."""
    quick: bool = False
    """Two rows of a second each, to see that everything runs; their figures mean nothing, and go into OUT/quick."""
    pages: bool = False
    """Run nothing, write the pages anew from the raw figures that are there."""


def run(args: list[str]) -> None:
    from image_transformer.reproduce.study import studies, study

    names = []
    while args and not args[0].startswith("-"):
        names.append(args[0])
        args = args[1:]
    chosen = parse(Reproduce, "reproduce NAME... (or all)", args)
    at_least(1, jobs=chosen.jobs)
    if not names:
        raise UsageError(f"reproduce needs a study: all, {', '.join(studies())}")
    if names == ["all"]:
        names = [name for name, one in studies().items() if not one.by_name]
    try:
        wanted = [study(name) for name in names]
    except ValueError as error:
        raise UsageError(str(error)) from None

    from image_transformer.reproduce.page import write_index, write_page

    out = chosen.out / "quick" if chosen.quick else chosen.out
    out.mkdir(parents=True, exist_ok=True)
    results = {one.name: _read(out / f"{one.name}.json") for one in wanted}
    trials = [trial for one in wanted for trial in one.trials(chosen.quick)]
    done = {result["key"] for of in results.values() for result in of}
    todo = [] if chosen.pages else [trial for trial in trials if trial.key not in done]
    if todo:
        minutes = sum(trial.seconds for trial in todo) / 60 / chosen.jobs
        say(f"{len(todo)} of {len(trials)} trials are left, at least {minutes:.0f} minutes with --jobs {chosen.jobs}")
        for trial, result in _in_turn(todo, chosen.jobs):
            results[trial.study].append(result)
            text = "[\n" + ",\n".join(map(json.dumps, results[trial.study])) + "\n]\n"
            write_atomically(out / f"{trial.study}.json", text.encode())
            figure = f": {result['bits_per_dim']:.4f} bits/dim" if "bits_per_dim" in result else ""
            say(f"{trial.study}: {trial.row}, seed {trial.seed}{figure}")
    for one in wanted:
        if results[one.name]:
            write_page(one, results[one.name], out)
            print(out / f"{one.name}.md")
    known = {one: _read(out / f"{one.name}.json") for one in studies().values()}
    write_index({one: lines for one, lines in known.items() if lines}, out)


def _in_turn(todo: list[Trial], jobs: int) -> Iterator[tuple[Trial, Result]]:
    """Trials and their results as they come; each runs in a process of its own, so many at once."""
    from image_transformer.reproduce.trial import run_trial
    from image_transformer.show.progress import bar

    with ProcessPoolExecutor(jobs, get_context("spawn")) as workers, bar("trials") as progress:
        runs = {workers.submit(run_trial, trial, Path("runs/reproduce") / trial.key): trial for trial in todo}
        try:
            for count, future in enumerate(as_completed(runs), 1):
                yield runs[future], future.result()
                progress(count, len(todo))
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise


def _read(path: Path) -> list[Result]:
    return json.loads(path.read_text()) if path.exists() else []
