"""Parts of a step, and the rank that the others wait for."""

import time

import pytest
import torch

from jepa.training import timings as module
from jepa.training.timings import StragglerWatch, Timings, columns, stragglers


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until it is moved."""
    now = [50.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def test_parts_add_up_and_are_taken_once(clock: list[float]) -> None:
    timings = Timings(torch.device("cpu"))
    for _ in range(3):
        with timings.part("forward"):
            clock[0] += 2
        with timings.part("backward"):
            clock[0] += 3
        clock[0] += 100  # belongs to nothing
    timings.add("data", 0.5)
    taken = timings.take()
    assert taken == {"data": 0.5, "forward": 6.0, "backward": 9.0}
    assert list(taken) == ["data", "forward", "backward"]
    assert timings.take() == {}


def test_a_block_that_raises_passes_its_error_on(clock: list[float]) -> None:
    timings = Timings(torch.device("cpu"))
    with pytest.raises(ArithmeticError), timings.part("forward"):
        raise ArithmeticError
    with timings.part("forward"):
        clock[0] += 1
    assert timings.take() == {"forward": 1.0}


@pytest.mark.gpu
def test_on_a_gpu_the_time_is_that_of_the_device() -> None:
    """The host is done with the forward long before the device is: a clock would see nothing of it."""
    device = torch.device("cuda")
    timings, matrix = Timings(device), torch.randn(8192, 8192, device=device)
    _ = matrix @ matrix
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(2):
        with timings.part("forward"):
            for _ in range(20):
                matrix @ matrix
        asked = time.perf_counter() - begun
        with timings.part("backward"):
            matrix @ matrix
    taken = timings.take()
    whole = time.perf_counter() - begun
    assert asked < taken["forward"] < whole
    assert 20 < taken["forward"] / taken["backward"] * 2 < 80


def rows(*own: float, wait: float = 0.0) -> list[dict[str, float]]:
    """One rank for each time; all of them end together, as those do that wait for each other."""
    last = max(own) + wait
    return [{"data": 0.1, "forward": seconds, "optimizer": 0.1, "agreement": last - seconds} for seconds in own]


def test_the_slow_rank_is_named_and_not_those_that_wait() -> None:
    (found,) = stragglers(rows(1.0, 1.0, 1.5, 1.1))
    assert (found.rank, found.part) == (2, "forward")
    assert found.seconds == pytest.approx(0.5)
    assert found.share == pytest.approx(0.5 / 1.7)


def test_the_part_in_which_it_loses_most() -> None:
    table = rows(1.0, 1.0, 1.0)
    table[1]["data"] = 0.9
    (found,) = stragglers(table)
    assert (found.rank, found.part) == (1, "data")


@pytest.mark.parametrize(
    "table",
    [
        rows(1.0),  # alone, nobody waits
        rows(1.0, 1.0, 1.0),
        rows(1.0, 1.05, 1.1),  # less than a tenth of the whole
        rows(0.5, 1.0, 1.0, 1.0),  # one is quick, which makes nobody slow
        rows(1.0, 1.3, wait=9.0),  # slow, but everybody waits for something else
        [{}, {}],
        [],
    ],
)
def test_no_straggler(table: list[dict[str, float]]) -> None:
    assert stragglers(table) == []


def test_of_two_ranks_the_quick_one_is_the_measure() -> None:
    assert [one.rank for one in stragglers(rows(2.0, 1.0))] == [0]


def test_the_slowest_comes_first() -> None:
    assert [one.rank for one in stragglers(rows(1.0, 1.0, 1.6, 1.0, 1.9))] == [4, 2]


def test_it_takes_several_rows_in_a_row_and_is_said_once() -> None:
    watch, slow, quick = StragglerWatch(rows=3), rows(1.0, 2.0, 1.0), rows(1.0, 1.0, 1.0)
    said = [[one.rank for one in watch.see(table)] for table in (slow, slow, quick, slow, slow, slow, slow, slow)]
    assert said == [[], [], [], [], [], [1], [], []]
    assert watch.see(quick) == []
    assert [bool(watch.see(slow)) for _ in range(3)] == [False, False, True], "once it was quick it is said again"


def test_another_slow_rank_starts_its_own_count() -> None:
    watch = StragglerWatch(rows=2)
    tables = (rows(2.0, 1.0, 1.0), rows(1.0, 2.0, 1.0), rows(2.0, 2.0, 1.0, 1.0))
    assert [[one.rank for one in watch.see(table)] for table in tables] == [[], [], [1]]


def test_columns_are_shares_of_the_time_of_rank_0() -> None:
    table = [
        {"data": 1.0, "forward": 2.0, "backward": 4.0, "agreement": 1.0},
        {"data": 1.0, "forward": 2.5, "backward": 4.0, "agreement": 0.5},
    ]
    assert columns(table, 10.0) == {"forward": 0.2, "backward": 0.4, "agreement": 0.1, "slowest_rank": 1.0}
    assert columns(table[:1], 8.0) == {"forward": 0.25, "backward": 0.5, "agreement": 0.125}
