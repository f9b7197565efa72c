"""Workers that hang, crash or are killed: it costs one number, or ends the run in one line."""

import ctypes
import faulthandler
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from jepa.data import worker_pool
from jepa.data.watchdog import watched
from jepa.data.workers import Loader, Loss, StartMethod
from jepa.errors import DataError, SampleError, WorkerLost

METHODS: list[StartMethod] = ["fork", "forkserver", "spawn"]
SLOW = [pytest.param(method, marks=() if method == "fork" else pytest.mark.slow) for method in METHODS]

pytestmark = pytest.mark.usefixtures("nothing_is_left")


def hang(number: int) -> int:
    """As decord does it: native code that never comes back and does not let go of the lock."""
    with watched(0, 100 + number):
        if number == 3:
            ctypes.PyDLL(None).pause()
    return number


def crash(how: Callable[[], object], number: int) -> int:
    with watched(0, 100 + number):
        if number == 3:
            how()
    return number


def segfault() -> object:
    faulthandler.disable()  # which pytest has put into this process, and which would print at length
    return ctypes.string_at(0)


def abort() -> None:
    faulthandler.disable()
    os.abort()


def leave() -> None:
    os._exit(139)


def instead(losses: list[tuple[int, Loss]], number: int, loss: Loss) -> int:
    losses.append((number, loss))
    return -number


@pytest.mark.parametrize("method", SLOW)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_decoder_that_hangs_costs_its_number_only(method: StartMethod, workers: int) -> None:
    losses: list[tuple[int, Loss]] = []
    results = Loader(
        hang, range(12), workers=workers, start_method=method, deadline=0.3, on_loss=partial(instead, losses)
    )
    assert list(results) == [0, 1, 2, -3, *range(4, 12)]
    assert losses == [(3, Loss("the decoder did not come back within 0.3 s", (0, 103)))]


@pytest.mark.slow
def test_a_decoder_that_hangs_while_nobody_looks_is_ended_once_it_is_waited_for() -> None:
    losses: list[tuple[int, Loss]] = []
    results = iter(
        Loader(hang, range(9), workers=2, start_method="fork", deadline=0.3, on_loss=partial(instead, losses))
    )
    found = []
    for number in results:
        found.append(number)
        if len(found) < 6:
            time.sleep(2 * (worker_pool.AWAY_SECONDS + 0.03))  # a long step of training
    assert found == [0, 1, 2, -3, *range(4, 9)]
    assert losses == [(3, Loss("the decoder did not come back within 0.3 s", (0, 103)))]


STOPPED = """
import os, time
from jepa.data.watchdog import watched
from jepa.data.workers import Loader
def make(number):
    with watched(0, number):
        os.write(1, b"busy\\n")
        time.sleep(0.5)
    return number
if __name__ == "__main__":
    lost = lambda number, loss: -number
    print(list(Loader(make, range(1, 7), workers=2, start_method="fork", deadline=2.0, on_loss=lost)))
"""


@pytest.mark.slow
def test_time_in_which_the_whole_job_is_stopped_does_not_count(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(STOPPED)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
    )
    assert process.stdout is not None
    for _ in range(2):
        assert process.stdout.readline() == b"busy\n"
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(4)
        os.killpg(process.pid, signal.SIGCONT)
    left, _ = process.communicate(timeout=60)
    assert left.splitlines()[-1] == b"[1, 2, 3, 4, 5, 6]"


def test_only_time_that_somebody_looked_at_counts() -> None:
    class Busy:
        began = 1_000

        def since(self) -> int:
            return self.began

    busy = Busy()
    worker = worker_pool.Worker(process=None, connection=None, slot=busy)  # type: ignore[arg-type]
    assert worker.overdue(1_300, 300e-9) == 0
    assert worker.overdue(1_301, 300e-9) == 1_000
    worker.excuse(1_100, 5_000)
    assert (worker.overdue(5_200, 300e-9), worker.overdue(5_201, 300e-9)) == (0, 1_000)
    worker.excuse(5_150, 9_000)
    assert (worker.overdue(9_050, 300e-9), worker.overdue(9_051, 300e-9)) == (0, 1_000), "two gaps add up"
    busy.began = 9_000
    assert (worker.overdue(9_300, 300e-9), worker.overdue(9_301, 300e-9)) == (0, 9_000), "of something else"
    busy.began = 0
    worker.excuse(9_000, 10_000)
    assert worker.overdue(20_000, 300e-9) == 0, "it does nothing"


@pytest.mark.parametrize("method", SLOW)
@pytest.mark.parametrize("how", [segfault, abort, leave])
def test_a_decoder_that_crashes_costs_its_number_only(method: StartMethod, how: Callable[[], object]) -> None:
    losses: list[tuple[int, Loss]] = []
    make = partial(crash, how)
    results = Loader(make, range(12), workers=2, prefetch=3, start_method=method, on_loss=partial(instead, losses))
    assert list(results) == [0, 1, 2, -3, *range(4, 12)]
    assert losses == [(3, Loss("the decoder crashed on it", (0, 103)))]


def test_without_a_remedy_the_sample_is_named() -> None:
    for make, reason in ((hang, "did not come back within 0.3 s"), (partial(crash, segfault), "crashed on it")):
        results = iter(Loader(make, range(9), workers=2, start_method="fork", deadline=0.3))
        assert list(itertools.islice(results, 3)) == [0, 1, 2]
        with pytest.raises(SampleError, match=f"^sample 103: the decoder {reason}$"):
            next(results)


def until_marked(folder: Path, number: int) -> int:
    with watched(0, number):
        if number % 4 == 1 and not (folder / str(number)).exists():
            segfault()
    return number


def test_a_number_is_made_again_when_the_cause_is_gone(tmp_path: Path) -> None:
    def remove(number: int, loss: Loss) -> None:
        assert loss.token == (0, number)
        (tmp_path / str(number)).touch()

    make = partial(until_marked, tmp_path)
    assert list(Loader(make, range(12), workers=2, start_method="fork", on_loss=remove)) == list(range(12))


def test_a_cause_that_stays_is_an_error() -> None:
    asked = []
    results = Loader(
        partial(crash, segfault), range(9), workers=2, start_method="fork", on_loss=lambda n, _: asked.append(n)
    )
    with pytest.raises(SampleError, match=r"^sample 103: the decoder crashed on it$"):
        list(results)
    assert asked == [3]


def test_what_the_remedy_raises_ends_the_iteration() -> None:
    def refuse(number: int, loss: Loss) -> int:
        raise DataError(f"too many: {number}")

    with pytest.raises(DataError, match="too many: 3"):
        list(Loader(partial(crash, segfault), range(9), workers=2, start_method="fork", on_loss=refuse))


def unwatched(how: Callable[[], object], number: int) -> int:
    if number == 3:
        how()
    return number


def test_a_crash_outside_of_a_decoder_is_told_apart() -> None:
    make = partial(unwatched, segfault)
    with pytest.raises(WorkerLost, match=r"^a worker process crashed \(SIGSEGV\)$"):
        list(Loader(make, range(9), workers=2, start_method="fork"))
    losses: list[tuple[int, Loss]] = []
    results = list(Loader(make, range(9), workers=2, start_method="fork", on_loss=partial(instead, losses)))
    assert results == [0, 1, 2, -3, *range(4, 9)]
    assert losses == [(3, Loss("the decoder crashed on it", None))]


def kill_myself(number: int) -> int:
    with watched(0, number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("method", SLOW)
def test_a_worker_that_somebody_kills_ends_the_run(method: StartMethod) -> None:
    losses: list[tuple[int, Loss]] = []
    loader = Loader(kill_myself, range(9), workers=2, start_method=method, on_loss=partial(instead, losses))
    with pytest.raises(
        WorkerLost, match=r"^a worker process was killed from outside \(SIGKILL\), most likely because mem"
    ):
        list(loader)
    assert not losses
