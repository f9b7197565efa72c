"""Lists of videos without classes (HowTo100M and its like), and the `path label` lists of the official V-JEPA code.

HowTo100M: a text file with a path or an identifier per line; or its own CSV, HowTo100M_v1.csv, with `video_id` (and
`category_1`, `category_2`, `task_id`, which become labels); or a CSV with the column `video_path` of its feature
extractors. `list`: what `jepa pack LIST` reads, but with paths relative to the folder of videos, and with splits.
"""

from pathlib import Path

from jepa.data.known.tables import Request, lines, rows, split_of
from jepa.data.lists import Entry, read_list
from jepa.data.source import printable
from jepa.errors import ConfigError

FACTS = ("category_1", "category_2", "task_id")


def read_howto100m(request: Request) -> list[Entry]:
    """One entry a line.

    Raises:
        DataError: a file or a line is malformed.
    """
    entries = []
    for file in request.annotations:
        split = _split(file, request)
        if file.suffix.lower() != ".csv":
            entries += [request.library.find(line).entry(None, split) for _, line in lines(file)]
            continue
        column = _column(file)
        for _, row in rows(file, (column,)):
            more = {name: printable(row[name]) for name in FACTS if row.get(name)}
            entries.append(request.library.find(row[column]).entry(None, split, more=more))
    return entries


def read_path_label(request: Request) -> list[Entry]:
    """One entry a line.

    Raises:
        DataError: a file or a line is malformed.
    """
    library, entries = request.library, []
    for file in request.annotations:
        split = _split(file, request)
        for entry in read_list(file, library.roots[0]):
            entries.append(library.find(str(Path(entry.name).expanduser())).entry(entry.label, split))
    return entries


def _split(file: Path, request: Request) -> str | None:
    """The split in the name of the list; none if it has none and none is asked for."""
    try:
        return split_of(file, request)
    except ConfigError:
        return None


def _column(file: Path) -> str:
    """The column that names the videos."""
    _, first = next(lines(file))
    return "video_path" if "video_path" in first.split(",") else "video_id"
