"""metrics.csv: one row per log interval, whole rows only, in step with the checkpoint.

A run that was killed has logged rows beyond its last checkpoint. On resume those rows are dropped before training
goes on, because the steps they describe happen again: the file reads as if the run had never been interrupted.

What the objective reports beyond the usual columns (terms of the loss, further diagnostics) gets columns of its own;
the first row decides which, for the whole run.

A disk that fails can damage any row. Those before it are kept. A full one costs rows and no training: the next
checkpoint ends the run if there is still no space.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from jepa.checkpoints.io import atomic_write
from jepa.errors import DataError
from jepa.logs import get_logger
from jepa.training.lines import append, read_lines
from jepa.training.timings import PARTS

log = get_logger(__name__)

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
_LARGEST = 2.0**53
"""Up to which a float holds every whole number."""


class MetricsFile:
    """The table of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: tuple[str, ...] = ()
        self._complained = False

    def read(self) -> list[dict[str, float]]:
        """All whole rows up to the first that is damaged; empty if there is no file. Raises DataError."""
        return self._read()[0]

    def start(self, step: int) -> None:
        """Make the file, keeping the rows up to and including `step`.

        Raises:
            ConfigError: it cannot be written.
            DataError: what is there cannot be read.
        """
        rows, damaged = self._read()
        if damaged:
            log.warning("%s is damaged: %d rows of it can be read, the rest is left out", self.path, len(rows))
        kept = [row for row in rows if row["step"] <= step]
        self._columns = tuple(kept[0]) if kept else ()  # without a row to keep, the first one will say
        text = "".join([_line(self._columns), *(_line(_shown(self._columns, row)) for row in kept)]) if kept else ""
        with atomic_write(self.path) as file:
            file.write(text.encode())

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row; the first one decides the columns. A file that cannot be written is a warning, once."""
        columns = self._columns or (*COLUMNS, *(name for name in row if name not in COLUMNS))
        head = "" if self._columns else _line(columns)
        try:
            append(self.path, (head + _line(_shown(columns, row))).encode())
        except OSError as error:
            # An error here would end this process alone, unsaved, and the others would wait for it.
            if not self._complained:
                log.warning(
                    "cannot write %s: %s; training goes on, rows are missing until there is space",
                    self.path,
                    error.strerror,
                )
            self._complained = True
        else:
            self._columns = columns

    def _read(self) -> tuple[list[dict[str, float]], bool]:
        """The rows, and whether a whole line behind them is none."""
        try:
            head, *lines = read_lines(self.path) or [b""]
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}; remove it, or choose another --out") from error
        columns = _cells(head)
        if len({*columns}) < len(columns) or not {*COLUMNS} <= {*columns}:
            return [], bool(head)
        rows: list[dict[str, float]] = []
        for line in lines:
            row = _row([*COLUMNS, *(name for name in columns if name not in COLUMNS)], columns, _cells(line))
            if row is None:
                return rows, True
            rows.append(row)
        return rows, False


def _row(names: list[str], columns: list[str], cells: list[str]) -> dict[str, float] | None:
    """The values by name; none if that is no row."""
    if len(cells) != len(columns):
        return None
    try:
        values = {name: float(cell) for name, cell in zip(columns, cells, strict=True)}
    except ValueError:
        return None
    counts = values["step"], values["position"]
    whole = all(0 <= count < _LARGEST and count.is_integer() for count in counts)
    return {name: values[name] for name in names} if whole else None


def _cells(line: bytes) -> list[str]:
    """What stands in a line of a table; nothing if it is none."""
    try:
        return next(csv.reader([line.decode()]), [])
    except (UnicodeDecodeError, csv.Error):
        return []


def _shown(columns: Sequence[str], row: Mapping[str, float]) -> list[str]:
    # repr keeps every digit, so that two files can be compared bit by bit.
    values = {name: float(row.get(name, math.nan)) for name in columns}
    return [str(int(value)) if name in ("step", "position") else repr(value) for name, value in values.items()]


def _line(values: object) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)  # type: ignore[arg-type]
    return text.getvalue()
