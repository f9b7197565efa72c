"""What a process says that it is doing, as its parent reads it."""

import os
import time
from collections.abc import Iterator

import pytest

from jepa.data import watchdog
from jepa.data.watchdog import Slot, beat, call_watched, watched


@pytest.fixture
def slot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slot]:
    """As the parent of this process would see it."""
    monkeypatch.setattr(watchdog, "_slot", None)
    slot = Slot.of(watchdog.watch_this_process())
    yield slot
    slot.close()


def test_the_parent_sees_what_is_going_on_and_since_when(slot: Slot) -> None:
    assert (slot.since(), slot.token()) == (0, None)
    before = time.monotonic_ns()
    with watched(2, 10**12):
        assert before <= slot.since() <= time.monotonic_ns()
        assert slot.token() == (2, 10**12)
    assert (slot.since(), slot.token()) == (0, None)


def test_what_lies_around_goes_on_when_the_inner_work_is_done(slot: Slot) -> None:
    with watched(0, 1):
        began = slot.since()
        with watched(1, 2):
            assert slot.token() == (1, 2)
            assert slot.since() >= began
        assert (slot.since(), slot.token()) == (began, (0, 1))


def test_an_error_ends_the_watch(slot: Slot) -> None:
    with pytest.raises(KeyError), watched(0, 1):
        raise KeyError
    assert slot.token() is None


def test_only_patient_work_is_prolonged_by_a_beat(slot: Slot) -> None:
    with watched(0, 1):
        began = slot.since()
        beat()
        assert slot.since() == began
    with watched(0, 1, patient=True):
        began = slot.since()
        time.sleep(0.001)
        beat()
        assert slot.since() > began
        with watched(0, 2):
            began = slot.since()
            beat()
            assert slot.since() == began
    beat()
    assert slot.since() == 0


def test_a_function_of_a_number_is_watched_by_that_number(slot: Slot) -> None:
    assert call_watched(lambda number: (number, slot.token()), 5) == (5, (0, 5))


def test_outside_of_a_worker_nothing_happens() -> None:
    assert watchdog._slot is None
    with watched(0, 1):
        beat()


def test_memory_without_memfd_is_a_file_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    descriptor = watchdog.anonymous_file("jepa-test")
    os.write(descriptor, b"content")
    assert os.pread(descriptor, 9, 0) == b"content"
    assert os.fstat(descriptor).st_nlink == 0
    os.close(descriptor)
