"""What comes out of worker processes, in which order, and that nothing is left when they or their parent end."""

import ctypes
import gc
import itertools
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from jepa.data.workers import Loader, StartMethod
from jepa.errors import ConfigError, DataError, SampleError

METHODS: list[StartMethod] = ["fork", "forkserver", "spawn"]
pytestmark = pytest.mark.usefixtures("nothing_is_left")


def processes() -> set[int]:
    return {process.pid for process in multiprocessing.active_children() if process.pid}


def gone(pid: int) -> bool:
    """Whether a process has ended; whoever must bury it may not have done so yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within half a minute")


def unevenly(number: int) -> int:
    time.sleep(0.005 * (number % 4 == 0))
    return number * number


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("numbers", [range(0), range(1), range(-9, 21, 3), range(9, 0, -1)])
def test_results_come_in_order(workers: int, numbers: range) -> None:
    for prefetch in (1, 3):
        loader = Loader(unevenly, numbers, workers=workers, prefetch=prefetch, start_method="fork")
        assert list(loader) == [number * number for number in numbers]
        assert len(loader) == len(numbers)
        assert list(loader) == [number * number for number in numbers], "and a second time"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("method", METHODS[1:])
def test_the_way_of_starting_changes_nothing(workers: int, method: StartMethod) -> None:
    loader = Loader(unevenly, range(-9, 21, 3), workers=workers, start_method=method)
    assert list(loader) == [number * number for number in range(-9, 21, 3)]


def fail(kind: type[Exception], number: int) -> int:
    if number == 3:
        raise kind("clip-3.mp4 is\tdamaged")
    return number


class AwkwardError(Exception):
    """Does not survive pickling."""

    def __init__(self, one: str, other: str = "") -> None:
        super().__init__()
        self.one, self.other = one, other


@pytest.mark.parametrize("kind", [ConfigError, DataError, SampleError])
def test_a_mistake_arrives_as_one_line_of_its_kind_in_its_turn(kind: type[Exception]) -> None:
    results = iter(Loader(partial(fail, kind), range(9), workers=2, start_method="fork"))
    assert list(itertools.islice(results, 3)) == [0, 1, 2]
    with pytest.raises(kind, match=r"^clip-3\.mp4 is\tdamaged$") as caught:
        next(results)
    assert type(caught.value) is kind
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(("kind", "raised"), [(KeyError, KeyError), (AwkwardError, RuntimeError)])
def test_a_bug_arrives_with_the_traceback_of_the_worker(kind: type[Exception], raised: type[Exception]) -> None:
    with pytest.raises(raised) as caught:
        list(Loader(partial(fail, kind), range(9), workers=2, start_method="fork"))
    assert 'raise kind("clip-3.mp4 is\\tdamaged")' in str(caught.value.__cause__)


def unsendable(number: int) -> object:
    return threading.Lock() if number == 1 else number


def test_what_cannot_be_pickled_is_named() -> None:
    with pytest.raises(TypeError, match=r"a lock cannot be sent from a worker process: .*pickle"):
        list(Loader(unsendable, range(3), workers=1, start_method="fork"))
    with pytest.raises(TypeError, match=r"<lambda> at .* cannot be sent to worker processes \(workers=0 needs none\)"):
        list(Loader(lambda number: number, range(3), workers=1, start_method="spawn"))


def too_much(number: int) -> torch.Tensor:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
    return torch.zeros(number)


def test_too_little_memory_for_a_batch_is_one_line() -> None:
    loader = Loader(too_much, range(10**4, 10**7, 10**6), workers=1, start_method="fork")
    with pytest.raises(
        ConfigError, match=r"^no memory for 4 MB from a worker process \(File too large\): lower loader"
    ):
        list(loader)


def my_pid(number: int) -> int:
    return os.getpid()


def test_signals_for_the_job_are_not_for_workers() -> None:
    results = iter(Loader(my_pid, range(9), workers=2, prefetch=1, start_method="fork"))
    pids = {next(results), next(results)}
    for pid, number in itertools.product(pids, [signal.SIGTERM, signal.SIGINT]):
        os.kill(pid, number)
    assert set(results) <= pids


def never(number: int) -> int:
    """Does not come back from the fourth number."""
    if number == 3:
        ctypes.PyDLL(None).pause()
    return number


def test_an_iterator_that_is_left_alone_takes_its_workers_along() -> None:
    before = processes()
    results = iter(Loader(never, range(9), workers=2, start_method="fork"))  # one of them hangs, for ever
    assert [next(results), next(results)] == [0, 1]
    started = processes() - before
    assert len(started) == 2
    del results
    assert not processes() & started
    cycle: list[object] = [iter(Loader(my_pid, range(9), workers=1, start_method="fork"))]
    pid = next(cycle[0])  # type: ignore[call-overload]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert gone(pid)


SCRIPT = """
import ctypes, os, sys
from jepa.data.workers import Loader
def make(number):
    os.write(1, b"%d\\n" % os.getpid())
    if number % 2:
        ctypes.PyDLL(None).pause()
    return number
if __name__ == "__main__":
    results = iter(Loader(make, range(9), workers=3, prefetch=1, start_method=sys.argv[1]))
    next(results)
    sys.stdin.readline()
    sys.exit(7)
"""


def run_script(folder: Path, method: StartMethod) -> tuple["subprocess.Popen[bytes]", list[int]]:
    """A parent that waits for a line, and its workers, two of which (0 and 2 are done) cannot notice anything."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), method],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    pids = [int(process.stdout.readline()) for _ in range(4)]
    assert not any(gone(pid) for pid in pids)
    return process, pids


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_parent_that_is_killed_takes_its_workers_along(tmp_path: Path, method: StartMethod) -> None:
    process, pids = run_script(tmp_path, method)
    process.kill()
    process.communicate()
    wait_for(lambda: all(gone(pid) for pid in pids))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_parent_that_ends_amid_an_iteration_ends(tmp_path: Path, method: StartMethod) -> None:
    process, pids = run_script(tmp_path, method)
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 7
    wait_for(lambda: all(gone(pid) for pid in pids))


class Pinned:
    """Remembers whether, and by which thread, it was pinned."""

    def __init__(self, number: int, thread: str = "") -> None:
        self.number, self.thread = number, thread

    def pin_memory(self) -> "Pinned":
        return Pinned(self.number, threading.current_thread().name)


@pytest.mark.parametrize("workers", [0, 2])
def test_items_are_pinned_in_order_and_not_by_the_training_thread(workers: int) -> None:
    items = list(Loader(Pinned, range(9), workers=workers, pin_memory=True, start_method="fork"))
    assert [item.number for item in items] == list(range(9))
    mine = threading.current_thread().name
    assert all(item.thread and (item.thread == mine) is (workers == 0) for item in items)
    assert all("Pool" not in thread.name for thread in threading.enumerate() if not thread.is_alive())


def test_nothing_is_drawn_from_the_generator_of_torch() -> None:
    before = torch.get_rng_state()
    list(Loader(my_pid, range(3), workers=2, start_method="fork"))
    assert torch.equal(torch.get_rng_state(), before)
