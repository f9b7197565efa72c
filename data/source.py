"""What a data set is to the rest of the program: a numbered list of encoded videos with facts about each.

Two kinds exist: shards (`jepa.data.shards`), and plain files (`jepa.data.folder`). `open_source` tells them apart by
looking. A data set may hold the splits train/ and test/ as sub-folders, each of either kind. Shards may also lie behind
a URL (`jepa.data.storage`).
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from jepa.data.limits import DEFAULT_LIMITS, Limits
from jepa.data.storage import RemoteOptions, local_path, url_of, without_secrets
from jepa.errors import ConfigError, DataError

Label = str | int | float
Place = TypeVar("Place")

SPLITS = frozenset({"train", "test", "val", "validation"})
"""Names that sub-folders of a data set have if they are splits and not classes."""

MANIFEST = "manifest.json"
"""The file that makes a folder of tars a folder of shards."""

MIXTURE_ENDINGS = frozenset({".yaml", ".yml"})
"""Endings of files that describe a mixture of data sets (`jepa.data.mixture`)."""

JOURNAL = Path(".pack", "plan.json")
"""The file that makes a folder one that `jepa pack` has not finished."""


@dataclass(frozen=True)
class SampleInfo:
    """What is known about one video without opening it."""

    key: str
    """Unique name in its source."""
    frames: int
    """Frames that the file holds, counted."""
    fps: float
    """Frames per second."""
    height: int
    """Pixels, as shown."""
    width: int
    """Pixels, as shown."""
    labels: Mapping[str, Label]
    """Label name -> value."""
    origin: str
    """Path of the file this video was made from."""
    times: tuple[int, ...] = ()
    """When each frame is shown, in ticks of `timeline.CLOCK` since the first; empty at a steady rate."""
    exact: bool = False
    """Every decoder counts the same frames in this file (`timeline.inexact` finds nothing)."""


class Source(Protocol):
    """A numbered list of encoded videos. Implementations pickle and may be used after a fork."""

    name: str
    fingerprint: str
    """Changes when the content does."""

    runs: tuple[int, ...]
    """Samples that lie together, in order: the counts of the shards. They sum to the length."""

    def __len__(self) -> int: ...

    def info(self, index: int) -> SampleInfo:
        """Facts of one sample."""
        ...

    def read(self, index: int) -> bytes:
        """The encoded video file.

        Raises:
            SampleError: it is damaged.
            DataError: it is gone, or the data set is damaged as a whole.
        """
        ...

    def place(self, index: int) -> str:
        """Where the sample lies, for messages: a shard or a file."""
        ...

    def extra(self, index: int, name: str) -> bytes:
        """Another member of the sample, such as "masks.npz". Raises KeyError if there is none of that name."""
        ...


def open_source(
    path: str | Path,
    split: str | None = "train",
    remote: RemoteOptions | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Source:
    """Open a folder of shards, a folder with splits, a folder of videos or one video file; or the URL of shards.

    Args:
        split: sub-folder to open where `path` holds splits; `path` itself is opened where it holds none.
        remote: how a URL is read; also one at which the tars of a folder lie.
        limits: plain files that exceed them are left out.

    Raises:
        ConfigError: a URL that needs a package which is not installed, a cache folder that cannot be written, or a
            description of a mixture.
        DataError: there is nothing at `path` that can be read; names the first offending file and why.
    """
    # Here and not above: these two import the types of this file.
    from jepa.data.folder import FolderSource
    from jepa.data.shards import ShardSource

    url = url_of(path)
    if url is not None and not url.startswith("file://"):
        from jepa.data.shard_files import split_urls

        chosen = _choose(split_urls(url, remote), split, without_secrets(url))
        return ShardSource(chosen or url, remote)
    root = _local(path)
    if not root.exists():
        raise DataError(f"no such file or folder: {root}")
    if root.suffix.lower() in MIXTURE_ENDINGS and root.is_file():
        raise ConfigError(f"{root} describes a mixture: one data set is wanted here, such as one of its sources")
    if is_unfinished(root):
        raise DataError(f"{root} is unfinished: run the same `jepa pack` command again, it goes on where it stopped")
    folder = _choose(split_folders(root), split, str(root)) or root
    if (folder / MANIFEST).is_file():
        return ShardSource(folder, remote)
    tar = next(iter(sorted(folder.glob("*.tar"))), None) if folder.is_dir() else None
    if tar is not None:
        raise DataError(
            f"{tar} has no {MANIFEST} beside it: writing was cut short, or others made it; then run `jepa index {root}`"
        )
    return FolderSource(folder, limits)


def is_unfinished(folder: Path) -> bool:
    """Whether `jepa pack` has begun with this data set, or with this split of one, and not ended."""
    whole = folder.parent if folder.name in SPLITS and not (folder / MANIFEST).is_file() else folder
    return any((place / JOURNAL).is_file() for place in (folder, whole))


def has_split(path: str | Path, split: str, remote: RemoteOptions | None = None) -> bool:
    """Whether the data set at `path`, which may be a URL, has a sub-folder for this split."""
    url = url_of(path)
    if url is not None and not url.startswith("file://"):
        from jepa.data.shard_files import split_urls

        return split in split_urls(url, remote)
    return split in split_folders(_local(path))


def is_there(path: Path) -> bool:
    """Whether there is a file or folder of this name, as far as can be said without asking a server."""
    url = url_of(path)
    return _local(path).exists() if url is None or url.startswith("file://") else True


def _local(path: str | Path) -> Path:
    """The path of this machine that is meant by a path or a file:// URL."""
    url = url_of(path)
    return Path(path).expanduser() if url is None else local_path(url)


def _choose(splits: Mapping[str, Place], split: str | None, where: str) -> Place | None:
    """The wanted split; None where there are none.

    Raises:
        DataError: there are splits but not this one, or none is named.
    """
    if not splits:
        return None
    if split is None:
        raise DataError(f"{where} holds the splits {', '.join(sorted(splits))}: name one of them")
    if split not in splits:
        raise DataError(f"{where} holds {', '.join(sorted(splits))} but no {split}")
    return splits[split]


def split_folders(folder: Path) -> dict[str, Path]:
    """Sub-folders that are splits, by name.

    A sub-folder called train may also be a class. It is a split if it holds shards, or if every sub-folder has the name
    of a split. Sub-folders without a video or a shard do not count.

    Raises:
        DataError: several sub-folders have the names of splits and others hold videos too: splits or classes?
    """
    if not folder.is_dir() or (folder / MANIFEST).is_file():
        return {}
    children = [child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")]
    named = {child.name: child for child in children if child.name in SPLITS}
    shards = {name: child for name, child in named.items() if (child / MANIFEST).is_file()}
    if len(shards) == len(named):
        return shards
    # Only now: looking for videos walks through the folders.
    filled = {child.name for child in children if _holds(child, videos=True)}
    # Pictures beside videos are plots and thumbnails.
    filled = filled or {child.name for child in children if _holds(child, videos=False)}
    found = {name: child for name, child in named.items() if name in filled}
    others = sorted(filled - SPLITS)
    if others and len(found) > 1:
        raise DataError(
            f"{printable(folder)} holds {', '.join(sorted(found))} beside {_listed(others)}: if the former are splits, "
            "move the others out of it; if all are classes, rename those that are called like splits"
        )
    return shards if others else found


def _holds(folder: Path, videos: bool) -> bool:
    """Whether a video or a shard lies somewhere in the folder; else, whether a picture does."""
    from jepa.data.folder import VIDEO_ENDINGS, visible_files  # it imports this file
    from jepa.data.pictures import PICTURE_ENDINGS

    endings = VIDEO_ENDINGS | {"tar"} if videos else PICTURE_ENDINGS
    return any(file.name == MANIFEST or file.suffix[1:].lower() in endings for file in visible_files(folder))


def _listed(names: Sequence[str]) -> str:
    """The names, at most three of them."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(printable(name) for name in names[:3]) + more


def cache_name(source: Source) -> str:
    """Name for a file about a source in a cache folder: readable, and another one for other content."""
    readable = re.sub(r"[^\w.-]+", "-", source.name).strip("-.")[-40:]
    return f"{readable}-{source.fingerprint[:24]}"


def printable(path: str | Path) -> str:
    """The path as text that can be written anywhere: bytes that are no UTF-8 are replaced, line breaks escaped."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
