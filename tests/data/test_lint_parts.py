"""The work of `jepa lint` in parts: a crash costs one sample, and no byte of an index makes it or a reader crash."""

import ctypes
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jepa.data.decode import VideoInfo
from jepa.data.index import Row, open_rows, row_at
from jepa.data.lint import PART, _contents, _Part, _Parts, find_shards, lint
from jepa.data.lint_content import Checks
from jepa.data.lint_findings import Finding
from jepa.data.shard_writer import ShardWriter
from jepa.data.shards import ShardSource
from jepa.errors import DataError

ALL = Checks(decode=True)
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


def die_on_the_third(number: int) -> list[Finding]:
    if number == 2:
        os._exit(139)
    return [Finding("label", "a.tar", "looked at", str(number))]


class Crashing(_Parts):
    """Its workers die like a decoder does, once they come to the third sample of the first shard."""

    def __call__(self, number: int) -> list[Finding]:
        return die_on_the_third(2) if number == 0 else [Finding("label", "a.tar", "looked at", f"part {number}")]

    def alone(self, part: _Part) -> Callable[[int], list[Finding]]:
        return die_on_the_third


@pytest.mark.slow
def test_a_video_that_kills_its_process_costs_only_itself(whole: Path) -> None:
    shards, _ = find_shards(whole)
    results = list(_contents(Crashing.of(shards, [3, 3, 1], ALL), workers=2))
    assert [count for count, _ in results] == [3, 3, 1]
    found = [(finding.key, finding.what) for _, findings in results for finding in findings]
    assert found == [
        ("0", "looked at"), ("1", "looked at"), ("000002", "the decoder crashed on it"),
        ("part 1", "looked at"), ("part 2", "looked at"),
    ]  # fmt: skip


def hang_on_the_third(number: int) -> list[Finding]:
    if number == 2:
        ctypes.PyDLL(None).pause()
    return [Finding("label", "a.tar", "looked at", str(number))]


class Hanging(Crashing):
    """The same, but it never comes back."""

    def __call__(self, number: int) -> list[Finding]:
        return hang_on_the_third(2) if number == 0 else super().__call__(number)

    def alone(self, part: _Part) -> Callable[[int], list[Finding]]:
        return hang_on_the_third


@pytest.mark.slow
def test_a_video_that_hangs_costs_only_itself(whole: Path) -> None:
    shards, _ = find_shards(whole)
    results = list(_contents(Hanging.of(shards, [3, 3, 1], ALL), workers=2, deadline=1))
    found = [(finding.key, finding.what) for _, findings in results for finding in findings]
    assert found == [
        ("0", "looked at"), ("1", "looked at"), ("000002", "the decoder did not come back within 1 s"),
        ("part 1", "looked at"), ("part 2", "looked at"),
    ]  # fmt: skip


def test_parts_cover_every_sample_once_in_order(whole: Path) -> None:
    shards, _ = find_shards(whole)
    parts = _Parts.of(shards, [PART + 1, 0, 2 * PART], ALL)
    covered = [
        (parts.part(n).shard.name, i) for n in range(len(parts)) for i in range(parts.part(n).first, parts.part(n).end)
    ]
    assert covered == [(shards[0].name, i) for i in range(PART + 1)] + [(shards[2].name, i) for i in range(2 * PART)]
    assert len(_Parts.of([], [], ALL)) == 0


def facts(index: Path) -> list[Row]:
    """The rows, without what nothing reads and no hash covers."""
    table = open_rows(index)
    return [replace(row_at(table, number), codec="", origin="", keyframes=()) for number in range(table.num_rows)]


@pytest.mark.parametrize("seed", range(4))
def test_any_byte_of_an_index_may_be_wrong(whole: Path, seed: int) -> None:
    """Lint finds what changes a fact; reading gives what was written, a DataError, or facts that lint complains of."""
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
            if not findings:
                assert facts(index) == expected
            try:
                source = ShardSource(whole)
                for number in range(len(source)):
                    source.info(number)
                    assert source.read(number) == bytes([number]) * 999
            except DataError:
                assert findings, place
    finally:
        index.write_bytes(before)
