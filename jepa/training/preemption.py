"""Signals only set a flag; the step boundary acts on it.

A handler runs between any two instructions, perhaps in the middle of an optimizer step, so it must not save. Here
SIGINT (Ctrl-C) and SIGTERM (what schedulers and `kill` send) raise a flag that the checkpoint callback reads after
each step, where weights, optimizer and position agree. A second signal means "now": it raises where it arrives.

Exit codes follow the shell: 128 + signal number, so 130 for Ctrl-C and 143 for SIGTERM.
"""

import signal
import threading
from types import FrameType
from typing import Any

_WATCHED = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """The flag: which signal asked the run to stop, if any."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def name(self) -> str:
        """Name of the signal."""
        return self.signal.name if self.signal else "a signal"

    @property
    def exit_code(self) -> int:
        """Exit code of a run that ended because of the signal."""
        return 128 + (self.signal or 0)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + number)
        self.signal = signal.Signals(number)

    def listen(self) -> None:
        """Receive the signals from now on, in place of the handlers that are there."""
        # Only the main thread may install handlers; a run in another thread (a notebook) trains without them.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _WATCHED}

    def release(self) -> None:
        """Give the signals back to the handlers that were there before `listen`."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
