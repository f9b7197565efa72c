"""Chunked reads: the same bytes as the file's, few requests, no byte twice."""

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa.data.read_ahead import CHUNKS_IN_MEMORY, ReadAhead
from jepa.data.shard_cache import ShardCache
from jepa.data.storage import RemoteOptions, StoreError

OPTIONS = RemoteOptions(chunk=100, ahead=4)
CONTENT = np.random.default_rng(0).bytes(2345)


class Memory:
    """A store of one file that writes down what it is asked for."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.asked: list[tuple[int, int]] = []

    def where(self, path: str) -> str:
        return f"memory/{path}"

    def size(self, path: str) -> int:
        return len(self.content)

    def read(self, path: str, offset: int, size: int) -> bytes:
        self.asked.append((offset, size))
        assert size
        return self.content[offset : offset + size]

    def read_all(self, path: str) -> bytes:
        return self.content

    def forget(self, path: str, offset: int, size: int) -> bool:
        return True


def reader(store: Memory, folder: Path | None = None, bound: int = 10**6) -> ReadAhead:
    cache = ShardCache(folder, bound, OPTIONS.chunk) if folder else None
    return ReadAhead(store, {"a": len(CONTENT)}, cache=cache, name="n", options=OPTIONS)


RANGES = st.tuples(st.integers(0, len(CONTENT)), st.integers(0, 700)).map(
    lambda place: (place[0], min(place[1], len(CONTENT) - place[0]))
)


@settings(max_examples=50, deadline=None)
@given(ranges=st.lists(RANGES, max_size=20), on_disk=st.booleans(), bound=st.sampled_from([0, 100, 1000, 10**6]))
def test_any_reads_give_the_bytes_of_the_file(ranges: list[tuple[int, int]], on_disk: bool, bound: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Memory()
        ahead = reader(store, Path(folder) if on_disk else None, bound)
        for offset, size in ranges:
            assert ahead.read("a", offset, size) == CONTENT[offset : offset + size]
        if CHUNKS_IN_MEMORY * OPTIONS.chunk >= len(CONTENT) and bound:  # everything is kept: nothing is asked for twice
            asked = [number for offset, size in store.asked for number in range(offset, offset + size)]
            assert len(asked) == len(set(asked))


def test_reading_in_sequence_reads_ahead() -> None:
    store = Memory()
    ahead = reader(store)
    assert b"".join(ahead.read("a", at, min(30, 2345 - at)) for at in range(0, 2345, 30)) == CONTENT
    assert store.asked == [(0, 100), *((at, 400) for at in range(100, 2100, 400)), (2100, 245)]


def test_jumping_about_fetches_what_is_touched() -> None:
    store = Memory()
    ahead = reader(store)
    for at in (2000, 500, 1500, 950):
        ahead.read("a", at, 100)
    assert store.asked == [(2000, 100), (500, 100), (1500, 100), (900, 200)]


def test_neighbours_that_are_missing_make_one_request() -> None:
    store = Memory()
    ahead = reader(store)
    ahead.read("a", 500, 10)
    ahead.read("a", 210, 700)
    assert store.asked == [(500, 100), (200, 300), (600, 400)]


def test_other_processes_and_later_runs_find_the_chunks_on_disk(tmp_path: Path) -> None:
    first = reader(Memory(), tmp_path)
    first.read("a", 0, 2345)
    store = Memory()
    assert reader(store, tmp_path).read("a", 0, 2345) == CONTENT
    assert not store.asked
    other = ReadAhead(store, {"a": 2345}, cache=ShardCache(tmp_path, 10**6, 100), name="other", options=OPTIONS)
    other.read("a", 0, 10)
    assert store.asked == [(0, 100)]  # another version of the files is another thing


def test_what_is_forgotten_is_read_again(tmp_path: Path) -> None:
    wrong = reader(Memory(bytes(2345)), tmp_path)
    assert wrong.read("a", 150, 100) == bytes(100)
    right = reader(Memory(), tmp_path)
    assert right.read("a", 150, 100) == bytes(100)
    assert right.forget("a", 150, 100)
    assert right.read("a", 150, 100) == CONTENT[150:250]
    assert reader(Memory(bytes(2345)), tmp_path).read("a", 150, 100) == CONTENT[150:250]


def test_memory_is_bounded_and_does_not_travel() -> None:
    size = 3 * CHUNKS_IN_MEMORY * OPTIONS.chunk
    content = np.random.default_rng(1).bytes(size)
    ahead = ReadAhead(Memory(content), {"a": size}, cache=None, name="n", options=OPTIONS)
    assert ahead.read("a", 0, size) == content
    assert len(ahead._memory) == CHUNKS_IN_MEMORY
    assert len(pickle.dumps(ahead)) < size + 2000  # the content of the store below, and no chunk
    assert pickle.loads(pickle.dumps(ahead)).read("a", 5, 5) == content[5:10]


@pytest.mark.parametrize("change", [b"more", None])
def test_a_file_of_another_size_is_noticed(change: bytes | None) -> None:
    store = Memory(CONTENT + change if change else CONTENT[:-50])
    with pytest.raises(StoreError, match=r"memory/a: has \d+ bytes, the manifest says 2345"):
        reader(store).read("a", 0, 10)


def test_a_range_beyond_the_stated_end_is_refused() -> None:
    with pytest.raises(StoreError, match="has only 2345 bytes"):
        reader(Memory()).read("a", 2340, 10)
