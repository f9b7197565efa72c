"""The hashes of this package: BLAKE2b, of 16 bytes for contents (as `b2sum -l 128` prints it), of 8 for keys."""

import threading
from hashlib import blake2b
from pathlib import Path

from jepa.data.source import printable
from jepa.errors import DataError

DIGEST = 16
"""Bytes of a hash that stands for a content."""
PIECE = 2**22
"""Bytes of a file that are read at a time."""


def file_digest(path: Path, stop: threading.Event | None = None) -> str:
    """Hash of a file in hexadecimal; "" if it is told to stop before the end.

    Raises:
        DataError: it cannot be read.
    """
    digest = blake2b(digest_size=DIGEST)
    try:
        with path.open("rb") as stream:
            while piece := stream.read(PIECE):
                if stop is not None and stop.is_set():
                    return ""
                digest.update(piece)
    except OSError as error:
        raise DataError(f"{printable(path)}: {error.strerror}") from None
    return digest.hexdigest()


def key_hash(text: str) -> int:
    """64 bits that stand for a text, such as a key while duplicates are looked for."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")
