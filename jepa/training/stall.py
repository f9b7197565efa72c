"""Where a process hangs, written by a thread that needs no help from Python.

A rank that waits for another one, or for a file system, raises nothing and logs nothing. So each process has a clock
that every finished step winds up again; if it runs out, the stacks of all threads go to `stacks/rank-N.txt`, and once
more each time it runs out again. The clock is `faulthandler.dump_traceback_later`: a thread in C, which also runs while
a library holds Python's global lock for ever (which is when nothing else in the process can speak).

That thread writes the stacks and nothing else. What a reader must know besides (which rank, where, after which step) is
therefore in the file beforehand, in a line that each step renews in place.
"""

import contextlib
import faulthandler
import os
import re
import socket
import time
from pathlib import Path

from jepa.logs import get_logger
from jepa.training.lines import read_bytes

log = get_logger(__name__)

_HEAD = re.compile(rb"rank \d+ on \S+, process \d+, after step +\d+[^\n]*\n")


class StallDump:
    """The clock of one process. All methods do nothing if it is off, and none of them raises."""

    def __init__(self, folder: Path, rank: int, seconds: float) -> None:
        """Args:
        folder: for the files of all ranks; made when the first starts.
        rank: of this process.
        seconds: without a finished step until stacks are written; 0: never.
        """
        self.path = folder / f"rank-{rank}.txt"
        self.rank = rank
        self.seconds = seconds
        self._file: int | None = None
        self._head = self._end = 0
        self._beat = time.monotonic()

    def start(self, step: int = 0) -> None:
        """Start the clock."""
        if self.seconds <= 0 or self._file is not None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            self._head = _kept(os.pread(self._file, os.fstat(self._file).st_size, 0))
        except OSError as error:
            log.warning("cannot write %s: %s; a hanging process will leave no stacks", self.path, error.strerror)
            self.stop()
            return
        self._wind(step)

    def beat(self, step: int) -> float | None:
        """A step is finished: wind up the clock again.

        Returns:
            Seconds since the last beat if the clock had run out in between, else none.
        """
        if self._file is None:
            return None
        waited = time.monotonic() - self._beat
        ran_out = waited >= self.seconds and self._has_dump()
        if ran_out:
            self._head = os.fstat(self._file).st_size  # these stacks stay; the next ones go behind them
            log.warning("no step for %.0f s after step %d; where it hung is in %s", waited, step - 1, self.path)
        self._wind(step)
        return waited if ran_out else None

    def stop(self) -> None:
        """Stop the clock; a file without stacks is removed."""
        if self._file is None:
            return
        faulthandler.cancel_dump_traceback_later()
        try:
            if not self._has_dump():
                os.ftruncate(self._file, self._head)
                if self._head == 0:
                    self.path.unlink(missing_ok=True)
                    self.path.parent.rmdir()  # the last one turns off the light
        except OSError:
            pass
        finally:
            os.close(self._file)
            self._file = None

    def _has_dump(self) -> bool:
        assert self._file is not None
        return os.fstat(self._file).st_size > self._end

    def _wind(self, step: int) -> None:
        assert self._file is not None
        self._beat = time.monotonic()
        place = f"rank {self.rank} on {socket.gethostname()}, process {os.getpid()}"
        line = f"{place}, after step {step:12d} at {time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n".encode()
        try:
            # Not appended: it is written over the line before, of the same length. Stacks go to the file position.
            os.pwrite(self._file, line, self._head)
            self._end = self._head + len(line)
            os.lseek(self._file, self._end, os.SEEK_SET)
            faulthandler.dump_traceback_later(self.seconds, repeat=True, file=self._file)
        except OSError:
            pass  # a full disk: the next step tries again


def stacks_in(folder: Path) -> list[Path]:
    """Files of a folder of stacks that hold some, by rank; those that cannot be read are passed over."""
    paths = sorted(folder.glob("rank-*.txt"), key=lambda path: (len(path.name), path.name))
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            if _kept(read_bytes(path)):
                found.append(path)
    return found


def _kept(content: bytes) -> int:
    """Bytes of a file that hold stacks; behind them is the line of a process that was killed without hanging."""
    last = max((match for match in _HEAD.finditer(content)), key=lambda match: match.start(), default=None)
    if last is None or last.end() < len(content):
        return len(content)
    return last.start()
