"""The checkpoints of a run: which there are, which can be used, and how one more is added without risk to the others.

    RUN/checkpoints/step-000000500.ckpt    the state: a file, or a folder if the model is divided among processes
    RUN/checkpoints/step-000000500.json    its manifest: sizes and digests
    RUN/checkpoints/last.ckpt              link to the newest one

A job can be killed at any instruction, and a disk can fill up at any byte or lie about one. So a checkpoint appears by
one rename, when all of it is on the device (`shelf.py`), and no old one goes before. A reader goes from the newest to
the oldest and takes the first whose bytes are those that were written.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from jepa.checkpoints.digested import save_digested
from jepa.checkpoints.io import cannot_write
from jepa.checkpoints.lock import folder_lock
from jepa.checkpoints.manifest import FORMAT_VERSION, LAST, Manifest, data_name
from jepa.checkpoints.read import read_checkpoint, read_facts, require_whole
from jepa.checkpoints.shelf import Shelf
from jepa.errors import ConfigError, DataError
from jepa.logs import get_logger

if TYPE_CHECKING:
    from jepa.checkpoints.sharded import Make

log = get_logger(__name__)

_RESCANS = 10
"""How often the folder is looked through again because another process has changed it meanwhile."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that has been written or found."""

    step: int
    path: Path
    """Of its data: a file, or a folder if it is divided among processes."""
    facts: dict[str, Any]
    bytes: int
    checked: bool = field(default=False, compare=False)
    """Whether its bytes are known to be those that were written, and need not be read once more to be compared."""

    @classmethod
    def at(cls, path: Path) -> "Saved":
        """One outside a store, by the path of its data or of a link to it; reads its facts only. Raises DataError."""
        facts, path = read_facts(path), path.resolve()
        files = path.iterdir() if path.is_dir() else (path,)
        return cls(int(facts["step"]), path, facts, sum(file.stat().st_size for file in files))


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
        self._shelf = Shelf(folder)
        self._group: dist.ProcessGroup | None = None

    def steps(self) -> list[int]:
        """Steps of the checkpoints whose files have the right sizes, from the oldest; nothing else of them is read.

        Raises:
            DataError: the folder cannot be read, or holds one of another format version.
        """
        return [step for step in self._shelf.steps() if isinstance(self._check(step, whole=False), Manifest)]

    def newest(self) -> Saved | None:
        """The newest checkpoint whose bytes are those that were written; none if there is no checkpoint.

        Each newer one that is not is warned about. Reads all bytes of the one that it returns.

        Raises:
            DataError: there are checkpoints, and none can be used; or one of another format version.
        """
        for _ in range(_RESCANS):
            steps, problems = self._shelf.steps(), dict[int, str]()
            for step in reversed(steps):
                found = self._check(step, whole=True)
                if isinstance(found, Manifest):
                    for worse, why in problems.items():
                        log.warning(
                            "the checkpoint of step %d cannot be used, that of step %d is: %s", worse, step, why
                        )
                    return self._saved(found)
                problems[step] = found
            if steps == self._shelf.steps():  # else a save has removed one while it was being read
                break
        if not problems:
            self._refuse_single_file()
            return None
        worst = max(problems)
        raise DataError(
            f"{self.folder} holds {len(problems)} checkpoints and none can be used (of step {worst}: "
            f"{problems[worst]}); restore one or start another --out"
        )

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
        head = _head(step, facts)
        with self._writing(step):
            there = self._shelf.prepare(step)
            if there is None:
                written = save_digested({**state, "jepa": head}, self._shelf.temporary(step))
                there = self._shelf.commit(Manifest(step, head, {data_name(step): written}))
            return self._settled(there)

    def save_sharded(self, step: int, state: dict[str, Any], facts: Mapping[str, Any]) -> Saved:
        """Write a state whose tensors are divided among processes as a folder; to be called by all of them.

        Args:
            step: as for `save`, as are `state` and `facts`; of what is not divided the first process's is written.

        Raises:
            ConfigError: as `save`; in all processes, whichever it happened to.
        """
        from jepa.checkpoints.sharded import agree, write_shards

        head, group = _head(step, facts), self.group()
        first = dist.get_rank(group) == 0

        def told(error: BaseException) -> ConfigError | None:
            return self._told(step, error)

        with contextlib.ExitStack() as held:

            def begin() -> Manifest | None:
                if not first:
                    return None
                held.enter_context(self._writing(step))
                return self._shelf.prepare(step)

            there = agree(begin, group, told)[0]
            if there is None:
                files = write_shards(self._shelf.temporary(step), {**state, "jepa": head}, group, told)
                there = Manifest(step, head, {f"{data_name(step)}/{name}": file for name, file in files.items()})
                agree(lambda: self._shelf.commit(there) if first else None, group, told)
            agree(lambda: self._settled(there) if first else None, group, told)
        return self._saved(there)

    def tidy(self, saved: Saved) -> None:
        """Finish what a save has left undone when it was killed: the link to the newest, and what is to be removed.

        Args:
            saved: what `newest` has given; no other process writes here.

        Raises:
            ConfigError: as `save`.
        """
        with self._writing(saved.step):
            self._shelf.tidy()
            self._shelf.settle(saved.step, self.keep_last, self.keep_every)

    def load(self, saved: Saved, *, map_location: Any = "cpu", lazy: bool = False) -> dict[str, Any]:
        """The whole state of a checkpoint, from a file or put together from a folder; no other process is asked.

        Args:
            saved: what `newest` or `save` has given, or another one, whose bytes are then compared first.
            map_location: device of the tensors.
            lazy: map a file into memory, which the processes of a machine then share, instead of reading it.

        Raises:
            DataError: it is damaged.
        """
        return read_checkpoint(saved.path, map_location=map_location, lazy=lazy, checked=saved.checked)

    def load_sharded(self, saved: Saved, state: dict[str, Any], make: "Make | None" = None) -> dict[str, Any]:
        """Fill the tensors of `state` in place, each process its own part; to be called by all of them.

        Args:
            saved: written by any number of processes, as a file or as a folder.
            state: groups of tensors, divided among processes (`DTensor`) or not, as in the checkpoint; a group that is
                not there, or empty, is not read.
            make: called with keys, shape and dtype of each tensor that such a group lacks (moments of an optimizer that
                has none yet): makes it, and it is put into `state`. None: such a tensor is an error.

        Returns:
            The rest of the checkpoint: all that is no tensor of a group that is divided or asked for.

        Raises:
            DataError: it is damaged, or its tensors have other names or shapes.
        """
        from jepa.checkpoints.sharded import fill

        if not saved.checked:
            require_whole(saved.path)
        return fill(saved.path, state, self.group, make)

    def group(self) -> dist.ProcessGroup:
        """The processes, on the CPU and apart from those of the training step, so that a save may run beside one.

        Made by the first call, which all processes have to do together: only divided models need it, and it is a
        connection from each process to each other, which `close` ends.
        """
        if self._group is None:
            group = dist.new_group(backend="gloo", timeout=self.timeout)
            assert isinstance(group, dist.ProcessGroup)  # of all processes, so this one is in it
            self._group = group
        return self._group

    def close(self) -> None:
        """Let go of the connections between the processes, if there are any. Nothing may be being saved."""
        group, self._group = self._group, None
        if group is not None and dist.is_initialized():
            dist.destroy_process_group(group)

    def _saved(self, manifest: Manifest) -> Saved:
        return Saved(manifest.step, self._shelf.data(manifest.step), manifest.facts, manifest.bytes, checked=True)

    def _check(self, step: int, *, whole: bool) -> Manifest | str:
        try:
            return self._shelf.check(step, whole=whole)
        except OSError as error:
            return f"it cannot be read ({error.strerror})"

    def _settled(self, manifest: Manifest) -> Saved:
        self._shelf.settle(manifest.step, self.keep_last, self.keep_every)
        return self._saved(manifest)

    def _refuse_single_file(self) -> None:
        """Raise DataError if there is a checkpoint of format version 1, which was one file."""
        last = self.folder / LAST
        if last.exists() and not last.is_symlink():
            read_facts(last)
            raise DataError(f"{last} should be a link to a checkpoint: restore the folder, or start another --out")

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """Alone in the folder. Errors of the disk become a ConfigError, and nothing is left of what failed."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with folder_lock(self.folder):
                try:
                    yield
                except BaseException:
                    with contextlib.suppress(OSError):
                        self._shelf.tidy()
                    raise
        except Exception as error:
            if told := self._told(step, error):
                raise told from error
            raise

    def _told(self, step: int, error: BaseException) -> ConfigError | None:
        """What to say of an error in saving a step; none if it was not the disk that failed."""
        if isinstance(error, ConfigError):
            return error
        kept = ""
        with contextlib.suppress(DataError):
            kept = "".join(f"; the checkpoint of step {other} stays" for other in self.steps()[-1:])
        return cannot_write(self._shelf.data(step), error, kept)


def _head(step: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {**facts, "format_version": FORMAT_VERSION, "step": step}
