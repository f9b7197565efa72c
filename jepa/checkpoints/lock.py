"""One writer at a time in a folder: for the seconds of a save, and the next one waits.

`jepa.data.folder_lock` is the other lock: of a file that names its owner, for the hours of a run or of packing, and who
comes second is refused at once. The one here leaves no file among checkpoints, and has nobody to name.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jepa.errors import ConfigError

PATIENCE = 60.0
"""Seconds to wait for another writer to end."""
_NAP = 0.05
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Alone among the writers of a folder, in this process and others, until the block ends or the process does.

    The lock is on the folder itself, so that nothing is left behind. File systems of a cluster may not have such locks;
    there nothing is locked.

    Raises:
        ConfigError: another writer does not end.
        OSError: there is no such folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        until = time.monotonic() + PATIENCE
        while not _locked(descriptor):
            if time.monotonic() > until:
                raise ConfigError(f"another process is saving into {folder}: end it, or choose another --out")
            time.sleep(_NAP)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Whether to go on: it is locked now, or cannot be."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _BUSY
    return True
