"""Reads of a remote file in chunks: each chunk is fetched once, kept in memory for a while and on disk for longer.

A read takes the chunks that it touches from memory, else from the cache folder (`shard_cache.py`), else from the
store; neighbouring chunks that are missing make one request. A read that goes on where the previous one of the same
file ended is reading in sequence: the request is then extended by the next chunks. One that jumps about fetches no more
than the chunks it touches.
"""

from collections import OrderedDict
from collections.abc import Mapping

from jepa.data.shard_cache import ShardCache
from jepa.data.storage import RemoteOptions, Store, StoreError

CHUNKS_IN_MEMORY = 32
"""Per process."""


class ReadAhead:
    """A store whose files are read in chunks. Not for several threads at once."""

    def __init__(
        self, store: Store, sizes: Mapping[str, int], *, cache: ShardCache | None, name: str, options: RemoteOptions
    ) -> None:
        """Asks nobody yet.

        Args:
            store: where the files lie.
            sizes: bytes of each file that is read, as its index says.
            cache: where chunks are kept; None for memory only.
            name: of this version of the files, in the cache; another content must have another name.
            options: chunk size and read-ahead.
        """
        self._store, self._cache = store, cache
        self._sizes = dict(sizes)
        self._name = name
        self._chunk, self._most = options.chunk, max(options.ahead, 1)
        self._reset()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_memory": None, "_last": None, "_checked": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._reset()

    def where(self, path: str) -> str:
        return self._store.where(path)

    def size(self, path: str) -> int:
        return self._store.size(path)

    def read(self, path: str, offset: int, size: int) -> bytes:
        total = self._sizes[path]
        if offset + size > total:
            raise StoreError(self.where(path), f"has only {total} bytes, wanted {offset} to {offset + size - 1}")
        if not size:
            return b""
        first, last = offset // self._chunk, (offset + size - 1) // self._chunk
        content = b"".join(self._chunks(path, first, last))
        start = offset - first * self._chunk
        return content[start : start + size]

    def read_all(self, path: str) -> bytes:
        return self._store.read_all(path)

    def forget(self, path: str, offset: int, size: int) -> bool:
        for number in range(offset // self._chunk, (offset + size - 1) // self._chunk + 1):
            self._memory.pop((path, number), None)
            if self._cache is not None:
                self._cache.drop(self._key(path, number))
        return self._store.forget(path, offset, size)

    def _reset(self) -> None:
        self._memory: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._last: dict[str, int] = {}
        self._checked: set[str] = set()

    def _chunks(self, path: str, first: int, last: int) -> list[bytes]:
        """The chunks first .. last of a file."""
        in_sequence = path in self._last and first - self._last[path] in (0, 1)
        self._last[path] = last
        found = {number: self._kept(path, number) for number in range(first, last + 1)}
        while missing := [number for number, chunk in found.items() if chunk is None]:
            start = end = missing[0]
            while found.get(end, b"") is None:
                end += 1
            ahead = self._ahead(path, start, end) if in_sequence and end > last else end
            fetched = self._fetch(path, start, ahead)
            found.update(zip(range(start, end), fetched, strict=False))
        return [chunk for chunk in found.values() if chunk is not None]

    def _ahead(self, path: str, start: int, end: int) -> int:
        """Where a request of the chunks from `start` is to end: before the end of the file, or what is kept already."""
        count = -(-self._sizes[path] // self._chunk)
        while end < min(start + self._most, count) and not self._has(path, end):
            end += 1
        return end

    def _kept(self, path: str, number: int) -> bytes | None:
        """A chunk from memory or disk."""
        chunk = self._memory.get((path, number))
        if chunk is None and self._cache is not None:
            chunk = self._cache.get(self._key(path, number), self._length(path, number))
        if chunk is not None:
            self._remember(path, number, chunk)
        return chunk

    def _has(self, path: str, number: int) -> bool:
        on_disk = self._cache is not None and self._cache.has(self._key(path, number))
        return on_disk or (path, number) in self._memory

    def _fetch(self, path: str, start: int, end: int) -> list[bytes]:
        """The chunks start .. end - 1 from the store, kept for later."""
        offset = start * self._chunk
        content = self._store.read(path, offset, min(end * self._chunk, self._sizes[path]) - offset)
        self._require_size(path)
        chunks = [content[at : at + self._chunk] for at in range(0, len(content), self._chunk)]
        for number, chunk in enumerate(chunks, start):
            self._remember(path, number, chunk)
            if self._cache is not None:
                self._cache.put(self._key(path, number), chunk)
        return chunks

    def _require_size(self, path: str) -> None:
        """Once per file and process; web servers have told the size with the content, so it costs nothing there."""
        if path in self._checked:
            return
        if (size := self._store.size(path)) != self._sizes[path]:
            raise StoreError(self.where(path), f"has {size} bytes, the manifest says {self._sizes[path]}: it changed")
        self._checked.add(path)

    def _remember(self, path: str, number: int, chunk: bytes) -> None:
        self._memory[path, number] = chunk
        self._memory.move_to_end((path, number))
        while len(self._memory) > CHUNKS_IN_MEMORY:
            self._memory.popitem(last=False)

    def _length(self, path: str, number: int) -> int:
        return min(self._chunk, self._sizes[path] - number * self._chunk)

    def _key(self, path: str, number: int) -> str:
        return f"{self._name}/{path}/{self._chunk}/{number}"
