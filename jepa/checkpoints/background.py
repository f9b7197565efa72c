"""Saving beside the training: the state is copied into the memory of the CPU, and a thread writes the copy.

Training stands still for the copy, and for what is left of the writing before if that takes longer than the interval.
torch's own `async_save` is not used: it wants the process group of the training to have a CPU side, and would talk over
it while a training step does. Here the thread does what a save in the foreground does, by the same code, over a process
group of the store's own, so both leave the same files and fail in the same way.
"""

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jepa.checkpoints.store import CheckpointStore, Saved


@dataclass(frozen=True)
class Written:
    """A checkpoint that was written in the background."""

    saved: Saved
    stall: float
    """Seconds for which the training stood still."""
    seconds: float
    """Of the writing."""


class BackgroundSaver:
    """Writes one checkpoint at a time. A process waits for it at its end, in any case."""

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Written] | None = None
        self._written: list[Written] = []
        self._newest: Saved | None = None

    def submit(self, step: int, state: dict[str, Any], facts: Mapping[str, Any], *, sharded: bool = False) -> float:
        """Copy a state and have it written, after what is being written now.

        Args:
            step: as for `CheckpointStore.save`, as are `state` and `facts`. All of it may change afterwards.
            sharded: by `CheckpointStore.save_sharded`; then all processes have to call this.

        Returns:
            Seconds for which the caller has waited.

        Raises:
            ConfigError: the checkpoint before this one could not be written; this one is not begun.
        """
        begin = time.perf_counter()
        self._finish()
        if sharded:
            self.store.group()  # here, where all processes come by in the same order
        copy, kept = copied(state), dict(facts)
        stall = time.perf_counter() - begin
        save = self.store.save_sharded if sharded else self.store.save

        def write() -> Written:
            start = time.perf_counter()
            saved = save(step, copy, kept)
            return Written(saved, stall, time.perf_counter() - start)

        self._writing = self._thread.submit(write)
        return stall

    @property
    def failed(self) -> bool:
        """Whether the writing has ended by an error, which `wait` will raise; waits for nothing."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def poll(self) -> list[Written]:
        """What has been written and was not told before; waits for nothing, and leaves an error to `wait`."""
        if self._writing is not None and self._writing.done() and not self.failed:
            self._finish()
        written, self._written = self._written, []
        return written

    def wait(self) -> Saved | None:
        """Wait for the writing; the newest checkpoint that this has written, none if there is none.

        Raises:
            ConfigError: it could not be written. Said once.
        """
        self._finish()
        return self._newest

    def _finish(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            written = writing.result()
            self._written.append(written)
            self._newest = written.saved


def copied(state: dict[str, Any]) -> dict[str, Any]:
    """A copy that shares nothing that can change; tensors on the CPU, of divided ones the part of this process."""
    copy: dict[str, Any] = _copied(state, {})
    return copy


def _copied(value: Any, known: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        if id(value) not in known:
            with torch.no_grad():
                known[id(value)] = value.detach().to("cpu", copy=True)
        return known[id(value)]
    if isinstance(value, dict):
        return {key: _copied(inner, known) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(inner, known) for inner in value)
    return value
