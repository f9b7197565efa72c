"""Signals raise a flag; a second one means now."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from jepa.training.agreement import WISHES
from jepa.training.preemption import ENDS, TIME_LIMIT, WARNINGS, StopRequest, exit_code

ALL = (*WARNINGS, *ENDS)


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    request = StopRequest()
    request.listen(ALL)
    yield request
    request.release(ALL)


@pytest.mark.parametrize("number", ALL)
def test_the_first_signal_only_sets_the_flag(stop: StopRequest, number: signal.Signals) -> None:
    assert not stop
    os.kill(os.getpid(), number)
    assert stop
    assert stop.wish == number.name
    assert stop.wish in WISHES, "the others can be told"


@pytest.mark.parametrize(
    ("wish", "code"), [("SIGINT", 130), ("SIGTERM", 75), ("SIGUSR1", 75), ("SIGUSR2", 75), (TIME_LIMIT, 75)]
)
def test_exit_codes(wish: str, code: int) -> None:
    assert exit_code(wish) == code


def test_a_second_ctrl_c_interrupts_at_once(stop: StopRequest) -> None:
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_second_sigterm_exits_at_once(stop: StopRequest) -> None:
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        signal.raise_signal(signal.SIGTERM)


def test_what_follows_a_warning_is_no_second_signal(stop: StopRequest) -> None:
    """Slurm sends SIGUSR1, again perhaps, and SIGTERM when the time is up: the state is being saved by then."""
    for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.raise_signal(number)
    assert stop.wish == "SIGUSR1"


def test_a_time_limit(stop: StopRequest) -> None:
    stop.deadline = time.monotonic() + 3600
    assert not stop
    stop.deadline = time.monotonic()
    assert stop.wish == TIME_LIMIT
    signal.raise_signal(signal.SIGTERM)
    assert stop.wish == "SIGTERM", "the signal is what counts"


def test_the_handlers_from_before_come_back() -> None:
    before = [signal.getsignal(number) for number in ALL]
    request = StopRequest()
    request.listen(WARNINGS)
    request.listen(ALL)  # of a phase: what is heard already stays so
    assert all(signal.getsignal(number) not in before for number in ALL)
    request.release(ENDS)
    assert [signal.getsignal(number) for number in ENDS] == before[2:]
    assert signal.getsignal(signal.SIGUSR1) != before[0]
    request.release(WARNINGS)
    request.release(ALL)
    assert [signal.getsignal(number) for number in ALL] == before


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before = signal.getsignal(signal.SIGINT)
    request = StopRequest()
    thread = threading.Thread(target=request.listen, args=(ALL,))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) == before
    request.release(ALL)
