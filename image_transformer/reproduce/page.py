"""What came of a study: the table, the plot, and a verdict on each claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from image_transformer.files import write_atomically
from image_transformer.reproduce.study import Study
from image_transformer.reproduce.trial import Result
from image_transformer.show.records import Table

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided at this scale"
SAME = 0.01  # bits/dim that count as none
ONE_SEED = 0.01  # standard error of a difference, where there is one seed alone: about what two seeds differ by


EXPLAINED = """Claims with a number are the paper's, the others are ours. Figures are differences in bits/dim, seed by
seed, and their standard errors. A claim holds, or does not, where they are beyond two of these errors; that of a single
seed is taken to be 0.01."""


@dataclass(frozen=True)
class Verdict:
    claim: str
    figure: str
    verdict: str


class Results:
    """The results of a study, by row."""

    def __init__(self, study: Study, results: Sequence[Result]) -> None:
        self.study = study
        wanted = {trial.key for trial in study.trials()} | {trial.key for trial in study.trials(quick=True)}
        known = [one for one in results if one["key"] in wanted]
        rows = {row: [one for one in known if one["row"] == row] for row in study.rows}
        self.rows = {row: sorted(of, key=lambda one: one["seed"]) for row, of in rows.items() if of}

    def mean(self, row: str) -> tuple[float, float]:
        """bits/dim over seeds, and the spread: their standard deviation, or over images where there is one seed."""
        found = [one["bits_per_dim"] for one in self.rows[row]]
        return fmean(found), stdev(found) if len(found) > 1 else self.rows[row][0]["standard_error"]

    def difference(self, row: str, other: str) -> tuple[float, float]:
        """bits/dim of a row minus those of another, seed by seed, and its standard error."""
        pairs = list(zip(self.rows[row], self.rows[other], strict=False))
        each = [a["bits_per_dim"] - b["bits_per_dim"] for a, b in pairs]
        return fmean(each), stdev(each) / math.sqrt(len(each)) if len(each) > 1 else ONE_SEED

    def costs(self) -> Table:
        """What a study of costs measured."""
        columns = ["", "parameters", "GFLOP of a gradient", "CPU-seconds of a gradient", "CPU-seconds to draw"]
        rows = []
        for row, (one, *_) in self.rows.items():
            drawn = "" if one["draw"] is None else f"{one['draw']:.4f}"
            rows.append([row, f"{one['parameters']:,}", f"{one['gflop']:.2f}", f"{one['learn']:.4f}", drawn])
        return Table("For one image, of a batch of 2 (gradient) or 4 (drawing), with one thread.", columns, rows)

    def table(self) -> Table:
        first = next(iter(self.rows))
        columns = ["", "parameters", "images seen", "bits/dim", "± over seeds", f"difference to {first}"]
        rows = []
        for row, found in self.rows.items():
            (mean, spread), (difference, error) = self.mean(row), self.difference(row, first)
            seen = round(fmean(one["images"] for one in found))
            apart = "" if row == first else f"{difference:+.3f} ± {error:.3f}"
            spread_ = f"{spread:.3f}" if len(found) > 1 else ""
            rows.append([row, f"{found[0]['parameters']:,}", f"{seen:,}", f"{mean:.3f}", spread_, apart])
        seeds, every = max(map(len, self.rows.values())), [one for found in self.rows.values() for one in found]
        ideal = "" if self.study.ideal is None else f" A perfect model needs {self.study.ideal:g}."
        caption = (
            f"{fmean(one['cpu_seconds'] for one in every):.0f} CPU-seconds of one core each, "
            f"{seeds} seed{'s' if seeds > 1 else ''}, {every[0]['scored']:,} test images.{ideal}"
        )
        return Table(caption, columns, rows)

    def verdicts(self) -> list[Verdict]:
        return [_verdict(self, dict(claim)) for claim in self.study.claims]


def _verdict(results: Results, claim: dict[str, Any]) -> Verdict:
    text = claim.pop("claim")
    ((test, rows),) = claim.items()
    if not set(rows) <= set(results.rows):
        return Verdict(text, "not run yet", OPEN)
    return Verdict(text, *TESTS[test](results, rows))


def _compared(difference: float, error: float) -> str:
    """Whether the first of two is better, beyond two standard errors."""
    return HOLDS if difference < -2 * error else FAILS if difference > 2 * error else OPEN


def below(results: Results, rows: Sequence[str]) -> tuple[str, str]:
    """The first row needs fewer bits than every other."""
    found = [results.difference(rows[0], other) for other in rows[1:]]
    return _figures(found), _all([_compared(*one) for one in found])


def falls(results: Results, rows: Sequence[str]) -> tuple[str, str]:
    """Each row needs fewer bits than the one before it."""
    found = [results.difference(b, a) for a, b in pairwise(rows)]
    return _figures(found), _all([_compared(*one) for one in found])


def first_gap_largest(results: Results, rows: Sequence[str]) -> tuple[str, str]:
    """From row to row bits/dim fall the most at first."""
    gaps = [results.difference(b, a) for a, b in pairwise(rows)]
    found = [(gaps[0][0] - gap, math.hypot(gaps[0][1], error)) for gap, error in gaps[1:]]
    return _figures(gaps), _all([_compared(*one) for one in found])


def same(results: Results, rows: Sequence[str]) -> tuple[str, str]:
    """The rows differ by no more than a hundredth of a bit/dim from the first."""
    found = [results.difference(other, rows[0]) for other in rows[1:]]
    inside = [abs(difference) + 2 * error <= SAME for difference, error in found]
    outside = [abs(difference) - 2 * error > SAME for difference, error in found]
    return _figures(found), HOLDS if all(inside) else FAILS if any(outside) else OPEN


TESTS = {"below": below, "falls": falls, "first_gap_largest": first_gap_largest, "same": same}


def _figures(found: Sequence[tuple[float, float]]) -> str:
    return ", ".join(f"{difference:+.3f} ± {error:.3f}" for difference, error in found)


def _all(verdicts: Sequence[str]) -> str:
    return FAILS if FAILS in verdicts else OPEN if OPEN in verdicts else HOLDS


def write_page(study: Study, results: Sequence[Result], out: Path) -> None:
    """`NAME.md` and `NAME.png` beside the raw figures."""
    found = Results(study, results)
    draw(study, found, out / f"{study.name}.png")
    all_of_them = [one for of in found.rows.values() for one in of]
    where = sorted({tuple(sorted(one["where"].items())) for one in all_of_them})
    machines = "; ".join(
        f"{w['processor']}, torch {w['torch']}, commit {w['commit']}, {w['date']}" for w in map(dict, where)
    )
    spent = sum(one.get("cpu_seconds", study.seconds) for one in all_of_them)
    some = "" if len(all_of_them) >= len(study.trials()) else ", not all of its trials yet"
    text = f"""# {study.title}

{study.question}

![{study.title}]({study.name}.png)

{(found.costs() if study.kind == "cost" else found.table()).markdown()}

{claims_table(found.verdicts()) if study.claims else ""}
`image-transformer reproduce {study.name}`: {spent / 60:.0f} CPU-minutes{some}.
{machines}. Raw figures: [{study.name}.json]({study.name}.json).
"""
    write_atomically(out / f"{study.name}.md", text.encode())


def write_index(found: Mapping[Study, Sequence[Result]], out: Path) -> None:
    """`README.md`: every study that has results, and every claim with its verdict."""
    pages = "\n".join(f"- [{study.title}]({study.name}.md)" for study in found)
    verdicts = [
        replace(verdict, claim=f"[{verdict.claim}]({study.name}.md)")
        for study, results in found.items()
        for verdict in Results(study, results).verdicts()
    ]
    text = f"""# Results of `image-transformer reproduce`

{pages}

## Claims

{EXPLAINED}

{claims_table(verdicts)}"""
    write_atomically(out / "README.md", text.encode())


def claims_table(verdicts: Sequence[Verdict]) -> str:
    rows = [[one.claim, one.figure, one.verdict] for one in verdicts]
    return Table("", ["claim", "bits/dim, ± standard error", "verdict"], rows).markdown().strip() + "\n"


def _by_size(results: Results) -> dict[str, list[tuple[int, float, float | None]]]:
    """Of each network (side, seconds of a gradient, seconds to draw), from rows called "NETWORK, SIDE x SIDE"."""
    found: dict[str, list[tuple[int, float, float | None]]] = {}
    for row, (one, *_) in results.rows.items():
        name, _, size = row.rpartition(", ")
        found.setdefault(name, []).append((int(size.split()[0]), one["learn"], one["draw"]))
    return found


def draw(study: Study, results: Results, path: Path) -> None:
    from image_transformer.show import charts
    from image_transformer.show.grids import save_png

    if study.plot == "curves":
        curves = {row: [one["curve"] for one in found if one["curve"]] for row, found in results.rows.items()}
        picture = charts.learning_curves({row: of for row, of in curves.items() if of})
    elif study.plot == "fields":
        import numpy as np

        fields = {row: np.array(found[0]["field"]) for row, found in results.rows.items() if "field" in found[0]}
        picture = charts.fields(fields)
    elif study.kind == "cost" and study.measures:
        picture = charts.costs(_by_size(results))
    elif study.kind == "cost":
        seconds = {row: (one["learn"], 0.0) for row, (one, *_) in results.rows.items()}
        picture = charts.spreads(seconds, xlabel="CPU-seconds of a gradient, one image")
    else:
        picture = charts.spreads({row: results.mean(row) for row in results.rows}, study.ideal)
    save_png(picture, path)
