"""Files that are whole or absent: how the state of a run reaches the disk and comes back.

A job can be killed at any instruction and a disk can fill up at any byte. So a state is written to a temporary file
in the folder of its destination (renaming is atomic only inside one file system), flushed to the device with
`fsync`, and moved over the destination with `os.replace`; then the folder itself is synced, so that the new name
survives a power cut too. A reader sees the old file or the new one, never half of one.

States are read with `weights_only=True`: a checkpoint is data, and no code in it is ever run.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import torch

from jepa.errors import ConfigError, DataError

DIGEST = 6
"""Bytes of a digest of weights; it is shown as twice as many hexadecimal digits."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the name `path` only when the block has ended without an error.

    Raises:
        ConfigError: the file cannot be written (permissions, full disk).
    """
    # One fixed name: what a kill leaves behind is overwritten by the next save instead of piling up.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, Exception) and (told := cannot_write(path, error)):
            raise told from error
        raise


def put_beside(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy of it where the disk has no hard links; atomically.

    Both are files that are replaced as a whole and never written into, so a shared one stays what it is.

    Raises:
        ConfigError: it cannot be written.
    """
    if target.exists() and target.samefile(source):
        return  # renaming one name of a file over another does nothing, and would leave the temporary one
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.hardlink_to(source)
        temporary.replace(target)
        sync(target.parent)
    except OSError:
        with source.open("rb") as content, atomic_write(target) as file:
            shutil.copyfileobj(content, file)


def require_writable(folder: Path) -> None:
    """Make a folder and check that files can be made in it: sooner said now than after an hour of work.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"cannot write to the folder {folder}: {disk_error(error)}; choose another place") from error


def file_digest(path: Path) -> str:
    """12 hexadecimal digits that change with any byte of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST)).hexdigest()


def load_state(path: Path, *, map_location: Any = "cpu", lazy: bool = False) -> dict[str, Any]:
    """Read a state dictionary.

    Args:
        path: file written by `torch.save`.
        map_location: device of the tensors, as in `torch.load`.
        lazy: map the file into memory instead of reading the tensors; to look at small entries of a large file.

    Raises:
        DataError: there is no such file, or it is damaged or no checkpoint.
    """
    try:
        # In a thread of its own: what a damaged file leaves in torch's thread-local memory would trouble the next one.
        with ThreadPoolExecutor(1) as thread:
            state = thread.submit(_load, path, map_location, lazy).result()
    except FileNotFoundError as error:
        raise DataError(f"no checkpoint at {path}") from error
    except Exception as error:  # a damaged pickle can end in any exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path} is damaged or no checkpoint ({reason[:120]}); restore it or start a new run"
        ) from error
    if not isinstance(state, dict):
        raise DataError(f"{path} holds a {type(state).__name__}, expected the state of a run")
    return state


def _load(path: Path, map_location: Any, lazy: bool) -> Any:
    with warnings.catch_warnings():
        # Sparse tensors are none of ours, and are refused later, by name.
        warnings.filterwarnings("ignore", "Validating sparse tensor")
        return torch.load(path, map_location, weights_only=True, mmap=lazy)


def cannot_write(path: Path, error: BaseException, besides: str = "") -> ConfigError | None:
    """What to say of a write that failed, and what besides; none if it was not the disk that failed."""
    reason = disk_error(error)
    return (
        ConfigError(f"cannot write {path}: {reason}{besides}; free space or choose another place") if reason else None
    )


def disk_error(error: BaseException) -> str | None:
    """What the operating system said, also where torch's writer has wrapped it in a RuntimeError."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError):
            in_the_way = chain.errno in (errno.EEXIST, errno.ENOTDIR)
            return "part of the path is a file" if in_the_way else chain.strerror or str(chain)
        chain = chain.__cause__ or chain.__context__
    # torch's zip writer reports a failed write without the OSError ("unexpected pos ...").
    if isinstance(error, RuntimeError) and ("PytorchStreamWriter" in str(error) or "unexpected pos" in str(error)):
        return "the disk did not take all bytes"
    return None


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the device. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
