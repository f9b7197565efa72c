"""A file whose digest is known when it has been written: nothing is read a second time.

BLAKE2b is what the standard library computes fastest. It takes about as long as a fast disk, so large pieces are hashed
in a thread while they are written; Python lets go of its lock for both.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

DIGEST = 16
"""Bytes of a digest: it tells damage, not forgery."""
PIECE = 1 << 20
"""Bytes: from here on a piece is worth a thread; also how much of a file is read at once."""


@dataclass(frozen=True)
class FileDigest:
    """Size and content of one file."""

    bytes: int
    blake2b: str

    @classmethod
    def of(cls, path: Path) -> "FileDigest":
        """Of a file that is there; reads all of it. Raises OSError."""
        digest, size = hashlib.blake2b(digest_size=DIGEST), 0
        buffer = memoryview(bytearray(PIECE))
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                size += count
        return cls(size, digest.hexdigest())


class DigestedFile:
    """A new file to write from its beginning to its end; on the device when the block has ended without an error.

    It has the methods that `torch.save` and torch's distributed checkpoints call. Raises OSError.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._digest = hashlib.blake2b(digest_size=DIGEST)
        self._size = 0
        self._small = bytearray()
        """Pieces that are not worth a write of their own, not yet written."""
        self._hashing: ThreadPoolExecutor | None = None

    def write(self, data: Any) -> int:
        """Append all of `data`, which is bytes-like."""
        view = memoryview(data).cast("B")
        self._size += len(view)
        if len(self._small) + len(view) > PIECE:
            self._put_small()
        if len(view) < PIECE:
            self._small += view
        else:
            self._put(view)
        return len(view)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Everything is flushed at the end."""

    def fileno(self) -> int:
        return self._file.fileno()

    def result(self) -> FileDigest:
        """Of the file, after the block."""
        return FileDigest(self._size, self._digest.hexdigest())

    def close(self) -> None:
        """Nothing: the file is closed at the end of the block. torch calls this before."""

    def __enter__(self) -> "DigestedFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._put_small()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()
            if self._hashing is not None:
                self._hashing.shutdown()

    def _put_small(self) -> None:
        small, self._small = self._small, bytearray()
        if small:
            self._put(memoryview(small))

    def _put(self, view: memoryview) -> None:
        """Hash and write at the same time."""
        self._hashing = self._hashing or ThreadPoolExecutor(1)
        hashed = self._hashing.submit(self._digest.update, view)
        try:
            self._write_all(view)
        finally:
            hashed.result()  # the memory is the caller's again when this returns

    def _write_all(self, view: memoryview) -> None:
        while len(view):
            view = view[self._file.write(view) :]


def save_digested(content: Any, path: Path) -> FileDigest:
    """Write a new file by `torch.save`; it is on the device when this returns. Raises what `disk_error` knows."""
    with DigestedFile(path) as file:
        torch.save(content, file)  # type: ignore[arg-type]  # it needs no more than this file has
    return file.result()
