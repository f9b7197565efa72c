"""The real command `jepa pack`, stopped by real signals."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jepa.commands import pack
from jepa.data.synthetic.video import encode_h264


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "workers"),
    [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 0), (signal.SIGKILL, -signal.SIGKILL, 2)],
)
def test_signals(tmp_path: Path, number: signal.Signals, code: int, workers: int) -> None:
    """The real command, stopped by a real signal after its first shard."""
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    for name in range(40):
        frames = np.random.default_rng(name).integers(0, 255, (24, 64, 64, 3), dtype=np.uint8)
        (videos / f"{name}.mp4").write_bytes(encode_h264(frames, 8))
    command = [sys.executable, "-m", "jepa", "pack", str(videos), "--name", "same", "--preset", "slow"]
    command += ["--shard-size", "2", "--test-fraction", "0.5", "--workers", str(workers), "--out", str(out)]
    errors, journal = tmp_path / "errors.txt", out / ".pack/done.jsonl"
    with errors.open("w") as stream:
        process = subprocess.Popen(command, stderr=stream, start_new_session=True)
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 1):
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(60) == code, errors.read_text()
    with contextlib.suppress(ProcessLookupError):  # workers outlive a process that is killed, for a while
        os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in errors.read_text()
    assert ("finished shards stay in" in errors.read_text()) == (number != signal.SIGKILL)
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
    assert "shards are finished" in again.stderr
    same = pack.Config(
        sources=(videos,),
        out=tmp_path / "whole",
        name="same",
        preset="slow",
        shard_size=2,
        test_fraction=0.5,
        workers=0,
    )
    pack.run(same)
    assert content(out) == content(tmp_path / "whole")
