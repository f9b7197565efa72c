"""status.json: always whole, not too often, and never the end of a training."""

import json
import math
import os
import socket
from pathlib import Path

import pytest

from jepa.training.status import StatusFile, read_status


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_is_written_at_most_every_so_often_and_at_once_if_forced(tmp_path: Path) -> None:
    clock = Clock()
    file = StatusFile(tmp_path / "status.json", every=10, clock=clock)

    def shown() -> object:
        return (read_status(file.path) or {}).get("step")

    file.update(step=1)
    assert shown() == 1, "the first one is written"
    clock.now += 9
    file.update(step=2)
    assert shown() == 1
    clock.now += 1
    file.update(step=3)
    assert shown() == 3
    file.update(step=4, force=True)
    assert shown() == 4
    clock.now += 9
    file.update(step=5)
    assert shown() == 4, "a forced one counts too"


def test_facts_stay_until_they_are_told_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    file = StatusFile(tmp_path / "status.json")
    file.update(force=True, state="running", of=100)
    file.update(force=True, step=3, loss=math.nan)
    facts = json.loads(file.path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (facts["state"], facts["of"], facts["step"], facts["loss"]) == ("running", 100, 3, "nan")
    assert (facts["host"], facts["pid"], facts["job"]) == (socket.gethostname(), os.getpid(), "4711")


def test_a_reader_never_sees_a_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = StatusFile(tmp_path / "status.json")
    file.update(force=True, step=1)

    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", power_cut)  # everything is written, nothing has its name
        with pytest.raises(KeyboardInterrupt):
            file.update(force=True, step=2)
    assert (read_status(file.path) or {})["step"] == 1


def test_a_full_disk_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a").write_text("")
    file = StatusFile(tmp_path / "a" / "status.json")  # where no file can be
    for step in range(3):
        file.update(force=True, step=step)
    (record,) = caplog.records
    assert "status.json" in record.getMessage()
    assert record.getMessage().endswith("training goes on without it")


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff"])
def test_what_is_no_status_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "status.json"
    if content is not None:
        path.write_bytes(content)
    assert read_status(path) is None
