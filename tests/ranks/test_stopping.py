"""What asks several processes to stop: signals to one or to all, a time limit, each other."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa.checkpoints.store import CheckpointStore

Launch = Callable[..., Any]
Same = Callable[[Path, Path], None]
AGAIN = 75


def sends(*names: str, at: int) -> list[tuple[str, dict[str, Any]]]:
    return [("signals", {"names": names, "steps": [at]})]


def codes(crew: Any) -> list[int]:
    return [ended.code for ended in crew.end()]


def saved(out: Path) -> list[int]:
    return CheckpointStore(out / "checkpoints").steps()


def status(out: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((out / "status.json").read_text())
    return facts


def test_ctrl_c_for_all_and_for_one(launch: Launch, tmp_path: Path) -> None:
    out = tmp_path / "run"
    crew = launch(out, world=2, mischief={rank: sends("SIGINT", at=1) for rank in range(2)})
    assert codes(crew) == [130, 130]
    assert saved(out) == [2]
    assert (status(out)["state"], status(out)["step"], status(out)["checkpoint"]["step"]) == ("stopped", 2, 2)
    crew = launch(out, "--resume", world=2, mischief={1: sends("SIGINT", at=3)})
    assert codes(crew) == [130, 130], "the one that got none, too"
    assert saved(out) == [3, 4]


def test_a_second_ctrl_c_ends_at_once(launch: Launch, tmp_path: Path) -> None:
    out = tmp_path / "run"
    crew = launch(out, world=2, mischief={0: sends("SIGINT", "SIGINT", at=4)})
    first, second = crew.end()
    assert (first.code, second.code) == (130, 1)
    assert "interrupted" in first.err.splitlines()[-1]
    assert "rank 1: another process is gone" in second.err
    assert saved(out) == [3], "nothing is saved in the middle of a step"


def test_a_signal_in_the_last_step_and_a_finished_run(launch: Launch, tmp_path: Path) -> None:
    out = tmp_path / "run"
    crew = launch(out, world=2, mischief={1: sends("SIGTERM", "SIGUSR1", at=7)})
    assert codes(crew) == [0, 0], "there is nothing left to stop"
    assert saved(out) == [6, 8]
    assert (status(out)["state"], status(out)["checkpoint"]["step"]) == ("finished", 8)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    for options in ("", "--resume"):
        first, second = launch(out, options, world=2).end()
        assert (first.code, second.code) == (0, 0)
        assert f"{out} is finished: 8 of 8 steps are done" in first.err
        assert first.out.startswith(f"run    {out}\n")
        assert (second.out, second.err) == ("", "")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before, "and it is left alone"


def test_signals_while_data_is_opened(launch: Launch, tmp_path: Path) -> None:
    """SIGUSR1 announces an end: the first step is saved. SIGTERM is one, and there is nothing to save."""
    warned = {1: [("signals_in_preparation", {"name": "SIGUSR1"})]}
    assert codes(launch(tmp_path / "warned", world=2, mischief=warned)) == [AGAIN, AGAIN]
    assert saved(tmp_path / "warned") == [1]
    ended = {1: [("signals_in_preparation", {"name": "SIGTERM"})]}
    first, second = launch(tmp_path / "ended", world=2, mischief=ended).end()
    assert (first.code, second.code) == (1, 143)
    assert "another process is gone" in first.err.splitlines()[-1]
    assert "internal error" not in first.err
    assert not (tmp_path / "ended").exists()


@pytest.mark.slow
def test_phases(launch: Launch, tmp_path: Path) -> None:
    """A signal to one process in the last step of a phase, and one within the next; both are heard by all."""
    file = tmp_path / "phases.yaml"
    file.write_text(
        "phases:\n- {name: pretrain, changes: {optim.steps: 3}}\n"
        "- {name: cooldown, changes: {optim.steps: 3, clip.frames: 8}}\n"
    )
    out, whole = tmp_path / "run", tmp_path / "whole"
    launch(whole, f"--config {file}", world=2).done()
    crew = launch(out, f"--config {file}", world=2, mischief={1: sends("SIGTERM", at=2)})
    first, second = crew.end()
    assert (first.code, second.code) == (AGAIN, AGAIN), first.err + second.err
    assert "stopped by SIGTERM after the phase pretrain" in first.err.splitlines()[-1]
    assert not (out / "2-cooldown").exists()
    crew = launch(out, f"--config {file} --resume", world=2, mischief={1: sends("SIGUSR1", at=1)})
    assert codes(crew) == [AGAIN, AGAIN]
    assert saved(out / "2-cooldown") == [2]
    launch(out, f"--config {file} --resume", world=2).done()
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_the_time_limit_of_a_job(launch: Launch, tmp_path: Path) -> None:
    """Near the end of its job a run stops, is saved, and put back into the queue; once, by rank 0."""
    bin_, calls = tmp_path / "bin", tmp_path / "calls"
    bin_.mkdir()
    (bin_ / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {calls}\necho JobState=RUNNING Requeue=1\n')
    (bin_ / "scontrol").chmod(0o755)
    # Not the variables of srun: these processes are started as torchrun does, within a job.
    job = {
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_END_TIME": str(int(time.time()) + 3600),
        "PATH": f"{bin_}:{os.environ['PATH']}",
    }
    out = tmp_path / "run"
    first, second = launch(out, "--run.stop_before 3600", world=2, environ=job).end()
    assert (first.code, second.code) == (AGAIN, AGAIN), first.err + second.err
    assert "stopped by the time limit after step 1 of 8, state saved" in first.err.splitlines()[-1]
    assert saved(out) == [1]
    assert [line for line in calls.read_text().splitlines() if line.startswith("requeue")] == ["requeue incomplete 77"]
    calls.unlink()
    launch(out, "--resume --run.stop_before 60", world=2, environ=job).done()
    assert not calls.exists(), "a run that has ended by itself stays out of the queue"


def test_two_runs_in_one_folder(launch: Launch, tmp_path: Path) -> None:
    out = tmp_path / "run"
    one = launch(out, world=2, mischief={0: [("hangs", {"steps": [2], "seconds": 600.0})]})
    one.reach(2)
    (refused,) = launch(out, "--resume").end()
    assert refused.code == 2
    assert f"trains in {out}: wait for it, or choose another folder" in refused.err.splitlines()[-1]
    first, second = launch(out, "--resume", world=2).end()
    assert (first.code, second.code) == (2, 2)
    assert f"trains in {out}: wait for it" in first.err.splitlines()[-1]
    assert second.err == "", "told once"
    one.signal(signal.SIGKILL)
    assert codes(one) == [-signal.SIGKILL] * 2
    launch(out, "--resume --max-steps 1").done()


@pytest.mark.slow
def test_a_process_that_hangs(launch: Launch, tmp_path: Path) -> None:
    """Stacks tell where; the others end after run.timeout."""
    out = tmp_path / "run"
    hangs = {1: [("hangs", {"steps": [4], "seconds": 600.0})]}
    crew = launch(out, "--run.timeout 20 --run.stall_after 3", world=2, mischief=hangs)
    first = crew.wait(0)
    assert first.code == 1
    assert "did not answer for 20 s (run.timeout)" in first.err.splitlines()[-1]
    assert "in act" not in (out / "stacks" / "rank-0.txt").read_text()
    assert "worker.py" in (out / "stacks" / "rank-1.txt").read_text().split("most recent call first")[-1]
    crew.signal(signal.SIGKILL, ranks=[1])
    crew.end()
    launch(out, "--resume", world=2).done()
