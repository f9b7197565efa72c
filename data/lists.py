"""Which videos `jepa pack` is asked to pack, with their labels: from folders, files, and lists of `path label`.

- A folder gives its videos in the order of their paths. If every one lies in a sub-folder, the first sub-folder is the
  label. If the sub-folders are splits (train/, test/), they stay splits, and labels are looked for below them.
- A list (.csv, .tsv, .txt) has a video per line, a path and an optional label, with or without a header. The separator
  is that of the first line: a tab, else a comma, else the last run of spaces (the format of the official V-JEPA lists).
  Paths are relative to the folder of the list. Labels are whole numbers if all of them are.
- Any other file is taken as a video.

The annotation files of published data sets are read by `jepa.data.known`, into the same entries.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jepa.data.folder import find_videos, folder_labels
from jepa.data.source import Label, printable, split_folders
from jepa.errors import DataError

LIST_ENDINGS = frozenset({".csv", ".tsv", ".txt"})
HEADERS = frozenset({"path", "paths", "file", "filename", "file_name", "name", "video", "video_path", "filepath"})


@dataclass(frozen=True)
class Entry:
    """A video to be packed."""

    path: Path
    name: str
    """Path relative to the folder or list that named it; decides the split."""
    label: Label | None = None
    split: str | None = None
    """Split folder that it lay in."""
    more: Mapping[str, Label] = field(default_factory=dict)
    """Further labels, by name."""
    segment: tuple[float, float] | None = None
    """The part to be packed: its start and end in seconds from the first frame. None: all of it."""
    frame_rate: float | None = None
    """Pictures per second, if `path` is a folder of pictures that make one video."""
    absent: bool = False
    """The annotations name it, but it is not there."""

    def labels(self) -> dict[str, Label]:
        """Name -> value of every label."""
        return {**({} if self.label is None else {"label": self.label}), **self.more}


def collect(sources: Sequence[Path]) -> list[Entry]:
    """The videos that the sources name, each once, in their order.

    Raises:
        DataError: a source does not exist or holds no video, a line of a list is malformed, a video has two labels.
    """
    entries: dict[Path, Entry] = {}
    for source in sources:
        for entry in _expand(source.expanduser()):
            first = entries.setdefault(entry.path.resolve(), entry)
            if first.label != entry.label:
                raise DataError(f"{printable(entry.path)} has two labels: {first.label} and {entry.label}")
    return list(entries.values())


def _expand(source: Path) -> Iterator[Entry]:
    if not source.exists():
        raise DataError(f"no such file or folder: {printable(source)}")
    if source.is_dir():
        splits = split_folders(source)
        for split, folder in sorted(splits.items()) if splits else [(None, source)]:
            files = find_videos(folder)
            labels = folder_labels(folder, files)
            for file in files:
                label = labels[file]["label"] if file in labels else None
                yield Entry(file, file.relative_to(source).as_posix(), label, split)
    elif source.suffix.lower() in LIST_ENDINGS:
        yield from read_list(source)
    else:
        yield Entry(source, source.name)


def read_list(file: Path, folder: Path | None = None) -> list[Entry]:
    """The videos of a list of `path label`.

    Args:
        folder: what paths are relative to; that of the list when none.

    Raises:
        DataError: the list is empty or cannot be read, or a line is malformed; names file and line.
    """
    try:
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{printable(file)}: {error.strerror}") from None
    entries: list[Entry] = []
    folder = file.parent if folder is None else folder
    for number, fields in _rows(text, folder):
        path = fields[0].strip() if fields else ""
        if not entries and path.lower() in HEADERS and not (folder / path).exists():
            continue
        if not path or len(fields) > 2 or "\0" in path:
            got = "no path" if not path else f"{len(fields)} columns" if len(fields) > 2 else "a zero byte"
            raise DataError(f"{printable(file)} line {number}: expected `path label`, got {got}")
        label = fields[1].strip() if len(fields) == 2 else ""
        entries.append(Entry(folder / Path(path).expanduser(), path, printable(label) or None))
    if not entries:
        raise DataError(f"{printable(file)} lists no video")
    whole = _whole_numbers([entry.label for entry in entries])
    return [replace(entry, label=number) for entry, number in zip(entries, whole, strict=True)] if whole else entries


def _rows(text: str, folder: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line that is not empty."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if "\t" in first:
            yield number, line.split("\t")
        elif "," in first:
            yield number, next(csv.reader([line]))
        else:
            # A path may hold spaces itself
            alone = (folder / line.strip()).exists()
            yield number, [line.strip()] if alone else line.strip().rsplit(None, 1)


def _whole_numbers(labels: Sequence[Label | None]) -> list[int] | None:
    """The labels as whole numbers, or None if one of them is something else."""
    try:
        return [int(str(label)) for label in labels]
    except ValueError:
        return None
