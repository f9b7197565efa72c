"""A `jepa pack` that is killed at any moment of its writing."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jepa.commands import pack


class Killer:
    """Counts what a process does below a folder, and kills it at one of these moments."""

    def __init__(self, out: Path, moment: int) -> None:
        self.out, self.moment, self.count = str(out), moment, 0
        self.fsync, self.write = os.fsync, os.write

    def install(self) -> None:
        os.fsync, os.write = self._fsync, self._write
        sys.addaudithook(self._hear)  # for good: this process is a child that ends soon

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        written = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if written or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            self._tick(str(arguments[0]))

    def _fsync(self, file: int) -> None:
        self._tick(self.out)
        self.fsync(file)

    def _write(self, file: int, content: bytes) -> int:
        if self.count + 1 == self.moment:
            self.write(file, content[: len(content) // 2])
        self._tick(self.out)
        return self.write(file, content)

    def _tick(self, path: str) -> None:
        if path.startswith(self.out):
            self.count += 1
            if self.count == self.moment:
                os.kill(os.getpid(), signal.SIGKILL)


def _in_child(action: Callable[[], object]) -> int:
    """The exit code of a forked process that does something; negative if a signal ended it."""
    if (child := os.fork()) == 0:
        code = 1
        with contextlib.suppress(BaseException):
            action()
            code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run_killed(run: pack.Config, moment: int) -> bool:
    """Pack in another process that is killed at a moment; whether it was."""

    def action() -> None:
        Killer(run.out, moment).install()
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        pack.run(run)

    code = _in_child(action)
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.fixture
def run_killed() -> Callable[[pack.Config, int], bool]:
    """Pack in another process that is killed at a moment, counted from 1; whether it was."""
    return _run_killed


@pytest.fixture
def in_child() -> Callable[[Callable[[], object]], int]:
    """The exit code of a forked process that does something; negative if a signal ended it."""
    return _in_child
