"""Shows the log of a job while it grows, until the job has ended.

The log of a job that waits does not exist yet, and that of a job that was put back into the queue goes on in the same
file; so it is read from wherever it was read last. Ctrl-C ends the showing, not the job.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from jepa.logs import get_logger
from jepa.slurm.queue import state

log = get_logger(__name__)

ENDED = frozenset(
    {
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "REVOKED", "TIMEOUT",
    }
)  # fmt: skip
PAUSE = 2.0
"""Seconds between two looks at the log, and, at least, between two questions to the controller."""


def follow(
    number: str,
    path: Path,
    *,
    out: TextIO | None = None,
    ask: Callable[[str], tuple[str, str]] = state,
    pause: float = PAUSE,
) -> str:
    """Copy the log to `out` (stdout) until the job has ended; the last state, empty if Slurm has forgotten it.

    Args:
        number: of the job.
        path: its log.
        out: where to.
        ask: state and reason of the job.
        pause: seconds.
    """
    position, before = 0, ("", "")
    while True:
        now = ask(number)
        position = _copy(path, position, out or sys.stdout)
        if now != before and (now[0] not in ("RUNNING", "COMPLETING", *ENDED)):
            log.info("job %s: %s (%s)", number, now[0].lower() or "unknown", now[1])
        if now[0] in ENDED or not now[0]:
            return now[0]
        before = now
        time.sleep(pause)


def _copy(path: Path, position: int, out: TextIO) -> int:
    """Show what lies behind a position of the file; the new position."""
    try:
        with path.open("rb") as file:
            file.seek(position)
            content = file.read()
    except FileNotFoundError:
        return position
    out.write(content.decode(errors="replace"))
    out.flush()
    return position + len(content)
