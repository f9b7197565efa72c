"""events.jsonl: what happened to a run, one JSON object a line, in the order in which it happened.

    {"time": "2026-05-04T13:20:01.113+02:00", "kind": "checkpoint", "step": 500, "seconds": 1.9, "bytes": 143121021}

metrics.csv tells what the training did; this file tells what was done to it: starts, saves, skipped steps, alarms,
the signal that ended it. It is history, so nothing is ever taken back: after a kill the run repeats some steps, and
what happened in them the first time stays, followed by the `start` that tells from where they were done again.

A kill can cut the last line. Readers pass over it, and the next write removes it first. A full disk is a warning, once,
and no reason to end a training that can go on.
"""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from jepa.logs import get_logger
from jepa.training.lines import append, parse_object, read_lines

log = get_logger(__name__)

EventKind = Literal[
    "start", "checkpoint", "skip", "rollback", "alarm", "straggler", "stall", "recompile", "stop", "finish"
]
"""start: of a process, fresh or resumed. checkpoint: written. skip: a step whose gradient was not applied. rollback: to
an earlier checkpoint. alarm: of the features or the loss. straggler: a rank that the others wait for. stall: no step
for a long time. recompile: of a compiled block after warm-up. stop: by a signal, a limit or an error. finish: the
last step is done."""


class EventsFile:
    """The history of one run; rank 0 writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._complained = False

    def write(self, kind: EventKind, step: int, **facts: Any) -> None:
        """Add a line.

        Args:
            kind: what happened.
            step: steps done when it happened.
            facts: anything JSON can hold; paths become text, and so do numbers that are not finite.
        """
        event = {"time": now(), "kind": kind, "step": step, **facts}
        line = json.dumps(plain(event), ensure_ascii=False, default=str).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append(self.path, line)
        except OSError as error:
            if not self._complained:
                log.warning("cannot write %s: %s; training goes on without it", self.path, error.strerror)
            self._complained = True

    def read(self) -> list[dict[str, Any]]:
        """All whole lines, the oldest first; empty if there is no file. Raises OSError if it cannot be read."""
        # What is no event was written by hand, or by a disk that failed: the others can still be read.
        found = map(parse_object, read_lines(self.path))
        return [event for event in found if event is not None and isinstance(event.get("kind"), str)]


def now() -> str:
    """The time as ISO 8601, with milliseconds and the offset of this place."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def plain(value: Any) -> Any:
    """The value with numbers that JSON has no word for (nan, inf) as text, which `float` reads back."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
