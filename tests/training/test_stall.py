"""Stacks of a process that hangs; other processes hang here, so that the dump is real."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jepa.training.stall import StallDump, stacks_in

HEAD = re.compile(r"rank (\d+) on (\S+), process (\d+), after step +(\d+) at \S+")

HANG = """
import ctypes, sys
from pathlib import Path
from jepa.training.stall import StallDump

def waits_for_ever():
    # PyDLL keeps the global lock: no Python code of this process runs meanwhile.
    ctypes.PyDLL(None).sleep(600)

dump = StallDump(Path(sys.argv[1]), 3, 0.3)
dump.start(40)
dump.beat(41)
dump.beat(42)
print("hangs", flush=True)
waits_for_ever()
"""


def wait_for(path: Path, text: str) -> str:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if path.exists() and text in (content := path.read_text()):
            return content
        time.sleep(0.05)
    return pytest.fail(f"{path} never said {text}")


def hanging(folder: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", HANG, str(folder)], stdout=subprocess.PIPE)


def test_a_hanging_process_says_where_though_it_holds_the_global_lock(tmp_path: Path) -> None:
    process = hanging(tmp_path / "stacks")
    try:
        content = wait_for(tmp_path / "stacks" / "rank-3.txt", "waits_for_ever")
        first = HEAD.match(content)
        assert first is not None
        assert first.groups()[:3] == ("3", socket.gethostname(), str(process.pid))
        assert int(first[4]) == 42
        again = wait_for(tmp_path / "stacks" / "rank-3.txt", content + "Timeout")  # and once more
        assert again.startswith(content)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert stacks_in(tmp_path / "stacks") == [tmp_path / "stacks" / "rank-3.txt"]


def test_a_later_start_keeps_the_stacks_of_an_earlier_one(tmp_path: Path) -> None:
    path, process = tmp_path / "rank-3.txt", hanging(tmp_path)
    try:
        wait_for(path, "waits_for_ever")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    before = path.read_text()
    dump = StallDump(tmp_path, 3, 600)
    dump.start()
    dump.beat(43)
    assert path.read_text().startswith(before)
    assert len(HEAD.findall(path.read_text())) == 2
    dump.stop()
    assert path.read_text() == before


def test_without_a_stall_nothing_is_left(tmp_path: Path) -> None:
    dumps = [StallDump(tmp_path / "stacks", rank, 600) for rank in (0, 1)]
    dump = dumps[0]
    dump.start()
    assert [dump.beat(step) for step in range(1, 5)] == [None] * 4
    found = HEAD.fullmatch((tmp_path / "stacks" / "rank-0.txt").read_text().strip())
    assert found is not None
    assert int(found[4]) == 4
    assert stacks_in(tmp_path / "stacks") == [], "a line without stacks is none"
    dump.stop()
    dump.stop()
    assert not (tmp_path / "stacks").exists()


def test_what_a_kill_without_a_stall_has_left_is_written_over(tmp_path: Path) -> None:
    dump = StallDump(tmp_path / "stacks", 0, 600)
    dump.start()
    left = dump.path.read_text()
    dump.stop()
    dump.path.parent.mkdir()
    dump.path.write_text(left)
    dump.start()
    assert dump.path.read_text().count("rank 0") == 1
    dump.stop()
    assert not dump.path.exists()


def test_a_stall_that_passed_is_told_with_its_length(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dump = StallDump(tmp_path, 0, 0.05)
    dump.start(6)
    wait_for(dump.path, "Timeout")
    waited = dump.beat(7)
    assert waited is not None
    assert waited > 0.05
    (record,) = caplog.records
    assert str(dump.path) in record.getMessage()
    dump.seconds = 600
    dump.beat(8)
    dump.stop()
    content = dump.path.read_text()
    assert int(HEAD.findall(content)[0][3]) == 6, "the line above the stacks is that of the step before them"
    assert content.rstrip().splitlines()[-1].startswith("  File"), "no line is left of steps that did not stall"


def test_off_means_off(tmp_path: Path) -> None:
    dump = StallDump(tmp_path / "stacks", 0, 0)
    dump.start()
    assert dump.beat(1) is None
    dump.stop()
    assert not (tmp_path / "stacks").exists()


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    dump = StallDump(tmp_path / "file" / "stacks", 0, 600)
    dump.start()
    assert dump.beat(1) is None
    dump.stop()
    assert "will leave no stacks" in caplog.text


def test_files_are_listed_by_rank(tmp_path: Path) -> None:
    for rank in (10, 2):
        (tmp_path / f"rank-{rank}.txt").write_text("rank 2 on a, process 1, after step 3 at now\nTimeout!\n")
    assert [path.name for path in stacks_in(tmp_path)] == ["rank-2.txt", "rank-10.txt"]
