"""Whatever happens while a checkpoint is written: the newest one is the old one or the new one, bit for bit.

A save is killed, or its disk fails, before each of its operations in turn (each rename, each write, each fsync, ...).
How many there are is found out by going on until one passes.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa.checkpoints.manifest import data_name, manifest_name
from jepa.checkpoints.store import CheckpointStore, read_checkpoint
from jepa.errors import ConfigError

KILLED = 77
MOST = 200
"""Operations of a save, at most; more means that it never ends."""
Fork = Callable[[Callable[[], Any]], Any]


def state(value: float) -> dict[str, Any]:
    """One piece is large enough to be hashed beside the writing."""
    return {"state_dict": {"w": torch.full((1 << 18,), value), "b": torch.full((5,), -value)}, "callbacks": {}}


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
