"""Whatever happens while a checkpoint is written: the newest one is the old one or the new one, bit for bit.

A save is killed, or its disk fails, before each of its operations in turn (each rename, each write, each fsync, ...).
How many there are is found out by going on until one passes.
"""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa.checkpoints.manifest import data_name, manifest_name
from jepa.checkpoints.read import read_checkpoint
from jepa.checkpoints.store import CheckpointStore
from jepa.errors import ConfigError, DataError

KILLED = 77
MOST = 200
"""Operations of a save, at most; more means that it never ends."""
Fork = Callable[[Callable[[], Any]], Any]


def state(value: int) -> dict[str, Any]:
    """One piece is large enough to be hashed beside the writing."""
    return {
        "state_dict": {"w": torch.full((1 << 18,), float(value)), "b": torch.full((5,), -float(value))},
        "callbacks": {},
    }


def store_of(folder: Path, *steps: int, keep_last: int = 1) -> CheckpointStore:
    store = CheckpointStore(folder, keep_last=keep_last)
    for step in steps:
        store.save(step, state(step), {})
    return store


def step_of(store: CheckpointStore) -> int:
    """Step of the newest checkpoint, whose state is that of the step; 0 if there is none."""
    saved = store.newest()
    if saved is None:
        return 0
    found = store.load(saved)
    for name, tensor in state(saved.step)["state_dict"].items():
        assert torch.equal(found["state_dict"][name], tensor)
    return saved.step


def require_clean(store: CheckpointStore, *steps: int) -> None:
    """Nothing else is left in the folder, and the link points to the newest."""
    names = {"last.ckpt", *(name(step) for step in steps for name in (data_name, manifest_name))}
    assert {path.name for path in store.folder.iterdir()} == names
    assert read_checkpoint(store.folder / "last.ckpt")["jepa"]["step"] == max(steps)


def nothing(folder: Path) -> set[int]:
    """Before the first save."""
    return {0}


def one(folder: Path) -> set[int]:
    """The usual save: another checkpoint is there, and is to go."""
    store_of(folder, 1)
    return {1}


def damaged(folder: Path) -> set[int]:
    """The step is there already, but damaged; an older one is not."""
    store_of(folder, 1, 2, keep_last=2)
    with (folder / data_name(2)).open("r+b") as file:
        file.write(b"\0\0\0\0")
    return {1}


def left(folder: Path) -> set[int]:
    """An earlier save was killed as well."""
    store_of(folder, 1)
    (folder / f".{data_name(2)}.tmp").write_bytes(b"left")
    (folder / manifest_name(2)).write_bytes(b"{}")
    return {1}


def going_back(folder: Path) -> set[int]:
    """A damaged one that is newer than what is saved."""
    store_of(folder, 1, 3, keep_last=2)
    os.truncate(folder / data_name(3), 1000)
    return {1}


BEFORE = [nothing, one, *(pytest.param(rare, marks=pytest.mark.slow) for rare in (damaged, left, going_back))]


def each_operation(place: Path, before: Callable[[Path], set[int]]) -> Iterator[tuple[int, Path, set[int]]]:
    """Folders to save step 2 in, and the steps that may be the newest if that fails."""
    template = place / "template"
    usable = before(template)
    for number in range(1, MOST):
        folder = place / "checkpoints"
        shutil.rmtree(folder, ignore_errors=True)
        if template.exists():
            shutil.copytree(template, folder, symlinks=True)
        yield number, folder, usable
    pytest.fail("a save that never passes")


@pytest.mark.parametrize("before", BEFORE)
def test_a_kill_at_any_operation(
    memory_path: Path, fork: Fork, kill_at: Callable[[int], None], before: Callable[[Path], set[int]]
) -> None:
    seen: set[int] = set()
    for number, folder, usable in each_operation(memory_path, before):
        store = CheckpointStore(folder, keep_last=1)

        def save(number: int = number, store: CheckpointStore = store) -> None:
            kill_at(number)
            store.save(2, state(2), {})

        code = fork(save)
        step = step_of(store)
        if code is None:
            assert step == 2
            break
        assert code == KILLED
        assert step in usable | {2}
        assert not (2 in seen and step != 2), "there, and gone again"
        seen.add(step)
        store.save(2, state(2), {})
        assert step_of(store) == 2
        require_clean(store, 2)
    assert seen == usable | {2}
    assert number > 12  # writes, fsyncs and renames are counted


@pytest.mark.parametrize("ever_after", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("before", BEFORE)
def test_an_error_of_the_device_at_any_operation(
    memory_path: Path,
    fork: Fork,
    disturb: Callable[..., Callable[[], bool]],
    before: Callable[[Path], set[int]],
    ever_after: bool,
) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for number, folder, usable in each_operation(memory_path, before):
        store = CheckpointStore(folder, keep_last=1)

        def save(number: int = number, store: CheckpointStore = store) -> bool:
            reached = disturb(number, fail, ever_after=ever_after)
            store.save(2, state(2), {})
            return reached()

        outcome = fork(save)
        step = step_of(store)
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, ConfigError), repr(outcome)
            assert "Input/output error" in str(outcome)
            assert "\n" not in str(outcome)
            assert step in usable | {2}
        else:
            assert step == 2  # what failed was the removal of an old one
        store.save(2, state(2), {})
        assert step_of(store) == 2
        require_clean(store, 2)
        if outcome is False:
            break


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs the right to mount: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_too_small_for_the_old_and_the_new_keeps_the_old(small_disk: Path) -> None:
    store = store_of(small_disk / "checkpoints", 1)
    large = {"state_dict": {"w": torch.zeros(3 << 18)}}
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"No space left on device; the checkpoint of step 1 stays; free space"):
            store.save(2, large, {})
        assert step_of(store) == 1
        require_clean(store, 1)
    store.save(2, state(2), {})  # what does fit is still possible: nothing of the others takes up space
    require_clean(store, 2)


def test_a_limit_of_file_sizes_is_one_line_and_keeps_the_old(tmp_path: Path, fork: Fork) -> None:
    store = store_of(tmp_path / "checkpoints", 1)

    def save() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19))
        store.save(2, state(2), {})

    outcome = fork(save)
    assert isinstance(outcome, ConfigError)
    assert "File too large; the checkpoint of step 1 stays" in str(outcome)
    assert step_of(store) == 1
    require_clean(store, 1)


def test_two_saves_at_once_are_both_whole(tmp_path: Path, forks: Callable[..., list[Any]]) -> None:
    """The same step and other ones, from several processes; a reader finds a whole one at any time."""
    store = store_of(tmp_path / "checkpoints", 1)

    def save(steps: list[int]) -> None:
        for step in steps:
            store.save(step, state(step), {})

    def read() -> list[int]:
        seen, until = [0], time.monotonic() + 60
        while seen[-1] < 9 and time.monotonic() < until:
            saved = store.newest()
            assert saved is not None
            try:
                found = store.load(saved)
            except DataError:
                assert not saved.path.exists(), "it went after it was found, because a newer one is there"
                continue
            assert torch.equal(found["state_dict"]["b"], state(saved.step)["state_dict"]["b"])
            seen.append(saved.step)
        return seen

    orders = [[2, 4, 6, 8, 9], [2, 3, 4, 5, 9], [9]]
    *saved, seen = forks([*(lambda steps=steps: save(steps) for steps in orders), read])
    assert saved == [None, None, None]
    assert isinstance(seen, list), repr(seen)
    assert seen == sorted(seen)
    assert step_of(store) == 9
    assert not [path for path in store.folder.iterdir() if path.name.startswith(".")]


def test_a_writer_that_hangs_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jepa.checkpoints import lock

    store = store_of(tmp_path / "checkpoints", 1)
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    with lock.folder_lock(store.folder), pytest.raises(ConfigError, match="another process is saving into"):
        store.save(2, state(2), {})
    store.save(2, state(2), {})
    assert step_of(store) == 2


def test_a_file_system_without_locks_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jepa.checkpoints import lock

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    assert step_of(store_of(tmp_path / "checkpoints", 1)) == 1


def test_an_old_one_that_cannot_be_read_now_is_not_removed(tmp_path: Path, fork: Fork) -> None:
    """An error of the device may pass: only what is known to be damaged goes."""
    store = store_of(tmp_path / "checkpoints", 1, 2, keep_last=2)
    plain = Path.read_text

    def save() -> None:
        def refuse(self: Path, *args: Any) -> str:
            if self.name == manifest_name(2):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return plain(self, *args)

        Path.read_text = refuse  # type: ignore[method-assign,assignment]
        store.save(3, state(3), {})

    assert fork(save) is None
    assert store.steps() == [1, 2, 3]


def test_a_newest_one_that_cannot_be_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from jepa.checkpoints.digested import FileDigest

    store = store_of(tmp_path / "checkpoints", 1, 2, keep_last=2)
    plain = FileDigest.of.__func__  # type: ignore[attr-defined]

    def refuse(cls: type[FileDigest], path: Path) -> FileDigest:
        if path.name == data_name(2):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        result: FileDigest = plain(cls, path)
        return result

    monkeypatch.setattr(FileDigest, "of", classmethod(refuse))
    assert step_of(store) == 1
    assert "step 2 cannot be used, that of step 1 is: it cannot be read (Input/output error)" in caplog.text


def test_none_of_many_can_be_used(tmp_path: Path) -> None:
    store = store_of(tmp_path / "checkpoints", 1, 2, 3, keep_last=3)
    for step in (1, 2, 3):
        (store.folder / manifest_name(step)).unlink()
    with pytest.raises(DataError, match="holds 3 checkpoints and none can be used"):
        store.newest()


def test_nothing_gets_its_name_before_it_is_on_the_device(tmp_path: Path, fork: Fork) -> None:
    """A kill cannot tell, only a power cut could: so the order of the operations is looked at."""
    store = store_of(tmp_path / "checkpoints", 1)

    def save() -> list[tuple[str, ...]]:
        done: list[tuple[str, ...]] = []
        fsync = os.fsync

        def noted_fsync(descriptor: int) -> None:
            done.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
            fsync(descriptor)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "os.rename":
                done.append(("rename", *(Path(name).name for name in arguments[:2])))
            if event == "os.remove" and os.path.lexists(arguments[0]):
                done.append(("remove", Path(arguments[0]).name))

        os.fsync = noted_fsync
        sys.addaudithook(hook)
        store.save(2, state(2), {})
        return done

    old, new = data_name(1), data_name(2)
    assert fork(save) == [
        ("fsync", f".{new}.tmp"),
        ("fsync", f".{manifest_name(2)}.tmp"),
        ("rename", f".{manifest_name(2)}.tmp", manifest_name(2)),
        ("fsync", "checkpoints"),
        ("rename", f".{new}.tmp", new),
        ("fsync", "checkpoints"),
        ("rename", ".last.ckpt.tmp", "last.ckpt"),
        ("fsync", "checkpoints"),
        ("rename", old, f".{old}.old"),
        ("remove", manifest_name(1)),
        ("remove", f".{old}.old"),
    ]
