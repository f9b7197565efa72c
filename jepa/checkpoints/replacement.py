"""Taking the place of a file or folder as a whole, whoever else writes there at the same time.

What is to come is made in a working folder of its own beside the target and renamed when all of it is on the disk.
Whoever finishes second finds something else at the target than when it began, and gives up: what another process has
reported as written stays. A working folder is locked (`flock`) while its process lives. The kernel frees the lock of a
killed one, in other containers too, so the next writer can tell what was left behind and remove it.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from jepa.checkpoints.io import disk_error, require_writable, sync
from jepa.errors import ConfigError

Found = tuple[int, int, int] | None
"""What lies at a path: device, number and last change; none for nothing."""


def found_at(out: Path) -> Found:
    """What lies at `out` now, for `replacing`; remains of killed writers are put back or removed before."""
    with contextlib.suppress(OSError):
        for work in [path for path in out.parent.iterdir() if path.name.startswith(_prefix(out)) and path.is_dir()]:
            _remove_if_dead(work, out)
    return _identity(out)


@contextlib.contextmanager
def replacing(out: Path, before: Found) -> Iterator[Path]:
    """A path beside `out` for a file or folder, which takes the place of `out` when the block ends without an error.

    Args:
        out: a path without links (`Path.resolve`).
        before: what `found_at` has found there.

    Raises:
        ConfigError: it cannot be written (permissions, full disk), or another process has written there meanwhile.
    """
    require_writable(out.parent)
    try:
        with _working_folder(out) as work:
            yield work / "new"
            _swap(work, out, before)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = _told(error) if isinstance(error, SafetensorError) else disk_error(error)
        if reason is None:
            raise
        raise ConfigError(f"cannot write {out}: {reason}; free space or choose another place") from error


@contextlib.contextmanager
def _working_folder(out: Path) -> Iterator[Path]:
    work, lock = _locked_folder(out)
    try:
        yield work
    finally:
        _put_back(work, out)
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)


def _locked_folder(out: Path) -> tuple[Path, int]:
    """A new folder and the descriptor that holds its lock."""
    while True:
        work = Path(tempfile.mkdtemp(prefix=_prefix(out), dir=out.parent))
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(work, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a disk without locks: then no one removes it either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if work.exists():
                return work, lock
            os.close(lock)  # another writer saw it before it was locked, and took it for a remainder


def _swap(work: Path, out: Path, before: Found) -> None:
    if _identity(out) != before:
        raise _late(out)
    sync(work / "new")
    if out.is_dir():  # a folder with content cannot be renamed over
        out.rename(work / "old")
        found = _identity(work / "old")
        if found is None or before is None or found[:2] != before[:2]:
            raise _late(out)  # the other one's goes back to its place
    (work / "new").rename(out)
    sync(out.parent)


def _late(out: Path) -> ConfigError:
    return ConfigError(f"{out} was written by another process in the meantime: choose another place, or try again")


def _put_back(work: Path, out: Path) -> None:
    """What stood at `out`, if its successor has not come."""
    if (work / "old").exists() and not out.exists():
        with contextlib.suppress(OSError):
            (work / "old").rename(out)


def _remove_if_dead(work: Path, out: Path) -> None:
    lock = os.open(work, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises an OSError while its process lives
        _put_back(work, out)
        shutil.rmtree(work, ignore_errors=True)
    except OSError:
        pass
    finally:
        os.close(lock)


def _prefix(out: Path) -> str:
    return f".{out.name}.jepa-convert-"


def _identity(path: Path) -> Found:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _told(error: SafetensorError) -> str:
    """What the operating system said, in the words of the safetensors library."""
    return str(error).removeprefix("Error while serializing: ").removeprefix("I/O error: ").splitlines()[0]
