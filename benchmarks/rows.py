"""Rows of results in a JSON-lines file, so that a benchmark of hours can stop and go on, and their means as a table."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


class Rows:
    """The rows of a file. What is there already need not be made again: `has` says so.

    Args:
        path: made when the first row is added; one JSON object a line.
        keys: the columns that tell rows apart.
    """

    def __init__(self, path: Path, keys: tuple[str, ...]):
        self.path, self.keys = path, keys
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.rows: list[Row] = [json.loads(line) for line in lines]

    def has(self, **keys: Any) -> bool:
        """Whether there is a row of these keys."""
        return any(all(row.get(key) == keys.get(key) for key in self.keys) for row in self.rows)

    def add(self, row: Row) -> None:
        """Adds a row to the file at once."""
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def of(self, **keys: Any) -> list[Row]:
        """The rows with these values."""
        return [row for row in self.rows if all(row.get(key) == value for key, value in keys.items())]


def timed(make: Callable[[], object]) -> tuple[object, float]:
    """What `make` makes, and the processor seconds of all threads: what else the machine does hardly changes them."""
    started = time.process_time()
    return make(), round(time.process_time() - started, 1)


def mean_and_sd(rows: list[Row], key: str) -> tuple[float, float] | None:
    """Over the rows; None where any has no such score. The sample's standard deviation, 0 for one row."""
    values = [row.get(key) for row in rows]
    if not values or any(value is None for value in values):
        return None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def markdown(table: dict[str, list[Row]], keys: dict[str, str]) -> str:
    """A table of mean (sd): one line for each name, a column for each key under its heading; whole seconds."""
    lines = ["| | " + " | ".join(keys.values()) + " |", "|---" * (len(keys) + 1) + "|"]
    for name, rows in table.items():
        cells = []
        for key in keys:
            found, digits = mean_and_sd(rows, key), 0 if key.endswith("seconds") else 3
            shown = [] if found is None else [f"{value:.{digits}f}" for value in found]
            shown = [text.replace("0.", ".", 1) if text.startswith("0.") else text for text in shown]
            cells.append(" ".join(shown[:1]) + (f" ({shown[1]})" if shown and len(rows) > 1 else ""))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
