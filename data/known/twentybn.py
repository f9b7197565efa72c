"""Something-Something V2 and Jester, both recorded by crowd workers for TwentyBN.

Something-Something V2 comes as ID.webm and JSON lists: `{"id", "label", "template", "placeholders"}` for training and
validation, `{"id"}` alone for the test. The class is the template without its brackets, as labels.json lists the 174.

Jester comes as `ID;label` lines and, in the published archives, as one folder of JPEG pictures per clip, 12 a second;
copies that were turned into videos (ID.mp4, ID.webm, ...) are taken too. Pictures win if the first folders are there.
"""

from itertools import islice
from pathlib import Path

from jepa.data.known.library import Library, Place
from jepa.data.known.tables import Request, beside, lines, parsed, split_of
from jepa.data.lists import Entry
from jepa.data.source import printable
from jepa.errors import DataError

JESTER_RATE = 12.0
"""Pictures per second in the folders of Jester."""
JESTER_FOLDERS = ("", "20bn-jester-v1")
"""Where those folders lie, from the folder that was given."""
LOOKED_AT = 50
"""Clips whose folders are looked for, to know whether a copy has pictures or videos."""


def read_something(request: Request) -> list[Entry]:
    """Something-Something V2: one entry a list item.

    Raises:
        ConfigError: the split is said nowhere.
        DataError: a file or an item is malformed, or a template is none of labels.json.
    """
    entries = []
    for file in request.annotations:
        split, known = split_of(file, request), _templates(file)
        for position, item in enumerate(parsed(file, list)):
            where = f"{printable(file)} item {position}"
            if not isinstance(item, dict) or not isinstance(item.get("id"), str | int):
                raise DataError(f"{where}: expected an object with an id")
            label = _without_brackets(item["template"]) if "template" in item else None
            if known and label is not None and label not in known:
                raise DataError(f"{where}: the template '{printable(label)}' is not in the list of labels beside it")
            place = request.library.identified(str(item["id"]), f"{item['id']}.webm")
            entries.append(place.entry(label, split))
    return entries


def _templates(file: Path) -> frozenset[str]:
    """The classes, if the file that lists them lies beside the annotations."""
    listed = beside(file, "labels.json", "something-something-v2-labels.json")
    return frozenset() if listed is None else frozenset(parsed(listed, dict))


def _without_brackets(template: object) -> str:
    return str(template).replace("[", "").replace("]", "").strip()


def read_jester(request: Request) -> list[Entry]:
    """Jester: one entry a line.

    Raises:
        ConfigError: the split is said nowhere.
        DataError: a file or a line is malformed.
    """
    found = [
        (_clip(line, where), split_of(file, request)) for file in request.annotations for where, line in lines(file)
    ]
    folder = _picture_folder(request.library, [clip for (clip, _), _ in islice(found, LOOKED_AT)])
    entries = []
    for (clip, label), split in found:
        if folder is None:
            entries.append(request.library.identified(clip, f"{clip}.mp4").entry(label, split))
        else:
            place = request.library.at(str(Path(folder, clip)))
            entries.append(place.entry(label, split, frame_rate=JESTER_RATE))
    return entries


def _clip(line: str, where: str) -> tuple[str, str | None]:
    clip, _, label = line.partition(";")
    if not clip.strip().isalnum() or ";" in label:
        raise DataError(f"{where}: expected `ID;label`, got '{printable(line[:60])}'")
    return clip.strip(), printable(label.strip()) or None


def _picture_folder(library: Library, clips: list[str]) -> str | None:
    """The folder below the roots that has folders of pictures for these clips; None if there is none."""
    for folder in JESTER_FOLDERS:
        places: list[Place] = [library.at(str(Path(folder, clip))) for clip in clips]
        if any(place.path.is_dir() for place in places):
            return folder
    return None
