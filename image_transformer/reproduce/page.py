"""What came of a study: the table, the plot, and a verdict on each claim."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from image_transformer.files import write_atomically
from image_transformer.reproduce.study import Result, Study, Trial
from image_transformer.show.records import Table

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided at this scale"
SAME = 0.01  # bits/dim that count as none
ONE_SEED = 0.01 / math.sqrt(2)  # standard deviation over seeds where there is one alone: differences are 0.01 off


EXPLAINED = """Claims with a number are the paper's, the others are ours. Figures are differences in bits/dim between
the same seeds, and their standard errors, from the spread over seeds in all rows of the study, or in the rows that are
compared alone, where the rows of the study differ too much for one spread (Bartlett's test). A claim holds, or does
not, where the difference is beyond the 95 % interval of that error; where there is one seed, beyond 0.02."""


SIGHT = """Of each model what it may see (left, grey) and how strongly each pixel moves its prediction (right, a
logarithmic scale of six decades), by gradients after training, three quarters down, in the middle. It looks at the
fewest pixels that have 99 % of the gradient."""


class Difference(NamedTuple):
    """In bits/dim, with its standard error, and the degrees of freedom of that."""

    value: float
    error: float
    freedom: int


@dataclass(frozen=True)
class Verdict:
    claim: str
    figure: str
    verdict: str


class Results:
    """The results of a study, by row and seed; rows without any are left out."""

    def __init__(self, study: Study, found: Sequence[tuple[Trial, Result]]) -> None:
        self.study = study
        self.rows: dict[str, dict[int, Result]] = {}
        for row in study.rows:
            of_row = {trial.seed: result for trial, result in found if trial.row == row}
            if of_row:
                self.rows[row] = of_row

    @property
    def lines(self) -> list[Result]:
        return [line for of_row in self.rows.values() for line in of_row.values()]

    def seeds(self, *rows: str) -> list[int]:
        """Those that all of the rows have figures for."""
        finite = [{seed for seed, line in self.rows[row].items() if "bits_per_dim" in line} for row in rows]
        return sorted(set.intersection(*finite))

    def bits(self, row: str) -> list[float]:
        return [self.rows[row][seed]["bits_per_dim"] for seed in self.seeds(row)]

    def spread(self, rows: Collection[str]) -> tuple[float, int]:
        """The standard deviation over seeds, common to all rows of the study, and its degrees of freedom, 0 if none.

        Common to `rows` alone where those of the study do not look as if they had one.
        """
        every = {row: self.bits(row) for row in self.rows if len(self.seeds(row)) > 1}
        of_one = alike(list(every.values()))
        several = [found for row, found in every.items() if of_one or row in rows]
        freedom = sum(len(found) - 1 for found in several)
        if not freedom:
            return ONE_SEED, 0
        return math.sqrt(sum((x - fmean(found)) ** 2 for found in several for x in found) / freedom), freedom

    def contrast(self, weights: Mapping[str, float]) -> Difference | None:
        """A weighted sum of the rows' bits/dim, over the seeds that all have; None without any.

        Seeds are paired in the mean alone: their spread is taken to be that of independent runs, which it nearly is.
        """
        seeds = self.seeds(*weights)
        if not seeds:
            return None
        value = sum(w * fmean(self.rows[row][seed]["bits_per_dim"] for seed in seeds) for row, w in weights.items())
        spread, freedom = self.spread(weights)
        return Difference(value, spread * math.sqrt(sum(w * w for w in weights.values()) / len(seeds)), freedom)

    def difference(self, row: str, other: str) -> Difference | None:
        """bits/dim of a row minus those of another."""
        return self.contrast({row: 1.0, other: -1.0})

    def costs(self) -> Table:
        """What a study of costs measured."""
        columns = ["", "parameters", "GFLOP of a gradient", "CPU-seconds of a gradient", "CPU-seconds to draw"]
        rows = []
        for row, of_row in self.rows.items():
            one = next(iter(of_row.values()))
            drawn = "" if one["draw"] is None else f"{one['draw']:.4f}"
            rows.append([row, f"{one['parameters']:,}", f"{one['gflop']:.2f}", f"{one['learn']:.4f}", drawn])
        return Table("For one image, of a batch of 2 (gradient) or 4 (drawing), with one thread.", columns, rows)

    def table(self) -> Table:
        first = next(iter(self.rows))
        columns = ["", "parameters", "images seen", "bits/dim", "± over seeds", f"difference to {first}"]
        rows = []
        for row in self.rows:
            found, lines = self.bits(row), [self.rows[row][seed] for seed in self.seeds(row)]
            if not found:
                rows.append([row, "", "", "diverged", "", ""])
                continue
            seen = round(fmean(line["images"] for line in lines))
            spread = f"{stdev(found):.3f}" if len(found) > 1 else ""
            apart = "" if row == first else _figures([self.difference(row, first)])
            rows.append([row, f"{lines[0]['parameters']:,}", f"{seen:,}", f"{fmean(found):.3f}", spread, apart])
        seeds, finite = max(map(len, self.rows.values())), [one for one in self.lines if "bits_per_dim" in one]
        spent, scored = (max(one[name] for one in finite) if finite else 0 for name in ("cpu_seconds", "scored"))
        ideal = "" if self.study.ideal is None else f" A perfect model needs {self.study.ideal:g}."
        caption = (
            f"{spent:.0f} CPU-seconds of one core each, {seeds} seed{'s' if seeds > 1 else ''}, "
            f"{scored:,} test images.{ideal}"
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


def verdict_of(contrasts: Sequence[Difference | None]) -> tuple[str, str]:
    """Figures, and whether all of these differences are below 0."""
    return _figures(contrasts), _all([_compared(one) for one in contrasts])


def _compared(contrast: Difference | None) -> str:
    """Whether a difference is below 0, beyond what chance makes of it 19 times in 20."""
    if contrast is None:
        return OPEN
    value, bound = contrast.value, quantile(contrast.freedom) * contrast.error
    return HOLDS if value < -bound else FAILS if value > bound else OPEN


def alike(groups: Sequence[Sequence[float]]) -> bool:
    """Whether groups of values may have one standard deviation: Bartlett's test at 5 %.

    Its chi-squared quantile is that of Wilson and Hilferty (1931). Spreads below 0.0001 count as that.
    """
    if len(groups) < 2:
        return True
    freedoms, variances = [len(one) - 1 for one in groups], [max(stdev(one), 1e-4) ** 2 for one in groups]
    total, more = sum(freedoms), len(groups) - 1
    common = sum(map(math.prod, zip(freedoms, variances, strict=True))) / total
    apart = sum(free * math.log(common / own) for free, own in zip(freedoms, variances, strict=True))
    apart /= 1 + (sum(1 / free for free in freedoms) - 1 / total) / (3 * more)
    return apart < more * (1 - 2 / (9 * more) + 1.645 * math.sqrt(2 / (9 * more))) ** 3


def quantile(freedom: int) -> float:
    """Student's t at 97.5 %, to a hundredth or two; 2 for no degrees of freedom, where errors are assumed."""
    if freedom < 1:
        return 2.0
    return {1: 12.71, 2: 4.30, 3: 3.18}.get(freedom, 1.96 + 2.4 / freedom + 3 / freedom**2)


def below(results: Results, rows: Sequence[str]) -> tuple[str, str]:
    """The first row needs fewer bits than every other."""
    return verdict_of([results.difference(rows[0], other) for other in rows[1:]])


def falls(results: Results, rows: Sequence[str]) -> tuple[str, str]:
    """Each row needs fewer bits than the one before it."""
    return verdict_of([results.difference(b, a) for a, b in pairwise(rows)])


def first_gap_largest(results: Results, rows: Sequence[str]) -> tuple[str, str]:
    """From row to row bits/dim fall the most at first: by how much, and by how much more than later."""
    first, second = rows[:2]
    contrasts = [results.difference(second, first)]
    for a, b in pairwise(rows[1:]):
        weights = dict.fromkeys([first, second, a, b], 0.0)
        for row, weight in ((second, 1), (first, -1), (b, -1), (a, 1)):
            weights[row] += weight
        contrasts.append(results.contrast(weights))
    return verdict_of(contrasts)


def same(results: Results, rows: Sequence[str]) -> tuple[str, str]:
    """The rows differ by no more than a hundredth of a bit/dim from the first."""
    found = [results.difference(other, rows[0]) for other in rows[1:]]
    inside = [one is not None and abs(one.value) + quantile(one.freedom) * one.error <= SAME for one in found]
    outside = [one is not None and abs(one.value) - quantile(one.freedom) * one.error > SAME for one in found]
    return _figures(found), HOLDS if all(inside) else FAILS if any(outside) else OPEN


TESTS = {"below": below, "falls": falls, "first_gap_largest": first_gap_largest, "same": same}


def _figures(found: Sequence[Difference | None]) -> str:
    return ", ".join("diverged" if one is None else f"{one.value:+.3f} ± {one.error:.3f}" for one in found)


def _all(verdicts: Sequence[str]) -> str:
    return FAILS if FAILS in verdicts else OPEN if OPEN in verdicts else HOLDS


def write_page(found: Results, out: Path) -> None:
    """`NAME.md` beside the raw figures, `NAME.png`, and `NAME-fields.png` if receptive fields were measured, too."""
    study = found.study
    machines = sorted({tuple(sorted(one["where"].items())) for one in found.lines})
    where = [f"{w['processor']}, torch {w['torch']}, commit {w['commit']}, {w['date']}" for w in map(dict, machines)]
    if len({dict(one)["processor"] for one in machines}) > 1:
        where.append("CPU-seconds of different processors are not equally long")
    spent = sum(one.get("cpu_seconds", study.seconds) for one in found.lines)
    some = "" if len(found.lines) >= study.seeds * len(study.rows) else ", not all of its trials yet"
    text = f"""# {study.title}

{study.question}

{_pictures(found, out)}

{(found.costs() if study.kind == "cost" else found.table()).markdown()}

{claims_table(found.verdicts()) if study.claims else ""}
`image-transformer reproduce {study.name}`: {spent / 60:.0f} CPU-minutes{some}.
{"; ".join(where)}. Raw figures: [{study.name}.json]({study.name}.json).
"""
    write_atomically(out / f"{study.name}.md", text.encode())


def write_index(found: Sequence[Results], out: Path) -> None:
    """`README.md`: every study that has results, and every claim with its verdict."""
    pages = "\n".join(f"- [{one.study.title}]({one.study.name}.md)" for one in found)
    verdicts = [
        replace(verdict, claim=f"[{verdict.claim}]({one.study.name}.md)") for one in found for verdict in one.verdicts()
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


def _pictures(found: Results, out: Path) -> str:
    """Draws those for which there are figures, and shows them in the words of a page."""
    study, shown = found.study, []
    plots = {study.plot: study.name}
    plots.setdefault("fields", f"{study.name}-fields")
    for plot, name in plots.items():
        path = out / f"{name}.png"
        if not any("field" in one if plot == "fields" else "failed" not in one for one in found.lines):
            path.unlink(missing_ok=True)
            continue
        draw(found, plot, path)
        shown += [SIGHT] if plot == "fields" else []
        shown.append(f"![{study.title if name == study.name else 'How far they look'}]({path.name})")
    return "\n\n".join(shown) or "Every trial failed."


def draw(found: Results, plot: str, path: Path) -> None:
    """A plot of a study: bars, curves, fields or sizes."""
    import numpy as np

    from image_transformer.show import charts
    from image_transformer.show.grids import save_png

    study, firsts = found.study, {row: next(iter(of_row.values())) for row, of_row in found.rows.items()}
    if plot == "curves":
        curves = {row: [one["curve"] for one in of.values() if one.get("curve")] for row, of in found.rows.items()}
        picture = charts.learning_curves({row: of for row, of in curves.items() if of})
    elif plot == "fields":
        picture = charts.fields({row: np.array(one["field"]) for row, one in firsts.items() if "field" in one})
    elif plot == "sizes":  # rows called "NETWORK, SIDE x SIDE"
        by_network: dict[str, list[tuple[int, float, float | None]]] = {}
        for row, one in firsts.items():
            network, _, size = row.rpartition(", ")
            by_network.setdefault(network, []).append((int(size.split()[0]), one["learn"], one["draw"]))
        picture = charts.costs(by_network)
    elif study.kind == "cost":
        seconds = {row: [one["learn"]] for row, one in firsts.items()}
        picture = charts.spreads(seconds, xlabel="CPU-seconds of a gradient, one image")
    else:
        picture = charts.spreads({row: found.bits(row) for row in found.rows if found.bits(row)}, study.ideal)
    save_png(picture, path)
