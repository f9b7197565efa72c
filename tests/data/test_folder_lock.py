"""A lock that dies with its process, and says who has it."""

import os
from pathlib import Path

import pytest

from jepa.data import folder_lock
from jepa.data.folder_lock import FolderLock
from jepa.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def test_one_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "a/lock"
    first = FolderLock(file, "works here")
    with pytest.raises(ConfigError, match=rf"process {os.getpid()} on .* works here: wait for it"):
        FolderLock(file, "works here")
    first.release()
    FolderLock(file, "works here").release(remove=True)
    assert not file.exists()


def test_it_dies_with_its_process(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    if (child := os.fork()) == 0:
        FolderLock(file, "works here")
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert file.exists()
    FolderLock(file, "works here").release()


def test_a_file_that_is_removed_between_opening_and_locking_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two processes would hold two files of one name."""
    file, real, calls = tmp_path / "lock", folder_lock.fcntl.flock, []

    def raced(descriptor: int, operation: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            file.unlink()  # as the last owner does while we wait
        real(descriptor, operation)

    monkeypatch.setattr(folder_lock.fcntl, "flock", raced)
    lock = FolderLock(file, "works here")
    assert len(calls) == 2
    with pytest.raises(ConfigError):
        FolderLock(file, "works here")
    lock.release()


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(folder_lock.fcntl, "flock", none)
    FolderLock(tmp_path / "lock", "works here").release()
    assert f"no locks in {tmp_path} (Operation not supported): start one process only there" in caplog.text


@pytest.mark.parametrize("folder", ["/proc/none/lock", "/dev/null/none/lock"])
def test_a_folder_that_cannot_be_made(folder: str) -> None:
    with pytest.raises(ConfigError, match="cannot write to the folder"):
        FolderLock(Path(folder), "works here")
