"""Files in an object store (s3://, gs://, az://, ...) or wherever else fsspec reaches; the extra `remote`.

fsspec knows the protocols, the credentials and their configuration files. Added here: a new file system per process
(its event loop and its connections do not survive a fork), a time limit, retries, and the check that as many bytes came
as were asked for. Size and version (ETag, generation or time of change) of a file are asked for once per process and
compared with what the process that opened the data set saw.
"""

import importlib
import os
from collections.abc import Callable
from typing import Any, TypeVar

from jepa.data.retry import TransientError, retried
from jepa.data.storage import MissingError, RemoteOptions, StoreError, pieces, without_secrets
from jepa.errors import ConfigError

T = TypeVar("T")

_VERSIONS = ("ETag", "etag", "generation", "version_id", "LastModified", "last_modified", "mtime", "created")
"""What file systems call the thing that changes with the content, the best first."""
_GONE: dict[type[OSError], str] = {
    FileNotFoundError: "no such file",
    PermissionError: "no permission",
    IsADirectoryError: "is no file",
    NotADirectoryError: "no such file",
}


class FsspecStore:
    """Files under a URL that fsspec knows."""

    def __init__(self, url: str, options: RemoteOptions) -> None:
        """Asks nobody yet.

        Raises:
            ConfigError: fsspec, or the package that it needs for this URL, is not installed, or nothing knows it.
        """
        self.url = url
        self._options = options
        self._versions: dict[str, tuple[int, str]] = {}
        self._reset()
        self._system()

    def __getstate__(self) -> dict[str, object]:
        return {"url": self.url, "_options": self._options, "_versions": dict(self._versions)}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._reset()

    def where(self, path: str) -> str:
        return without_secrets(f"{self.url}/{path}")

    def size(self, path: str) -> int:
        self._system()  # in a forked process it forgets what the parent has checked
        if path not in self._checked:
            info: dict[str, Any] = self._tried(path, "its size", lambda system, name: self._call(system, "info", name))
            if info.get("type") == "directory" or info.get("size") is None:
                raise MissingError(self.where(path), "is no file")
            now = int(info["size"]), str(next((info[key] for key in _VERSIONS if info.get(key) is not None), ""))
            before = self._versions.setdefault(path, now)
            if before != now:
                was, is_ = (" ".join(map(str, version)).strip() for version in (before, now))
                raise StoreError(self.where(path), f"changed while it was in use: size and version {was}, now {is_}")
            self._checked.add(path)
        return self._versions[path][0]

    def read(self, path: str, offset: int, size: int) -> bytes:
        if not size:
            return b""
        total, part = self.size(path), f"bytes {offset} to {offset + size - 1}"
        if total < offset + size:
            raise StoreError(self.where(path), f"has only {total} bytes, wanted {part}")

        def once(system: Any, name: str) -> bytes:
            content: bytes = self._call(system, "cat_file", name, start=offset, end=offset + size)
            if len(content) != size:
                raise TransientError(f"got {len(content)} of {size} bytes")
            return content

        return self._tried(path, part, once)

    def read_all(self, path: str) -> bytes:
        return b"".join(pieces(self, path))

    def forget(self, path: str, offset: int, size: int) -> bool:
        self._checked.discard(path)  # ask for its version again: it may have been replaced
        return True

    def _reset(self) -> None:
        self._process = os.getpid()
        self._opened: tuple[Any, str] | None = None
        self._checked: set[str] = set()

    def _system(self) -> tuple[Any, str]:
        """The file system of this process, and the root in it."""
        if self._process != os.getpid():
            self._reset()
        if self._opened is None:
            self._opened = _open(self.url)
        return self._opened

    def _tried(self, path: str, part: str, call: Callable[[Any, str], T]) -> T:
        where = self.where(path)

        def once() -> T:
            system, root = self._system()
            try:
                return call(system, f"{root.rstrip('/')}/{path}")
            except TransientError:
                raise
            except tuple(_GONE) as error:
                reason = next(words for kind, words in _GONE.items() if isinstance(error, kind))
                raise MissingError(where, error.strerror or reason) from None
            except TimeoutError:
                raise TransientError(f"no answer within {self._options.timeout:g} s") from None
            except Exception as error:  # every file system has its own kinds for a lost connection
                lines = str(error).splitlines() or [""]
                raise TransientError(f"{type(error).__name__} {lines[0]}".strip()) from None

        return retried(once, where, part, self._options)

    def _call(self, system: Any, method: str, path: str, **arguments: object) -> Any:
        """A method of the file system; within the time limit if it can be interrupted."""
        if not system.async_impl:
            return getattr(system, method)(path, **arguments)
        sync = importlib.import_module("fsspec.asyn").sync
        return sync(system.loop, getattr(system, f"_{method}"), path, timeout=self._options.timeout, **arguments)


def _open(url: str) -> tuple[Any, str]:
    scheme = url.partition(":")[0]
    try:
        core = importlib.import_module("fsspec.core")
    except ImportError:
        raise ConfigError(f"{scheme}:// needs fsspec: pip install 'jepa-video[remote]'") from None
    try:
        system, root = core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{scheme}:// needs a package of the extra `remote`, or of its own: {reason}") from None
    except Exception as error:  # an unknown protocol, missing credentials: whatever the file system complains about
        raise ConfigError(f"{without_secrets(url)}: {(str(error).splitlines() or [type(error).__name__])[0]}") from None
    return system, str(root)
