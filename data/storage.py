"""Where the files of a data set lie: a folder of this machine, a web server, or an object store, behind one interface.

A `Store` reads parts of named files: `read(path, offset, size)` gives exactly that many bytes or raises. Local folders
are read here with `pread`; `http://` and `https://` by range requests (`http_store.py`, nothing to install); all other
URLs (`s3://`, `gs://`, ...) through fsspec (`remote.py`). `file://` is a local folder.

A store opens nothing before the first read and pickles as its settings, so it travels to workers however they start.
Connections belong to the process that opened them; a forked one opens its own.
"""

import io
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from jepa.errors import ConfigError, DataError

PIECE = 8 * 2**20
"""Bytes that are asked for at once where a whole file is read."""

OPEN_FILES = 128
"""Files of a folder that a process keeps open: systems allow a thousand, data sets have ten thousand."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)(.*)", re.DOTALL)
_WITHOUT_HOST = frozenset({"file", "local"})


@dataclass(frozen=True)
class RemoteOptions:
    """How files behind a URL are read. Nothing here changes what is read."""

    cache: Path | None = None
    """Cache folder; by default $JEPA_CACHE or ~/.cache/jepa."""
    cache_gb: float = 10.0
    """Gigabytes (10^9 bytes) of chunks kept in the cache folder, over all data sets; 0 keeps none."""
    timeout: float = 30.0
    """Seconds for one answer, from connecting to its last byte."""
    attempts: int = 6
    """How often a read is tried."""
    backoff: float = 0.5
    """Seconds before the second attempt; doubled before each further one."""
    chunk: int = 2**20
    """Bytes that are fetched and kept together."""
    ahead: int = 8
    """Chunks fetched at once where a file is read in sequence."""


class Store(Protocol):
    """Files under one root, by path relative to it. Pickles, and may be used after a fork."""

    def where(self, path: str) -> str:
        """The file as messages name it, without passwords."""
        ...

    def size(self, path: str) -> int:
        """Bytes of the file. Raises StoreError."""
        ...

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes at `offset`. Raises StoreError: not there, shorter, changed, or out of reach."""
        ...

    def read_all(self, path: str) -> bytes:
        """The whole file. Raises StoreError."""
        ...

    def forget(self, path: str, offset: int, size: int) -> bool:
        """Drop what is kept of these bytes, as it was wrong; False if nothing can be, so that reading again is idle."""
        ...


def exists(store: Store, path: str) -> bool:
    """Whether the file is there and may be read. Raises StoreError: that cannot be found out."""
    try:
        store.size(path)
    except MissingError:
        return False
    return True


class StoreError(DataError):
    """A file cannot be read as asked."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where, self.reason = where, reason

    def __reduce__(self) -> tuple[type["StoreError"], tuple[str, str]]:
        return type(self), (self.where, self.reason)


class MissingError(StoreError):
    """There is no such file, or it may not be read."""


def open_store(url: str | Path, options: RemoteOptions | None = None) -> Store:
    """The files under a folder or a URL. Asks nobody yet.

    Raises:
        ConfigError: a malformed URL, or one that needs a package that is not installed.
    """
    address = url_of(url)
    if address is None:
        return LocalStore(Path(url).expanduser())
    if address.startswith("file://"):
        return LocalStore(local_path(address))
    # Here and not above: both import this file, and the second a package of an extra.
    if address.startswith(("http://", "https://")):
        from jepa.data.http_store import HttpStore

        return HttpStore(address, options or RemoteOptions())
    from jepa.data.remote import FsspecStore

    return FsspecStore(address, options or RemoteOptions())


class LocalStore:
    """A folder of this machine. The files read last stay open. Not for several threads at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: OrderedDict[str, int] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": OrderedDict()}

    def __del__(self) -> None:
        for descriptor in getattr(self, "_files", {}).values():
            os.close(descriptor)

    def where(self, path: str) -> str:
        return str(self.folder / path)

    def size(self, path: str) -> int:
        try:
            return (self.folder / path).stat().st_size
        except OSError as error:
            raise self._failure(path, error) from None

    def read(self, path: str, offset: int, size: int) -> bytes:
        try:
            content = _read_at(self._descriptor(path), offset, size)
        except OSError as error:
            raise self._failure(path, error) from None
        if len(content) != size:
            raise StoreError(self.where(path), f"ends after byte {offset + len(content)}, wanted {offset + size}")
        return content

    def read_all(self, path: str) -> bytes:
        try:
            return (self.folder / path).read_bytes()
        except OSError as error:
            raise self._failure(path, error) from None

    def forget(self, path: str, offset: int, size: int) -> bool:
        return False

    def _descriptor(self, path: str) -> int:
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        self._files[path] = descriptor = os.open(self.folder / path, os.O_RDONLY | os.O_CLOEXEC)
        if len(self._files) > OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        return descriptor

    def _failure(self, path: str, error: OSError) -> StoreError:
        kind = MissingError if isinstance(error, FileNotFoundError | PermissionError) else StoreError
        return kind(self.where(path), error.strerror or str(error))


class StoredFile(io.RawIOBase):
    """A file of a store as a seekable binary stream."""

    def __init__(self, store: Store, path: str, size: int) -> None:
        self._store, self._path, self._size, self._place = store, path, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer up to the end of the file. Raises StoreError."""
        count = max(0, min(len(buffer), self._size - self._place))
        buffer[:count] = self._store.read(self._path, self._place, count)
        self._place += count
        return count


def url_of(path: str | Path) -> str | None:
    """The URL that `path` is, without a slash at its end; None for a path of this machine.

    A URL that was a `Path` for a while (as in a configuration) has lost one of its slashes; it gets it back.
    """
    match = _URL.fullmatch(str(path))
    if match is None:
        return None
    scheme, slashes, rest = match.groups()
    scheme = scheme.lower()
    if slashes == "/":
        slashes = "///" if scheme in _WITHOUT_HOST else "//"
    return f"{scheme}:{slashes}{rest}".rstrip("/")


def join_url(url: str, name: str) -> str:
    """The URL of a file or folder below another URL; a query (such as a signature) stays at the end."""
    if not url.startswith(("http://", "https://")):
        return f"{url}/{name}"
    parts = urlsplit(url)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()


def without_secrets(url: str) -> str:
    """The URL without user, password and query."""
    if url.startswith(("http://", "https://")):
        url = re.split(r"[?#]", url, maxsplit=1)[0]
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def local_path(url: str) -> Path:
    """The folder of a file:// URL.

    Raises:
        ConfigError: it names another machine.
    """
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise ConfigError(f"{url} names the machine {parts.netloc}: a path of this one is file:///...")
    return Path(unquote(parts.path) or "/")


def absolute(path: Path) -> Path:
    """The path from the root of this machine; a URL as it is."""
    return path if url_of(path) else path.absolute()


def pieces(store: Store, path: str) -> Iterator[bytes]:
    """A whole file in parts of at most `PIECE` bytes, each tried again by itself."""
    size = store.size(path)
    for offset in range(0, size, PIECE):
        yield store.read(path, offset, min(PIECE, size - offset))


def default_cache() -> Path:
    """$JEPA_CACHE, or ~/.cache/jepa."""
    return Path(os.environ.get("JEPA_CACHE") or Path.home() / ".cache" / "jepa")


def _read_at(descriptor: int, offset: int, size: int) -> bytes:
    """`size` bytes at an offset, fewer at the end of the file; leaves the shared file position alone."""
    parts = []
    while size and (part := os.pread(descriptor, size, offset)):
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)
