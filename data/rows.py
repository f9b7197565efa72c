"""The index of one shard: an Arrow IPC file with one row per sample, memory-mapped.

`shard-000000.arrow` beside `shard-000000.tar` has for each sample: key, place of the video in the tar (offset, size,
crc32), facts (frames, fps, height, width, codec, keyframes, times), labels, origin, and the places of the other
members. `Rows` reads it column by column, without a copy: opening costs the same however long the rows are, and what
is asked of a row touches that row alone (a few microseconds; the lists of keyframes and times only if they are asked
for). So a process may go through ten thousand indices and keep none of them.

An index may carry notes about how it was made (`IndexNotes`, in the metadata of the file, so its hash covers them):
what `jepa index` writes for tars of others.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jepa.data.digests import DIGEST
from jepa.data.source import Label, SampleInfo
from jepa.errors import DataError


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
class IndexNotes:
    """What the index of a tar of others says beside its rows."""

    prefix: str = ""
    """Stands before every key outside of the tar, where keys are unique in one tar only."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Key and reason of each sample of the tar that is not in the index."""
    doubts: tuple[tuple[str, str], ...] = ()
    """Key and reason of each sample whose labels could not be read."""
    made_of: str = ""
    """Size and time of the tar and the options that the index was made with: what tells whether it still holds."""
    rows_digest: str = ""
    """Hash of all rows, so that an index that is found again is known to be whole before a manifest vouches for it."""


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
NOTES = b"jepa.index"
"""Name of the notes in the metadata of the file."""


def table_of(rows: Sequence[Row], notes: IndexNotes | None = None) -> Any:
    """The rows as an Arrow table."""
    records = [{**asdict(row), "labels": labels_text(row.labels)} for row in rows]
    table = pa.Table.from_pylist(records, schema=SCHEMA)
    text = json.dumps(asdict(notes or IndexNotes()), ensure_ascii=False)
    return table if notes is None else table.replace_schema_metadata({NOTES: text.encode()})


def labels_text(labels: Mapping[str, Label]) -> str:
    """Labels as the index has them."""
    return json.dumps(dict(labels), sort_keys=True, ensure_ascii=False)


def open_rows(path: Path, digest: str | None = None) -> "Rows":
    """The index of one shard.

    Args:
        digest: hash that the file must have (`ShardEntry.index_digest`); not looked at if None.

    Raises:
        DataError: it is no index, one of another version, or damaged: with the hash any byte of it.
    """
    try:
        buffer = pa.memory_map(str(path)).read_buffer()
        if digest is not None and blake2b(memoryview(buffer), digest_size=DIGEST).hexdigest() != digest:
            raise DataError(f"{path} is damaged or another one: it does not have the hash that the manifest says")
        table = pa.ipc.open_file(buffer).read_all()
    except (pa.ArrowException, OSError, OverflowError, MemoryError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not an index of a shard: {_reason(error)}") from None
    if not table.schema.equals(SCHEMA):
        raise DataError(f"{path} is an index of another version: pack the videos again, or make it with `jepa index`")
    try:
        # A wrong length inside would make the process read anywhere, and crash.
        table.validate(full=True)
        return Rows(str(path), table)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged: {_reason(error)}") from None


class Rows:
    """The rows of an index. Every method raises DataError if the labels or names in a row are damaged."""

    def __init__(self, path: str, table: Any) -> None:
        """Looks at nothing but the shape of the columns.

        Args:
            path: of the file, for messages.
            table: with the columns of `SCHEMA`, valid in all its lengths.

        Raises:
            ValueError: something is missing in a column, or the notes cannot be read.
        """
        self.path = path
        self.num_rows: int = table.num_rows
        self.notes = _notes(table.schema.metadata)
        columns = {name: _whole(table.column(name)) for name in SCHEMA.names}
        self.keys = columns["key"]
        """The keys as an Arrow array."""
        self.frames, self.fps = (columns[name].to_numpy() for name in ("frames", "fps"))
        self._height, self._width = (columns[name].to_numpy() for name in ("height", "width"))
        self._exact = columns["exact"].to_numpy(zero_copy_only=False)
        self._texts = {name: _Texts(columns[name]) for name in ("key", "codec", "labels", "origin", "origin_hash")}
        self._video, self._extras = _Members(columns["video"]), _Lists(columns["extras"])
        self._extra_members = _Members(self._extras.values)
        self._keyframes, self._times = _Numbers(columns["keyframes"]), _Numbers(columns["times"])

    def __len__(self) -> int:
        return self.num_rows

    def key(self, number: int) -> str:
        """Key of a sample in its tar."""
        return self._texts["key"][number]

    def video(self, number: int) -> Member:
        """Where the video of a sample lies."""
        return self._video[number]

    def extras(self, number: int) -> tuple[Member, ...]:
        """Where the other members of a sample lie."""
        first, end = self._extras.bounds(number)
        return tuple(self._extra_members[place] for place in range(first, end))

    def labels(self, number: int) -> dict[str, Label]:
        """Labels of a sample."""
        return self._parsed(self._texts["labels"][number], f"row {number}")

    def _parsed(self, text: str, where: str) -> dict[str, Label]:
        try:
            labels = json.loads(text)
        except ValueError as error:
            raise DataError(f"{self.path}, {where}: damaged, {error}") from None
        if not isinstance(labels, dict):
            raise DataError(f"{self.path}, {where}: damaged, its labels are none")
        return labels

    def info(self, number: int) -> SampleInfo:
        """Facts of a sample."""
        text = self._texts
        return SampleInfo(
            self.notes.prefix + text["key"][number],
            self.frames.item(number),
            self.fps.item(number),
            self._height.item(number),
            self._width.item(number),
            self.labels(number),
            text["origin"][number],
            self._times[number],
            self._exact.item(number),
        )

    def row(self, number: int) -> Row:
        """A row, whole."""
        info, text = self.info(number), self._texts
        return Row(
            text["key"][number], self.video(number), info.frames, info.fps, info.height, info.width,
            text["codec"][number], self._keyframes[number], info.labels, info.origin, self.extras(number),
            info.times, info.exact, text["origin_hash"][number],
        )  # fmt: skip

    def label_counts(self) -> Iterator[tuple[dict[str, Label], int]]:
        """All different sets of labels, with the number of samples that have it."""
        counts = self._texts["labels"].array.value_counts()
        for text, count in zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True):
            yield self._parsed(text, "its labels"), count

    def last_content(self) -> int | None:
        """Place of the content behind all others that the index lists; None if it lists none."""
        places = [members.offset.max() for members in (self._video, self._extra_members) if len(members.offset)]
        return int(max(places)) if places else None


class _Texts:
    """A column of strings."""

    def __init__(self, array: Any) -> None:
        self.array = array
        _, offsets, data = array.buffers()
        self._offsets = _of_offsets(offsets, array)
        self._data = memoryview(data if data is not None else b"")

    def __getitem__(self, number: int) -> str:
        return str(self._data[self._offsets[number] : self._offsets[number + 1]], "utf-8")


class _Lists:
    """A column of lists."""

    def __init__(self, array: Any) -> None:
        self._offsets = _of_offsets(array.buffers()[1], array)
        self.values = array.values
        if self.values.null_count:
            raise ValueError("a list has holes")

    def bounds(self, number: int) -> tuple[int, int]:
        return self._offsets.item(number), self._offsets.item(number + 1)


class _Numbers(_Lists):
    """A column of lists of numbers."""

    def __init__(self, array: Any) -> None:
        super().__init__(array)
        self._numbers = self.values.to_numpy()

    def __getitem__(self, number: int) -> tuple[int, ...]:
        first, end = self.bounds(number)
        return tuple(self._numbers[first:end].tolist()) if first < end else ()


class _Members:
    """A column of places in the tar."""

    def __init__(self, array: Any) -> None:
        fields = {name: array.field(name) for name in ("name", "offset", "size", "crc32")}
        if any(field.null_count for field in fields.values()):
            raise ValueError("a member has holes")
        self._names = _Texts(fields["name"])
        self.offset, self._size, self._crc32 = (fields[name].to_numpy() for name in ("offset", "size", "crc32"))

    def __getitem__(self, number: int) -> Member:
        return Member(self._names[number], int(self.offset[number]), int(self._size[number]), int(self._crc32[number]))


def _of_offsets(buffer: Any, array: Any) -> np.ndarray:
    """Where the entries of a column of strings or lists begin, and the last one ends."""
    if not len(array):
        return np.zeros(1, np.int32)
    return np.frombuffer(buffer, np.int32)[array.offset : array.offset + len(array) + 1]


def _whole(column: Any) -> Any:
    """A column in one piece, without holes."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    if array.null_count:
        raise ValueError("a column has holes")
    return array


def _notes(metadata: Mapping[bytes, bytes] | None) -> IndexNotes:
    """The notes in the metadata of an index."""
    text = (metadata or {}).get(NOTES)
    if text is None:
        return IndexNotes()
    content = json.loads(text)
    pairs = {name: tuple((str(key), str(why)) for key, why in content[name]) for name in ("skipped", "doubts")}
    made_of, digest = str(content["made_of"]), str(content["rows_digest"])
    return IndexNotes(str(content["prefix"]), pairs["skipped"], pairs["doubts"], made_of, digest)


def _reason(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
