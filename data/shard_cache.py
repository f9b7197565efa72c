"""A folder of chunks with a bound on its bytes, shared by any number of processes without a lock.

    FOLDER/00 .. ff/HASH      one file per chunk, in the folder of the first two digits of its name

- A chunk is written under a temporary name and renamed, so a reader sees all of it or nothing. A process that is killed
  leaves at worst a temporary file; it counts like a chunk and grows old like one.
- The 256 folders form groups of neighbours, and each group has an equal share of the bound. Who has put a chunk into a
  group removes the group's oldest files until it keeps its share. So nobody ever counts the whole cache, and there is
  no total that could be wrong: while n processes write, the cache exceeds its bound by n chunks at most, and afterwards
  by none. The folders are the same for every bound, so another bound leaves nothing behind that nobody would remove.
- Reading a chunk makes it the youngest (its time of change). A chunk that is removed while it is read stays readable
  until the file is closed; one that is removed before is fetched again.

Contents are not checked here: whoever reads a sample holds it against its checksum, and has the chunk dropped if that
fails.
"""

import os
import tempfile
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from jepa.data.digests import DIGEST
from jepa.logs import get_logger

FOLDERS = 256
CHUNKS_PER_GROUP = 32
"""At least so many chunks share a group: in smaller ones, chance would fill some and leave others empty."""

log = get_logger(__name__)


class ShardCache:
    """Chunks by key. Any number of instances and processes may use one folder, also with different bounds."""

    def __init__(self, folder: Path, bound: int, chunk: int) -> None:
        """Touches nothing yet.

        Args:
            folder: made when the first chunk is kept.
            bound: bytes of all chunks together.
            chunk: bytes of the largest chunk.
        """
        self.folder = folder
        self.bound = bound
        self.groups = _groups(bound, chunk)
        self._usable = bound >= chunk

    def get(self, key: str, size: int) -> bytes | None:
        """The chunk, or None if it is not kept or has not `size` bytes."""
        if not self._usable:
            return None
        path = self._path(key)
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return content if len(content) == size else None

    def has(self, key: str) -> bool:
        """Whether the chunk is kept at this moment."""
        return self._usable and self._path(key).exists()

    def put(self, key: str, content: bytes) -> None:
        """Keep a chunk. If that fails there is one warning, and this instance keeps nothing any more."""
        if not self._usable:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, content)
            self._trim(int(path.parent.name, 16))
        except OSError as error:
            self._usable = False
            log.warning("reading without the cache %s: %s", self.folder, error.strerror or error)

    def drop(self, key: str) -> None:
        """Remove a chunk, if it is kept."""
        with suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        name = blake2b(key.encode(), digest_size=DIGEST).hexdigest()
        return self.folder / name[:2] / name

    def _trim(self, number: int) -> None:
        """Remove the oldest files of the group that folder `number` belongs to until it keeps its share."""
        width = FOLDERS // self.groups
        first = number // width * width
        files = [file for folder in range(first, first + width) for file in _files(self.folder / f"{folder:02x}")]
        excess = sum(size for _, size, _ in files) - self.bound // self.groups
        for _, size, path in sorted(files):
            if excess <= 0:
                return
            with suppress(FileNotFoundError):  # another process was faster
                os.unlink(path)  # noqa: PTH108 (a string from scandir)
            excess -= size


def _groups(bound: int, chunk: int) -> int:
    """The largest power of two, at most 256, that leaves every group room for `CHUNKS_PER_GROUP` chunks."""
    groups = 1
    while groups < FOLDERS and bound // (2 * groups) >= CHUNKS_PER_GROUP * chunk:
        groups *= 2
    return groups


def _files(folder: Path) -> list[tuple[int, int, str]]:
    """(time of change, bytes, path) of the files in a folder."""
    found = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                found.append((status.st_mtime_ns, status.st_size, entry.path))
    return found


def _write(path: Path, content: bytes) -> None:
    """The whole file under its name, or nothing. Not forced to disk: what a power cut leaves fails its checksum."""
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        with suppress(FileNotFoundError):  # another process has trimmed it away
            os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise
