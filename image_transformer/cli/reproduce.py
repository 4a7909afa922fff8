"""`image-transformer reproduce`: run experiments again, and write the pages that say what came of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING

from image_transformer.cli import UsageError
from image_transformer.cli.flags import arguments, at_least, say
from image_transformer.files import locked, write_atomically

if TYPE_CHECKING:
    from image_transformer.reproduce.study import Result, Study, Trial

RUNS = Path("runs/reproduce")  # a folder for each trial that is not done


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

    words, chosen = arguments(Reproduce, "reproduce [NAME...]", args)  # all of them are named where none is
    names = dict.fromkeys(map(str, words))
    at_least(1, jobs=chosen.jobs)
    if not names:
        raise UsageError(f"reproduce needs a study: all, {', '.join(studies())}")
    if list(names) == ["all"]:
        names = {name: None for name, one in studies().items() if not one.by_name}
    try:
        wanted = [study(name) for name in names]
    except ValueError as error:
        raise UsageError(str(error)) from None

    out = chosen.out / "quick" if chosen.quick else chosen.out
    with locked(out):
        trials = {one: {trial.key: trial for trial in one.trials(chosen.quick)} for one in studies().values()}
        known = {key: line for one in trials for key, line in _read(out, one).items()}  # some serve several studies
        todo = {key: trial for one in wanted for key, trial in trials[one].items() if key not in known}
        if todo and not chosen.pages:
            minutes = sum(trial.seconds for trial in todo.values()) / 60 / chosen.jobs
            say(f"{len(todo)} trials are left, at least {minutes:.0f} minutes with --jobs {chosen.jobs}")
            for key, result in _all(todo, chosen.jobs):
                known[key] = result
                for one in trials:
                    if key in trials[one]:
                        _write(out, one, {key: known[key] for key in trials[one] if key in known})
                shutil.rmtree(RUNS / key, ignore_errors=True)
        _write_pages(wanted, trials, known, out)


def _all(todo: dict[str, Trial], jobs: int) -> Iterator[tuple[str, Result]]:
    """Keys and results as they come: trainings so many at once, then what is timed, alone."""
    timed = {key: trial for key, trial in todo.items() if trial.kind == "cost"}
    yield from _in_turn({key: trial for key, trial in todo.items() if key not in timed}, jobs)
    yield from _in_turn(timed, 1)


def _in_turn(todo: dict[str, Trial], jobs: int) -> Iterator[tuple[str, Result]]:
    """Each trial in a process of its own. Where this is interrupted, a trial that is done is only measured again."""
    from image_transformer.reproduce.trial import run_trial
    from image_transformer.show.progress import bar

    waiting, done = list(todo.items()), 0
    running: dict[Future[Result], str] = {}
    if not waiting:
        return
    with _workers(jobs) as workers, bar("trials") as progress:
        while waiting or running:
            while waiting and len(running) < jobs:  # no more, since what is queued cannot be called back
                key, trial = waiting.pop(0)
                running[workers.submit(run_trial, trial, RUNS / key)] = key
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                key, result = running.pop(future), future.result()
                say(f"{todo[key].study}: {todo[key].row}, seed {todo[key].seed}: {_in_short(result)}")
                yield key, result
                done += 1
                progress(done, len(todo))


def _workers(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Stop once the parent is gone, however it ended: a worker would wait for ever, its run in use."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        while True:  # the first makes a training save its run, the next ends the worker
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    threading.Thread(target=watch, daemon=True).start()


def _in_short(result: Result) -> str:
    if "failed" in result:
        return str(result["failed"])
    return (
        f"{result['bits_per_dim']:.4f} bits/dim" if "bits_per_dim" in result else f"{result['learn']:.4f} CPU-seconds"
    )


def _write_pages(
    wanted: list[Study], trials: dict[Study, dict[str, Trial]], known: dict[str, Result], out: Path
) -> None:
    from image_transformer.reproduce.page import Results, write_index, write_page

    found = {
        one: Results(one, [(trial, known[key]) for key, trial in of.items() if key in known])
        for one, of in trials.items()
    }
    for one in wanted:
        if found[one].rows:
            write_page(found[one], out)
            print(out / f"{one.name}.md")
        else:
            say(f"{one.name}: no results of its trials as they are defined now")
    paged = [results for one, results in found.items() if results.rows and (out / f"{one.name}.md").exists()]
    write_index(paged, out)  # a trial that several studies share is no page of each


def _read(out: Path, one: Study) -> dict[str, Result]:
    path = out / f"{one.name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _write(out: Path, one: Study, lines: dict[str, Result]) -> None:
    text = ",\n".join(f"{json.dumps(key)}: {json.dumps(line)}" for key, line in lines.items())
    write_atomically(out / f"{one.name}.json", f"{{\n{text}\n}}\n".encode())
