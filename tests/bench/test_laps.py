import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa.bench.laps import Contender, Lap, Spread, per_core, per_second, race, ratio, seconds_below, timed, timed_steps

TIMES = st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), min_size=1, max_size=9)


def laps(*seconds: float) -> list[Lap]:
    return [Lap(10, 2 * value, value) for value in seconds]


def test_rates_and_ratios_are_medians_with_extremes() -> None:
    slow, fast = laps(1, 2, 5), laps(0.5, 0.4, 5)
    assert per_core(slow) == Spread(5, 2, 10)
    assert per_second(slow) == Spread(2.5, 1, 5)
    assert ratio(fast, slow) == Spread(2, 1, 5)


@given(TIMES, st.floats(0.1, 10))
def test_a_disturbance_of_whole_rounds_leaves_the_ratios(times: list[tuple[float, float]], factor: float) -> None:
    one, other = ([Lap(8, 1, pair[side]) for pair in times] for side in (0, 1))
    slowed = [[Lap(lap.clips, 1, lap.core_seconds * factor) for lap in side] for side in (one, other)]
    before, after = ratio(one, other), ratio(*slowed)
    assert after.median == pytest.approx(before.median)
    assert after.low <= after.median <= after.high


def test_rounds_are_interleaved_each_begins_with_another_and_the_first_is_not_told() -> None:
    calls: list[str] = []

    def contender(name: str) -> Contender:
        def run() -> Lap:
            calls.append(name)
            return Lap(len(calls), 1, 1)

        return Contender("films", name, run)

    found = race([contender(name) for name in "abc"], 2)
    assert "".join(calls) == "abcbcacab"
    assert [[lap.clips for lap in mine] for mine in found] == [[6, 8], [4, 9], [5, 7]]


def test_steps_before_a_lap_are_read_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0, 7.0]
    monkeypatch.setattr("jepa.bench.laps.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("jepa.bench.laps.time.process_time", lambda: clock[1])
    monkeypatch.setattr("jepa.bench.laps.seconds_below", dict)
    read = []

    def batches() -> Iterator[int]:
        for number in range(10):
            clock[0] += 1000 if number < 3 else 2
            clock[1] += 500 if number < 3 else 0.5
            read.append(number)
            yield number

    assert timed_steps(batches(), 3, 4, batch=8) == Lap(32, 8.0, 2.0)
    assert read == list(range(7))


def test_processes_below_are_counted_from_the_start_of_the_lap(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of three processes one ends during the lap, one is there all along, one begins in it.
    states = iter([{1: 5.0, 2: 3.0}, {2: 4.5, 3: 0.25}])
    monkeypatch.setattr("jepa.bench.laps.seconds_below", lambda: next(states))
    monkeypatch.setattr("jepa.bench.laps.time.process_time", lambda: 9.0)
    assert timed(lambda: None, 1).core_seconds == 1.75


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_processor_time_of_grandchildren_counts_while_they_live() -> None:
    # A child whose child computes for 0.3 s of processor time, says so, and waits.
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ninput()"
    command = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        assert sorted(seconds_below().values())[-1] >= 0.29
        process.communicate(b"\n")
