"""Writing videos into ordinary webdataset tars, with an index that makes them random-access.

A sample is a few tar members with one stem: `000017.mp4` (the video, untouched bytes), `000017.json` (facts, labels and
origin, for readers that know only webdataset) and extras such as `000017.masks.npz`. So a shard streams with plain
webdataset; `shards.py` reads samples by offset, in any order, from any process.

A shard is written under temporary names; when tar and index are on disk, they are renamed. The manifest comes last, so
a folder without it is unfinished. What becomes of the shards of a writer that is stopped (Ctrl-C, an error, a full
disk) depends on whether somebody keeps a ledger of them:

- Without, they are taken away again: a folder of shards is whole or is not there.
- With a `Ledger` (`jepa pack` has one on disk, `pack_journal.py`) they stay, and another writer with the same ledger
  goes on after the last of them. The shards are the same bytes as if nothing had happened, because where a shard
  ends depends only on the samples in it and the next one.
"""

import importlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from jepa.data.index import (
    Manifest,
    PendingFile,
    ShardEntry,
    fingerprint_of,
    shard_entry,
    write_manifest,
    write_rows,
    writing,
)
from jepa.data.rows import Member, Row
from jepa.data.source import MANIFEST, Label
from jepa.data.timeline import VideoInfo
from jepa.errors import ConfigError, DataError

MODIFIED = 0.0
"""Time stamp of every member: the same videos give the same tar."""


@dataclass(frozen=True)
class FinishedShard:
    """A shard that is complete and on disk."""

    entry: ShardEntry
    """What the manifest will say of it."""
    label_names: tuple[str, ...]
    """Labels that every sample in it has."""
    last_key: str
    """Key of its last sample."""


class Ledger(Protocol):
    """Remembers the finished shards of a folder from one writer to the next."""

    def finished(self) -> Sequence[FinishedShard]:
        """All so far, in order."""
        ...

    def record(self, shard: FinishedShard) -> None:
        """Remember one more.

        Raises:
            ConfigError: it cannot be written down.
        """
        ...


class ShardWriter:
    """Writes samples into shards of one folder; a context manager.

    >>> with ShardWriter(Path("shards/mine"), name="mine") as writer:
    ...     writer.write("000000", video, probe(video), {"label": "juggling"})
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        samples_per_shard: int = 1000,
        bytes_per_shard: int | None = None,
        provenance: Mapping[str, object] | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Create the folder.

        Args:
            bytes_per_shard: start another shard before the videos of one exceed this size.
            ledger: keep finished shards when writing stops, and go on after those that it knows. Who has it must be
                the only writer to the folder.

        Raises:
            ConfigError: the folder cannot be created, or holds shards that the ledger does not know.
            DataError: a shard that the ledger knows is missing or has another size.
        """
        self.folder, self.name = Path(folder), name
        self.samples_per_shard, self.bytes_per_shard = samples_per_shard, bytes_per_shard
        self._provenance = dict(provenance or {})
        self._ledger = ledger
        self._created = not self.folder.exists()
        self.shards: list[FinishedShard] = list(ledger.finished()) if ledger is not None else []
        """Those that are complete."""
        if ledger is None:
            claim(self.folder)
        else:
            take_up(self.folder, [shard.entry for shard in self.shards])
        self._taken: list[Path] = []
        self._keys: set[str] = set()
        self._open: _OpenShard | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stop()
            return
        try:
            self.close()
        except BaseException:
            self._stop()
            raise

    def write(
        self,
        key: str,
        video: bytes,
        info: VideoInfo,
        labels: Mapping[str, Label],
        extra: Mapping[str, bytes] | None = None,
        origin: str = "",
        *,
        origin_hash: str = "",
        segment: tuple[float, float] | None = None,
    ) -> None:
        """Add one sample.

        Args:
            key: unique in the folder; no dot (what follows a dot is the member's kind) and no slash.
            extra: further members, ending -> content.
            origin: path of the file the video was made from.
            origin_hash: hash of that file (see `pack_origin`).
            segment: the part of that file, in seconds; None if it is all of it.

        Raises:
            ConfigError: the shard cannot be written, or another process writes to the folder.
            ValueError: the key cannot be used or came before.
        """
        if not key or {".", "/", "\\", "\0"} & set(key) or key in self._keys:
            raise ValueError(f"key {key!r}: expected a new one without dots and slashes")
        members = {info.extension: video, **(extra or {})}
        size = sum(map(len, members.values()))
        # Offsets are known when the tar is complete.
        places = [Member(ending, 0, len(content), zlib.crc32(content)) for ending, content in members.items()]
        row = Row(
            key, places[0], info.frames, info.fps, info.height, info.width, info.codec, info.keyframes,
            dict(labels), origin, tuple(places[1:]), info.times, info.exact, origin_hash,
        )  # fmt: skip
        described: dict[str, object] = {"labels": row.labels, "frames": row.frames, "fps": row.fps, "origin": origin}
        described |= {"origin_hash": origin_hash} if origin_hash else {}
        described |= {"segment": segment} if segment else {}
        members["json"] = json.dumps(described, ensure_ascii=False).encode()
        if self._open is not None and self._is_full(self._open, size):
            self._finish_shard()
        if self._open is None:
            self._open = self._open_shard()
        self._open.add(row, members, size)
        self._keys.add(key)

    def close(self) -> None:
        """Write the last shard and the manifest.

        Raises:
            ConfigError: they cannot be written, or another process writes to the folder.
            DataError: no sample was written.
        """
        if self._open is not None:
            self._finish_shard()
        if not self.shards:
            raise DataError(f"no samples to write to {self.folder}")
        shards = tuple(shard.entry for shard in self.shards)
        names = set.intersection(*(set(shard.label_names) for shard in self.shards))
        manifest = Manifest(self.name, shards, tuple(sorted(names)), self._provenance, fingerprint_of(shards))
        write_manifest(self.folder, manifest)
        with writing(self.folder):
            sync_folder(self.folder)

    def _is_full(self, shard: "_OpenShard", more: int) -> bool:
        too_large = self.bytes_per_shard is not None and shard.size + more > self.bytes_per_shard
        return len(shard.rows) >= self.samples_per_shard or too_large

    def _open_shard(self) -> "_OpenShard":
        tar = self.folder / shard_name(len(self.shards), "tar")
        if self._ledger is None and tar.exists():  # sooner than `_take` would say it
            raise _intruder(tar)
        return _OpenShard(tar)

    def _finish_shard(self) -> None:
        """Give the shard at hand its name."""
        assert self._open is not None
        shard = self._open
        shard.complete()
        if self._ledger is None:
            self._take(shard.tar)
            self._take(shard.index)
        finished = shard.publish()
        if self._ledger is not None:
            self._ledger.record(finished)
        self.shards.append(finished)
        self._open = None

    def _take(self, path: Path) -> None:
        """Occupy a name in the folder: only what is taken is written over, and withdrawn.

        Raises:
            ConfigError: another process has taken it.
        """
        try:
            with writing(path):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # atomic, also between machines
        except ConfigError as error:
            raise (_intruder(path) if path.exists() else error) from None
        self._taken.append(path)

    def _stop(self) -> None:
        """Remove the shard that this writer was busy with, and without a ledger also those that it finished."""
        if self._open is not None:
            self._open.discard()
        for path in self._taken:
            path.unlink(missing_ok=True)
        if self._created:
            with suppress(OSError):  # it is not empty
                self.folder.rmdir()


class _OpenShard:
    """A shard while it is written, under temporary names."""

    def __init__(self, tar: Path) -> None:
        self.tar, self.index = tar, tar.with_suffix(".arrow")
        self.rows: list[Row] = []
        self.size = 0
        """Bytes of its videos and extras."""
        with writing(tar):
            self._file = PendingFile(tar)
        self._pending_index = self.index.with_name(f".{self.index.name}.tmp")
        # webdataset imports torch: only those who write wait for it
        self._tar: Any = importlib.import_module("webdataset").TarWriter(
            self._file.stream, mtime=MODIFIED, encoder=False
        )

    def add(self, row: Row, members: Mapping[str, bytes], size: int) -> None:
        """Write a sample. Raises ConfigError."""
        with writing(self.tar):
            self._tar.write({"__key__": row.key, **members})
        self.rows.append(row)
        self.size += size

    def complete(self) -> None:
        """Put tar and index on the disk. Raises ConfigError."""
        with writing(self.tar):
            self._tar.close()
            self._file.stream.flush()
            os.fsync(self._file.stream.fileno())
            offsets = _offsets(self._file.temporary)
        self.rows = [_placed(row, offsets) for row in self.rows]
        write_rows(self._pending_index, self.rows)

    def publish(self) -> FinishedShard:
        """Give both their names; the tar comes first. Raises ConfigError."""
        with writing(self.tar):
            self._file.commit()
            self._pending_index.replace(self.index)
            sync_folder(self.tar.parent)
            names = set.intersection(*(set(row.labels) for row in self.rows))
            entry = shard_entry(self.tar, self.index, self.rows)
        return FinishedShard(entry, tuple(sorted(names)), self.rows[-1].key)

    def discard(self) -> None:
        """Remove what has a temporary name."""
        with suppress(OSError, ValueError):  # else tarfile complains when it is collected
            self._tar.close()
        self._file.discard()
        self._pending_index.unlink(missing_ok=True)


def claim(folder: Path) -> None:
    """Create a folder for shards.

    Raises:
        ConfigError: it already holds shards, or cannot be created or written to.
    """
    if taken := _shards_in(folder):
        raise ConfigError(f"{folder} already holds {taken[0]}: choose another folder or delete its shards")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write to the folder {folder}: no permission")


def shard_name(number: int, ending: str) -> str:
    """Name of a file of a shard."""
    return f"shard-{number:06d}.{ending}"


def sync_folder(folder: Path) -> None:
    """Have the names in a folder outlive a power failure, where the file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _shards_in(folder: Path) -> list[str]:
    """Names of the tars and the manifest in a folder, which is made if it is missing. Raises ConfigError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return sorted(path.name for path in folder.iterdir() if path.suffix == ".tar" or path.name == MANIFEST)
    except OSError as error:
        raise ConfigError(f"cannot write to the folder {folder}: {error.strerror}") from None


def take_up(folder: Path, shards: Sequence[ShardEntry]) -> None:
    """Go on in a folder: the finished shards must be there; what others left half written is removed.

    Raises:
        ConfigError: the folder cannot be written to, or holds a tar that no writer with this ledger wrote.
        DataError: a finished shard is missing or has another size.
    """
    known = {name for entry in shards for name in (entry.file, entry.index)}
    half = re.compile(r"shard-\d{6,}\.(tar|arrow)|\.+(shard-\d{6,}\.(tar|arrow)|manifest\.json)\..*tmp")
    for name in _shards_in(folder):
        if name not in known and name != MANIFEST and not half.fullmatch(name):
            raise ConfigError(f"{folder} holds {name}, which this pack did not write: move it elsewhere")
    for entry in shards:
        for name, expected in ((entry.file, entry.bytes), (entry.index, entry.index_bytes)):
            if not (folder / name).is_file() or (folder / name).stat().st_size != expected:
                state = "changed" if (folder / name).is_file() else "gone"
                raise DataError(f"{folder / name} was finished and is {state} now: delete the folder and pack anew")
    with writing(folder):
        for path in list(folder.iterdir()):
            if path.name not in known and half.fullmatch(path.name):
                path.unlink()


def _intruder(path: Path) -> ConfigError:
    return ConfigError(f"{path} is there already: another process writes here; choose another folder")


def _offsets(tar: Path) -> dict[str, int]:
    """Member name -> bytes from the start of the tar to its content."""
    with tarfile.open(tar) as archive:
        return {member.name: member.offset_data for member in archive}


def _placed(row: Row, offsets: Mapping[str, int]) -> Row:
    """The row with the offsets of its members."""

    def place(member: Member) -> Member:
        return Member(member.name, offsets[f"{row.key}.{member.name}"], member.size, member.crc32)

    return replace(row, video=place(row.video), extras=tuple(map(place, row.extras)))
