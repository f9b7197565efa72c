"""metrics.csv: one row per log interval, whole rows only, in step with the checkpoint.

A run that was killed has logged rows beyond its last checkpoint. On resume those rows are dropped before training
goes on, because the steps they describe happen again: the file reads as if the run had never been interrupted.

What the objective reports beyond the usual columns (terms of the loss, further diagnostics) gets columns of its own;
the first row decides which, for the whole run.
"""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

from jepa.checkpoints.io import atomic_write
from jepa.errors import ConfigError
from jepa.training.timings import PARTS

COLUMNS = (
    "step",
    "position",
    "loss",
    "lr",
    "weight_decay",
    "momentum",
    "grad_norm",
    "feature_std",
    "effective_rank",
    "clips_per_second",
)
"""Optimizer steps done; clips consumed; mean loss since the last row; the schedules' values at that step; norm of its
gradient before clipping; standard deviation and effective rank of the target tokens (nan if the objective does not
report them); speed since the last row (nan if it could not be measured)."""


CLOCKED = ("clips_per_second", "data_wait", *PARTS, "slowest_rank")
"""Columns that a clock decides: two runs of the same seed differ in them."""


class MetricsFile:
    """The table of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: tuple[str, ...] = ()

    def read(self) -> list[dict[str, float]]:
        """All whole rows; empty if there is no file."""
        if not self.path.exists():
            return []
        rows = []
        with self.path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            columns = dict.fromkeys([*COLUMNS, *(table.fieldnames or [])])
            for row in table:
                try:
                    rows.append({name: float(row[name]) for name in columns})
                except (KeyError, TypeError, ValueError):
                    break  # a kill cut this row; nothing whole can follow it
        return rows

    def start(self, step: int) -> None:
        """Make the file, keeping the rows up to and including `step`. Raises ConfigError if it cannot be written."""
        kept = [row for row in self.read() if row["step"] <= step]
        self._columns = tuple(kept[0]) if kept else ()  # without a row to keep, the first one will say
        text = "".join([_line(self._columns), *(_line(self._shown(row)) for row in kept)]) if kept else ""
        with atomic_write(self.path) as file:
            file.write(text.encode())

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row; the first one decides the columns. Raises ConfigError if it cannot be written."""
        head = ""
        if not self._columns:
            self._columns = (*COLUMNS, *(name for name in row if name not in COLUMNS))
            head = _line(self._columns)
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(head + _line(self._shown(row)))
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}: {error.strerror}") from error

    def _shown(self, row: Mapping[str, float]) -> list[str]:
        # repr keeps every digit, so that two files can be compared bit by bit.
        values = {name: float(row.get(name, math.nan)) for name in self._columns}
        return [str(int(value)) if name in ("step", "position") else repr(value) for name, value in values.items()]


def _line(values: object) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)  # type: ignore[arg-type]
    return text.getvalue()
