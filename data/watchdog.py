"""Who watches a decoder that never comes back: a few numbers in shared memory, read from outside the process.

Native code may loop for ever while it holds Python's lock. Nothing inside such a process can notice, neither a thread
nor a signal handler, so a worker writes down what it is about to do and since when (CLOCK_MONOTONIC, the same for all
processes of a machine), and its parent (`worker_pool.py`) looks. What takes too long is ended by SIGKILL, and the
numbers stay readable after that: they say which video it was.

    with watched(source, index):
        frames = decode(...)

Outside of a worker process this does nothing. It costs about a microsecond.
"""

import mmap
import os
import tempfile
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")

Token = tuple[int, int]
"""Number of a source, and index of a sample in it."""

_SINCE, _SOURCE, _INDEX, _PATIENT, _FIELDS = range(5)


class Slot:
    """What one process is doing, in memory that its parent maps too."""

    def __init__(self, descriptor: int) -> None:
        """Map the memory behind a file descriptor, which may then be closed."""
        self._memory = mmap.mmap(descriptor, mmap.PAGESIZE)
        self.fields = memoryview(self._memory).cast("q")

    @classmethod
    def of(cls, descriptor: int) -> "Slot":
        """Map it, and close the descriptor."""
        try:
            return cls(descriptor)
        finally:
            os.close(descriptor)

    def since(self) -> int:
        """When the watched work began, in nanoseconds; 0 if there is none."""
        return self.fields[_SINCE]

    def token(self) -> Token | None:
        """What the watched work is about. To be asked when the process has ended: before, it may be changing."""
        return (self.fields[_SOURCE], self.fields[_INDEX]) if self.fields[_SINCE] else None

    def close(self) -> None:
        self.fields.release()
        self._memory.close()


class Watch:
    """A piece of watched work; see `watched`."""

    __slots__ = ("_before", "_index", "_patient", "_source")

    def __init__(self, source: int, index: int, patient: bool) -> None:
        self._source, self._index, self._patient = source, index, patient

    def __enter__(self) -> "Watch":
        if _slot is not None:
            fields = _slot.fields
            self._before = fields[:_FIELDS].tolist()
            _write(fields, self._source, self._index, self._patient, time.monotonic_ns())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _slot is not None:
            since, source, index, patient = self._before
            _write(_slot.fields, source, index, bool(patient), since)


def watched(source: int, index: int, *, patient: bool = False) -> Watch:
    """Context in which this process may be ended for taking too long, or crash, at the cost of one sample.

    Args:
        source: number of the source, where there are several.
        index: of the sample.
        patient: count the time since the last `beat` and not since the beginning; for work that takes as long as a
            video does, but steps on.
    """
    return Watch(source, index, patient)


def call_watched(make: Callable[[int], Item], number: int) -> Item:
    """`make(number)`, all of it watched as sample `number`, patiently."""
    with watched(0, number, patient=True):
        return make(number)


def beat() -> None:
    """Patient work has come a step further."""
    if _slot is not None and _slot.fields[_PATIENT]:
        _slot.fields[_SINCE] = time.monotonic_ns()


def watch_this_process() -> int:
    """Make the slot of a worker process; the descriptor for its parent, which the caller closes."""
    global _slot
    descriptor = anonymous_file("jepa-watch")
    os.ftruncate(descriptor, mmap.PAGESIZE)
    _slot = Slot(descriptor)
    return descriptor


def anonymous_file(name: str) -> int:
    """Descriptor of a file without a name, in memory where the system has that, which goes when nobody holds it.

    Not in /dev/shm: containers give that 64 MB, and a process that writes more is killed.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile(prefix=name) as file:
        return os.dup(file.fileno())


def _write(fields: "memoryview[int]", source: int, index: int, patient: bool, since: int) -> None:
    """Whoever looks in between must not see a new time beside an old name, so the time comes last."""
    fields[_SINCE] = 0
    fields[_SOURCE], fields[_INDEX], fields[_PATIENT] = source, index, patient
    fields[_SINCE] = since


_slot: Slot | None = None
"""Of this process, if it is a worker; the one thing that decoders deep down must find without being handed it."""
