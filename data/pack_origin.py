"""Hashes of what samples are made from, so that a sample can be traced to the very bytes of its source.

All are BLAKE2b with 16 bytes, in hexadecimal. Of a video file: over its bytes, as `b2sum -l 128` prints it. Files up to
64 MiB are read once, into memory, and hashed there; larger ones get a pass of their own, after which the operating
system mostly still has them at hand for the decoder. Of a folder of pictures: over name, size and bytes of each picture
that became a frame, in order. Of a part of a film: the hash of the whole film, once per film and run, ahead of the
cutting, in a thread of the process that writes.
"""

import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Self

from jepa.data.digests import DIGEST, file_digest
from jepa.data.source import printable
from jepa.errors import DataError

IN_MEMORY = 64 * 2**20
"""Bytes up to which a file is read as a whole."""
FILMS_AHEAD = 2


def read_source(path: Path) -> tuple[bytes | Path, str]:
    """What to decode, the content of a file or the path of a large one, and its hash.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size > IN_MEMORY:
                return path, file_digest(path)
            content = stream.read()
    except OSError as error:
        raise DataError(f"{printable(path)}: {error.strerror}") from None
    return content, blake2b(content, digest_size=DIGEST).hexdigest()


class PictureHash:
    """One hash for the pictures of a folder."""

    def __init__(self) -> None:
        self._digest = blake2b(digest_size=DIGEST)

    def add(self, name: str, content: bytes) -> None:
        """The next picture."""
        self._digest.update(os.fsencode(name) + b"\0%d\0" % len(content))
        self._digest.update(content)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class FilmHashes:
    """The hashes of films, computed a little ahead of the questions; a context manager."""

    def __init__(self, films: Iterable[Path]) -> None:
        """Starts nothing yet.

        Args:
            films: in the order in which they will be asked for.
        """
        self._films = iter(dict.fromkeys(films))
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._hashes: dict[Path, Future[str]] = {}
        self._asked: set[Path] = set()

    def __enter__(self) -> Self:
        for _ in range(FILMS_AHEAD):
            self._begin(next(self._films, None))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def of(self, film: Path) -> str:
        """The hash of a film.

        Raises:
            DataError: it cannot be read.
        """
        if film not in self._asked:
            self._asked.add(film)
            self._begin(film)
            self._begin(next(self._films, None))
        return self._hashes[film].result()

    def _begin(self, film: Path | None) -> None:
        if film is not None and film not in self._hashes:
            self._hashes[film] = self._pool.submit(file_digest, film, self._stop)
