"""order.jsonl: every clip that a run has consumed, in order, one JSON object a line. Written on demand.

It is what `jepa order` says without decoding, as seen by the training step, so that the two can be compared. A run
that was killed has written lines beyond its last checkpoint; on resume they are cut off, as those of metrics.csv are,
because their steps happen again. A full disk leaves a gap, which a warning names, and ends no training.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jepa.checkpoints.io import atomic_write
from jepa.errors import DataError
from jepa.logs import get_logger
from jepa.training.lines import append, parse_object, read_lines
from jepa.types import ClipBatch

log = get_logger(__name__)

ClipLine = tuple[int, str, str, list[int]]
"""Position, source, key and frames of a clip."""


class OrderFile:
    """The clips of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._complained = False

    def read(self) -> list[dict[str, Any]]:
        """All whole lines up to the first that is damaged; empty if there is no file. Raises DataError."""
        return self._read()[0]

    def start(self, step: int) -> None:
        """Make the file, keeping the clips of the first `step` steps.

        Raises:
            ConfigError: it cannot be written.
            DataError: what is there cannot be read.
        """
        rows, damaged = self._read()
        if damaged:
            log.warning("%s is damaged: %d lines of it can be read, the rest is left out", self.path, len(rows))
        kept = [row for row in rows if row["step"] < step]
        with atomic_write(self.path) as file:
            file.writelines(map(_line, kept))

    def append(self, step: int, clips: Sequence[ClipLine], *, images: bool) -> None:
        """Add the clips of a step, counted from 0, all or none. A file that cannot be written is a warning, once."""
        lines = [
            _line({**row_of(step, images=images, position=position, source=source), "key": key, "frames": frames})
            for position, source, key, frames in clips
        ]
        try:
            append(self.path, b"".join(lines))
        except OSError as error:
            if not self._complained:
                log.warning(
                    "cannot write %s: %s; training goes on, and the clips from step %d on are missing from it until "
                    "there is space",
                    self.path,
                    error.strerror,
                    step,
                )
            self._complained = True

    def _read(self) -> tuple[list[dict[str, Any]], bool]:
        """The lines, and whether a whole one behind them is none of ours."""
        rows: list[dict[str, Any]] = []
        try:
            lines = read_lines(self.path)
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}; remove it, or choose another --out") from error
        for line in lines:
            row = parse_object(line)
            if row is None or type(row.get("step")) is not int:
                return rows, True
            rows.append(row)
        return rows, False


def shown(batch: ClipBatch) -> list[ClipLine]:
    """What is written of the clips of a batch."""
    columns = zip(batch.positions.tolist(), batch.sources, batch.keys, batch.windows, strict=True)
    return [(position, source, key, list(frames)) for position, source, key, frames in columns]


def row_of(step: int, *, images: bool, position: int, source: str) -> dict[str, Any]:
    """What a line starts with, here and in `jepa order --json`."""
    return {"step": step, "kind": "image" if images else "video", "position": position, "source": source}


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"
