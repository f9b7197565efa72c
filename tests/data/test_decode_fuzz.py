"""Damaged files: no decoder may hang, and none may take this process with it.

Real and made files are cut, and bytes in them flipped, zeroed and inserted, at random from a fixed seed. A child
process reads them with `probe` and with `decode` by every backend; what native code does to it is counted: a crash
is survived by starting another child, and a child that does not answer within the deadline is killed. Anything but
frames or an error of one line is a failure, and so is a hang or a crash with `auto` or PyAV; decord and torchcodec,
asked for by name, need only be survived.

    JEPA_FUZZ_SECONDS=600 JEPA_FUZZ_SEED=7 JEPA_FUZZ_FILES=/my/clips pytest -s tests/data/test_decode_fuzz.py
"""

import io
import json
import os
import random
import select
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
from av.video.stream import VideoStream

from jepa.data.decode import backends

SECONDS = float(os.environ.get("JEPA_FUZZ_SECONDS", "20"))
SEED = int(os.environ.get("JEPA_FUZZ_SEED", "0"))
FILES = os.environ.get("JEPA_FUZZ_FILES")
DEADLINE = 30.0
"""Seconds that one file may take; a healthy one takes milliseconds."""
START = 120.0
"""Seconds that a child may take to start."""
FRAMES = 24

CHILD = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
from jepa.data.decode import decode, probe
from jepa.errors import ConfigError, DataError
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
print(json.dumps(["ready"]), file=answers, flush=True)
for line in sys.stdin:
    path, what, frames = json.loads(line)
    data = open(path, "rb").read()
    try:
        answer = ["ok", probe(data).frames if what == "probe" else decode(data, frames, backend=what,
        short_side=64).shape]
    except DataError as error:
        answer = ["refused" if len(str(error).splitlines()) == 1 else "several lines", str(error)]
    except Exception as error:
        answer = ["bug", repr(error)]
    print(json.dumps(answer), file=answers, flush=True)
"""


class Child:
    """A process that reads files; another one after a crash or a hang."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, path: Path, what: str, frames: list[int]) -> tuple[str, str]:
        """(ok, refused, bug, several lines, hang or crash; more about it)."""
        process = self.process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps([str(path), what, frames]).encode() + b"\n")
            process.stdin.flush()
            answer = self._line(process, DEADLINE)
        except BrokenPipeError:
            answer = b""
        if answer:
            kind, more = json.loads(answer)
            return kind, str(more)
        self.stop()
        return ("hang", "") if answer is None else ("crash", f"exit code {process.returncode}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _start(self) -> "subprocess.Popen[bytes]":
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", CHILD]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        assert self._line(self.process, START) == b'["ready"]\n'
        return self.process

    @staticmethod
    def _line(process: "subprocess.Popen[bytes]", seconds: float) -> bytes | None:
        """What the child says; empty if it is gone, None if it says nothing."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        if not ready:
            return None
        line = process.stdout.readline()
        if not line:
            process.wait()
        return line


def damaged(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    kind, place = rng.choice(["flip", "flip", "flip", "head", "cut", "insert", "zero"]), rng.randrange(len(data))
    if kind == "flip":
        for _ in range(rng.choice([1, 3, 10, 50, 300])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "head":
        for _ in range(rng.choice([1, 2, 5])):
            data[rng.randrange(min(len(data), 2000))] = rng.randrange(256)
    elif kind == "cut":
        del data[place:]
    elif kind == "insert":
        data[place:place] = rng.randbytes(rng.choice([1, 7, 100, 5000]))
    else:
        length = rng.choice([4, 64, 4096])
        data[place : place + length] = bytes(len(data[place : place + length]))
    return bytes(data)


def video(codec: str, container: str, pixels: str = "yuv420p", **options: str) -> bytes:
    file, rng = io.BytesIO(), np.random.default_rng(0)
    ground = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 48, 64, pixels, 8
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.roll(ground, 3 * number, axis=1), format="rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()


def corpus() -> dict[str, bytes]:
    quick = {"deadline": "realtime", "cpu-used": "8"}
    made = {
        "h264.mp4": video("libx264", "mp4"),
        "h264.mkv": video("libx264", "matroska"),
        "h264.ts": video("libx264", "mpegts"),
        "h264.avi": video("libx264", "avi"),
        "hevc.mp4": video("libx265", "mp4", **{"x265-params": "log-level=none:open-gop=0"}),
        "mpeg4.mp4": video("mpeg4", "mp4"),
        "mpeg4.avi": video("mpeg4", "avi"),
        "vp8.webm": video("libvpx", "webm", **quick),
        "vp9.webm": video("libvpx-vp9", "webm", **quick),
        "mpeg2.mpg": video("mpeg2video", "mpeg"),
        "wmv2.wmv": video("wmv2", "asf"),
        "mjpeg.mov": video("mjpeg", "mov", "yuvj420p"),
        "gif.gif": video("gif", "gif", "rgb8"),
        **{f"picture.{kind}": picture(kind) for kind in ("jpeg", "png", "webp", "bmp")},
    }
    if FILES:
        made |= {path.name: path.read_bytes() for path in sorted(Path(FILES).rglob("*")) if path.is_file()}
    return made


@pytest.mark.slow
def test_damaged_files_neither_hang_nor_crash(tmp_path: Path) -> None:
    files, rng, child = corpus(), random.Random(SEED), Child()
    whats = ["probe", "auto", *(name for name, version in backends().items() if version)]
    counts: Counter[tuple[str, str]] = Counter()
    failures, tried = [], 0
    end = time.monotonic() + SECONDS
    try:
        while time.monotonic() < end:
            name = rng.choice(sorted(files))
            path = tmp_path / f"{tried}-{name}"
            path.write_bytes(damaged(files[name], rng) or b"\0")
            frames = sorted(rng.sample(range(FRAMES), 4)) if not name.startswith("picture") else [0]
            tried, kept = tried + 1, False
            for what in whats:
                answer, more = child.ask(path, what, frames)
                counts[what, answer] += 1
                native = answer in ("hang", "crash")
                kept = kept or native
                if answer in ("bug", "several lines") or (native and what in ("probe", "auto", "pyav")):
                    failures.append(f"{path.name} {what}: {answer} {more}")
            if not kept and not (failures and failures[-1].startswith(path.name)):
                path.unlink()
    finally:
        child.stop()
    for (what, answer), count in sorted(counts.items()):
        print(f"{what:10} {answer:8} {count}")
    assert not failures, "\n".join([f"of {tried} files, seed {SEED}, kept in {tmp_path}:", *failures[:20]])
    print(f"{tried} files")
    assert counts["auto", "ok"] > 0
    assert counts["auto", "refused"] > 0


@pytest.mark.slow
def test_a_crash_and_a_hang_are_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself: a child that dies and one that sleeps are told apart, and the next file is read."""
    file, child = tmp_path / "a.mp4", Child()
    file.write_bytes(video("libx264", "mp4"))
    trap = "    if what == 'die': os.abort()\n    if what == 'sleep': import time; time.sleep(99)\n"
    monkeypatch.setitem(globals(), "CHILD", CHILD.replace("    try:", trap + "    try:"))
    try:
        assert child.ask(file, "die", [0]) == ("crash", "exit code -6")
        assert child.ask(file, "probe", [0]) == ("ok", str(FRAMES))
        monkeypatch.setitem(globals(), "DEADLINE", 1.0)
        assert child.ask(file, "sleep", [0]) == ("hang", "")
        monkeypatch.setitem(globals(), "DEADLINE", 60.0)
        assert child.ask(file, "probe", [0]) == ("ok", str(FRAMES))
    finally:
        child.stop()
