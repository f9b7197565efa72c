"""Reading videos from shards by offset, in any order, from any process, so that no damage goes unnoticed.

What shards are is told in `shard_writer.py`; what is checked when, in `shard_guard.py`. The tars lie in a folder or
behind a URL (`storage.py`); the index files are on this machine (`shard_files.py`) and memory-mapped.
"""

import zlib
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path

from jepa.data.rows import Member, Rows, open_rows
from jepa.data.shard_files import open_shard_files
from jepa.data.shard_guard import check_index, check_shards, check_tail, header_problem
from jepa.data.source import SampleInfo, printable
from jepa.data.storage import RemoteOptions, StoreError
from jepa.data.tar_walk import BLOCK
from jepa.errors import DataError, SampleError

OPEN_INDICES = 128
"""Indices that a process keeps open: a run reads from a few dozen shards at a time, whatever their number."""


class ShardSource:
    """A folder of shards, or a URL of one. Opens files when first used, so it pickles and survives forks."""

    def __init__(self, folder: str | Path, remote: RemoteOptions | None = None) -> None:
        """Read the manifest and check that the shards are there, complete in size, each once, and no others.

        Args:
            folder: path or URL.
            remote: how a URL is read.

        Raises:
            ConfigError: a URL that needs a package which is not installed, or a cache folder that cannot be written.
            DataError: no manifest, or the first shard that is missing, has another size, or is not listed.
        """
        self._files = open_shard_files(folder, remote)
        self._store = self._files.store
        self.manifest = self._files.manifest
        check_shards(self._files)
        self.name = self.manifest.name
        self.fingerprint = self.manifest.fingerprint
        self.runs: tuple[int, ...] = tuple(shard.count for shard in self.manifest.shards)
        self._ends = list(accumulate(self.runs))
        self._open: OrderedDict[int, Rows] = OrderedDict()
        """Indices, the one that was used last at the end."""
        self._checked: set[int] = set()
        """Shards whose index and end of tar have been held against the manifest."""

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}

    def info(self, index: int) -> SampleInfo:
        """Facts of one sample.

        Raises:
            DataError: the index of its shard is damaged, or not the one that the manifest is of.
        """
        _, rows, number = self._row(index)
        return rows.info(number)

    def read(self, index: int) -> bytes:
        """The encoded video, checked against its checksum.

        Raises:
            SampleError: its bytes are damaged; names shard and sample.
            DataError: the shard is gone, cut off or not the one that the index is of.
        """
        shard, rows, number = self._row(index)
        return self._read(shard, rows, number, rows.video(number))

    def place(self, index: int) -> str:
        """The shard that the sample lies in, for messages."""
        return self._store.where(self.manifest.shards[bisect_right(self._ends, index)].file)

    def extra(self, index: int, name: str) -> bytes:
        """A further member of the sample, checked like the video. Raises KeyError if there is none of that name."""
        shard, rows, number = self._row(index)
        return self._read(shard, rows, number, {member.name: member for member in rows.extras(number)}[name])

    def rows(self, shard: int) -> Rows:
        """The index of a shard.

        Raises:
            DataError: it is damaged, or not the one that the manifest is of.
        """
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        entry = self.manifest.shards[shard]
        rows = open_rows(self._files.index(shard), entry.index_digest)
        if shard not in self._checked:
            check_index(self._files.where(entry.index), rows, entry)
        self._open[shard] = rows
        if len(self._open) > OPEN_INDICES:
            self._open.popitem(last=False)
        return rows

    def _row(self, index: int) -> tuple[int, Rows, int]:
        """Number of the shard of a sample, the index of that shard, and the row there."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of a source of {len(self)}")
        shard = bisect_right(self._ends, index)
        return shard, self.rows(shard), index - self._ends[shard] + self.runs[shard]

    def _read(self, shard: int, rows: Rows, number: int, member: Member) -> bytes:
        entry, key = self.manifest.shards[shard], rows.key(number)
        sample = f"shard {self._store.where(entry.file)}, sample {printable(key)}"
        if not BLOCK <= member.offset <= member.offset + member.size <= entry.bytes:
            raise DataError(f"{sample}: the index places {member.name} outside of it")
        # The header before the content comes along: where it is damaged, others read fewer samples from this tar.
        place = entry.file, member.offset - BLOCK, BLOCK + member.size
        try:
            if shard not in self._checked:
                check_tail(self._store, entry, rows)
                self._checked.add(shard)
            block = self._store.read(*place)
            problem = _problem(block, key, member)
            if problem and self._store.forget(*place):  # what a cache kept of it may be wrong, and the file right
                block = self._store.read(*place)
                problem = _problem(block, key, member)
        except StoreError as error:
            raise DataError(f"shard {error.where}, sample {printable(key)}: {error.reason}") from None
        if problem:
            raise SampleError(f"{sample}: {problem}")
        return block[BLOCK:]


def _problem(block: bytes, key: str, member: Member) -> str | None:
    """What is wrong with a member and the header before it, if anything is."""
    if problem := header_problem(block[:BLOCK], key, member):
        return f"{problem}; `jepa lint` finds all damage"
    if zlib.crc32(memoryview(block)[BLOCK:]) != member.crc32:
        return f"{member.name} is damaged (its checksum differs)"
    return None
