"""Object stores through fsspec: its memory and its local file system stand for them."""

import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from jepa.data.remote import FsspecStore
from jepa.data.storage import MissingError, RemoteOptions, StoreError, exists
from jepa.errors import ConfigError

SLOW = pytest.mark.slow
CONTENT = bytes(range(256)) * 10


class Stuck(AsyncFileSystem):  # type: ignore[misc]
    """An asynchronous file system whose first read never answers."""

    protocol = "stuck"
    cachable = False
    reads = 0

    async def _info(self, path: str, **options: Any) -> dict[str, Any]:
        return {"name": path, "size": len(CONTENT), "type": "file"}

    async def _cat_file(self, path: str, start: int = 0, end: int = 0, **options: Any) -> bytes:
        import asyncio

        Stuck.reads += 1
        if Stuck.reads == 1:
            await asyncio.sleep(1000)
        return CONTENT[start:end]


@pytest.fixture
def bucket() -> Iterator[str]:
    """A folder of the memory file system with one file."""
    files = fsspec.filesystem("memory")
    files.pipe_file("/bucket/shards/a.tar", CONTENT)
    yield "memory://bucket/shards"
    files.rm("/bucket", recursive=True)


Failure = Exception | int
"""What a read raises, or how many bytes it gives at most."""


@pytest.fixture
def flaky(bucket: str, fast: RemoteOptions, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Failure]], FsspecStore]:
    """`flaky(failures)`: a store on which the next reads fail like that; what happened is removed from the list."""
    read = MemoryFileSystem.cat_file

    def make(failures: list[Failure]) -> FsspecStore:
        def fail(self: MemoryFileSystem, path: str, **options: Any) -> bytes:
            failure = failures.pop(0) if failures else len(CONTENT)
            if isinstance(failure, Exception):
                raise failure
            content: bytes = read(self, path, **options)
            return content[:failure]

        monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
        return FsspecStore(bucket, fast)

    return make


def test_parts_and_whole_files(bucket: str, fast: RemoteOptions) -> None:
    store = FsspecStore(bucket, fast)
    assert store.read("a.tar", 100, 1000) == CONTENT[100:1100]
    assert store.read_all("a.tar") == CONTENT
    assert (store.size("a.tar"), exists(store, "a.tar"), exists(store, "b")) == (len(CONTENT), True, False)
    assert store.read("a.tar", 3, 0) == b""
    with pytest.raises(MissingError, match=r"memory://bucket/shards/b: no such file"):
        store.read("b", 0, 1)
    with pytest.raises(StoreError, match=r"a\.tar: has only 2560 bytes"):
        store.read("a.tar", 2500, 100)


def test_what_passes_is_tried_again(flaky: Callable[[list[Failure]], FsspecStore]) -> None:
    store = flaky([ConnectionResetError(104, "torn"), TimeoutError(), 5, RuntimeError("of its own kind\nand more")])
    assert store.read("a.tar", 0, 10) == CONTENT[:10]


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (ConnectionError("lost"), "ConnectionError lost"),
        (5, "got 5 of 10 bytes"),
        (TimeoutError(), "no answer within 20 s"),
        (RuntimeError("two\nlines"), "RuntimeError two"),
    ],
)
def test_what_stays_is_an_error(flaky: Callable[[list[Failure]], FsspecStore], failure: Failure, words: str) -> None:
    failures = [failure] * 20
    store = flaky(failures)
    with pytest.raises(StoreError, match=rf"memory://bucket/shards/a\.tar: bytes 0 to 9: {words}, tried 6 times"):
        store.read("a.tar", 0, 10)
    assert len(failures) == 14


def test_what_is_not_allowed_is_an_error_at_once(flaky: Callable[[list[Failure]], FsspecStore]) -> None:
    failures: list[Failure] = [PermissionError(13, "Access Denied"), 5]
    with pytest.raises(MissingError, match="Access Denied"):
        flaky(failures).read("a.tar", 0, 10)
    assert failures == [5]


def test_a_read_that_never_answers_is_given_up_and_tried_again(fast: RemoteOptions) -> None:
    fsspec.register_implementation("stuck", Stuck, clobber=True)
    assert FsspecStore("stuck://x", replace(fast, timeout=1.0)).read("a", 1, 3) == CONTENT[1:4]
    assert Stuck.reads == 2


def test_a_file_that_is_replaced_is_noticed(tmp_path: Path, fast: RemoteOptions) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    store = FsspecStore(f"local://{tmp_path}", fast)
    store.read("a.tar", 0, 1)
    travelled = pickle.loads(pickle.dumps(store))
    (tmp_path / "a.tar").write_bytes(CONTENT[::-1])
    os.utime(tmp_path / "a.tar", (1, 1))
    with pytest.raises(StoreError, match="changed while it was in use"):
        travelled.read("a.tar", 0, 1)
    assert store.forget("a.tar", 0, 1)  # as after a checksum that fails
    with pytest.raises(StoreError, match="changed while it was in use"):
        store.read("a.tar", 0, 1)


def read_some(store: FsspecStore) -> bytes:
    return store.read("a.tar", 20, 30)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", *(pytest.param(name, marks=SLOW) for name in ("spawn", "forkserver"))])
def test_other_processes_open_their_own(tmp_path: Path, fast: RemoteOptions, method: Any) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    store = FsspecStore(f"local://{tmp_path}", fast)
    assert read_some(store) == CONTENT[20:50]
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(read_some, (store,)) == CONTENT[20:50]


def stuck_in_child(store: FsspecStore, answers: Any) -> None:
    answers.put(store.read("a", 5, 5))


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_an_event_loop_does_not_cross_a_fork(fast: RemoteOptions) -> None:
    fsspec.register_implementation("stuck", Stuck, clobber=True)
    Stuck.reads = 1  # answers from now on
    store = FsspecStore("stuck://x", fast)
    assert store.read("a", 0, 5) == CONTENT[:5]  # the loop runs, in a thread that a fork loses
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=stuck_in_child, args=(store, answers))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert answers.get() == CONTENT[5:10]


def test_an_unknown_protocol_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"nosuch://bucket: Protocol not known"):
        FsspecStore("nosuch://bucket", RemoteOptions())


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigError, match=r"s3:// needs a package of the extra `remote`.*s3fs"):
        FsspecStore("s3://bucket", RemoteOptions())
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ConfigError, match=r"s3:// needs fsspec: pip install 'jepa-video\[remote\]'"):
        FsspecStore("s3://bucket", RemoteOptions())
