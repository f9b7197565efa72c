"""A function over a range of integers, computed ahead in worker processes and yielded in order.

Everything the loaders of this package hand out (a training batch, an evaluation batch, a decoded video) is a pure
function of one integer, so parallelism needs neither samplers nor buffers: workers call the function and the results
come back in order, the same for every number of workers. torch's DataLoader would do that as well, but it ends the
run when a decoder crashes and waits for ever when one does not come back; `worker_pool.py` replaces the process.

A ConfigError or DataError raised in a worker is raised again here as the one line it is, anything else with the
traceback of the worker. Nothing is drawn from a global generator, of torch or others.

Workers start from a clean server process (`forkserver`): a fork of a process that has decoded video, opened a GPU or
written logs from a thread inherits locks that nobody will ever release.
"""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from functools import cache
from multiprocessing import forkserver
from typing import Any, Generic, Literal, TypeVar

from jepa.data.worker_pool import Loss, OnLoss, WorkerPool
from jepa.data.worker_process import NOT_FOR_WORKERS

__all__ = ["Loader", "Loss", "StartMethod"]

Item = TypeVar("Item")

StartMethod = Literal["forkserver", "spawn", "fork"]


class Loader(Generic[Item]):
    """Iterates over `make(n)` for n in `numbers`, in order; workers live as long as one iteration.

    Raises (while iterating):
        ConfigError, DataError: as raised by `make`, and what `on_loss` raises.
        SampleError: watched work took too long or crashed, and there is no `on_loss`, or it did not help.
        WorkerLost: a worker was killed by somebody else, or crashed outside of watched work.
        TypeError: function or result cannot be pickled.
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
        deadline: float | None = None,
        on_loss: OnLoss[Item] | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            make: the function; must pickle unless `workers` is 0.
            numbers: its arguments.
            workers: processes; 0 computes each item when it is asked for, in this process.
            prefetch: items that each worker prepares ahead.
            pin_memory: copy items into page-locked memory (they need a `pin_memory` method).
            start_method: how processes start.
            deadline: seconds that watched work (`watchdog.watched`) in a worker may take; then the worker is killed and
                replaced. None: as long as it likes. Without workers nobody watches.
            on_loss: is called, in this process, with a number whose worker was killed for the deadline or crashed.
                It returns an item to use in its place, or None to have it made again after it has changed what
                makes it fail; the same loss a second time is an error.
        """
        self.make, self.numbers = make, numbers
        self.workers, self.prefetch, self.pin_memory = min(workers, len(numbers)), prefetch, pin_memory
        self.start_method, self.deadline, self.on_loss = start_method, deadline, on_loss

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Item]:
        if not self.workers:
            for number in self.numbers:
                item: Any = self.make(number)
                yield item.pin_memory() if self.pin_memory else item
            return
        if self.start_method == "forkserver":
            _start_server()
        pool = WorkerPool(
            self.make,
            self.numbers,
            workers=self.workers,
            prefetch=self.prefetch,
            context=multiprocessing.get_context(self.start_method),
            pin_memory=self.pin_memory,
            deadline=self.deadline,
            on_loss=self.on_loss,
        )
        try:
            yield from pool
        finally:
            pool.close()


@cache
def _start_server() -> None:
    """Start the process that workers are forked from, and wait for it: it imports torch, and a worker is then quick.

    Ctrl-C reaches every process of a terminal, and SIGUSR1 every one of a Slurm job. The server would answer with a
    traceback while it imports or die, and so would a worker until `worker_process._settle` has run; so they are born
    deaf to it. And what is asked of the server while it still imports would come to life after a Ctrl-C has ended this
    process, and complain that it is gone; so nothing is asked before an empty task has come back.
    """
    multiprocessing.set_forkserver_preload(["jepa.data.stream"])
    if threading.current_thread() is threading.main_thread():  # others may not set handlers
        before = {number: signal.signal(number, signal.SIG_IGN) for number in NOT_FOR_WORKERS}
        try:
            forkserver.ensure_running()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    first = multiprocessing.get_context("forkserver").Process(target=_nothing, daemon=True)
    first.start()
    first.join()


def _nothing() -> None:
    """The empty task."""
