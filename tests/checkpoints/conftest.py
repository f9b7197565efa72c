"""Processes for tests that kill them, or that need several: forks of the test's own, which start at once."""

import os
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

KILLED = 77
"""Exit code of a process that died at the chosen operation."""
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.listdir", "os.scandir"}
"""What Python tells an audit hook of before it does it."""

Action = Callable[[], Any]


def forked(actions: Sequence[Action]) -> list[Any]:
    """What came of each action, in a process of its own: its result, its exception, or the exit code of a kill."""
    children: list[tuple[int, Any]] = []
    for action in actions:
        told = tempfile.TemporaryFile()  # noqa: SIM115  # closed below, when the child has ended
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other threads of the test process do nothing
            child = os.fork()
        if child == 0:
            try:
                try:
                    content = action()
                except BaseException as error:
                    content = error
                told.write(pickle.dumps(content))
                told.flush()
            finally:
                os._exit(0)
        children.append((child, told))
    results: list[Any] = []
    for child, told in children:
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        with told:
            told.seek(0)
            results.append(pickle.loads(told.read()) if code == 0 else code)
    return results


def trouble_at(number: int, trouble: Action, *, ever_after: bool = False) -> Callable[[], bool]:
    """In this process, for good: `trouble()` before the n-th operation on the disk, or before all from then on.

    Operations are what `EVENTS` names, every fsync, and every write, of which a half is done.

    Returns:
        Says whether it has come to that operation.
    """
    from jepa.checkpoints.digested import DigestedFile

    count = 0

    def is_now() -> bool:
        nonlocal count
        count += 1
        return count == number or (ever_after and count > number)

    def hook(event: str, _: Any) -> None:
        if event in EVENTS and is_now():
            trouble()

    fsync, write = os.fsync, DigestedFile._write_all

    def troubled_fsync(descriptor: int) -> None:
        if is_now():
            trouble()
        fsync(descriptor)

    def troubled_write(self: DigestedFile, view: memoryview) -> None:
        if is_now():
            write(self, view[: len(view) // 2])
            trouble()
        write(self, view)

    os.fsync = troubled_fsync
    DigestedFile._write_all = troubled_write  # type: ignore[method-assign]
    sys.addaudithook(hook)
    return lambda: count >= number


@pytest.fixture
def fork() -> Callable[[Action], Any]:
    """`fork(action)`: what came of it in another process."""
    return lambda action: forked([action])[0]


@pytest.fixture
def forks() -> Callable[[Sequence[Action]], list[Any]]:
    """`forks(actions)`: what came of each, all at the same time."""
    return forked


@pytest.fixture
def kill_at() -> Callable[[int], None]:
    """`kill_at(n)`: the process that calls it dies before its n-th operation on the disk."""
    return lambda number: trouble_at(number, lambda: os._exit(KILLED))


@pytest.fixture
def disturb() -> Callable[..., Callable[[], bool]]:
    """`disturb(n, trouble, ever_after=False)`, as `trouble_at`."""
    return trouble_at


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: there an fsync costs nothing, and a kill is as much of a kill."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


@pytest.fixture
def together(tmp_path: Path) -> Callable[..., list[Any]]:
    """`together(size, action)`: what came of `action(rank)` in each of `size` processes of one process group."""
    meetings = iter(range(1000))

    def run(size: int, action: Callable[[int], Any]) -> list[Any]:
        import torch.distributed as dist

        import jepa.checkpoints.sharded  # before the forks: it takes long

        assert jepa.checkpoints.sharded
        meeting = f"file://{tmp_path}/.meeting-{next(meetings)}"

        def member(rank: int) -> Any:
            dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
            result = action(rank)
            dist.barrier()
            dist.destroy_process_group()
            return result

        return forked([lambda rank=rank: member(rank) for rank in range(size)])

    return run
