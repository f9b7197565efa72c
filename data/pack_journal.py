"""The journal of a pack: what is finished, on disk, so that the same command can go on after whatever stopped it.

    OUT/.pack/lock         held while a process packs into OUT (`folder_lock.py`)
    OUT/.pack/plan.json    settings and a digest of plan.bin; while this file is there, OUT is unfinished
    OUT/.pack/plan.bin     two hashes for each entry (`pack_plan.py`)
    OUT/.pack/done.jsonl   a line per finished shard and per skipped video, in the order in which they came

Entries are written in their order, each to the shard of its split. So a line of a shard says: of this split, all
entries up to the last one in this shard are done, those with a line of their own having been skipped. What is left to
do follows from the lines alone, for any number of workers and however the splits are mixed.

A shard is renamed to its name first and gets its line then, and the line is on disk before the next sample is written.
A process that dies between the two leaves a shard without a line, which is removed and made again. One that dies within
a line leaves half of it, which is cut off. Lines of skipped videos are not waited for: after a power failure such a
video may be tried again, and will be skipped again. The journal is removed when all manifests are written.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from jepa.data.digests import DIGEST
from jepa.data.folder_lock import FolderLock
from jepa.data.index import ShardEntry, atomic, writing
from jepa.data.lists import Entry
from jepa.data.pack_plan import PackPlan, changed_sources, list_difference, settings_difference
from jepa.data.shard_writer import FinishedShard, claim, sync_folder, take_up
from jepa.data.source import JOURNAL, split_folders
from jepa.errors import ConfigError, DataError
from jepa.logs import get_logger

SKIPPED = "skipped.tsv"
"""The list of what could not be packed, beside the shards."""
VERSION = 1
DELETE = "delete the folder and pack anew"
AGAIN = f"finish it with the command that began it, or {DELETE}"

log = get_logger(__name__)


class Journal:
    """What is finished in a folder that is being packed; a context manager that holds the lock on it.

    Left before `remove`, it stays for the next process, unless no shard was finished: then nothing is worth keeping.
    """

    def __init__(self, out: Path) -> None:
        """Lock the folder, which is made if it is missing, and read what an earlier process left there.

        Raises:
            ConfigError: another process packs into it, it cannot be written to, or the journal cannot be read.
        """
        self.out, self.folder = out, out / JOURNAL.parent
        self.skipped: dict[int, str] = {}
        """Number of each entry that cannot be packed -> why."""
        self._created = not out.exists()
        self._shards: dict[str | None, list[FinishedShard]] = {}
        self._lines: int | None = None
        self._lock = FolderLock(self.folder / "lock", f"packs into {out} now")
        self._plan: PackPlan | None = None
        try:
            self._plan = _read_plan(self.folder)
            if self._plan is not None:
                self._read_lines()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        begun = self._lines is not None
        if self._lines is not None:
            os.close(self._lines)
        if self._is_worth_keeping():
            count = sum(map(len, self._shards.values()))
            if begun and count:
                log.info("%d finished shards stay in %s: the same command goes on from there", count, self.out)
            self._lock.release()
        else:
            self._clear()

    def begin(self, plan: PackPlan, entries: Sequence[Entry]) -> None:
        """Take up the plan, or what an earlier process left of it.

        Raises:
            ConfigError: the folder holds shards, or the unfinished pack of another plan; says what differs.
            DataError: sources changed since that pack began; names them.
        """
        if self._plan is not None and self._shards:
            self._compare(self._plan, plan, entries)
            log.info("going on in %s: %d shards are finished", self.out, sum(map(len, self._shards.values())))
        else:
            self._start_anew(plan)
        self._plan = plan
        with writing(self.folder):
            for path in [*self.out.glob(f".{SKIPPED}.*.tmp"), *self.folder.glob(".*.tmp")]:
                path.unlink()  # of a process that was killed
            self._lines = os.open(self.folder / "done.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def left(self, splits: Sequence[str | None]) -> list[int]:
        """Numbers of the entries that are neither in a finished shard nor skipped, ascending.

        Args:
            splits: of each entry.
        """
        done = {split: int(shards[-1].last_key) for split, shards in self._shards.items()}
        return [n for n, split in enumerate(splits) if n > done.get(split, -1) and n not in self.skipped]

    def splits(self) -> list[str | None]:
        """The splits of which shards are finished."""
        return list(self._shards)

    def ledger(self, split: str | None) -> "SplitLedger":
        """The shards of one split, for their writer."""
        return SplitLedger(self, split)

    def shards(self, split: str | None) -> Sequence[FinishedShard]:
        """Those of a split that are finished, in order."""
        return tuple(self._shards.get(split, ()))

    def record(self, split: str | None, shard: FinishedShard) -> None:
        """Remember one more shard, on disk. Raises ConfigError."""
        self._append({"split": split, **asdict(shard)})
        with writing(self._path("done.jsonl")):
            assert self._lines is not None
            os.fsync(self._lines)
        self._shards.setdefault(split, []).append(shard)

    def skip(self, number: int, reason: str) -> None:
        """Remember that an entry cannot be packed. Raises ConfigError."""
        self._append({"skipped": number, "reason": reason})
        self.skipped[number] = reason

    def remove(self) -> None:
        """All is written: from here on the folder is finished."""
        with writing(self.out):
            sync_folder(self.out)
            self._path("plan.json").unlink()
        self._plan = None

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _folders(self) -> list[Path]:
        """Where shards of the plan at hand lie."""
        splits = () if self._plan is None else self._plan.splits
        return [self.out, *(self.out / split for split in splits)]

    def _is_worth_keeping(self) -> bool:
        # A shard may lie there although its line was interrupted, or the other way round: the next process will see.
        lies = any(True for folder in self._folders() for _ in folder.glob("shard-*"))
        return self._plan is not None and (bool(self._shards) or lies)

    def _clear(self) -> None:
        """Leave nothing of the journal, nor the folders if they are empty."""
        self._path("plan.json").unlink(missing_ok=True)
        for path in list(self.folder.iterdir()):
            if path != self._lock.file:
                path.unlink()
        self._lock.release(remove=True)
        folders = [self.folder, *reversed(self._folders())]
        for folder in folders if self._created else folders[:1]:
            with suppress(OSError):  # it is not empty, or another process has just made a lock there
                folder.rmdir()

    def _start_anew(self, plan: PackPlan) -> None:
        """Write the plan down; what an earlier process left half written of another plan is not worth asking for."""
        if self._plan is not None:
            for folder in filter(Path.is_dir, self._folders()):
                take_up(folder, ())
        with writing(self.folder):
            for name in ("plan.json", "done.jsonl"):
                self._path(name).unlink(missing_ok=True)
        self.skipped.clear()
        self._plan = None
        for folder in (self.out, *split_folders(self.out).values()):
            claim(folder)
        _write_plan(self.folder, plan)

    def _compare(self, old: PackPlan, new: PackPlan, entries: Sequence[Entry]) -> None:
        if (settings := settings_difference(old, new)) is not None:
            raise ConfigError(f"{self.out} holds an unfinished pack with other settings ({settings}): {AGAIN}")
        if (other := list_difference(old, new, entries)) is not None:
            raise ConfigError(f"{self.out} holds an unfinished pack of {other}: {AGAIN}")
        if (changed := changed_sources(old, new, entries)) is not None:
            raise DataError(f"{self.out} holds an unfinished pack, and {changed}; put them back, or {DELETE}")

    def _read_lines(self) -> None:
        """Read `done.jsonl`, and cut off what is no whole line."""
        path, good = self._path("done.jsonl"), 0
        with writing(path), path.open("a+b") as stream:
            stream.seek(0)
            for line in stream:
                try:
                    self._understand(json.loads(line) if line.endswith(b"\n") else {})
                except (ValueError, KeyError, TypeError):
                    break
                good += len(line)
            stream.truncate(good)

    def _understand(self, line: dict[str, Any]) -> None:
        if "skipped" in line:
            self.skipped[line["skipped"]] = line["reason"]
            return
        entry, names = ShardEntry(**line["entry"]), tuple(line["label_names"])
        shard = FinishedShard(entry, names, line["last_key"])
        self._shards.setdefault(line["split"], []).append(shard)

    def _append(self, line: Mapping[str, object]) -> None:
        assert self._lines is not None
        content = json.dumps(line).encode() + b"\n"
        with writing(self._path("done.jsonl")):
            while content:
                content = content[os.write(self._lines, content) :]


@dataclass(frozen=True)
class SplitLedger:
    """The ledger of one `ShardWriter`."""

    journal: Journal
    split: str | None

    def finished(self) -> Sequence[FinishedShard]:
        return self.journal.shards(self.split)

    def record(self, shard: FinishedShard) -> None:
        self.journal.record(self.split, shard)


def _write_plan(folder: Path, plan: PackPlan) -> None:
    """Raises ConfigError."""
    table = np.stack([plan.asked, plan.states]).tobytes()
    with atomic(folder / "plan.bin") as stream:
        stream.write(table)
    content = {
        "version": VERSION,
        "splits": plan.splits,
        "digest": blake2b(table, digest_size=DIGEST).hexdigest(),
        "settings": plan.settings,
    }
    with atomic(folder / "plan.json") as stream:
        stream.write(json.dumps(content, indent=1).encode() + b"\n")


def _read_plan(folder: Path) -> PackPlan | None:
    """The plan that was begun; None if there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    if not (folder / "plan.json").exists():
        return None
    try:
        content = json.loads((folder / "plan.json").read_bytes())
        table = (folder / "plan.bin").read_bytes()
        if content["version"] != VERSION or content["digest"] != blake2b(table, digest_size=DIGEST).hexdigest():
            raise ValueError
        asked, states = np.frombuffer(table, "<u8").reshape(2, -1)
        return PackPlan(content["settings"], tuple(content["splits"]), asked, states)
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"the journal in {folder} is damaged or of another version: {DELETE}") from None
