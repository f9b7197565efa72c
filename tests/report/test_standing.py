"""How a run stands, from folders in every state that a run can leave behind."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from jepa.commands import status
from jepa.errors import DataError
from jepa.report import holder as holders
from jepa.report.standing import State, read_standing
from jepa.training.config import PretrainConfig
from jepa.training.events import EventsFile
from jepa.training.metrics import MetricsFile
from jepa.training.status import StatusFile
from jepa.training.trainer import pretrain

Configure = Callable[..., PretrainConfig]
NOW = datetime.fromisoformat("2026-05-04T14:00:00+00:00")
CONFIG = "optim: {steps: 100}\nmax_steps: null\n"


@pytest.fixture
def gone() -> int:
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run after 40 of 100 steps of 8 clips: two rows, one checkpoint, one start."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    row = {"loss": 0.5, "clips_per_second": 16.0, "feature_std": 0.3, "grad_norm": 1.0, "online/knn/shape": 0.7}
    table = MetricsFile(folder / "metrics.csv")
    for step in (20, 40):
        table.append(row | {"step": step, "position": 8 * step})
    checkpoint = folder / "checkpoints" / "step-000000030.ckpt"
    checkpoint.write_bytes(b"x" * 1234)
    checkpoint.with_suffix(".json").write_text("{}")
    start = {"time": "2026-05-04T13:00:00+0000", "command": "jepa pretrain ...", "step": 0, "ranks": 2}
    (folder / "environment.json").write_text(json.dumps({"starts": [start]}))
    EventsFile(folder / "events.jsonl").write("start", 0, ranks=2)
    return folder


def say(run: Path, minutes: float = 0.0, **facts: Any) -> None:
    """status.json as it was written so many minutes ago."""
    StatusFile(run / "status.json").update(force=True, **{"step": 40, "of": 100, "state": "running"} | facts)
    changed = json.loads((run / "status.json").read_text())
    changed["time"] = (NOW - timedelta(minutes=minutes)).isoformat()
    (run / "status.json").write_text(json.dumps(changed | {name: facts[name] for name in facts}))


def test_a_running_one(run: Path) -> None:
    say(run, minutes=40, clips_per_second=8.0, loss=0.25, ranks=2)  # a slow step, and its process is this one
    found = read_standing(run, now=NOW)
    assert found.state == "running"
    assert (found.step, found.of, found.ranks) == (40, 100, 2)
    assert found.seconds_left == 60 * 8 / 8.0, "60 steps of 8 clips"
    assert found.loss == 0.25
    assert found.watched == {"grad_norm": 1.0, "feature_std": 0.3, "online/knn/shape": 0.7}
    assert found.checkpoint is not None
    assert (found.checkpoint.step, found.checkpoint.bytes) == (30, 1234)
    assert [(start.step, start.ended, start.command) for start in found.starts] == [(0, None, "jepa pretrain ...")]


def test_a_killed_one(run: Path, gone: int) -> None:
    say(run, minutes=40, pid=gone)
    found = read_standing(run, now=NOW)
    assert found.state == "killed"
    assert [start.ended for start in found.starts] == ["killed"]
    assert found.resume == f"jepa pretrain --config {run}/config.yaml --resume"


@pytest.mark.parametrize(("minutes", "state"), [(5, "running"), (11, "silent")])
def test_one_on_another_machine_is_believed_for_a_while(run: Path, minutes: float, state: str) -> None:
    say(run, minutes=minutes, host="elsewhere")
    found = read_standing(run, now=NOW)
    assert found.state == state
    assert found.holder is not None
    assert found.holder.alive is None


@pytest.mark.parametrize(
    ("said", "state"), [("RUNNING", "running"), ("PENDING", "killed"), ("", "killed"), (None, "silent")]
)
def test_slurm_knows_of_a_job_elsewhere(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, state: str
) -> None:
    """A stand-in for squeue; none is one that cannot reach its controller."""
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    arguments = tmp_path / "arguments"
    answer = "exit 1" if said is None else f"echo '{said}'"
    squeue.write_text(f'#!/bin/sh\necho "$@" > {arguments}\n{answer}\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    say(run, minutes=40, host="elsewhere", job="4711")
    found = read_standing(run, now=NOW)
    assert found.state == state
    assert found.holder is not None
    assert found.holder.job_state == ("gone" if said == "" else said)
    assert "--jobs 4711" in arguments.read_text()


@pytest.mark.parametrize("state", ["stopped", "failed", "finished"])
def test_one_that_has_said_how_it_ended(run: Path, gone: int, state: Any) -> None:
    say(run, minutes=99, state=state, pid=gone, reason="stopped by SIGTERM after step 40 of 100")
    (run / "model.safetensors").touch()
    (run / "config.json").write_text(json.dumps({"step": 100 if state == "finished" else 0}))
    EventsFile(run / "events.jsonl").write(
        "finish" if state == "finished" else "stop", 40, reason="stopped by SIGTERM after step 40 of 100"
    )
    found = read_standing(run, now=NOW)
    assert found.state == state
    expected = "finished at step 40" if state == "finished" else "stopped by SIGTERM after step 40 of 100"
    assert [start.ended for start in found.starts] == [expected]


def test_a_lock_tells_of_a_process_that_has_just_begun_again(run: Path, gone: int) -> None:
    say(run, minutes=99, state="stopped", pid=gone)
    (run / "run.lock").write_text(f"process {os.getpid()} on {socket.gethostname()}")
    assert read_standing(run, now=NOW).state == "running"
    (run / "run.lock").write_text(f"process {gone} on {socket.gethostname()}")
    assert read_standing(run, now=NOW).state == "stopped", "a lock that a killed process has left"


def test_a_process_with_the_same_number_is_not_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        assert not holders.is_alive(process.pid)
        assert holders.is_alive(os.getpid())
    finally:
        process.kill()
        process.wait()


def test_every_start_is_told_with_what_ended_it(run: Path, gone: int) -> None:
    say(run, minutes=40, pid=gone)
    events = EventsFile(run / "events.jsonl")
    events.write("checkpoint", 30)
    events.write("start", 30)
    events.write("stop", 35, reason="DivergedError: loss is nan")
    events.write("start", 30)
    commands = [{"time": "t", "command": name, "step": 0} for name in ("one", "two", "three")]
    (run / "environment.json").write_text(json.dumps({"starts": commands}))
    found = read_standing(run, now=NOW).starts
    assert [(start.step, start.ended, start.command) for start in found] == [
        (0, "killed", "one"), (30, "DivergedError: loss is nan, at step 35", "two"), (30, "killed", "three"),
    ]  # fmt: skip


@pytest.mark.parametrize("listed", [1, 3])
def test_starts_that_only_one_of_the_files_knows(run: Path, listed: int) -> None:
    """Three in one, one or two in the other: of an earlier version, or begun anew at step 0."""
    say(run)
    EventsFile(run / "events.jsonl").write("start", 30)
    commands = [{"time": "t", "command": str(number), "step": number} for number in range(listed)]
    (run / "environment.json").write_text(json.dumps({"starts": commands}))
    found = [(start.step, start.command) for start in read_standing(run, now=NOW).starts]
    assert found == ([(0, None), (30, "0")] if listed == 1 else [(0, "0"), (0, "1"), (30, "2")])


def test_health_is_counted(run: Path) -> None:
    say(run)
    events = EventsFile(run / "events.jsonl")
    for kind in ("skip", "skip", "rollback", "checkpoint"):
        events.write(kind, 3)  # type: ignore[arg-type]
    events.write("alarm", 30, message="collapse (features) at step 30: look")
    (run / "stacks").mkdir()
    (run / "stacks" / "rank-1.txt").write_text("rank 1 on a, process 1, after step  3 at now\nTimeout!\n")
    found = read_standing(run, now=NOW)
    assert found.events == {"skip": 2, "rollback": 1, "alarm": 1}
    assert found.alarms == ("collapse (features) at step 30: look",)
    assert found.stacks == (str(run / "stacks" / "rank-1.txt"),)
    say(run, alarms=["now"])
    assert read_standing(run, now=NOW).alarms == ("now",)


def test_a_run_is_read_while_it_is_written(run: Path) -> None:
    say(run)
    with (run / "events.jsonl").open("a") as file:
        file.write('{"kind": "sk')
    with (run / "metrics.csv").open("a") as file:
        file.write("60,4")
    (run / "checkpoints" / "step-000000060.ckpt").write_bytes(b"not yet whole")  # its manifest is not there
    found = read_standing(run, now=NOW)
    assert (found.step, found.events) == (40, {})
    assert found.checkpoint is not None
    assert found.checkpoint.step == 30


def test_damaged_files_hide_nothing_else(run: Path) -> None:
    say(run)
    for name in ("config.yaml", "environment.json"):
        (run / name).write_bytes(b"\xff{")
    assert (read_standing(run, now=NOW).step, read_standing(run, now=NOW).of) == (40, 100)


def test_a_run_that_has_done_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    found = read_standing(tmp_path, now=NOW)
    assert (found.state, found.step, found.of, found.checkpoint, found.starts) == ("new", 0, 100, None, ())


@pytest.mark.parametrize("name", ["", "nowhere", "file"])
def test_what_is_no_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"no (such )?run folder"):
        read_standing(tmp_path / name)


def test_a_real_run_and_one_of_an_earlier_version(micro: Configure) -> None:
    config = micro()
    pretrain(replace(config, max_steps=4))
    found = read_standing(config.out)
    assert (found.state, found.step, found.of) == ("finished", 4, 4)
    assert found.checkpoint is not None
    assert found.checkpoint.step == 4
    assert [(start.step, start.ended) for start in found.starts] == [(0, "finished at step 4")]
    assert found.starts[0].command is not None
    # What a version without them has left:
    for name in ("status.json", "events.jsonl"):
        (config.out / name).unlink()
    found = read_standing(config.out)
    assert (found.state, found.step, found.of, len(found.starts)) == ("finished", 4, 4, 1)
    (config.out / "model.safetensors").unlink()
    assert read_standing(config.out).state == "unfinished"


def test_a_run_with_phases(micro: Configure) -> None:
    phases = [
        {"name": "pretrain", "changes": {"optim.steps": 5}},
        {"name": "cooldown", "changes": {"optim": {"steps": 4}}},
    ]
    config = micro(phases=phases)
    pretrain(config)
    found = read_standing(config.out)
    assert (found.state, found.step, found.of) == ("finished", 9, 9)
    assert [(Path(phase.run).name, phase.step, phase.of) for phase in found.phases] == [
        ("1-pretrain", 5, 5), ("2-cooldown", 4, 4),
    ]  # fmt: skip
    assert found.phases[1].resume == found.resume == f"jepa pretrain --config {config.out}/config.yaml --resume"
    # Killed between the two: the first phase has ended, the second one not begun.
    shutil.rmtree(config.out / "2-cooldown")
    (config.out / "model.safetensors").unlink()
    found = read_standing(config.out)
    assert (found.state, found.step, found.of, len(found.phases)) == ("unfinished", 5, 9, 1)


@pytest.mark.parametrize("model", [None, '{"step": 80}', "{", '{"step": "x"}'])
def test_one_that_says_it_is_finished_and_has_no_model_is_not(run: Path, gone: int, model: str | None) -> None:
    """It was killed while it wrote the model, or somebody has removed that."""
    say(run, state="finished", step=100, pid=gone)
    if model is not None:
        (run / "model.safetensors").touch()
        (run / "config.json").write_text(model)
    found = read_standing(run, now=NOW)
    assert (found.state, found.reason) == ("unfinished", "its model of step 100 is missing")
    (run / "model.safetensors").touch()
    (run / "config.json").write_text('{"step": 100}')
    assert read_standing(run, now=NOW).state == "finished"


def test_only_what_the_store_calls_a_checkpoint_is_one(run: Path) -> None:
    say(run)
    for name in ("step-abc", f"step-{'9' * 200}", "step-50", "step-000000060"):
        (run / "checkpoints" / f"{name}.ckpt").touch()
        if name != "step-000000060":  # what a kill has left behind
            (run / "checkpoints" / f"{name}.json").touch()
    (run / "checkpoints" / "step-000000070.ckpt").symlink_to("/gone")
    (run / "checkpoints" / "step-000000070.json").touch()
    found = read_standing(run, now=NOW)
    assert found.checkpoint is not None
    assert found.checkpoint.step == 30
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").touch()
    assert read_standing(run, now=NOW).checkpoint is None


DEEP = "[" * 99_999
START = '{"kind": "start", "time": "t", "step": 1}\n'
DAMAGE: dict[str, list[str]] = {
    "status.json": [
        *[json.dumps({"state": "running", **facts}) for facts in (
            {"time": "2026-01-01T00:00:00"}, {"time": 5}, {"time": "0001-01-01T00:00:00+10:00"}, {"step": 10**400},
            {"step": [1]}, {"step": -1}, {"of": "x"}, {"of": 0}, {"of": 10**400, "clips_per_second": 1e-300},
            {"of": 10**9, "clips_per_second": 1e-320}, {"state": ["running"]}, {"state": {}},
            {"pid": 10**30, "host": "a"}, {"pid": True, "host": "a"}, {"ranks": "x"}, {"alarms": {"a": 1}},
            {"alarms": [[], None, 3]},
            {"job": "--help; rm", "host": "a", "pid": 3}, {"job": [1], "host": {}, "pid": 3}, {"reason": 5},
        )],
        DEEP, "[]", "\xff",
    ],
    "events.jsonl": [
        '{"kind": "start", "time": "x"}\n', '{"kind": "start", "step": 1}\n',
        '{"kind": "start", "time": 1, "step": "x"}\n',
        '{"kind": [1]}\n', START + '{"kind": "stop", "reason": "y"}\n', START + '{"kind": "finish"}\n',
        START + '{"kind": "stop", "reason": {}}\n', '{"kind": "alarm"}\n', DEEP + "\n",
    ],
    "environment.json": [
        "[1]", "{", DEEP, *(json.dumps({"starts": starts}) for starts in (
            "abc", ["abc", "d", "e"], [{"step": None}, {"step": "x"}, {"command": [1]}], {}, 5, [{"time": {}}])),
    ],
    "metrics.csv": ["\xff\n", "\0" * 200_000 + "\n", "step,step\n1,2\n", "a\n1\n"],
    "config.yaml": ["\xff", "- 1", "optim: x", "phases: abc", "phases: 5", "phases: [5]", "optim: {steps: .inf}",
                    "phases: [{name: a, changes: 3}]", "optim: {steps: 2026-13-45}",
                    "max_steps: [1]\noptim: {steps: 5}"],
    "config.json": ["\xff", "[]", '{"step": "x"}', '{"step": [1]}', DEEP],
    "run.lock": ["\xff", f"process {'9' * 4400} on a", f"process 99999999999 on {socket.gethostname()}",
                 f"process 0 on {socket.gethostname()}", "process ٣ on a"],
    "stacks": ["a file"],
}  # fmt: skip


@pytest.mark.parametrize("name", [*DAMAGE, "stacks/rank-0.txt"])
def test_nothing_in_a_damaged_file_hides_the_rest(run: Path, name: str) -> None:
    """Neither what it holds nor what it is: a folder, or a pipe, which would never end."""
    say(run)
    (run / "model.safetensors").touch()
    now = datetime.now().astimezone()

    def look(what: str) -> None:
        found = read_standing(run)
        lines = list(status._lines(found, now))
        assert json.loads(json.dumps(asdict(found), allow_nan=False)), what
        assert any(text.startswith("  checkpoint  step 30, ") for text in lines), what
        assert found.state in get_args(State), what

    path = run / name
    path.parent.mkdir(exist_ok=True)
    for content in DAMAGE.get(name, []):
        path.write_bytes(content.encode() if content != "\xff" else b"\xff\n")
        look(content[:200])
    path.unlink(missing_ok=True)
    path.mkdir()
    look("a folder")
    path.rmdir()
    os.mkfifo(path)
    look("a pipe")


@pytest.mark.parametrize("pid", [0, -1])
def test_a_process_without_a_number_is_not_running(run: Path, pid: int) -> None:
    """To signal 0 or -1 is to signal a group, or everyone, which would succeed."""
    say(run, minutes=40, pid=pid)
    found = read_standing(run, now=NOW)
    assert (found.state, found.holder) == ("silent", None)


def test_a_sign_from_the_future_is_not_fresh(run: Path) -> None:
    say(run, minutes=-40, host="elsewhere")
    assert read_standing(run, now=NOW).state == "silent"


def test_text_of_files_stays_in_its_line_and_steers_no_terminal(run: Path) -> None:
    evil = "\x1b]0;title\x07\x1b[2J\nrun: finished\r\u202e"
    say(run, state="failed", reason=evil, alarms=[evil], host=evil, job=evil, pid=3)
    EventsFile(run / "events.jsonl").write("start", 1, time=evil)
    EventsFile(run / "events.jsonl").write("stop", 1, reason=evil)
    found = read_standing(run, now=NOW)
    assert found.reason == "]0;title [2J run: finished"
    text = "\n".join(status._lines(found, NOW)) + json.dumps(asdict(found), ensure_ascii=False)
    assert text.replace("\n", "").isprintable()
    assert sum(line.startswith("run: finished") for line in text.splitlines()) == 0
