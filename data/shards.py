"""Reading videos from shards by offset, in any order, from any process, so that no damage goes unnoticed.

What shards are is told in `shard_writer.py`; what is checked when, in `shard_guard.py`. The tars lie in a folder or
behind a URL (`storage.py`); the index files are on this machine (`shard_files.py`) and memory-mapped.
"""

import zlib
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

from jepa.data.index import Member, Row, open_rows
from jepa.data.shard_files import open_shard_files
from jepa.data.shard_guard import check_index, check_shards, check_tail, header_problem, sound_row
from jepa.data.source import SampleInfo
from jepa.data.storage import RemoteOptions, StoreError
from jepa.data.tar_walk import BLOCK
from jepa.errors import DataError, SampleError


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
        self._tables: dict[int, Any] = {}
        self._checked: set[int] = set()
        """Shards whose end has been looked at."""

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_tables": {}}

    def info(self, index: int) -> SampleInfo:
        row = self._row(index)[1]
        return SampleInfo(
            row.key, row.frames, row.fps, row.height, row.width, row.labels, row.origin, row.times, row.exact
        )

    def read(self, index: int) -> bytes:
        """The encoded video, checked against its checksum.

        Raises:
            SampleError: its bytes are damaged; names shard and sample.
            DataError: the shard is gone, cut off or not the one that the index is of.
        """
        shard, row = self._row(index)
        return self._read(shard, row, row.video)

    def place(self, index: int) -> str:
        """The shard that the sample lies in, for messages."""
        return self._store.where(self.manifest.shards[bisect_right(self._ends, index)].file)

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
            check_index(self._store.where(entry.index), table, entry)
            self._tables[shard] = table
        number = index - self._ends[shard] + entry.count
        return shard, sound_row(self._store.where(entry.index), self._tables[shard], number)

    def _read(self, shard: int, row: Row, member: Member) -> bytes:
        entry = self.manifest.shards[shard]
        sample = f"shard {self._store.where(entry.file)}, sample {row.key}"
        if not BLOCK <= member.offset <= member.offset + member.size <= entry.bytes:
            raise DataError(f"{sample}: the index places {member.name} outside of it")
        # The header before the content comes along: where it is damaged, others read fewer samples from this tar.
        place = entry.file, member.offset - BLOCK, BLOCK + member.size
        try:
            if shard not in self._checked:
                check_tail(self._store, entry, self._tables[shard])
                self._checked.add(shard)
            block = self._store.read(*place)
            problem = _problem(block, row.key, member)
            if problem and self._store.forget(*place):  # what a cache kept of it may be wrong, and the file right
                block = self._store.read(*place)
                problem = _problem(block, row.key, member)
        except StoreError as error:
            raise DataError(f"shard {error.where}, sample {row.key}: {error.reason}") from None
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
