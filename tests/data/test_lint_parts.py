"""No byte of an index makes `jepa lint` or a reader crash, or goes unnoticed."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jepa.data.decode import VideoInfo
from jepa.data.index import read_manifest, write_manifest
from jepa.data.lint import lint
from jepa.data.lint_content import Checks
from jepa.data.lint_findings import Finding
from jepa.data.rows import Row, open_rows
from jepa.data.shard_writer import ShardWriter
from jepa.data.shards import ShardSource
from jepa.errors import DataError

INFO = VideoInfo(frames=16, fps=12.5, height=40, width=48, duration=1.28, codec="h264", keyframes=(0, 8))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 3, 3 and 1 samples that are no videos."""
    folder = tmp_path_factory.mktemp("whole") / "shards"
    with ShardWriter(folder, name="mine", samples_per_shard=3) as writer:
        for number in range(7):
            labels = {"label": f"class {number}"}
            writer.write(f"{number:06d}", bytes([number]) * 999, INFO, labels, {"masks.npz": b"masks"}, origin="here")
    return folder


def facts(index: Path) -> list[Row]:
    """The rows, without what nothing reads and no hash covers."""
    table = open_rows(index)
    return [replace(table.row(number), codec="", origin="", keyframes=()) for number in range(table.num_rows)]


@pytest.mark.parametrize("seed", range(4))
def test_any_byte_of_an_index_may_be_wrong(whole: Path, seed: int) -> None:
    """Lint finds it, and reading is refused."""
    index = whole / "shard-000001.arrow"
    before, expected = index.read_bytes(), facts(index)
    numbers = np.random.default_rng(seed)
    try:
        for place in numbers.integers(0, len(before), 40).tolist():
            data = bytearray(before)
            data[place] ^= int(numbers.integers(1, 256))
            index.write_bytes(data)
            findings: list[Finding] = []
            lint(whole, Checks(), findings.append)
            assert {finding.kind for finding in findings} & {"index", "unreadable"}, place
            source = ShardSource(whole)
            assert [source.read(number) for number in (0, 1, 2, 6)] == [bytes([n]) * 999 for n in (0, 1, 2, 6)]
            with pytest.raises(DataError, match=r"shard-000001\.arrow"):
                source.info(3)
    finally:
        index.write_bytes(before)
    assert facts(index) == expected


def test_sums_of_the_manifest_are_held_against_the_rows(whole: Path, tmp_path: Path) -> None:
    shards = Path(shutil.copytree(whole, tmp_path / "shards"))
    manifest = read_manifest(shards)
    for change in ({"least_frames": 12}, {"most_fps": 10.0}, {"frames": 47}, {"least_fps": 1.0}):
        entry = replace(manifest.shards[1], **change)
        write_manifest(shards, replace(manifest, shards=(manifest.shards[0], entry, manifest.shards[2])))
        source = ShardSource(shards)
        source.info(0)
        with pytest.raises(DataError, match=r"shard-000001\.arrow: manifest\.json has other sums"):
            source.info(3)
        findings: list[Finding] = []
        lint(shards, Checks(), findings.append)
        assert [(finding.kind, finding.shard) for finding in findings] == [("count", "shard-000001.tar")]
