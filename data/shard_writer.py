"""Writing videos into ordinary webdataset tars, with an index that makes them random-access.

A sample is a few tar members with one stem: `000017.mp4` (the video, untouched bytes), `000017.json` (facts and
labels, for readers that know only webdataset) and extras such as `000017.masks.npz`. So a shard streams with plain
webdataset; `shards.py` reads samples by offset, in any order, from any process.

A shard is written under a temporary name and renamed when it is on disk; the manifest comes last. A writer that is
stopped (Ctrl-C, an error, a full disk) takes its shards away again, so a folder of shards is whole or is not there.
"""

import importlib
import json
import os
import tarfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
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
    shard_entry,
    write_manifest,
    write_rows,
    writing,
)
from jepa.data.source import MANIFEST, Label
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
            dict(labels), origin, tuple(places[1:]), info.times, info.exact,
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
        rows = [_placed(row, offsets) for row in self._rows]
        write_rows(index, rows)
        self._shards.append(shard_entry(tar, index, rows))
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
