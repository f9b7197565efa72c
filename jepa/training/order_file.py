"""order.jsonl: every clip that a run has consumed, in order, one JSON object a line. Written on demand.

It is what `jepa order` says without decoding, as seen by the training step, so that the two can be compared. A run
that was killed has written lines beyond its last checkpoint; on resume they are cut off, as those of metrics.csv are,
because their steps happen again.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jepa.checkpoints.io import atomic_write
from jepa.errors import ConfigError
from jepa.types import ClipBatch

ClipLine = tuple[int, str, str, list[int]]
"""Position, source, key and frames of a clip."""


class OrderFile:
    """The clips of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; empty if there is no file."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_bytes().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break  # a kill cut this line; nothing whole can follow it
        return rows

    def start(self, step: int) -> None:
        """Make the file, keeping the clips of the first `step` steps. Raises ConfigError if it cannot be written."""
        kept = [row for row in self.read() if row["step"] < step]
        with atomic_write(self.path) as file:
            file.writelines(map(_line, kept))

    def append(self, step: int, clips: Sequence[ClipLine], *, images: bool) -> None:
        """Add the clips of a step, counted from 0. Raises ConfigError if they cannot be written."""
        lines = [
            _line({**row_of(step, images=images, position=position, source=source), "key": key, "frames": frames})
            for position, source, key, frames in clips
        ]
        try:
            with self.path.open("ab") as file:
                file.write(b"".join(lines))
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}: {error.strerror}") from error


def shown(batch: ClipBatch) -> list[ClipLine]:
    """What is written of the clips of a batch."""
    columns = zip(batch.positions.tolist(), batch.sources, batch.keys, batch.windows, strict=True)
    return [(position, source, key, list(frames)) for position, source, key, frames in columns]


def row_of(step: int, *, images: bool, position: int, source: str) -> dict[str, Any]:
    """What a line starts with, here and in `jepa order --json`."""
    return {"step": step, "kind": "image" if images else "video", "position": position, "source": source}


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"
