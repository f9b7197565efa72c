"""The bounded cache: what is read is what was kept, the bound holds, and processes share it without a lock."""

import errno
import logging
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa.data.shard_cache import FOLDERS, ShardCache

CHUNK = 100


def content(number: int, size: int = CHUNK) -> bytes:
    return np.random.default_rng(number).bytes(size)


def total(folder: Path) -> int:
    """Bytes of all files, as far as they stay there while this looks."""
    found = 0
    for path in folder.glob("*/*"):
        try:
            found += path.stat().st_size
        except FileNotFoundError:
            continue
    return found


@settings(max_examples=25, deadline=None)
@given(
    bound=st.integers(CHUNK, 200 * CHUNK),
    puts=st.lists(st.tuples(st.integers(0, 60), st.integers(0, CHUNK)), max_size=60),
)
def test_the_bound_holds_after_every_put_and_the_last_one_is_kept(bound: int, puts: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = ShardCache(folder, bound, CHUNK)
        for number, size in puts:
            cache.put(str(number), content(number, size))
            assert total(folder) <= bound
            assert cache.get(str(number), size) == content(number, size)
            assert cache.get(str(number), size + 1) is None  # what is cut short is not handed out


@given(bound=st.integers(CHUNK, 10**12), chunk=st.integers(1, 10**7))
def test_groups_divide_the_folders_and_have_room(bound: int, chunk: int) -> None:
    groups = ShardCache(Path("nowhere"), bound, chunk).groups
    assert FOLDERS % groups == 0
    assert groups == 1 or bound // groups >= 32 * chunk


def test_a_large_cache_is_well_used(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 100 * CHUNK, CHUNK)
    assert cache.groups > 1
    for number in range(500):
        cache.put(str(number), bytes(CHUNK))
    assert 90 * CHUNK < total(tmp_path) <= 100 * CHUNK


def test_the_least_recently_read_goes_first(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 3 * CHUNK, CHUNK)
    for number in range(3):
        cache.put(str(number), content(number))
        os.utime(cache._path(str(number)), ns=(number, number))
    assert cache.get("0", CHUNK) == content(0)  # 0 is the youngest now
    cache.put("3", content(3))
    assert [cache.has(str(number)) for number in range(4)] == [True, False, True, True]


def test_a_smaller_bound_finds_what_a_larger_one_left(tmp_path: Path) -> None:
    large, small = ShardCache(tmp_path, 2000 * CHUNK, CHUNK), ShardCache(tmp_path, 10 * CHUNK, CHUNK)
    for number in range(300):
        large.put(str(number), content(number))
    assert total(tmp_path) == 300 * CHUNK
    small.put("new", content(0))
    assert total(tmp_path) <= 10 * CHUNK


def test_what_a_killed_process_left_grows_old(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 2 * CHUNK, CHUNK)
    cache.put("0", content(0))
    left = cache._path("0").with_name(".abc.tmp")
    left.write_bytes(content(1))
    os.utime(left, ns=(0, 0))
    cache.put("2", content(2))
    assert not left.exists()
    assert cache.get("0", CHUNK) == content(0)


def test_without_room_for_a_chunk_nothing_is_kept(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, CHUNK - 1, CHUNK)
    cache.put("0", b"x")
    assert cache.get("0", 1) is None
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    cache = ShardCache(tmp_path / "file/cache", 10 * CHUNK, CHUNK)
    for number in range(3):
        cache.put(str(number), content(number))
        assert cache.get(str(number), CHUNK) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "reading without the cache" in record.getMessage()


def test_a_full_disk_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ShardCache(tmp_path, 10 * CHUNK, CHUNK)
    cache.put("0", content(0))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    cache.put("1", content(1))
    assert "No space left on device" in caplog.text
    assert [path.name for path in tmp_path.glob("*/*")] == [cache._path("0").name]


def hammer(folder: Path, seed: int, found: Any) -> None:
    """Read and keep chunks at random; reports how many of those read were wrong, and how many were right."""
    cache, draw = ShardCache(folder, 20 * CHUNK, CHUNK), np.random.default_rng(seed)
    right = wrong = 0
    for number in draw.integers(0, 60, 300).tolist():
        chunk = cache.get(str(number), CHUNK)
        right += chunk == content(number)
        wrong += chunk is not None and chunk != content(number)
        if chunk is None:
            cache.put(str(number), content(number))
    found.put((right, wrong))


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_processes_share_a_cache_and_its_bound(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    found = context.SimpleQueue()
    processes = [context.Process(target=hammer, args=(tmp_path, seed, found)) for seed in range(2)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        assert total(tmp_path) <= (20 + 2 * len(processes)) * CHUNK  # each may have one written and one being written
        processes[0].join(0.02)
    for process in processes:
        process.join()
        assert process.exitcode == 0
        right, wrong = found.get()
        assert wrong == 0
        assert right > 20
    assert total(tmp_path) <= 20 * CHUNK
    assert not list(tmp_path.glob("*/.*"))
