"""All frames of a data set, decoded, in one file that every worker maps into memory.

Decoding a video costs a hundred times what reading its pixels costs, so a data set that fits on disk when decoded is
decoded once. Layout, little-endian:

    magic (8 bytes) | count | size of the file | CRC-32 of the table      (three uint64)
    table: count rows of int64 (offset, frames, height, width)
    pixels: uint8 RGB, video after video, (frames, height, width, 3)

A video that could not be decoded has no frames there, so that the others can be used.

The table and the size make a file that was cut, or written for another data set, recognisable without reading the
pixels. A file appears under its name only when it is complete: it is written beside it under a name of its own and
renamed, so two processes that build the same file do not meet.
"""

import os
import struct
import uuid
import zlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

MAGIC = b"jepafrm1"
HEADER = struct.Struct("<8sQQQ")
ROW = np.dtype("<i8")


class DamagedFileError(Exception):
    """The file is not what its name says."""


class FrameFile:
    """A frame file, mapped read-only.

    Raises:
        DamagedFileError: not a frame file, cut, or for another number of videos.
        FileNotFoundError: there is none.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.path = path
        self.bytes = path.stat().st_size
        self.table = _read_table(path, count, self.bytes)
        # Seen as a plain array: slicing the subclass costs several microseconds, and is done a few times per clip.
        self.pixels = np.asarray(np.memmap(path, np.uint8, "r"))

    @cached_property
    def missing(self) -> frozenset[int]:
        """Videos without frames."""
        return frozenset(index for index, (_, frames, _, _) in enumerate(self.table) if not frames)

    def video(self, index: int) -> np.ndarray:
        """All frames of a video: a read-only view, uint8 (T, H, W, 3)."""
        offset, frames, height, width = self.table[index]
        return self.pixels[offset : offset + frames * height * width * 3].reshape(frames, height, width, 3)


def _read_table(path: Path, count: int, size: int) -> list[tuple[int, int, int, int]]:
    with path.open("rb") as file:
        head = file.read(HEADER.size)
        if len(head) < HEADER.size:
            raise DamagedFileError("it is cut")
        magic, stated_count, stated_size, checksum = HEADER.unpack(head)
        if magic != MAGIC:
            raise DamagedFileError("it is no frame file of this version")
        if stated_count != count:
            raise DamagedFileError(f"it holds {stated_count} videos, expected {count}")
        if stated_size != size:
            raise DamagedFileError(f"it has {size} bytes, expected {stated_size}")
        table = file.read(count * 4 * ROW.itemsize)
    if zlib.crc32(table) != checksum:
        raise DamagedFileError("its table fails the checksum")
    # Python integers: a row of a NumPy table costs ten times as much to take apart, once per clip.
    offsets, frames, heights, widths = np.frombuffer(table, ROW).reshape(count, 4).T.tolist()
    return list(zip(offsets, frames, heights, widths, strict=True))


def write_frame_file(path: Path, videos: Iterable[np.ndarray], count: int) -> None:
    """Write `count` videos, each uint8 (T, H, W, 3), to `path` in one piece or not at all.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            _write(file, videos, count)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(file: BinaryIO, videos: Iterable[np.ndarray], count: int) -> None:
    """Pixels first, the header last: until then the file says nothing that could be believed."""
    table = np.zeros((count, 4), ROW)
    offset = HEADER.size + table.nbytes
    file.seek(offset)
    # Plain writes, not a writable map: a full disk is then an OSError here, not a bus error.
    for row, video in zip(table, videos, strict=True):
        row[:] = offset, *video.shape[:3]
        file.write(np.ascontiguousarray(video).data)
        offset += video.nbytes
    file.seek(0)
    file.write(HEADER.pack(MAGIC, count, offset, zlib.crc32(table.tobytes())))
    file.write(table.tobytes())
