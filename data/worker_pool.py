"""Worker processes that answer numbers with items, and what is done when one of them does not.

Each worker has a pipe of its own and no lock is shared, so whatever happens to one of them, at any instruction, the
others go on and what it had finished is not lost. It holds up to `prefetch` numbers and answers them in order; the
first of them is the one it is busy with. A worker is lost

- when its watched work (`watchdog.py`) takes longer than the deadline: it is killed;
- when it crashes: a damaged video may do that to a decoder;
- when somebody else kills it, most likely the system because memory is short: that ends the run.

The deadline counts time in which somebody looked. The whole job may be stopped (Ctrl-Z, a scheduler that suspends it),
and the workers with it: such a gap between two looks counts as one look. So does a training step that takes longer than
`AWAY_SECONDS`, as the two cannot be told apart; a worker that hangs meanwhile is ended once its item is waited for.

In the first two cases another worker takes its place and gets its numbers again, except for the one it was busy with:
of that a function is told (`on_loss`), which gives an item in its place, or removes the cause and lets it be made
again.
"""

import heapq
import multiprocessing
import pickle
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import reduction
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, Generic, TypeVar

import torch

from jepa.data.transport import receive
from jepa.data.watchdog import Slot, Token
from jepa.data.worker_process import FAILURE, STOP, TASK, Failure, work
from jepa.errors import SampleError, WorkerLost

Item = TypeVar("Item")

CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP})
"""How native code dies of itself."""

REAP_SECONDS = 5.0
"""What a process has to end after it was told to; only one that waits for a dead disk takes longer."""

AWAY_SECONDS = 1.0
"""A look that is this much later than it should be means that the parent was stopped, or busy with something else."""


@dataclass(frozen=True)
class Loss:
    """A number that cost a worker its life."""

    reason: str
    """Of a sample, as the quarantine keeps it: "the decoder crashed on it"."""
    token: Token | None
    """The sample, as `watched` was told; None if no watched work was going on."""


OnLoss = Callable[[int, Loss], Item | None]
"""(number, loss) -> an item in its place; None to have it made again."""


@dataclass
class Worker:
    """A process, and what it has been asked for."""

    process: BaseProcess
    connection: "Connection[Any, Any]"
    slot: Slot | None = None
    """None until it has started."""
    places: deque[int] = field(default_factory=deque)
    """Of the numbers that it has not answered, in their order."""
    excused: tuple[int, int] = (0, 0)
    """Since when it was busy, and nanoseconds from then on that do not count."""

    def busy_since(self) -> int:
        return self.slot.since() if self.slot else 0

    def excuse(self, began: int, ended: int) -> None:
        """Do not count this time, if it is busy."""
        since, (of, before) = self.busy_since(), self.excused
        if 0 < since < ended:
            self.excused = since, (before if of == since else 0) + ended - max(since, began)

    def overdue(self, now: int, deadline: float) -> int:
        """Since when it is busy if that is longer than the deadline, else 0."""
        since, (of, excused) = self.busy_since(), self.excused
        counted = now - since - (excused if of == since else 0)
        return since if since and counted > deadline * 1e9 else 0


class WorkerPool(Generic[Item]):
    """`make(n)` for n in `numbers`, in order, for one iteration."""

    def __init__(
        self,
        make: Callable[[int], Item],
        numbers: Sequence[int],
        *,
        workers: int,
        prefetch: int,
        context: BaseContext,
        pin_memory: bool,
        deadline: float | None,
        on_loss: OnLoss[Item] | None,
    ) -> None:
        """Starts nothing yet; arguments as those of `Loader`."""
        self.make, self.numbers, self.count, self.prefetch = make, numbers, workers, prefetch
        self.context, self.deadline, self.on_loss = context, deadline, on_loss
        self.pinning = _pinning_thread() if pin_memory else None
        self._workers: list[Worker] = []
        self._selector = selectors.PollSelector()
        self._patience = None if deadline is None else min(1.0, deadline / 10)
        """Seconds between two looks while there is nothing to do but to wait."""
        self._looked = 0
        """When the last look was, in nanoseconds."""
        self._finished: dict[int, Item | Failure | Future[Item]] = {}
        self._yielded = 0
        self._handed_out = 0
        """Places below this one have been given to a worker,"""
        self._again: list[int] = []
        """and these are to be given to another one."""
        self._losses: dict[int, set[Loss]] = {}
        # Before multiprocessing's own end, which asks workers politely and waits for them.
        self.close = Finalize(self, _stop, args=(self._workers, self.pinning), exitpriority=10)

    def __iter__(self) -> Iterator[Item]:
        """Raises what `make` raised, and WorkerLost; see `Loader`."""
        self._looked = time.monotonic_ns()
        for _ in range(self.count):
            self._start()
        self._hand_out()
        for place in range(len(self.numbers)):
            if place in self._finished:
                self._serve(0)
            while place not in self._finished:
                self._serve(self._patience)
            self._yielded += 1
            self._losses.pop(place, None)
            self._hand_out()
            yield self._take(place)

    def _take(self, place: int) -> Item:
        item = self._finished.pop(place)
        if isinstance(item, Failure):
            item.throw()
        return item.result() if isinstance(item, Future) else item

    def _start(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        process: BaseProcess = self.context.Process(  # type: ignore[attr-defined]
            target=work, args=(theirs, self.make), daemon=True, name="jepa-worker"
        )
        try:
            process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TypeError(
                f"{self.make!r} cannot be sent to worker processes (workers=0 needs none): {error}"
            ) from error
        finally:
            theirs.close()
        worker = Worker(process, ours)
        self._workers.append(worker)
        self._selector.register(ours, selectors.EVENT_READ, worker)

    def _hand_out(self) -> None:
        """Give numbers to those who have the fewest, as far ahead as is allowed."""
        end = min(self._yielded + self.count * self.prefetch, len(self.numbers))
        while self._again or self._handed_out < end:
            worker = min(self._workers, key=lambda worker: len(worker.places))
            if len(worker.places) >= self.prefetch:
                return
            if self._again:
                place = heapq.heappop(self._again)
            else:
                place, self._handed_out = self._handed_out, self._handed_out + 1
            try:
                worker.connection.send_bytes(TASK.pack(place, self.numbers[place]))
                worker.places.append(place)
            except OSError:
                heapq.heappush(self._again, place)
                self._lost(worker, killed=None)

    def _serve(self, seconds: float | None) -> None:
        """Take what workers have sent, waiting for it so long; end those that have been at one thing for too long."""
        for key, _ in self._selector.select(seconds):
            worker: Worker = key.data
            try:
                self._receive(worker)
            except (EOFError, OSError):
                self._lost(worker, killed=None)
        if self.deadline is None or self._patience is None:
            return
        now, usual = time.monotonic_ns(), int(self._patience * 1e9)
        if now - self._looked > usual + AWAY_SECONDS * 1e9:
            for worker in self._workers:
                worker.excuse(self._looked + usual, now)
        self._looked = now
        for worker in self._workers.copy():
            if since := worker.overdue(now, self.deadline):
                worker.process.kill()
                self._lost(worker, killed=since)

    def _receive(self, worker: Worker) -> None:
        if worker.slot is None:
            worker.slot = Slot.of(reduction.recv_handle(worker.connection))
            return
        tag, place, item = receive(worker.connection)
        worker.places.remove(place)
        if tag != FAILURE and self.pinning is not None:
            item = self.pinning.submit(_pinned, item)
        self._finished[place] = item

    def _lost(self, worker: Worker, killed: int | None) -> None:
        """Bury a worker that has ended, and see to what it leaves.

        Args:
            killed: since when it was busy when we killed it; None if it ended by itself.
        """
        self._drain(worker)
        worker.process.join(REAP_SECONDS)
        code, slot = worker.process.exitcode, worker.slot
        token = slot.token() if slot else None
        began = worker.busy_since()
        self._selector.unregister(worker.connection)
        self._workers.remove(worker)
        _bury(worker)
        current = worker.places.popleft() if worker.places else None
        for place in worker.places:
            heapq.heappush(self._again, place)
        if killed is None:
            loss: Loss | None = self._loss(code, slot is not None, token)
            if current is None:
                raise WorkerLost(f"a worker process ended while it had nothing to do ({_ending(code)})")
        else:
            # It may have come back at the last moment; then the next thing it did is not to blame.
            reason = f"the decoder did not come back within {self.deadline:g} s"
            loss = Loss(reason, token) if began == killed else None
        self._start()
        if current is not None and loss is not None:
            self._replace(current, loss)
        elif current is not None:
            heapq.heappush(self._again, current)
        self._hand_out()

    def _drain(self, worker: Worker) -> None:
        """Take what a worker had sent before it ended."""
        try:
            while worker.connection.poll(REAP_SECONDS):
                self._receive(worker)
        except (EOFError, OSError):
            return

    def _loss(self, code: int | None, started: bool, token: Token | None) -> Loss:
        """What an exit code means.

        Raises:
            WorkerLost: not that a video is damaged.
        """
        if code == -signal.SIGKILL:
            raise WorkerLost(
                "a worker process was killed from outside (SIGKILL), most likely because memory ran out: use fewer "
                "workers, a smaller prefetch or a smaller batch"
            )
        if not started:
            hint = "; a script that uses workers needs `if __name__ == '__main__':`" if code == 1 else ""
            raise WorkerLost(f"a worker process ended while it started ({_ending(code)}){hint}")
        # 255: the server that starts the processes is gone too, and with it what it knew.
        crashed = code is not None and (-code in CRASHES or 0 < code < 255)
        if not crashed:
            raise WorkerLost(f"a worker process ended unexpectedly ({_ending(code)})")
        if token is None and self.on_loss is None:
            raise WorkerLost(f"a worker process crashed ({_ending(code)})")
        return Loss("the decoder crashed on it", token)

    def _replace(self, place: int, loss: Loss) -> None:
        """See that there will be an item at this place all the same."""
        number, seen = self.numbers[place], self._losses.setdefault(place, set())
        if self.on_loss is None or loss in seen:
            what = f"sample {loss.token[1]}" if loss.token else f"item {number}"
            self._finished[place] = Failure(SampleError(f"{what}: {loss.reason}"))
            return
        seen.add(loss)
        item = self.on_loss(number, loss)
        if item is None:
            heapq.heappush(self._again, place)
        else:
            self._finished[place] = item if self.pinning is None else self.pinning.submit(_pinned, item)


def _stop(workers: list[Worker], pinning: Executor | None) -> None:
    """End all processes: at once those that are busy, the others by asking them."""
    for worker in workers:
        if worker.places:
            worker.process.kill()
        else:
            with suppress(OSError):  # it has ended already
                worker.connection.send_bytes(STOP)
    if pinning is not None:
        pinning.shutdown(wait=False, cancel_futures=True)
    until = time.monotonic() + REAP_SECONDS
    while workers:
        worker = workers.pop()
        worker.process.join(max(0.0, until - time.monotonic()))
        _bury(worker)


def _bury(worker: Worker) -> None:
    """Leave nothing of a process that has ended, or that will not."""
    if worker.process.exitcode is None:
        worker.process.kill()
        worker.process.join(REAP_SECONDS)
    if worker.process.exitcode is not None:
        worker.process.close()
    worker.connection.close()
    if worker.slot is not None:
        worker.slot.close()


def _ending(code: int | None) -> str:
    if code is None:
        return "it does not end"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _pinned(item: Any) -> Any:
    return item.pin_memory()


def _pinning_thread() -> Executor:
    """Copying into page-locked memory takes a while, and must not begin a context on another device than ours."""
    if not torch.cuda.is_available():
        return ThreadPoolExecutor(1)
    return ThreadPoolExecutor(1, initializer=torch.cuda.set_device, initargs=(torch.cuda.current_device(),))
