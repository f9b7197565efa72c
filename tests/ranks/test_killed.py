"""SIGKILL of the whole run, again and again: it always goes on, and ends as if nothing had been."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa.checkpoints.store import CheckpointStore
from jepa.rng import generator
from jepa.training.order_file import OrderFile

Launch = Callable[..., Any]
Same = Callable[[Path, Path], None]
EVERY = 3


def killed_often(launch: Launch, whole: Any, out: Path, times: int, world: int, extra: str = "") -> None:
    """Kill a run of 8 steps at random steps and moments of them, so often; then let it end."""
    rng, options = generator(0, world, "kills"), f"{whole.options} {extra} --resume"
    done = 0
    for number in range(times):
        crew = launch(out, options, world=world)
        begin = newest(out)
        # At most one interval is lost: each start is where the step before the kill was saved, or later.
        assert begin >= done - done % EVERY
        crew.reach(int(rng.integers(1, EVERY + 2)) if number % 4 and begin < 5 else 1)
        time.sleep(rng.uniform(0.0, 0.2))
        crew.signal(signal.SIGKILL)
        codes = [ended.code for ended in crew.end()]
        assert set(codes) <= {-signal.SIGKILL, 0, 1}, codes
        steps = crew.steps()
        assert steps == whole.steps[steps[0]["step"] : steps[-1]["step"] + 1], "bit by bit"
        assert steps[0]["step"] == begin
        done = steps[-1]["step"] + 1
        if codes == [0] * world:
            break
    launch(out, options, world=world).done()


def newest(out: Path) -> int:
    return max(CheckpointStore(out / "checkpoints").steps(), default=0)


def test_one_process(launch: Launch, single: Any, tmp_path: Path, assert_same: Same) -> None:
    killed_often(launch, single, tmp_path / "run", times=5, world=1)
    assert_same(single.out, tmp_path / "run")
