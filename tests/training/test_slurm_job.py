"""When a job ends and whether it comes back, with a scontrol that says what that of Slurm 22.05 says."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jepa.training.slurm_job import requeue, seconds_left

JOB = {"SLURM_JOB_ID": "12"}
Scontrol = Callable[..., Path]


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scontrol:
    """`scontrol(show)`: a command that says this about the job; the file with the other calls."""

    def made(show: str, code: int = 0) -> Path:
        asked = tmp_path / "asked"
        asked.touch()
        (tmp_path / "scontrol").write_text(
            f"#!/bin/bash\nif [ $1 = show ]; then echo 'JobId=12 {show} Requeue=1'; exit; fi\n"
            f'echo "$*" >> {asked}; echo "{code or "no"} error" >&2; exit {code}\n'
        )
        (tmp_path / "scontrol").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return asked

    return made


@pytest.mark.parametrize(
    ("show", "asked"),
    [
        ("JobState=RUNNING Reason=None", ["requeue incomplete 12"]),
        ("JobState=COMPLETING Reason=TimeLimit", ["requeue 12"]),  # ended at its limit; `incomplete` would refuse
        ("JobState=COMPLETING Reason=None", []),  # scancel, which a job must not survive
        ("JobState=CANCELLED Reason=None", []),
        ("JobState=PREEMPTED Reason=None", []),  # by Slurm itself
    ],
)
def test_a_job_comes_back_unless_it_was_ended(scontrol: Scontrol, show: str, asked: list[str]) -> None:
    calls = scontrol(show)
    assert requeue(JOB) == (bool(asked) or "PREEMPTED" in show)
    assert calls.read_text().splitlines() == asked


def test_a_refusal_is_told(scontrol: Scontrol, caplog: pytest.LogCaptureFixture) -> None:
    scontrol("JobState=RUNNING Reason=None", code=3)
    assert not requeue(JOB)
    assert "job 12 could not be put back into the queue (3 error): submit it again" in caplog.text


def test_nothing_is_asked_outside_a_job_or_without_scontrol(
    scontrol: Scontrol, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = scontrol("JobState=RUNNING Reason=None")
    assert not requeue({})
    assert seconds_left({}) is None
    monkeypatch.setenv("PATH", "/nonexistent")
    assert not requeue(JOB)
    assert seconds_left(JOB) is None
    assert calls.read_text() == ""


def test_the_end_of_the_job_is_that_of_the_environment_or_of_scontrol(scontrol: Scontrol) -> None:
    end = int(time.time()) + 600
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(end))
    scontrol(f"JobState=RUNNING StartTime=2020-01-01T00:00:00 EndTime={text} Deadline=N/A")
    assert seconds_left(JOB) == pytest.approx(600, abs=60)
    assert seconds_left(JOB | {"SLURM_JOB_END_TIME": str(end + 600)}) == pytest.approx(1200, abs=60)
    scontrol("JobState=RUNNING EndTime=Unknown Deadline=N/A")
    assert seconds_left(JOB) is None
