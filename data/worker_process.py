"""What runs in a worker process: numbers come in, items go out, until it is told to stop.

Signals that ask a job to end (Ctrl-C in a terminal, a scheduler's SIGTERM or SIGUSR1) reach all its processes, but are
for the main one, which still wants its batches while it saves: a worker ignores them. It ends with its parent all the
same, however that one ends: the kernel signals it when the parent's end of a pipe is closed, and that signal kills,
also in the middle of native code that holds Python's lock.
"""

import fcntl
import multiprocessing
import os
import pickle
import signal
import struct
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import cv2
import torch

from jepa.data.transport import send
from jepa.data.watchdog import watch_this_process
from jepa.errors import ConfigError, DataError, JepaError, SampleError, WorkerLost

ITEM, FAILURE = range(2)
"""Tags of the messages."""

TASK = struct.Struct("<qq")
"""Place of a number in the range, and the number."""

NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""Reach all processes of a terminal or a Slurm job; what they ask for, the training process does."""

STOP = b""
"""In place of a task. Closing the pipe would not do: processes that were forked hold copies of its ends."""


class WorkerTraceback(Exception):
    """Cause of an error that came from a worker: where it was raised there."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


@dataclass(frozen=True)
class Failure:
    """What comes in place of an item that could not be made."""

    error: Exception
    trace: str | None = None
    """Of the worker; None where the message says all."""

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """A mistake of the user keeps its message and loses its traceback; anything else is a bug and keeps both."""
        for kind in (ConfigError, SampleError, DataError, WorkerLost):
            if isinstance(error, kind):
                return cls(kind(str(error)))
        trace = "".join(traceback.format_exception(error))
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # whatever its constructor says to being called with other arguments
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return cls(error, trace)

    def throw(self) -> NoReturn:
        if isinstance(self.error, JepaError) or self.trace is None:
            raise self.error
        raise self.error from WorkerTraceback(self.trace)


def work(connection: "Connection[Any, Any]", make: Callable[[int], Any]) -> None:
    """Answer every number with `make(number)`, in the order in which they come."""
    _settle()
    descriptor = watch_this_process()
    try:
        reduction.send_handle(connection, descriptor, 0)
        os.close(descriptor)
        while task := connection.recv_bytes():
            place, number = TASK.unpack(task)
            _answer(connection, make, place, number)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent wants no more


def _answer(connection: "Connection[Any, Any]", make: Callable[[int], Any], place: int, number: int) -> None:
    try:
        item = make(number)
    except Exception as error:
        send(connection, FAILURE, place, Failure.of(error))
        return
    try:
        send(connection, ITEM, place, item)
    except (ConfigError, TypeError) as error:
        send(connection, FAILURE, place, Failure.of(error))


def _settle() -> None:
    """One thread; deaf to what is meant for the parent; not outliving it."""
    for number in (*NOT_FOR_WORKERS, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # which ends the process
    fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)
    if not parent.is_alive():  # it ended before the kernel was asked
        os._exit(1)
