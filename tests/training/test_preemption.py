"""Signals raise a flag; a second one means now."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from jepa.training.preemption import StopRequest


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    request = StopRequest()
    request.listen()
    yield request
    request.release()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_only_sets_the_flag(stop: StopRequest, number: signal.Signals, code: int) -> None:
    assert not stop
    os.kill(os.getpid(), number)
    assert stop
    assert stop.signal == number
    assert stop.exit_code == code


def test_a_second_ctrl_c_interrupts_at_once(stop: StopRequest) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_second_sigterm_exits_at_once(stop: StopRequest) -> None:
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        signal.raise_signal(signal.SIGTERM)


def test_the_handlers_from_before_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    request = StopRequest()
    request.listen()
    assert signal.getsignal(signal.SIGINT) != before[0]
    request.release()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before = signal.getsignal(signal.SIGINT)
    request = StopRequest()
    thread = threading.Thread(target=request.listen)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) == before
    request.release()
