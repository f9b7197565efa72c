"""A job that ends, is put back into the queue, or is not: against a `scontrol` that answers as it is told."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jepa.training.slurm_job import job_number, requeue, seconds_left

JOB = {"SLURM_JOB_ID": "77"}
Scontrol = Callable[..., None]


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scontrol:
    """`scontrol("JobState=RUNNING", refuses=False)`: what `show job` prints, and whether `requeue` fails."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def answer(job: str, *, refuses: bool = False) -> None:
        end = 'echo "Requested operation is presently disabled" >&2; exit 1' if refuses else "exit 0"
        file = tmp_path / "scontrol"
        file.write_text(
            f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$1" = show ] && echo "JobId=$3 {job}" && exit 0\n{end}\n'
        )
        file.chmod(0o755)

    return answer


def calls(tmp_path: Path) -> list[str]:
    return [line for line in (tmp_path / "calls").read_text().splitlines() if not line.startswith("show")]


def test_a_running_job_is_put_back(scontrol: Scontrol, tmp_path: Path) -> None:
    scontrol("JobState=RUNNING Reason=None Requeue=1")
    assert requeue(JOB)
    assert calls(tmp_path) == ["requeue incomplete 77"]


def test_a_job_whose_time_is_up_is_put_back(scontrol: Scontrol, tmp_path: Path) -> None:
    scontrol("JobState=COMPLETING Reason=TimeLimit Requeue=1")
    assert requeue(JOB)
    assert calls(tmp_path) == ["requeue 77"]


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", "REVOKED", "SPECIAL_EXIT"])
def test_a_job_that_was_ended_stays_away(
    scontrol: Scontrol, tmp_path: Path, caplog: pytest.LogCaptureFixture, state: str
) -> None:
    scontrol(f"JobState={state} Reason=None Requeue=1")
    assert not requeue(JOB)
    assert calls(tmp_path) == []
    assert f"job 77 was ended ({state.lower()}): not put back" in caplog.text


def test_a_preempted_job_is_put_back_by_slurm(scontrol: Scontrol, tmp_path: Path) -> None:
    scontrol("JobState=PREEMPTED Requeue=1")
    assert requeue(JOB)
    assert calls(tmp_path) == []
    scontrol("JobState=PREEMPTED Requeue=0")
    assert requeue(JOB)
    assert calls(tmp_path) == ["requeue incomplete 77"], "unless it is told not to"


def test_slurm_refuses(scontrol: Scontrol, caplog: pytest.LogCaptureFixture) -> None:
    scontrol("JobState=RUNNING", refuses=True)
    with caplog.at_level(logging.WARNING):
        assert not requeue(JOB)
    assert "job 77 could not be put back into the queue (Requested operation is presently disabled)" in caplog.text
    assert "submit it again" in caplog.text


def test_without_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scontrol: Scontrol, caplog: pytest.LogCaptureFixture
) -> None:
    scontrol("JobState=RUNNING EndTime=2030-01-01T00:00:00")
    assert not requeue({})
    assert seconds_left({}) is None
    assert job_number({}) is None
    assert not (tmp_path / "calls").exists(), "nobody is asked"
    (tmp_path / "scontrol").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not requeue(JOB), "in a container, say"
    assert seconds_left(JOB) is None
    assert caplog.text == ""


def test_the_time_limit(scontrol: Scontrol, tmp_path: Path) -> None:
    soon = time.time() + 1000
    assert seconds_left(JOB | {"SLURM_JOB_END_TIME": str(int(soon))}) == pytest.approx(1000, abs=30)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(soon))
    scontrol(f"JobState=RUNNING StartTime=2020-01-01T00:00:00 EndTime={text} Deadline=N/A")
    assert seconds_left(JOB) == pytest.approx(1000, abs=30)
    assert (tmp_path / "calls").read_text() == "show job 77 --oneliner\n"
    scontrol("JobState=RUNNING EndTime=Unknown")
    assert seconds_left(JOB) is None
