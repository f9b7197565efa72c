"""A mistake or a failure of one process is told once, and all end with its exit code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa.checkpoints.store import CheckpointStore

Launch = Callable[..., Any]
MISSING = "/mnt/data is not a folder: mount it"


def own(ended: Any) -> list[str]:
    """What a process says, without what torch's own C++ says."""
    return [line for line in ended.err.splitlines() if not line.startswith("[rank")]


def test_data_that_is_missing_on_one_machine(launch: Launch, tmp_path: Path) -> None:
    first, second = launch(tmp_path / "run", world=2, mischief={1: [("no_data", {})]}).end()
    assert (first.code, second.code) == (3, 3)
    assert own(first) == [f"jepa pretrain: error: rank 1: {MISSING}"]
    assert own(second) == []
    assert not (tmp_path / "run").exists()
    ended = launch(tmp_path / "run", world=3, mischief={rank: [("no_data", {})] for rank in range(3)}).end()
    assert [one.code for one in ended] == [3, 3, 3]
    assert [own(one) for one in ended] == [[f"jepa pretrain: error: {MISSING}"], [], []], "it is that of all"


def test_a_clip_that_one_process_cannot_read(launch: Launch, tmp_path: Path) -> None:
    first, second = launch(tmp_path / "run", world=2, mischief={1: [("bad_clip", {"steps": [4]})]}).end()
    assert (first.code, second.code) == (1, 3)
    assert own(second)[-1] == "jepa pretrain: error: rank 1: clip 4 cannot be read: replace it"
    assert "another process is gone" in own(first)[-1]
    assert "Traceback" not in first.err + second.err


@pytest.mark.parametrize(
    ("options", "full"),
    [("", 0), ("--run.save_in_background true", 0), ("--run.strategy fsdp --run.save_in_background true", 1)],
    ids=["copies", "background", "divided"],
)
def test_a_full_disk(launch: Launch, tmp_path: Path, options: str, full: int) -> None:
    """The save of step 6 fails on one process; all end, and what was saved before goes on."""
    out = tmp_path / "run"
    crew = launch(out, options, world=2, mischief={full: [("full_disk", {"steps": [5], "most": 100_000})]})
    first, second = crew.end()
    assert (first.code, second.code) == (2, 2), first.err + second.err
    assert "cannot write" in own(first)[-1]
    assert "the checkpoint of step 3 stays" in own(first)[-1]
    assert own(second) == []
    assert len(crew.steps()) <= 8
    assert CheckpointStore(out / "checkpoints").steps() == [3]
    again = launch(out, f"{options} --resume", world=2).done()
    assert [step["step"] for step in again.steps()] == [3, 4, 5, 6, 7]


def test_an_alarm_of_one_process_stops_all(launch: Launch, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first, second = launch(out, world=2, mischief={0: [("alarms", {"steps": [3]})]}).end()
    assert (first.code, second.code) == (4, 4)
    assert "stopped by an alarm after step 4 of 8, state saved: all tokens are the same" in own(first)[-1]
    assert own(second) == []
    assert CheckpointStore(out / "checkpoints").steps() == [3, 4]
