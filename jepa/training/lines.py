"""Files that grow line by line, and how they are read after whatever has happened to them.

A kill cuts the last line, a full disk all that comes after, and a power cut may leave zeros where text was. So a line
counts when its end is there: readers pass over a tail without one, and the next write removes it first. A line is
written whole or not at all. What is read must be an ordinary file: opening a pipe would wait for ever.
"""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any


def read_bytes(path: Path) -> bytes:
    """All of an ordinary file. Raises OSError, also for what is none (a folder, a pipe, a device)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
        parts = []
        while part := os.read(descriptor, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> list[bytes]:
    """All whole lines, without their ends; none if there is no file. Raises OSError."""
    try:
        return read_bytes(path).split(b"\n")[:-1]
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; none if there is no file or what is in it is no JSON object. Raises OSError."""
    try:
        return parse_object(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def parse_object(text: bytes) -> dict[str, Any] | None:
    """A JSON object; none if the text is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # the latter by thousands of brackets
        return None
    return found if isinstance(found, dict) else None


def append(path: Path, text: bytes) -> None:
    """Add whole lines to a file, all of them or none, after removing a last line that was cut. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        end = _whole(descriptor, os.fstat(descriptor).st_size)
        os.ftruncate(descriptor, end)
        os.lseek(descriptor, end, os.SEEK_SET)
        if os.write(descriptor, text) < len(text):  # the disk is almost full: what is there is no line
            os.ftruncate(descriptor, end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def _whole(descriptor: int, size: int, block: int = 4096) -> int:
    """Bytes of a file up to the end of its last whole line."""
    end = size
    while end:
        begin = max(0, end - block)
        found = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
