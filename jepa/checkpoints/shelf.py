"""The names in a folder of checkpoints: how a checkpoint gets its own, and how it loses it.

Data is written under a temporary name and flushed to the device. Then its manifest gets its name, and then the data:
that rename is the instant at which the checkpoint begins to exist. Only after it is the link moved, and only after that
are others removed, each by a rename first, so that none is ever seen half deleted. What a kill leaves behind has a
temporary name, or is a manifest without data; the next save removes both.
"""

import errno
import os
import shutil
from pathlib import Path

from jepa.checkpoints.io import sync
from jepa.checkpoints.manifest import LAST, Manifest, OtherVersion, data_name, manifest_name, read_manifest, step_of
from jepa.errors import ConfigError, DataError
from jepa.logs import get_logger

log = get_logger(__name__)

WRITING, GOING = ".tmp", ".old"
"""Ends of temporary names: of what is not yet there, and of what is being removed."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class Shelf:
    """A folder of checkpoints. Methods that change it are for the process that holds its lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def data(self, step: int) -> Path:
        return self.folder / data_name(step)

    def temporary(self, step: int) -> Path:
        """Where the data is to be written."""
        return self.folder / f".{data_name(step)}{WRITING}"

    def steps(self) -> list[int]:
        """Steps for which there is data, with or without a manifest, from the oldest. Raises DataError."""
        try:
            names = os.listdir(self.folder)  # noqa: PTH208  # Path.iterdir raises later, where it is looped over
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise DataError(f"cannot read the folder {self.folder}: {error.strerror}") from error
        return sorted(step for name in names if (step := step_of(name)) is not None)

    def check(self, step: int, *, whole: bool = True) -> Manifest | str:
        """The manifest of a checkpoint or, if its data is not what that says, why.

        Args:
            step: of the checkpoint.
            whole: compare digests, which reads all of it; else sizes only.

        Raises:
            OtherVersion: it is in another format.
            OSError: it cannot be read, which may pass.
        """
        try:
            manifest = read_manifest(self.data(step))
            return manifest.problem(self.folder, whole=whole) or manifest
        except OtherVersion:
            raise
        except DataError as error:
            return str(error)

    def prepare(self, step: int) -> Manifest | None:
        """Remove what was left unfinished, and make room for a checkpoint; its manifest if it is there and whole.

        Raises:
            ConfigError: something lies in the place of the link.
            OSError: the disk failed.
        """
        last = self.folder / LAST
        if last.exists() and not last.is_symlink():
            raise ConfigError(f"cannot write {last}: what lies there is no link of this package; choose another --out")
        self.tidy()
        if not os.path.lexists(self.data(step)):
            return None
        found = self.check(step)
        if isinstance(found, Manifest):
            log.info("the checkpoint of step %d is there already and whole: left as it is", step)
            return found
        log.warning("writing the checkpoint of step %d anew: %s", step, found)
        self._remove(step)
        return None

    def commit(self, manifest: Manifest) -> Manifest:
        """Give a manifest, and the data that was written to `temporary`, their names. Raises OSError."""
        folder, step = self.folder, manifest.step
        note = folder / f".{manifest_name(step)}{WRITING}"
        manifest.write(note)
        note.replace(folder / manifest_name(step))
        sync(folder)
        self.temporary(step).replace(self.data(step))
        sync(folder)
        return manifest

    def settle(self, step: int, keep_last: int, keep_every: int | None) -> None:
        """After the commit of a step: remove what cannot be used and what is old, and link the newest.

        Newer ones than that are those that could not be used when the run went on from an older one. So they are read,
        as nothing else is, and stay only if they are whole.

        Raises:
            OSError: the link cannot be made.
        """
        useless: dict[int, str] = {}
        used = [step]
        for other in self.steps():
            try:
                found = self.check(other, whole=other > step) if other != step else None
            except (OSError, OtherVersion):
                continue  # not for us to remove
            if isinstance(found, str):
                useless[other] = found
            elif found is not None:
                used = sorted([*used, other])
        self._link(used[-1])
        for other, why in useless.items():
            log.warning("removing the checkpoint of step %d: %s", other, why)
        upto = [other for other in used if other <= step]
        old = [other for other in upto[:-keep_last] if keep_every is None or other % keep_every]
        for other in (*useless, *old):
            try:
                self._remove(other)
            except OSError as error:
                log.warning("cannot remove the checkpoint of step %d: %s", other, error.strerror)

    def tidy(self) -> None:
        """Remove what an interrupted save has left: temporary names, and manifests without data. Raises OSError."""
        for path in list(self.folder.iterdir()):
            if path.name.startswith(".") and path.name.endswith((WRITING, GOING)):
                name = path.name[1:].removesuffix(WRITING).removesuffix(GOING)
                if name == LAST or step_of(name) is not None or _manifest_step(name) is not None:
                    _delete(path)
            elif (step := _manifest_step(path.name)) is not None and not os.path.lexists(self.data(step)):
                path.unlink()

    def _link(self, newest: int) -> None:
        temporary = self.folder / f".{LAST}{WRITING}"
        try:
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(data_name(newest))
            temporary.replace(self.folder / LAST)
            sync(self.folder)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            log.warning("%s is not there: this file system has no symbolic links", self.folder / LAST)

    def _remove(self, step: int) -> None:
        """Take the name of the data away first: a checkpoint is there or not. Raises OSError."""
        path = self.data(step)
        going = self.folder / f".{path.name}{GOING}"
        _delete(going)
        path.replace(going)
        (self.folder / manifest_name(step)).unlink(missing_ok=True)
        _delete(going)


def _manifest_step(name: str) -> int | None:
    return step_of(f"{name.removesuffix('.json')}.ckpt") if name.endswith(".json") else None


def _delete(path: Path) -> None:
    """A file, link or folder, or nothing. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
