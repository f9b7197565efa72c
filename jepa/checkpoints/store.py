"""The checkpoints of a run: which there are, which can be used, and how one more is added without risk to the others.

    RUN/checkpoints/step-000000500.ckpt    the state: a file, or a folder if the model is divided among processes
    RUN/checkpoints/step-000000500.json    its manifest: sizes and digests
    RUN/checkpoints/last.ckpt              link to the newest one

A job can be killed at any instruction, and a disk can fill up at any byte or lie about one. So the data is written to a
temporary name and flushed to the device, then its manifest gets its name, and then the data: that rename is the instant
at which the checkpoint begins to exist. Only after it is the link moved, and only after that are old checkpoints
removed, each by a rename first, so that none is ever seen half deleted. What a kill leaves behind has a temporary name,
or is a manifest without data; the next save removes both. A reader goes from the newest to the oldest and takes the
first whose bytes are those that were written.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from jepa.checkpoints.digested import save_digested
from jepa.checkpoints.io import cannot_write, sync
from jepa.checkpoints.lock import folder_lock
from jepa.checkpoints.manifest import FORMAT_VERSION, LAST, Manifest, data_name, manifest_name, read_manifest, step_of
from jepa.checkpoints.read import checkpoint_exists as checkpoint_exists
from jepa.checkpoints.read import read_checkpoint as read_checkpoint
from jepa.checkpoints.read import read_facts as read_facts
from jepa.errors import ConfigError, DataError
from jepa.logs import get_logger

log = get_logger(__name__)

WRITING, GOING = ".tmp", ".old"
"""Ends of temporary names: of what is not yet there, and of what is being removed."""
_RESCANS = 3
"""How often the folder is looked through again because another process has changed it meanwhile."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that has been written or found whole."""

    step: int
    path: Path
    """Of its data: a file, or a folder if it is divided among processes."""
    facts: dict[str, Any]
    bytes: int


class CheckpointStore:
    """The folder of checkpoints of one run."""

    def __init__(
        self, folder: Path, *, keep_last: int = 2, keep_every: int | None = None, timeout: timedelta | None = None
    ) -> None:
        """Touch nothing yet.

        Args:
            folder: of the checkpoints; made by the first save.
            keep_last: so many of the newest are kept.
            keep_every: those of steps that are a multiple of it are kept as well, for good.
            timeout: for which processes wait for each other in `save_sharded`; none for torch's.
        """
        self.folder = folder
        self.keep_last = keep_last
        self.keep_every = keep_every
        self.timeout = timeout
        self._group: dist.ProcessGroup | None = None

    def steps(self) -> list[int]:
        """Steps with data and a manifest, from the oldest; they may be damaged all the same."""
        return [step for step in self._with_data() if (self.folder / manifest_name(step)).is_file()]

    def newest(self) -> Saved | None:
        """The newest checkpoint whose bytes are those that were written; none if there is no checkpoint.

        Each newer one that is not is warned about. Reads all bytes of the one that it returns.

        Raises:
            DataError: there are checkpoints, and none can be used; or one of another format version.
        """
        for _ in range(_RESCANS):
            steps = self._with_data()
            problems: dict[int, str] = {}
            for step in reversed(steps):
                try:
                    manifest = read_manifest(self.folder / data_name(step))
                    problem = manifest.problem(self.folder)
                except DataError as error:
                    problem = str(error)
                if problem is None:
                    for worse, why in problems.items():
                        log.warning(
                            "checkpoint of step %d cannot be used: %s; the one of step %d is used", worse, why, step
                        )
                    return self._saved(manifest)
                problems[step] = problem
            if steps == self._with_data():  # else a save has removed one while it was being read
                break
        if problems:
            worst = max(problems)
            raise DataError(
                f"{self.folder} holds {len(problems)} checkpoints and none can be used (step {worst}: "
                f"{problems[worst]}); restore one or start another --out"
            )
        self._refuse_single_file()
        return None

    def save(self, step: int, state: dict[str, Any], facts: Mapping[str, Any]) -> Saved:
        """Write the state as one file, and remove what is older than is to be kept.

        A whole checkpoint of this step that is there already is left: the step determines the state.

        Args:
            step: steps of data done.
            state: tensors and plain values by name.
            facts: values that JSON has; with `step` and `format_version` they become the entry `jepa` of the state.

        Raises:
            ConfigError: it cannot be written (full disk, no permission, an error of the device).
        """
        with self._writing(step):
            if there := self._prepared(step):
                return there
            temporary = self._temporary(step)
            head = _head(step, facts)
            written = save_digested({**state, "jepa": head}, temporary)
            return self._commit(temporary, Manifest(step, head, {data_name(step): written}))

    def save_sharded(self, step: int, state: dict[str, Any], facts: Mapping[str, Any]) -> Saved:
        """Write a state whose tensors are divided among processes as a folder; to be called by all of them.

        Raises:
            ConfigError: as `save`; in all processes, whichever it happened to.
        """
        from jepa.checkpoints.sharded import agree, write_shards

        group, temporary = self.group(), self._temporary(step)
        first, head = dist.get_rank() == 0, _head(step, facts)
        with contextlib.ExitStack() as held:

            def begin() -> Saved | None:
                if not first:
                    return None
                held.enter_context(self._writing(step))
                return self._prepared(step)

            if there := agree(begin, temporary, group)[0]:
                return there
            files = write_shards(temporary, {**state, "jepa": head}, group)
            manifest = Manifest(step, head, {f"{data_name(step)}/{name}": file for name, file in files.items()})
            done = agree(lambda: self._commit(temporary, manifest) if first else None, temporary, group)[0]
            assert done is not None
            return done

    def load(self, saved: Saved, *, map_location: Any = "cpu") -> dict[str, Any]:
        """The whole state of a checkpoint, from a file or put together from a folder; no other process is asked.

        Raises:
            DataError: it is damaged.
        """
        return read_checkpoint(saved.path, map_location=map_location)

    def load_sharded(self, saved: Saved, state: dict[str, Any]) -> dict[str, Any]:
        """Fill the tensors of `state` in place, each process its own part; to be called by all of them.

        Args:
            saved: written by any number of processes, as a file or as a folder.
            state: groups of tensors, divided among processes (`DTensor`) or not, as in the checkpoint; a group that is
                not there is not read.

        Returns:
            The rest of the checkpoint: all that is no tensor of a group of tensors.

        Raises:
            DataError: it is damaged, or its tensors have other names or shapes.
        """
        from jepa.checkpoints.sharded import fill

        return fill(saved.path, state, self.group())

    def group(self) -> dist.ProcessGroup:
        """Processes of this store, on the CPU and apart from those of the training step, so that a save may run beside
        one. Made by the first call, which all processes have to do together."""
        if self._group is None:
            group = dist.new_group(backend="gloo", timeout=self.timeout)
            assert isinstance(group, dist.ProcessGroup)  # of all processes, so this one is in it
            self._group = group
        return self._group

    def _with_data(self) -> list[int]:
        """Steps for which there is a file or folder of data, with or without a manifest, from the oldest."""
        try:
            names = os.listdir(self.folder)  # noqa: PTH208  # Path.iterdir hides nothing that this would tell
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise DataError(f"cannot read the folder {self.folder}: {error.strerror}") from error
        return sorted(step for name in names if (step := step_of(name)) is not None)

    def _saved(self, manifest: Manifest) -> Saved:
        return Saved(manifest.step, self.folder / data_name(manifest.step), manifest.facts, manifest.bytes)

    def _refuse_single_file(self) -> None:
        """Raise DataError if there is a checkpoint of format version 1, which was one file."""
        if (self.folder / LAST).is_file() and not (self.folder / LAST).is_symlink():
            read_facts(self.folder / LAST)
            raise DataError(f"{self.folder / LAST} is a file and should be a link: restore the folder {self.folder}")

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """Alone in the folder. Errors of the disk become a ConfigError, and nothing is left of what failed."""
        path = self.folder / data_name(step)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with folder_lock(self.folder):
                try:
                    yield
                except BaseException:
                    with contextlib.suppress(OSError):
                        self._tidy()
                    raise
        except Exception as error:
            self._explain(path, error)
            raise

    def _explain(self, path: Path, error: Exception) -> None:
        """Raise ConfigError if this is an error of the disk."""
        stays = max((step for step in self.steps() if data_name(step) != path.name), default=None)
        kept = f"; the checkpoint of step {stays} stays" if stays is not None else ""
        if told := cannot_write(path, error, kept):
            raise told from error

    def _temporary(self, step: int) -> Path:
        return self.folder / f".{data_name(step)}{WRITING}"

    def _prepared(self, step: int) -> Saved | None:
        """A whole checkpoint of this step, if there is one; else make its names free."""
        last = self.folder / LAST
        if last.exists() and not last.is_symlink():
            raise ConfigError(f"cannot write {last}: what lies there is no link of this package; choose another --out")
        self._tidy()
        path = self.folder / data_name(step)
        if os.path.lexists(path):
            try:
                manifest = read_manifest(path)
                problem = manifest.problem(self.folder)
            except DataError as error:
                problem = str(error)
            if problem is None:
                log.info("the checkpoint of step %d is there already and whole: left as it is", step)
                self._link(step)
                return self._saved(manifest)
            log.warning("replacing the checkpoint of step %d: %s", step, problem)
            self._remove(step)
        return None

    def _commit(self, temporary: Path, manifest: Manifest) -> Saved:
        """Give manifest and data their names, in this order; then move the link and remove what is old."""
        folder, step = self.folder, manifest.step
        note = folder / f".{manifest_name(step)}{WRITING}"
        manifest.write(note)
        note.replace(folder / manifest_name(step))
        sync(folder)
        temporary.replace(folder / data_name(step))
        sync(folder)
        self._link(step)
        self._prune(step)
        return self._saved(manifest)

    def _link(self, step: int) -> None:
        temporary = self.folder / f".{LAST}{WRITING}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(data_name(step))
        temporary.replace(self.folder / LAST)
        sync(self.folder)

    def _prune(self, newest: int) -> None:
        """Remove checkpoints that are not to be kept, now that the newest is safe."""
        steps = self._with_data()
        older = [step for step in steps if step <= newest]
        going = [step for step in older[: -self.keep_last] if self.keep_every is None or step % self.keep_every]
        for step in going:
            try:
                self._remove(step)
            except OSError as error:
                log.warning("cannot remove the old checkpoint of step %d: %s", step, error.strerror)

    def _remove(self, step: int) -> None:
        """Take away the name of the data first: a checkpoint is there or not. Raises OSError."""
        path = self.folder / data_name(step)
        going = self.folder / f".{path.name}{GOING}"
        _delete(going)
        path.replace(going)
        (self.folder / manifest_name(step)).unlink(missing_ok=True)
        _delete(going)

    def _tidy(self) -> None:
        """Remove what an interrupted save has left: temporary names, and manifests without data. Raises OSError."""
        for path in list(self.folder.iterdir()):
            own = path.name.startswith(".") and path.name.endswith((WRITING, GOING))
            name = path.name.removesuffix(WRITING).removesuffix(GOING)[1:]
            orphan = _manifest_step(path.name)
            if own and (step_of(name) is not None or _manifest_step(name) is not None or name == LAST):
                _delete(path)
            elif orphan is not None and not os.path.lexists(self.folder / data_name(orphan)):
                path.unlink()


def _manifest_step(name: str) -> int | None:
    return step_of(f"{name.removesuffix('.json')}.ckpt") if name.endswith(".json") else None


def _head(step: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {**facts, "format_version": FORMAT_VERSION, "step": step}


def _delete(path: Path) -> None:
    """A file, link or folder, or nothing. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
