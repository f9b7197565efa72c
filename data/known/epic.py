"""EPIC-KITCHENS-100: a CSV with a row per action, from one time stamp (HH:MM:SS.ff) to another of an hour-long film.

Labels are `verb` and `noun` and, as `label`, the action, which is the pair of them. Names are those of the classes,
from EPIC_100_verb_classes.csv and EPIC_100_noun_classes_v2.csv beside the annotations, and not the words of the
narrator, which differ within a class; without these files they are the numbers of the classes. The file of the test
has no labels.
Time stamps say where an action is: frame numbers depend on how frames were extracted.
"""

from pathlib import Path

from jepa.data.known.tables import Request, beside, number, rows, split_of
from jepa.data.lists import Entry
from jepa.data.source import Label, printable
from jepa.errors import DataError

CLASS_FILES = {
    "verb": ("EPIC_100_verb_classes.csv",),
    "noun": ("EPIC_100_noun_classes_v2.csv", "EPIC_100_noun_classes.csv"),
}


def read(request: Request) -> list[Entry]:
    """One entry a row.

    Raises:
        ConfigError: the split is said nowhere.
        DataError: a file or a row is malformed, or a class is not in the file of classes.
    """
    entries = []
    for file in request.annotations:
        split, names = split_of(file, request), {part: _names(file, part) for part in CLASS_FILES}
        for where, row in rows(file, ("narration_id", "video_id", "start_timestamp", "stop_timestamp")):
            segment = seconds(row["start_timestamp"], where), seconds(row["stop_timestamp"], where)
            more = {
                part: _label(row[f"{part}_class"], names[part], where) for part in CLASS_FILES if f"{part}_class" in row
            }
            label = " ".join(str(more[part]) for part in CLASS_FILES) if len(more) == len(CLASS_FILES) else None
            film = row["video_id"]
            place = request.library.identified(film, f"{film.partition('_')[0]}/videos/{film}.MP4")
            entries.append(place.entry(label, split, name=row["narration_id"], more=more, segment=segment))
    return entries


def seconds(stamp: str, where: str) -> float:
    """The seconds of a time stamp HH:MM:SS.ff.

    Raises:
        DataError: it is none.
    """
    parts = stamp.split(":")
    if len(parts) != 3:
        raise DataError(f"{where}: time stamp '{printable(stamp)}', expected HH:MM:SS.ff")
    hours, minutes, rest = (number(part, where) for part in parts)
    return hours * 3600 + minutes * 60 + rest


def _names(file: Path, part: str) -> dict[str, str]:
    """Number of a class -> its name; empty if the file of classes is not there."""
    # The annotations of domain adaptation and retrieval lie one folder below
    listed = beside(file, *CLASS_FILES[part]) or beside(file.parent, *CLASS_FILES[part])
    return {} if listed is None else {row["id"]: row["key"] for _, row in rows(listed, ("id", "key"))}


def _label(text: str, names: dict[str, str], where: str) -> Label:
    if not text.isdecimal() or (names and text not in names):
        raise DataError(f"{where}: '{printable(text)}' is not the number of a class")
    return printable(names[text]) if names else int(text)
