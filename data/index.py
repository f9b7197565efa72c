"""The manifest of a folder of shards: which tars belong to it, and what tells that one of them is not what it was.

Per shard there is an index (`rows.py`), and for the folder one `manifest.json`: format version, name, the shards with
their counts, sizes in bytes and sums, hashes of what they hold and of their index files, the names of the labels that
every sample has, provenance, and a fingerprint over all checksums and facts. It is written last: a folder without it is
unfinished. A tar that is cut at a member boundary reads as a shorter tar without an error; only the sizes here tell
(webdataset's own reader cannot know).

The sums (fewest frames, highest rate) let a run decide whether every video gives a clip without reading ten million
rows. They are held against the rows when a shard is first used.
"""

import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from jepa.data.digests import DIGEST, file_digest
from jepa.data.rows import IndexNotes, Row, labels_text, table_of
from jepa.data.source import MANIFEST
from jepa.data.storage import url_of
from jepa.errors import ConfigError, DataError

FORMAT_VERSION = 2

LOOKS_AT_ONCE = 16
"""Parts of a list of files that are looked at at the same time."""


@dataclass(frozen=True)
class ShardEntry:
    """One shard in the manifest."""

    file: str
    """Path of the tar from the folder of the tars."""
    count: int
    """Samples."""
    bytes: int
    """Size of the tar."""
    index: str
    """Name of the index file."""
    index_bytes: int
    """Size of the index file."""
    digest: str
    """Hash over what the samples are: keys, checksums, facts and labels; not where they lie or came from."""
    index_digest: str
    """Hash of the index file."""
    frames: int
    """Frames of all samples."""
    least_frames: int
    """Frames of the shortest sample."""
    most_fps: float
    """Highest frame rate of a sample."""
    least_fps: float
    """Lowest frame rate of a sample."""
    seconds: float
    """Length of all samples; those without a frame rate count nothing."""


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds."""

    name: str
    shards: tuple[ShardEntry, ...]
    label_names: tuple[str, ...]
    """Labels that every sample has."""
    provenance: Mapping[str, object]
    """How the shards were made."""
    fingerprint: str
    tars: str = ""
    """Folder or URL of the tars, absolute or from the folder of the manifest; empty if they lie beside it."""
    left_out: tuple[str, ...] = ()
    """Tars that lie beside the others and are not part of the data set."""

    @property
    def count(self) -> int:
        """Samples in all shards."""
        return sum(shard.count for shard in self.shards)


def write_rows(path: Path, rows: Sequence[Row], notes: IndexNotes | None = None) -> None:
    """Write the index of one shard."""
    table = table_of(rows, notes)
    with atomic(path) as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)


def shard_entry(tar: Path, index: Path, rows: Sequence[Row]) -> ShardEntry:
    """What the manifest says of a shard whose tar and index are on disk.

    Args:
        rows: of the index; at least one.
    """
    return entry_of(tar.name, tar.stat().st_size, index, rows)


def entry_of(tar: str, size: int, index: Path, rows: Sequence[Row], prefix: str = "") -> ShardEntry:
    """What the manifest says of a shard.

    Args:
        tar: path of the tar from the folder of the tars.
        size: bytes of the tar.
        index: the index, on disk.
        rows: of the index; at least one.
        prefix: of its keys (`IndexNotes.prefix`).
    """
    return ShardEntry(
        file=tar,
        count=len(rows),
        bytes=size,
        index=index.name,
        index_bytes=index.stat().st_size,
        digest=digest_of(rows, prefix),
        index_digest=file_digest(index),
        frames=sum(row.frames for row in rows),
        least_frames=min(row.frames for row in rows),
        most_fps=max(row.fps for row in rows),
        least_fps=min(row.fps for row in rows),
        seconds=sum(row.frames / row.fps for row in rows if row.fps > 0),
    )


def digest_of(rows: Iterable[Row], prefix: str = "") -> str:
    """`ShardEntry.digest` of these samples, in order."""
    digest = blake2b(digest_size=DIGEST)
    for row in rows:
        facts = [prefix + row.key, row.video.crc32, row.frames, row.fps, row.height, row.width, row.codec]
        others = [(extra.name, extra.crc32) for extra in row.extras]
        digest.update(json.dumps([*facts, labels_text(row.labels), others]).encode())
    return digest.hexdigest()


def fingerprint_of(shards: Sequence[ShardEntry]) -> str:
    """One hash for the content of all shards."""
    return blake2b("".join(shard.digest for shard in shards).encode(), digest_size=DIGEST).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, whole or not at all."""
    content = {"format_version": FORMAT_VERSION, **asdict(manifest)}
    with atomic(folder / MANIFEST) as stream:
        stream.write(json.dumps(content, indent=1, ensure_ascii=False, default=str).encode() + b"\n")


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json` and check that every file it lists is there with the size it lists.

    Raises:
        DataError: no manifest, of another version, or the first shard that is missing, cut off or grown.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    manifest = parse_manifest(content, str(path))
    remote = url_of(manifest.tars) is not None
    checks = [(folder / shard.index, shard.index_bytes) for shard in manifest.shards]
    if not remote:
        checks += [(folder / manifest.tars / shard.file, shard.bytes) for shard in manifest.shards]
    for (file, expected), size in zip(checks, _sizes([file for file, _ in checks]), strict=True):
        check_size(str(file), size, expected)
    return manifest


def _sizes(files: Sequence[Path]) -> Iterator[int]:
    """The size of each file, asked for several at once: on a network disk each answer takes a millisecond."""
    parts = [files[first : first + 100] for first in range(0, len(files), 100)]
    with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:  # starts no more threads than there are parts
        for sizes in pool.map(lambda part: [_size(file) for file in part], parts):
            yield from sizes


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise DataError(f"shard {file}: {error.strerror}, but {MANIFEST} lists it") from None


def parse_manifest(text: bytes, where: str) -> Manifest:
    """The manifest that a `manifest.json` holds.

    Args:
        text: content of the file.
        where: its path or URL, for messages.

    Raises:
        DataError: it is no manifest, or one of another version.
    """
    try:
        content = json.loads(text)
        version = content.pop("format_version")
        if version != FORMAT_VERSION:
            raise DataError(f"{where} {other_version(version)}")
        content["shards"] = tuple(_shard(shard) for shard in content["shards"])
        for name in ("label_names", "left_out"):
            content[name] = tuple(_name(one) for one in content.get(name, ()))
        for name in ("name", "fingerprint", "tars"):
            _typed(name, content.get(name, ""), str)
        _typed("provenance", content["provenance"], dict)
        return Manifest(**content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where} is not a manifest of shards: {error}") from None


def other_version(version: object) -> str:
    """What to do with a manifest of a version that is not read any more, or not yet."""
    does = f"has format version {version}; this program reads {FORMAT_VERSION}"
    if version == 1:
        return f"{does}: run `jepa index` on the folder, which keeps the tars, or pack the videos again"
    return f"{does}: use the program that wrote it"


def _shard(record: Mapping[str, object]) -> ShardEntry:
    """An entry whose values are what they should be: a reader takes them for names and lengths.

    Raises:
        ValueError, TypeError: they are not.
    """
    for field in fields(ShardEntry):
        if field.name in record:
            _typed(field.name, record[field.name], field.type)
    entry = ShardEntry(**record)  # type: ignore[arg-type]
    _name(entry.file), _name(entry.index)
    return entry


def _typed(name: str, value: object, kind: Any) -> None:
    """Raise ValueError unless a value has a type; numbers must not be negative."""
    right = isinstance(value, int | float if kind is float else kind) and not isinstance(value, bool)
    if not right or (isinstance(value, int | float) and not (math.isfinite(value) and 0 <= value < 2**62)):
        raise ValueError(f"{name} is {str(value)[:50]!r}")


def _name(name: object) -> str:
    """Raise ValueError unless this can be the name of a file."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"{str(name)[:50]!r} is no name")
    os.fsencode(name)
    return name


def check_size(where: str, size: int, expected: int) -> None:
    """Raise DataError unless a file of a shard has the size that the manifest states."""
    if size != expected:
        state = "cut off or only partly copied" if size < expected else "changed"
        raise DataError(f"shard {where} has {size} bytes, {MANIFEST} says {expected}: it is {state}")


class PendingFile:
    """A binary file under a temporary name beside its own, which `commit` gives it when it is complete and on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        self.stream = self.temporary.open("wb")

    def commit(self) -> None:
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()
        self.temporary.replace(self.path)

    def discard(self) -> None:
        """Remove it, unless it was committed."""
        with suppress(OSError):  # a full disk fails again when the buffer is flushed
            self.stream.close()
        self.temporary.unlink(missing_ok=True)


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Stream to a file that appears under its name only when it is complete and on disk.

    Raises:
        ConfigError: the folder cannot be written to, or the disk is full.
    """
    with writing(path):
        pending = PendingFile(path)
        try:
            yield pending.stream
            pending.commit()
        finally:
            pending.discard()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the operating system refuses inside becomes a ConfigError that names the path."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None
