"""A lock on a folder that dies with its process: no two processes write there, and none is ever unlocked by hand.

It is `flock` on a file in the folder. Between processes of one machine it holds on every local file system; between
machines it holds where the file system passes it on (NFS does, Lustre if it is mounted so). Where a file system knows
no locks at all, a warning says so and the work goes on: then it is up to the user to start one process only.

Who comes second is refused at once, and told who the first is. For a save of seconds, where the second one waits, there
is `jepa.checkpoints.lock`.
"""

import fcntl
import os
import socket
from pathlib import Path

from jepa.errors import ConfigError
from jepa.logs import get_logger

ATTEMPTS = 100

log = get_logger(__name__)


class FolderLock:
    """Held from construction until `release`, or until the process ends in whatever way."""

    def __init__(self, file: Path, what: str) -> None:
        """Lock; makes the folder of the file if it is missing.

        Args:
            file: made if it is missing.
            what: what the process does there, for the error: "packs into DIR".

        Raises:
            ConfigError: another process has the lock, or the file cannot be written.
        """
        self.file = file
        for _ in range(ATTEMPTS):
            self._descriptor = self._open()
            self._lock(what)
            if self._is_named():
                break
            os.close(self._descriptor)  # its last owner has removed the file between our two steps
        else:
            raise ConfigError(f"cannot lock {file}: it disappears again and again")
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def _open(self) -> int:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigError(f"cannot write to the folder {self.file.parent}: {error.strerror}") from None

    def _lock(self, what: str) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._descriptor, 200, 0).decode(errors="replace") or "another process"
            os.close(self._descriptor)
            raise ConfigError(f"{owner} {what}: wait for it, or choose another folder") from None
        except OSError as error:
            log.warning("no locks in %s (%s): start one process only there", self.file.parent, error.strerror)

    def _is_named(self) -> bool:
        """Whether the file that is locked is still the one of that name."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.file.stat())
        except FileNotFoundError:
            return False

    def release(self, *, remove: bool = False) -> None:
        """Unlock, with `remove` after removing the file."""
        if remove:
            self.file.unlink(missing_ok=True)
        os.close(self._descriptor)
