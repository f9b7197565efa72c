"""`jepa status`: what people read, and what machines do."""

import json
import socket
from pathlib import Path

import pytest

from jepa.cli import main
from jepa.commands import status
from jepa.training.events import EventsFile
from jepa.training.metrics import MetricsFile


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Killed after 40 of 100 steps, on this host."""
    (tmp_path / "config.yaml").write_text("optim: {steps: 100}\n")
    row = {"step": 40, "position": 320, "loss": 0.5, "clips_per_second": 16.0, "feature_std": 0.3}
    MetricsFile(tmp_path / "metrics.csv").append(row)
    events = EventsFile(tmp_path / "events.jsonl")
    events.write("start", 0)
    events.write("skip", 7)
    events.write("skip", 8)
    facts = {"state": "running", "step": 40, "host": socket.gethostname(), "pid": 2**22 + 1, "job": None}
    (tmp_path / "status.json").write_text(json.dumps(facts | {"time": "2026-05-04T13:00:00+00:00"}))
    return tmp_path


def test_a_killed_run_says_so_and_how_to_go_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(run)]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{run}: killed: it says running, but its last sign is ")
    assert first.endswith(f"process {2**22 + 1} on {socket.gethostname()} is gone")
    facts = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line[2] != " "}
    assert facts["step"] == "40 of 100 (40.0%), 16 clips/s"
    assert facts["loss"] == "0.5, feature_std 0.3"
    assert facts["checkpoint"] == "none"
    assert facts["health"] == "2 skipped steps"
    assert facts["continue"] == f"jepa pretrain --config {run}/config.yaml --resume"
    assert lines[4].endswith("from step 0; killed")


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("stopped by SIGTERM after step 40 of 100", "stopped by SIGTERM after step 40 of 100"),
        ("interrupted", "stopped: interrupted"),
        (None, "stopped"),
    ],
)
def test_why_it_stopped(run: Path, capsys: pytest.CaptureFixture[str], reason: str | None, text: str) -> None:
    facts = json.loads((run / "status.json").read_text()) | {"state": "stopped", "reason": reason}
    (run / "status.json").write_text(json.dumps(facts))
    assert main(["status", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{run}: {text}"


def test_machines_get_all_of_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["step"], found["of"], found["seconds_left"]) == ("killed", 40, 100, 30.0)
    assert found["holder"]["alive"] is False
    assert found["events"] == {"skip": 2}


def test_a_finished_run(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tiny_run)]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines()[0] == f"{tiny_run}: finished"
    assert "4 of 4 (100.0%)" in output.out
    assert "continue" not in output.out
    assert output.err == ""


def test_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 3
    assert capsys.readouterr().err == f"jepa status: error: {tmp_path} is no run folder: nothing of a run is in it\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (119, "119 s"), (120, "2 min"), (7100, "118 min"), (7200, "2 h 0 min"), (28_190, "7 h 50 min"),
     (200_000, "2 d 7 h")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert status._duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999 bytes"), (1500, "1.5 kB"), (2_345_678, "2.3 MB"), (4e12, "4000.0 GB")]
)
def test_sizes(count: float, text: str) -> None:
    assert status._size(count) == text
