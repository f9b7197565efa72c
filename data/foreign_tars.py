"""Where the tars to index lie: a folder, folders of splits, or a URL that numbers them.

Nobody can list what lies behind a URL, so its tars are named: `https://host/set/train-{0000..0146}.tar`.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from jepa.data.foreign import ForeignTar
from jepa.data.read_ahead import ReadAhead
from jepa.data.source import SPLITS, printable
from jepa.data.storage import LocalStore, RemoteOptions, local_path, open_store, url_of, without_secrets
from jepa.errors import ConfigError, DataError

REQUESTS_AT_ONCE = 16

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class TarSet:
    """The tars of one data set."""

    tars: tuple[ForeignTar, ...]
    place: str
    """Folder or URL that they lie in."""
    name: str
    """That of the folder."""


def find_tars(path: Path) -> dict[str, TarSet]:
    """Split -> its tars; the split of tars without splits is "".

    Raises:
        ConfigError: a URL that names no tars, or that holds a password or a signature.
        DataError: there are none, some lie beside splits, or a server cannot be used.
    """
    url = url_of(path)
    if url is not None and not url.startswith("file://"):
        return {"": _behind(url)}
    folder = path.expanduser() if url is None else local_path(url)
    if not folder.is_dir():
        raise DataError(f"no such folder: {printable(folder)}")
    own = _names(folder)
    splits = {split: names for split in sorted(SPLITS) if (names := _names(folder / split))}
    if own and splits:
        raise DataError(f"{printable(folder)} holds {own[0]} beside the splits {', '.join(splits)}: move it into one")
    if not own and not splits:
        deeper = next(folder.rglob("[!.]*.tar"), None)
        hint = f"; there is {printable(deeper)}: name its folder" if deeper is not None else ""
        raise DataError(f"no tars (*.tar, not compressed) in {printable(folder)}{hint}")
    found = {"": own} if own else splits
    name = printable(folder.resolve().name)
    return {
        split: TarSet(tuple(_local(folder / split, names)), str((folder / split).resolve()), name)
        for split, names in found.items()
    }


def _names(folder: Path) -> list[str]:
    return sorted(tar.name for tar in folder.glob("[!.]*.tar"))


def _local(folder: Path, names: list[str]) -> Iterator[ForeignTar]:
    store = LocalStore(folder)
    for name in names:
        status = (folder / name).stat()
        yield ForeignTar(store, name, status.st_size, str(status.st_mtime_ns))


def _behind(url: str) -> TarSet:
    """The tars behind a URL, read in chunks that are kept in memory only, as each is read once."""
    if without_secrets(url) != url:
        raise ConfigError(f"{without_secrets(url)}: what is behind it would be written to the manifest; leave it out")
    base, _, pattern = url.rpartition("/")
    names = [*expand(pattern)]
    if not all(name.endswith(".tar") for name in names):
        raise ConfigError(f"{url}: expected the URL of tars, such as https://host/set/train-{{0000..0146}}.tar")
    options = RemoteOptions()
    origin = open_store(base, options)
    with ThreadPoolExecutor(min(REQUESTS_AT_ONCE, len(names))) as pool:
        sizes = dict(zip(names, pool.map(origin.size, names), strict=True))
    store = ReadAhead(origin, sizes, cache=None, name="", options=options)
    tars = tuple(ForeignTar(store, name, size, "") for name, size in sizes.items())
    return TarSet(tars, base, base.rpartition("/")[2])


def expand(pattern: str) -> Iterator[str]:
    """`a-{08..10}` is a-08, a-09, a-10; as many ranges as there are."""
    match = _RANGE.search(pattern)
    if match is None:
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from expand(f"{pattern[: match.start()]}{number:0{len(first)}d}{pattern[match.end() :]}")
