"""metrics.csv: one row per log interval, whole rows only, in step with the checkpoint.

A run that was killed has logged rows beyond its last checkpoint. On resume those rows are dropped before training
goes on, because the steps they describe happen again: the file reads as if the run had never been interrupted.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from jepa.checkpoints.io import atomic_write
from jepa.errors import ConfigError

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
gradient before clipping; standard deviation and effective rank of the target tokens; speed since the last row (nan
if it could not be measured)."""


class MetricsFile:
    """The table of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, float]]:
        """All whole rows; empty if there is no file."""
        if not self.path.exists():
            return []
        rows = []
        with self.path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                try:
                    rows.append({name: float(row[name]) for name in COLUMNS})
                except (KeyError, TypeError, ValueError):
                    break  # a kill cut this row; nothing whole can follow it
        return rows

    def start(self, step: int) -> None:
        """Make the file, keeping the rows up to and including `step`. Raises ConfigError if it cannot be written."""
        kept = [row for row in self.read() if row["step"] <= step]
        text = _line(COLUMNS) + "".join(_line(_shown(row)) for row in kept)
        with atomic_write(self.path) as file:
            file.write(text.encode())

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row. Raises ConfigError if it cannot be written."""
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(_line(_shown(row)))
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}: {error.strerror}") from error


def _shown(row: Mapping[str, float]) -> list[str]:
    # repr keeps every digit, so that two files can be compared bit by bit.
    return [str(int(row[name])) if name in ("step", "position") else repr(float(row[name])) for name in COLUMNS]


def _line(values: object) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)  # type: ignore[arg-type]
    return text.getvalue()
