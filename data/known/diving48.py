"""Diving48: JSON lists of `{"vid_name", "label", "start_frame", "end_frame"}`, and the names of the 48 classes.

The videos are cut already, one dive each, so the frames of the annotations are those of the whole file. If
Diving48_vocab.json lies beside, the label is the dive in words, such as `Back 15som 05Twis FREE`; else its number.
"""

from pathlib import Path

from jepa.data.known.tables import Request, beside, parsed, split_of
from jepa.data.lists import Entry
from jepa.data.source import Label, printable
from jepa.errors import DataError


def read(request: Request) -> list[Entry]:
    """One entry a list item.

    Raises:
        ConfigError: the split is said nowhere.
        DataError: a file or an item is malformed, or a label is not in the vocabulary.
    """
    entries = []
    for file in request.annotations:
        split, names = split_of(file, request), _names(file)
        for position, item in enumerate(parsed(file, list)):
            where = f"{printable(file)} item {position}"
            if not isinstance(item, dict) or not isinstance(item.get("vid_name"), str):
                raise DataError(f"{where}: expected an object with a vid_name")
            label: Label | None = item.get("label")
            if label is not None and (not isinstance(label, int) or (names and not 0 <= label < len(names))):
                raise DataError(f"{where}: label {label!r} is not the number of a class")
            if names and isinstance(label, int):
                label = names[label]
            video = item["vid_name"]
            entries.append(request.library.identified(video, f"{video}.mp4").entry(label, split))
    return entries


def _names(file: Path) -> list[str]:
    listed = beside(file, "Diving48_vocab.json")
    return [] if listed is None else [_joined(parts) for parts in parsed(listed, list)]


def _joined(parts: object) -> str:
    return printable(" ".join(map(str, parts)) if isinstance(parts, list) else str(parts))
