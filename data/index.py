"""The index of a folder of shards: what lies where, so that a tar is random-access and its damage is noticed.

Per shard one Arrow IPC file, `shard-000000.arrow` beside `shard-000000.tar`, one row per sample: key, place of the
video in the tar (offset, size, crc32), facts (frames, fps, height, width, codec, keyframes), labels, origin, and
the places of the other members. It is memory-mapped, so opening costs the same for a thousand rows or ten million.

For the folder one `manifest.json`: format version, name, the shards with their counts and sizes in bytes, the names of
the labels that every sample has, provenance, and a fingerprint over all checksums and facts. It is written last:
a folder without it is unfinished. A tar that is cut at a member boundary reads as a shorter tar without an error;
only the sizes here tell (webdataset's own reader cannot know).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from jepa.data.source import MANIFEST, Label
from jepa.errors import ConfigError, DataError

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Member:
    """Where a member of a tar lies."""

    name: str
    """Ending of the member after the sample's key and a dot: mp4, masks.npz."""
    offset: int
    """Bytes from the start of the tar to the first byte of the content."""
    size: int
    """Bytes."""
    crc32: int


@dataclass(frozen=True)
class Row:
    """One sample in the index of its shard."""

    key: str
    video: Member
    frames: int
    fps: float
    height: int
    width: int
    codec: str
    keyframes: tuple[int, ...]
    labels: Mapping[str, Label]
    origin: str
    extras: tuple[Member, ...]
    times: tuple[int, ...] = ()
    """When each frame is shown, in ticks of `timeline.CLOCK` since the first; empty at a steady rate."""
    exact: bool = False
    """Every decoder counts the same frames (`timeline.inexact` finds nothing): no look at the packets is needed."""
    origin_hash: str = ""
    """BLAKE2b (16 bytes, hexadecimal) of the file the sample was made from; empty if not known."""


@dataclass(frozen=True)
class ShardEntry:
    """One shard in the manifest."""

    file: str
    """Name of the tar."""
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

    @property
    def count(self) -> int:
        """Samples in all shards."""
        return sum(shard.count for shard in self.shards)


MEMBER = pa.struct([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("crc32", pa.uint32())])
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("video", MEMBER),
        ("frames", pa.int32()),
        ("fps", pa.float64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("codec", pa.string()),
        ("keyframes", pa.list_(pa.int32())),
        ("labels", pa.string()),  # JSON: values are text, whole or real numbers
        ("origin", pa.string()),
        ("extras", pa.list_(MEMBER)),
        ("times", pa.list_(pa.int64())),
        ("exact", pa.bool_()),
        ("origin_hash", pa.string()),
    ]
)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the index of one shard."""
    records = [{**asdict(row), "labels": _labels_text(row)} for row in rows]
    with atomic(path) as stream, pa.ipc.new_file(stream, SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(records, schema=SCHEMA))


def shard_entry(tar: Path, index: Path, rows: Sequence[Row]) -> ShardEntry:
    """What the manifest says of a shard whose tar and index are on disk.

    Args:
        rows: of the index; at least one.
    """
    return ShardEntry(
        file=tar.name,
        count=len(rows),
        bytes=tar.stat().st_size,
        index=index.name,
        index_bytes=index.stat().st_size,
        digest=digest_of(rows),
        index_digest=file_digest(index),
        frames=sum(row.frames for row in rows),
        least_frames=min(row.frames for row in rows),
        most_fps=max(row.fps for row in rows),
    )


def file_digest(path: Path) -> str:
    """BLAKE2b (16 bytes, hexadecimal) of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: blake2b(digest_size=16)).hexdigest()


def digest_of(rows: Iterable[Row]) -> str:
    """`ShardEntry.digest` of these samples, in order."""
    digest = blake2b(digest_size=16)
    for row in rows:
        facts = [row.key, row.video.crc32, row.frames, row.fps, row.height, row.width, row.codec, _labels_text(row)]
        digest.update(json.dumps([*facts, [(extra.name, extra.crc32) for extra in row.extras]]).encode())
    return digest.hexdigest()


def _labels_text(row: Row) -> str:
    return json.dumps(dict(row.labels), sort_keys=True, ensure_ascii=False)


def open_rows(path: Path) -> Any:
    """The index of one shard as a memory-mapped Arrow table.

    Raises:
        DataError: it is no index.
    """
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not an index of a shard: {str(error).splitlines()[0]}") from None
    if not table.schema.equals(SCHEMA):
        raise DataError(f"{path} is an index of another version: pack the videos again")
    return table


def row_at(table: Any, index: int) -> Row:
    """One row of a table that `open_rows` returned."""
    record = table.slice(index, 1).to_pylist()[0]
    record["video"] = Member(**record["video"])
    record["extras"] = tuple(Member(**extra) for extra in record["extras"])
    record["keyframes"], record["times"] = tuple(record["keyframes"]), tuple(record["times"])
    record["labels"] = json.loads(record["labels"])
    return Row(**record)


def fingerprint_of(shards: Sequence[ShardEntry]) -> str:
    """One hash for the content of all shards."""
    return blake2b("".join(shard.digest for shard in shards).encode(), digest_size=16).hexdigest()


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
    for shard in manifest.shards:
        for name, expected in ((shard.file, shard.bytes), (shard.index, shard.index_bytes)):
            file = folder / name
            try:
                size = file.stat().st_size
            except OSError as error:
                raise DataError(f"shard {file}: {error.strerror}, but {MANIFEST} lists it") from None
            check_size(str(file), size, expected)
    return manifest


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
            raise DataError(f"{where} has format version {version}; this program reads {FORMAT_VERSION}")
        content["shards"] = tuple(ShardEntry(**shard) for shard in content["shards"])
        content["label_names"] = tuple(content["label_names"])
        return Manifest(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where} is not a manifest of shards: {error}") from None


def check_size(where: str, size: int, expected: int) -> None:
    """Raise DataError unless a file of a shard has the size that the manifest states."""
    if size != expected:
        state = "cut off or only partly copied" if size < expected else "changed"
        raise DataError(f"shard {where} has {size} bytes, {MANIFEST} says {expected}: it is {state}")


class PendingFile:
    """A binary file under a temporary name beside its own, which `commit` gives it when it is complete and on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
