"""The files of a folder of shards: manifest, indices on this machine, and a store that reads the tars.

For a folder of this machine that is the folder itself. For a URL the manifest is read anew each time, so a data set
that was written again is noticed; the indices are fetched once into the cache folder, from where they are memory-mapped
like local ones; and the tars stay where they are and are read by range, in chunks.

    CACHE/remote/index/NAME/000000.arrow     NAME is a hash of URL and manifest; these are never removed
    CACHE/remote/chunks/                     bounded, see `shard_cache.py`

When an index is fetched, its size and that of its tar are compared with the manifest, as for a local folder. Tars whose
index is there already are compared when they are first read.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

from jepa.data.digests import DIGEST
from jepa.data.index import Manifest, atomic, check_size, parse_manifest, read_manifest, writing
from jepa.data.read_ahead import ReadAhead
from jepa.data.shard_cache import ShardCache
from jepa.data.source import MANIFEST, SPLITS
from jepa.data.storage import (
    LocalStore,
    MissingError,
    RemoteOptions,
    Store,
    default_cache,
    exists,
    join_url,
    local_path,
    open_store,
    pieces,
    url_of,
    without_secrets,
)
from jepa.errors import DataError
from jepa.logs import progress

REQUESTS_AT_ONCE = 16


class ShardFiles(Protocol):
    """What a source of shards reads."""

    manifest: Manifest
    store: Store
    """Reads the tars."""

    def where(self, name: str) -> str:
        """The manifest, or an index, as messages name it."""
        ...

    def index(self, shard: int) -> Path:
        """The index of a shard, as a file of this machine."""
        ...

    def tars(self) -> set[str]:
        """Names of all tars that lie beside the manifest; only those it lists, where they cannot be listed."""
        ...


def open_shard_files(folder: str | Path, options: RemoteOptions | None = None) -> ShardFiles:
    """The files of a folder of shards, or of a URL of one.

    Raises:
        ConfigError: the cache cannot be written, or a package for this kind of URL is missing.
        DataError: no manifest, the first shard that is missing or has another size, or a server that cannot be used.
    """
    url = url_of(folder)
    if url is None or url.startswith("file://"):
        return LocalShards(Path(folder) if url is None else local_path(url), options or RemoteOptions())
    return RemoteShards(url, options or RemoteOptions())


class LocalShards:
    """A folder of shards on this machine. Its tars may lie in another folder, or behind a URL."""

    def __init__(self, folder: Path, options: RemoteOptions) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        url = url_of(self.manifest.tars)
        self._tars = folder / self.manifest.tars if url is None else None
        self.store: Store = LocalStore(folder / self.manifest.tars)
        if url is not None:
            name = blake2b(f"{url}\0{self.manifest.fingerprint}".encode(), digest_size=DIGEST).hexdigest()
            self.store = _in_chunks(open_store(url, options), self.manifest, name, options)

    def where(self, name: str) -> str:
        return str(self.folder / name)

    def index(self, shard: int) -> Path:
        return self.folder / self.manifest.shards[shard].index

    def tars(self) -> set[str]:
        if self._tars is None:
            return {shard.file for shard in self.manifest.shards}
        return {tar.name for tar in self._tars.glob("[!.]*.tar")}


class RemoteShards:
    """A folder of shards behind a URL."""

    def __init__(self, url: str, options: RemoteOptions) -> None:
        self._origin = open_store(url, options)
        where = without_secrets(url)
        try:
            content = self._origin.read_all(MANIFEST)
        except MissingError as error:
            raise DataError(f"{error}: from a URL, only folders of shards made by `jepa pack` are read") from None
        self.manifest = parse_manifest(content, self._origin.where(MANIFEST))
        name = blake2b(where.encode() + b"\0" + content, digest_size=DIGEST).hexdigest()
        root = (options.cache or default_cache()) / "remote"
        self._indices = root / "index" / name
        self._fetch_indices(where)
        self.store: Store = _in_chunks(self._origin, self.manifest, name, options)

    def where(self, name: str) -> str:
        return self._origin.where(name)

    def index(self, shard: int) -> Path:
        path = self._index_path(shard)
        if not self._is_there(shard):  # the cache was emptied since
            self._fetch(shard)
        return path

    def tars(self) -> set[str]:
        return {shard.file for shard in self.manifest.shards}

    def _index_path(self, shard: int) -> Path:
        return self._indices / f"{shard:06d}.arrow"  # not its own name, which a foreign manifest may choose as it likes

    def _is_there(self, shard: int) -> bool:
        try:
            return self._index_path(shard).stat().st_size == self.manifest.shards[shard].index_bytes
        except OSError:
            return False

    def _fetch_indices(self, where: str) -> None:
        missing = [shard for shard in range(len(self.manifest.shards)) if not self._is_there(shard)]
        if not missing:
            return
        with ThreadPoolExecutor(min(REQUESTS_AT_ONCE, len(missing))) as pool:
            for _ in progress(pool.map(self._fetch, missing), f"fetching the index of {where}", len(missing)):
                pass

    def _fetch(self, shard: int) -> None:
        """Compare sizes with the manifest, then copy the index."""
        entry, store = self.manifest.shards[shard], self._origin
        for name, expected in ((entry.file, entry.bytes), (entry.index, entry.index_bytes)):
            check_size(store.where(name), store.size(name), expected)
        path = self._index_path(shard)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as stream:
            for piece in pieces(store, entry.index):
                stream.write(piece)


def _in_chunks(origin: Store, manifest: Manifest, name: str, options: RemoteOptions) -> ReadAhead:
    """The tars behind a URL, with what was read of them kept under this name."""
    bound = int(options.cache_gb * 10**9)
    chunks = (options.cache or default_cache()) / "remote" / "chunks"
    cache = ShardCache(chunks, bound, options.chunk) if bound else None
    sizes = {shard.file: shard.bytes for shard in manifest.shards}
    return ReadAhead(origin, sizes, cache=cache, name=name, options=options)


def split_urls(url: str, options: RemoteOptions | None = None) -> Mapping[str, str]:
    """The splits below a URL, by name: the sub-folders with the name of a split that hold shards.

    Raises:
        ConfigError, DataError: the server cannot be used.
    """
    store = open_store(url, options)
    if exists(store, MANIFEST):
        return {}
    return {name: join_url(url, name) for name in sorted(SPLITS) if exists(store, f"{name}/{MANIFEST}")}
