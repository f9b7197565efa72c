"""probes.jsonl: what the online probe has found, one JSON object per step, task and probe.

A run that was killed has written lines beyond its last checkpoint; when it does those steps again the lines are taken
back first, as those of metrics.csv are.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jepa.checkpoints.io import atomic_write
from jepa.errors import ConfigError


class ProbesFile:
    """The lines of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All whole lines, the oldest first; empty if there is no file."""
        if not self.path.exists():
            return []
        lines = []
        for line in self.path.read_bytes().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break  # a kill cut this line; nothing whole can follow it
        return lines

    def start(self, step: int) -> None:
        """Keep the lines of the first `step` steps. Raises ConfigError if the file cannot be written."""
        kept = [line for line in self.read() if line["step"] <= step]
        with atomic_write(self.path) as file:
            file.writelines(map(_line, kept))

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Add lines. Raises ConfigError if the file cannot be written."""
        try:
            with self.path.open("ab") as file:
                file.write(b"".join(map(_line, lines)))
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}: {error.strerror}") from error


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"
