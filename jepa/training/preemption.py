"""Signals and time limits only set a flag; the step boundary acts on it.

A handler runs between any two instructions, perhaps in the middle of an optimizer step, so it must not save. Here
SIGINT (Ctrl-C), SIGTERM (schedulers, `kill`), SIGUSR1 and SIGUSR2 (what Slurm sends ahead of a time limit, by
`--signal`) raise a flag, and so does the time limit itself when it is near. The flags of all processes are joined once
per step (`agreement.py`), so that all of them save and stop after the same one.

Exit codes: 130 for Ctrl-C, and 75 (EX_TEMPFAIL of sysexits.h: try again later) for the others, by which whoever has
started the run knows that starting it again goes on. A second Ctrl-C or SIGTERM means "now": it raises where it
arrives.
"""

import signal
import threading
import time
from collections.abc import Iterable
from types import FrameType
from typing import Any

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""Would end the process; to be received from the start, although there is nothing to save yet."""
ENDS = (signal.SIGINT, signal.SIGTERM)
"""End the process at once while nothing has been trained."""
TIME_LIMIT = "the time limit"
EXIT_AGAIN = 75
"""Exit code of a run that is to be started again."""


class StopRequest:
    """The flag: what asked the run to stop, if anything."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.deadline: float | None = None
        """When to stop, by `time.monotonic`."""
        self._seen: set[int] = set()
        self._before: dict[signal.Signals, Any] = {}

    def __bool__(self) -> bool:
        return self.wish is not None

    @property
    def wish(self) -> str | None:
        """Name of the signal, or "the time limit"; none if nothing asked this process to stop."""
        if self.signal is not None:
            return self.signal.name
        return TIME_LIMIT if self.deadline is not None and time.monotonic() >= self.deadline else None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        # Slurm follows its warning with SIGTERM: only a signal that comes twice means "now".
        if number in self._seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        if number in self._seen and number == signal.SIGTERM:
            raise SystemExit(128 + number)
        self._seen.add(number)
        self.signal = self.signal or signal.Signals(number)

    def listen(self, signals: Iterable[signal.Signals]) -> None:
        """Receive these signals from now on, in place of the handlers that are there."""
        # Only the main thread may install handlers; a run in another thread (a notebook) trains without them.
        if threading.current_thread() is threading.main_thread():
            new = [number for number in signals if number not in self._before]
            self._before |= {number: signal.signal(number, self._receive) for number in new}

    def release(self, signals: Iterable[signal.Signals]) -> None:
        """Give these signals back to the handlers that were there before `listen`."""
        for number in signals:
            if number in self._before:
                signal.signal(number, self._before.pop(number))


def exit_code(wish: str) -> int:
    """Exit code of a run that ended, with its state saved, because of this signal or limit."""
    return 130 if wish == signal.SIGINT.name else EXIT_AGAIN
