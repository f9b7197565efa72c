"""events.jsonl: history in whole lines, also after a kill and on a full disk."""

import json
import math
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from jepa.training.events import EventsFile


def test_events_are_lines_of_json_in_the_order_in_which_they_happened(tmp_path: Path) -> None:
    file = EventsFile(tmp_path / "new" / "events.jsonl")
    file.write("start", 0, ranks=2)
    file.write("checkpoint", 500, seconds=1.5, path=tmp_path)
    lines = file.path.read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [(event["kind"], event["step"]) for event in found] == [("start", 0), ("checkpoint", 500)]
    assert found[0]["ranks"] == 2
    assert (found[1]["seconds"], found[1]["path"]) == (1.5, str(tmp_path))
    times = [datetime.fromisoformat(event["time"]) for event in found]
    assert times[0].tzinfo is not None
    assert times == sorted(times)
    assert file.read() == found


def test_numbers_that_json_has_no_word_for_come_back(tmp_path: Path) -> None:
    file = EventsFile(tmp_path / "events.jsonl")
    file.write("skip", 7, loss=math.nan, norms=[1.0, math.inf])
    text = file.path.read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    (event,) = file.read()
    assert math.isnan(float(event["loss"]))
    assert [float(norm) for norm in event["norms"]] == [1.0, math.inf]


@pytest.mark.parametrize("length", [1, 30, 5000, 20_000])
def test_a_line_that_a_kill_has_cut_is_passed_over_and_removed(tmp_path: Path, length: int) -> None:
    file = EventsFile(tmp_path / "events.jsonl")
    file.write("start", 0)
    with file.path.open("a") as stream:
        stream.write('{"time": "' + "x" * length)
    assert [event["kind"] for event in file.read()] == ["start"]
    EventsFile(file.path).write("stop", 3)
    assert [event["kind"] for event in file.read()] == ["start", "stop"]
    assert len(file.path.read_text().splitlines()) == 2


def test_a_file_without_a_whole_line_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("{" + " " * 10_000)
    EventsFile(path).write("start", 0)
    assert [event["kind"] for event in EventsFile(path).read()] == ["start"]
    assert path.stat().st_size < 200


def test_what_is_no_event_does_not_hide_the_others(tmp_path: Path) -> None:
    file = EventsFile(tmp_path / "events.jsonl")
    assert file.read() == []
    file.write("start", 0)
    with file.path.open("a") as stream:
        stream.write("\0\0\0\n[1]\n")
    file.write("finish", 9)
    assert [event["kind"] for event in file.read()] == ["start", "finish"]


@pytest.mark.parametrize("taken", [0, 10])
def test_a_full_disk_is_one_warning_and_leaves_whole_lines(
    tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file, write = EventsFile(tmp_path / "events.jsonl"), os.write
    file.write("start", 0)

    def full(descriptor: int, data: bytes) -> int:
        """Takes some bytes, or none, as a disk does that fills up."""
        if taken:
            return write(descriptor, data[:taken])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for step in range(3):
            file.write("skip", step)
    assert [record.getMessage() for record in caplog.records] == [
        f"cannot write {file.path}: No space left on device; training goes on without it"
    ]
    file.write("finish", 3)  # there is space again
    assert [event["kind"] for event in file.read()] == ["start", "finish"]


def test_two_processes_do_not_mix_their_lines(tmp_path: Path) -> None:
    """A writer that another one follows: each line is whole, whoever wrote before."""
    one, other = EventsFile(tmp_path / "events.jsonl"), EventsFile(tmp_path / "events.jsonl")
    for step in range(20):
        (one if step % 2 else other).write("checkpoint", step)
    assert [event["step"] for event in one.read()] == list(range(20))


def test_facts_may_be_any_plain_value(tmp_path: Path) -> None:
    file = EventsFile(tmp_path / "events.jsonl")
    facts: dict[str, Any] = {"keys": ("a", "b"), "of": {1: None}, "what": "größer"}
    file.write("alarm", 1, **facts)
    assert {name: file.read()[0][name] for name in facts} == {"keys": ["a", "b"], "of": {"1": None}, "what": "größer"}
