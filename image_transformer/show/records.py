"""What the folder of a run records: the lines of its `metrics.jsonl`, and tables of measures."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from image_transformer.files import write_atomically

Metrics = list[dict[str, Any]]


def read_metrics(path: str | os.PathLike[str]) -> Metrics:
    """The lines of a `metrics.jsonl` in order, without those that a crash has cut; no file, no lines."""
    path = Path(path)
    kept: Metrics = []
    for text in path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            line = json.loads(text)
            if isinstance(line, dict):
                kept.append(line)
    return kept


@dataclass(frozen=True)
class Table:
    """A table of figures, ready to be read: its caption says what was measured, and on how many images."""

    caption: str
    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join([f"{self.caption}\n", *("| " + " | ".join(line) + " |" for line in lines)])


def save_tables(tables: Sequence[Table], run: str | os.PathLike[str]) -> None:
    """Write the tables to `measures.json` in the folder of a run."""
    text = json.dumps([asdict(table) for table in tables], indent=1, ensure_ascii=False)
    write_atomically(Path(run) / "measures.json", f"{text}\n".encode())


def read_tables(run: str | os.PathLike[str]) -> list[Table]:
    """The tables that `save_tables` wrote; none if there are none, or the file is damaged."""
    try:
        return [Table(**table) for table in json.loads((Path(run) / "measures.json").read_text("utf-8"))]
    except (OSError, ValueError, TypeError):
        return []
