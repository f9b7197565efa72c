"""Videos in ordinary webdataset tars, with an index that makes them random-access and their damage visible.

A sample is a few tar members with one stem: `000017.mp4` (the video, untouched bytes), `000017.json` (facts and
labels, for readers that know only webdataset) and extras such as `000017.masks.npz`. So a shard streams with plain
webdataset; here samples are read by offset, in any order, from any process.

A shard is written under a temporary name and renamed when it is on disk; the manifest comes last. A writer that is
stopped (Ctrl-C, an error, a full disk) takes its shards away again, so a folder of shards is whole or is not there.
"""

import importlib
import json
import os
import tarfile
import zlib
from bisect import bisect_right
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from jepa.data.index import (
    Manifest,
    Member,
    PendingFile,
    Row,
    ShardEntry,
    fingerprint_of,
    open_rows,
    row_at,
    write_manifest,
    write_rows,
    writing,
)
from jepa.data.shard_files import open_shard_files
from jepa.data.source import MANIFEST, Label, SampleInfo
from jepa.data.storage import RemoteOptions, StoreError
from jepa.data.timeline import VideoInfo
from jepa.errors import ConfigError, DataError

MODIFIED = 0.0
"""Time stamp of every member: the same videos give the same tar."""


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
    ) -> None:
        """Create the folder.

        Args:
            bytes_per_shard: start another shard before the videos of one exceed this size.

        Raises:
            ConfigError: the folder cannot be created or already holds shards.
        """
        self.folder, self.name = Path(folder), name
        self.samples_per_shard, self.bytes_per_shard = samples_per_shard, bytes_per_shard
        self._provenance = dict(provenance or {})
        self._number = 0
        self._created = not self.folder.exists()
        claim(self.folder)
        self._shards: list[ShardEntry] = []
        self._taken: list[Path] = []
        self._keys: set[str] = set()
        self._label_names: set[str] | None = None
        self._file: PendingFile | None = None
        self._tar: Any = None
        self._rows: list[Row] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._withdraw()
            return
        try:
            self.close()
        except BaseException:
            self._withdraw()
            raise

    def write(
        self,
        key: str,
        video: bytes,
        info: VideoInfo,
        labels: Mapping[str, Label],
        extra: Mapping[str, bytes] | None = None,
        origin: str = "",
    ) -> None:
        """Add one sample.

        Args:
            key: unique in the folder; no dot (what follows a dot is the member's kind) and no slash.
            extra: further members, ending -> content.
            origin: path of the file the video was made from.

        Raises:
            ConfigError: the shard cannot be written, or another process writes to the folder.
            ValueError: the key cannot be used or came before.
        """
        if not key or {".", "/", "\\", "\0"} & set(key) or key in self._keys:
            raise ValueError(f"key {key!r}: expected a new one without dots and slashes")
        members = {info.extension: video, **(extra or {})}
        size = sum(map(len, members.values()))
        full = self.bytes_per_shard is not None and self._bytes + size > self.bytes_per_shard
        if self._rows and (len(self._rows) >= self.samples_per_shard or full):
            self._finish_shard()
        # Offsets are known when the tar is complete.
        places = [Member(ending, 0, len(content), zlib.crc32(content)) for ending, content in members.items()]
        row = Row(
            key, places[0], info.frames, info.fps, info.height, info.width, info.codec, info.keyframes,
            dict(labels), origin, tuple(places[1:]),
        )  # fmt: skip
        described = {"labels": row.labels, "frames": row.frames, "fps": row.fps, "origin": origin}
        members["json"] = json.dumps(described, ensure_ascii=False).encode()
        with writing(self._path("tar")):
            self._open_shard().write({"__key__": key, **members})
        self._rows.append(row)
        self._keys.add(key)
        self._bytes += size
        self._label_names = set(labels) if self._label_names is None else self._label_names & set(labels)

    def close(self) -> None:
        """Write the last shard and the manifest.

        Raises:
            ConfigError: they cannot be written, or another process writes to the folder.
            DataError: no sample was written.
        """
        if self._rows:
            self._finish_shard()
        if not self._shards:
            raise DataError(f"no samples to write to {self.folder}")
        shards = tuple(self._shards)
        names = tuple(sorted(self._label_names or ()))
        write_manifest(self.folder, Manifest(self.name, shards, names, self._provenance, fingerprint_of(shards)))

    def _path(self, ending: str) -> Path:
        return self.folder / f"shard-{self._number:06d}.{ending}"

    def _open_shard(self) -> Any:
        """The writer of the tar at hand."""
        if self._file is None:
            if self._path("tar").exists():  # sooner than `_take` would say it
                raise _intruder(self._path("tar"))
            self._file = PendingFile(self._path("tar"))
            # webdataset imports torch: only those who write wait for it
            self._tar = importlib.import_module("webdataset").TarWriter(
                self._file.stream, mtime=MODIFIED, encoder=False
            )
        return self._tar

    def _finish_shard(self) -> None:
        """Give the tar at hand its name and write its index."""
        assert self._file is not None
        tar, index = self._path("tar"), self._path("arrow")
        with writing(tar):
            self._tar.close()
            self._take(tar)
            self._file.commit()
            offsets = _offsets(tar)
            self._take(index)
        digest = write_rows(index, [_placed(row, offsets) for row in self._rows])
        sizes = tar.stat().st_size, index.stat().st_size
        self._shards.append(ShardEntry(tar.name, len(self._rows), sizes[0], index.name, sizes[1], digest))
        self._number += 1
        self._file, self._rows, self._bytes = None, [], 0

    def _take(self, path: Path) -> None:
        """Occupy a name in the folder: only what is taken is written over, and withdrawn.

        Raises:
            ConfigError: another process has taken it.
        """
        try:
            path.touch(exist_ok=False)  # atomic, also between machines
        except FileExistsError:
            raise _intruder(path) from None
        self._taken.append(path)

    def _withdraw(self) -> None:
        """Remove what this writer wrote, also the shard that it was busy with."""
        if self._file is not None:
            with suppress(OSError, ValueError):  # else tarfile complains when it is collected
                self._tar.close()
            self._file.discard()
        for path in self._taken:
            path.unlink(missing_ok=True)
        if self._created:
            with suppress(OSError):  # others may have put files into it
                self.folder.rmdir()


class ShardSource:
    """A folder of shards, read by offset. Opens files when first used, so it pickles and survives forks."""

    def __init__(self, folder: str | Path, remote: RemoteOptions | None = None) -> None:
        """Read the manifest and check that the shards are there, complete in size.

        Args:
            folder: path or URL.
            remote: how a URL is read.

        Raises:
            ConfigError: a URL that needs a package which is not installed, or a cache folder that cannot be written.
            DataError: no manifest, or the first shard that is missing or has another size.
        """
        self._files = open_shard_files(folder, remote)
        self._store = self._files.store
        self.manifest = self._files.manifest
        self.name = self.manifest.name
        self.fingerprint = self.manifest.fingerprint
        self._ends = list(accumulate(shard.count for shard in self.manifest.shards))
        self._tables: dict[int, Any] = {}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_tables": {}}

    def info(self, index: int) -> SampleInfo:
        row = self._row(index)[1]
        return SampleInfo(row.key, row.frames, row.fps, row.height, row.width, row.labels, row.origin)

    def read(self, index: int) -> bytes:
        """The encoded video, checked against its checksum.

        Raises:
            DataError: the shard is gone, cut off or damaged; names shard and sample.
        """
        shard, row = self._row(index)
        return self._read(shard, row, row.video)

    def extra(self, index: int, name: str) -> bytes:
        """A further member of the sample, checked like the video. Raises KeyError if there is none of that name."""
        shard, row = self._row(index)
        return self._read(shard, row, {member.name: member for member in row.extras}[name])

    def _row(self, index: int) -> tuple[int, Row]:
        """Number of the shard and row of a sample."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of a source of {len(self)}")
        shard = bisect_right(self._ends, index)
        entry = self.manifest.shards[shard]
        if shard not in self._tables:
            table = open_rows(self._files.index(shard))
            if table.num_rows != entry.count:
                where = self._store.where(entry.index)
                raise DataError(f"shard {where} lists {table.num_rows} samples, {MANIFEST} says {entry.count}")
            self._tables[shard] = table
        return shard, row_at(self._tables[shard], index - self._ends[shard] + entry.count)

    def _read(self, shard: int, row: Row, member: Member) -> bytes:
        file, place = self.manifest.shards[shard].file, (member.offset, member.size)
        try:
            content = self._store.read(file, *place)
            if zlib.crc32(content) == member.crc32:
                return content
            if self._store.forget(file, *place):  # what a cache kept of it may be wrong, and the file right
                content = self._store.read(file, *place)
                if zlib.crc32(content) == member.crc32:
                    return content
        except StoreError as error:
            raise DataError(f"shard {error.where}, sample {row.key}: {error.reason}") from None
        where = self._store.where(file)
        raise DataError(f"shard {where}, sample {row.key}: {member.name} is damaged (its checksum differs)")


def claim(folder: Path) -> None:
    """Create a folder for shards.

    Raises:
        ConfigError: it already holds shards, or cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = sorted(path.name for path in folder.iterdir() if path.suffix == ".tar" or path.name == MANIFEST)
    except OSError as error:
        raise ConfigError(f"cannot write to the folder {folder}: {error.strerror}") from None
    if taken:
        raise ConfigError(f"{folder} already holds {taken[0]}: choose another folder or delete its shards")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write to the folder {folder}: no permission")


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
