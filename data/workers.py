"""A function over a range of integers, computed ahead in worker processes and yielded in order.

Everything the loaders of this package hand out (a training batch, an evaluation batch, a decoded video) is a pure
function of one integer, so parallelism needs neither samplers nor buffers: torch's DataLoader calls the function in
its workers and puts the results back in order. Results are the same for every number of workers.

Two things are added to the DataLoader. A ConfigError or DataError raised in a worker crosses the process boundary as
a value and is raised again here, as the one line it is; the DataLoader would wrap it in a traceback. And its private
generator is ours, so that starting a loader draws nothing from torch's global one.

Workers start from a clean server process (`forkserver`): a fork of a process that has decoded video, opened a GPU or
written logs from a thread inherits locks that nobody will ever release.
"""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from typing import Generic, Literal, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from jepa.errors import ConfigError, DataError

Item = TypeVar("Item")

StartMethod = Literal["forkserver", "spawn", "fork"]


@dataclass(frozen=True)
class Failure:
    """What a worker returns in place of an item that could not be made.

    Not the exception itself: raising it would tie its traceback, and with it the running loader, into a cycle, and
    workers that the garbage collector finds in a cycle take five seconds to stop.
    """

    kind: type[ConfigError] | type[DataError]
    message: str


class _Task(Dataset[Item | Failure]):
    """The function as torch wants it: something with `__getitem__`."""

    def __init__(self, make: Callable[[int], Item]) -> None:
        self.make = make

    def __getitem__(self, number: int) -> Item | Failure:
        try:
            return self.make(number)
        except ConfigError as error:
            return Failure(ConfigError, str(error))
        except DataError as error:
            return Failure(DataError, str(error))


class Loader(Generic[Item]):
    """Iterates over `make(n)` for n in `numbers`, in order; workers live as long as one iteration.

    Raises (while iterating):
        ConfigError, DataError: as raised by `make`.
    """

    def __init__(
        self,
        make: Callable[[int], Item],
        numbers: range,
        *,
        workers: int = 0,
        prefetch: int = 2,
        pin_memory: bool = False,
        start_method: StartMethod = "forkserver",
    ) -> None:
        """Starts nothing yet.

        Args:
            make: the function; must pickle unless `workers` is 0.
            numbers: its arguments.
            workers: processes; 0 computes each item when it is asked for, in this process.
            prefetch: items that each worker prepares ahead.
            pin_memory: copy items into page-locked memory (they need a `pin_memory` method).
            start_method: how processes start.
        """
        self.numbers = numbers
        if workers and start_method == "forkserver":
            _start_server()
        self.loader: DataLoader[Item | Failure] = DataLoader(
            _Task(make),
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            pin_memory=pin_memory,
            multiprocessing_context=start_method if workers else None,
            worker_init_fn=_start_worker,
            collate_fn=_as_is,
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Item]:
        for item in self.loader:
            if isinstance(item, Failure):
                raise item.kind(item.message)
            yield item


def worker_of(place: int, workers: int) -> int | None:
    """Which worker makes the item at this place of an iteration: they take turns. None if there are none."""
    return place % workers if workers else None


@cache
def _start_server() -> None:
    """Start the process that workers are forked from, and wait for it: it imports torch, and a worker is then quick.

    Ctrl-C reaches every process of a terminal. The server would answer with a traceback while it imports, and so would
    a worker until `_start_worker` has run; so they are born deaf to it. And what is asked of the server while it still
    imports would come to life after a Ctrl-C has ended this process, and complain that it is gone; so nothing is asked
    before an empty task has come back.
    """
    multiprocessing.set_forkserver_preload(["jepa.data.stream"])
    if threading.current_thread() is threading.main_thread():  # others may not set handlers
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            forkserver.ensure_running()
        finally:
            signal.signal(signal.SIGINT, before)
    first = multiprocessing.get_context("forkserver").Process(target=_nothing, daemon=True)
    first.start()
    first.join()


def _nothing() -> None:
    """The empty task."""


def _as_is(item: Item) -> Item:
    """In place of the DataLoader's conversion of whatever looks like an array."""
    return item


def _start_worker(_: int) -> None:
    """One thread per worker. Ctrl-C is for the main process, which still wants its batches while it saves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
