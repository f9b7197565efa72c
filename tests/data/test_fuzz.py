"""Bytes changed at random in tars, indices and manifests: reading is refused in a DataError or gives what was written.

The default run is short and always the same. JEPA_FUZZ_SECONDS=300 goes on for so long, with other seeds each time.
"""

import io
import os
import shutil
import signal
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import cv2
import numpy as np
import pytest

from jepa.data.foreign import ForeignTar
from jepa.data.foreign_index import ForeignOptions, index_tars
from jepa.data.lint import lint
from jepa.data.lint_content import Checks
from jepa.data.lint_findings import Finding
from jepa.data.shard_writer import ShardWriter
from jepa.data.shards import ShardSource
from jepa.data.source import open_source
from jepa.data.storage import LocalStore
from jepa.data.synthetic.video import encode_h264
from jepa.data.timeline import probe
from jepa.errors import ConfigError, DataError

SECONDS = float(os.environ.get("JEPA_FUZZ_SECONDS", "0"))
ROUNDS = 25
"""Changed files per case in the default run."""
HANG = 60
"""Seconds after which one look at a data set has hung."""

Change = Callable[[bytearray, np.random.Generator], bytearray]


def video(number: int) -> bytes:
    ramp = np.arange(6 * 32 * 32 * 3).reshape(6, 32, 32, 3) * (number + 3) // 7
    return encode_h264((ramp % 251).astype(np.uint8), 8)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours") / "shards"
    with ShardWriter(folder, name="mine", samples_per_shard=2) as writer:
        for number in range(4):
            content = video(number)
            writer.write(f"{number}", content, probe(content), {"label": "cat"}, {"masks.npz": b"masks" * 30})
    return folder


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not indexed, with a picture and a pax header."""
    folder = tmp_path_factory.mktemp("theirs")
    encoded: np.ndarray = cv2.imencode(".png", np.full((16, 16, 3), 9, np.uint8))[1]
    members = {"a/1.mp4": video(1), "ü.png": encoded.tobytes(), "a/1.json": b'{"label": "cat", "n": 3}', "ü.cls": b"1"}
    with tarfile.open(folder / "0.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return folder


def flip(content: bytearray, random: np.random.Generator) -> bytearray:
    for place in random.integers(0, len(content), random.integers(1, 9)).tolist():
        content[place] ^= int(random.integers(1, 256))
    return content


def cut(content: bytearray, random: np.random.Generator) -> bytearray:
    return content[: int(random.integers(0, len(content)))]


def zero(content: bytearray, random: np.random.Generator) -> bytearray:
    place, length = int(random.integers(0, len(content))), int(random.integers(1, 2000))
    length = min(length, len(content) - place)
    content[place : place + length] = bytes(length)
    return content


def digits(content: bytearray, random: np.random.Generator) -> bytearray:
    """Other digits and signs where there are some: what makes a number wrong and leaves the rest readable."""
    places = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    for place in random.choice(places, int(random.integers(1, 6))).tolist() if places else []:
        content[place] = int(random.choice(np.frombuffer(b"0123456789-.e ", np.uint8)))
    return content


def rounds(name: str) -> Iterator[np.random.Generator]:
    """Generators: always the same few, or others for as long as was asked."""
    if not SECONDS:
        yield from (np.random.default_rng([number, *name.encode()]) for number in range(ROUNDS))
        return
    end, count = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        count += 1
        yield np.random.default_rng()
    print(f"{name}: {count} changed files")


@contextmanager
def changed(
    folder: Path, ending: str, changes: Sequence[Change], random: np.random.Generator, place: Path
) -> Iterator[Path]:
    """A copy of a folder with a change in one of its files; an alarm ends what hangs."""

    def hung(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no end after {HANG} s")

    state = random.bit_generator.state
    copy = Path(shutil.copytree(folder, place / "copy"))
    file = copy / str(random.choice(sorted(path.name for path in folder.iterdir() if path.name.endswith(ending))))
    change = changes[int(random.integers(len(changes)))]
    file.write_bytes(change(bytearray(file.read_bytes()), random))
    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(HANG)
    try:
        yield copy
    except BaseException as error:
        error.add_note(f"{change.__name__} of {file.name}, random state {state}")
        raise
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        shutil.rmtree(copy)


def refusal(read: Callable[[], object], *also: type[Exception]) -> str:
    """Why something is refused, in one line; empty if it is not."""
    try:
        read()
    except (DataError, *also) as error:
        reason = str(error)
        assert "\n" not in reason
        return reason
    return ""


@pytest.mark.parametrize(
    ("ending", "changes"),
    [(".tar", (flip, cut, zero)), (".arrow", (flip, cut, zero)), ("manifest.json", (flip, cut, zero, digits))],
)
def test_shards_of_ours(ours: Path, tmp_path: Path, ending: str, changes: Sequence[Change]) -> None:
    results: Counter[str] = Counter()

    def read(copy: Path) -> None:
        source = open_source(copy)
        for number in range(len(source)):
            info = source.info(number)
            assert (info.key, info.frames, info.labels) == (f"{number}", 6, {"label": "cat"})
            assert source.read(number) == video(number)
            assert source.extra(number, "masks.npz") == b"masks" * 30

    for random in rounds(f"ours {ending}"):
        with changed(ours, ending, changes, random, tmp_path) as copy:
            findings: list[Finding] = []
            complaint = refusal(partial(lint, copy, Checks(), findings.append))
            assert all("\n" not in finding.line() for finding in findings)
            reason = refusal(partial(read, copy))
            assert findings or complaint or not reason, reason
            results["refused" if reason else "read"] += 1
            results["lint complains"] += bool(findings or complaint)
    print(dict(results))
    assert results["refused"]


def test_tars_of_others(theirs: Path, tmp_path: Path) -> None:
    results: Counter[str] = Counter()

    def index(copy: Path) -> None:
        tar = copy / "0.tar"
        foreign = ForeignTar(LocalStore(copy), tar.name, tar.stat().st_size, "")
        index_tars([foreign], copy, ForeignOptions(), name="x")

    def read(copy: Path) -> None:
        source = ShardSource(copy)
        for number in range(len(source)):
            source.info(number)
            source.read(number)

    for random in rounds("theirs"):
        with changed(theirs, ".tar", (flip, cut, zero, digits), random, tmp_path) as copy:
            lint(copy, Checks(decode=True), lambda finding: None)
            reason = refusal(partial(index, copy), ConfigError)
            if not reason:
                read(copy)  # what was indexed is read
            results["refused" if reason else "indexed"] += 1
    print(dict(results))
    assert results["refused"]
    assert results["indexed"]
