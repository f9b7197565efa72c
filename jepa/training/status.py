"""status.json: how a run stands now, in one small file that is always whole.

    {"state": "running", "step": 1500, "of": 90000, "clips_per_second": 801.2, "loss": 0.41, ...}

Whoever asks (`jepa status`, a script, a dashboard) reads it while it is replaced: the file is written beside and
renamed. That happens at most every ten seconds, because the file system of a cluster is shared, and at once where the
state changes. A file that cannot be written is a warning, once; training goes on.

"running" in this file says that it was so at `time`: a process that is killed writes nothing more. `time`, `host` and
`pid` are there for that question.
"""

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from jepa.checkpoints.io import atomic_write
from jepa.errors import ConfigError
from jepa.logs import get_logger
from jepa.training.events import now, plain
from jepa.training.lines import read_object

log = get_logger(__name__)

State = Literal["running", "stopped", "finished", "failed"]
"""stopped: by a signal or a time limit, with its state saved. failed: by an error."""


class StatusFile:
    """The standing of one run; rank 0 writes it."""

    def __init__(self, path: Path, *, every: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        path: of the file.
        every: least seconds between two writes that are not forced.
        clock: seconds that only grow.
        """
        self.path = path
        self.every = every
        self._clock = clock
        self._written: float | None = None
        self._complained = False
        self._facts: dict[str, Any] = {}

    def update(self, *, force: bool = False, **facts: Any) -> None:
        """Lay these facts over the earlier ones, and write them all if it is time to, or with `force`."""
        self._facts |= facts
        if not force and self._written is not None and self._clock() - self._written < self.every:
            return
        self._written = self._clock()
        job = os.environ.get("SLURM_JOB_ID")
        shown = self._facts | {"time": now(), "host": socket.gethostname(), "pid": os.getpid(), "job": job}
        try:
            with atomic_write(self.path) as file:
                file.write(json.dumps(plain(shown), indent=1, default=str).encode() + b"\n")
        except ConfigError as error:
            if not self._complained:
                log.warning("%s; training goes on without it", error)
            self._complained = True


def read_status(path: Path) -> dict[str, Any] | None:
    """The facts of a status file; none if there is no such file or it is no such file. Raises OSError."""
    return read_object(path)
