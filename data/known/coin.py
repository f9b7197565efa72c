"""COIN: one JSON file, `{"database": {ID: {"class", "subset", "start", "end", "annotation": [steps]}}}`.

It answers two questions. Which of 180 tasks does a video show (`coin`: whole videos, label = task)? Which step of it is
done from this second to that one (`coin-steps`: an entry a step, cut out of its video; label = step, and the task)? The
script of the authors downloads to RECIPE_TYPE/ID.mp4; any other place below the folder of videos will do.
"""

from collections.abc import Iterator
from typing import Any

from jepa.data.known.library import Place
from jepa.data.known.tables import Request, number, parsed, split_named
from jepa.data.lists import Entry
from jepa.data.source import printable
from jepa.errors import DataError


def read_tasks(request: Request) -> list[Entry]:
    """One entry a video.

    Raises:
        DataError: the file or an item is malformed.
    """
    return [place.entry(task, split) for _, place, task, split, _ in _videos(request)]


def read_steps(request: Request) -> list[Entry]:
    """One entry a step of a video.

    Raises:
        DataError: the file or an item is malformed.
    """
    entries = []
    for where, place, task, split, item in _videos(request):
        for position, step in enumerate(item.get("annotation", [])):
            here = f"{where}, step {position}"
            times = step.get("segment") if isinstance(step, dict) else None
            if not isinstance(times, list) or len(times) != 2 or "label" not in step:
                raise DataError(f"{here}: expected a label and a segment of two numbers")
            start, end = (number(str(time), here) for time in times)
            label, name = printable(str(step["label"])), f"{place.name}#{position}"
            entries.append(place.entry(label, split, name=name, more={"task": task}, segment=(start, end)))
    return entries


def _videos(request: Request) -> Iterator[tuple[str, Place, str, str, dict[str, Any]]]:
    """What names an item in messages, where its video is, its task, its split, and the item."""
    for file in request.annotations:
        database = parsed(file, dict).get("database")
        if not isinstance(database, dict):
            raise DataError(f"{printable(file)}: expected a key 'database' with the videos")
        for video, item in database.items():
            where = f"{printable(file)} video {printable(video)}"
            if not isinstance(item, dict) or not {"class", "subset"} <= item.keys():
                raise DataError(f"{where}: expected a class and a subset")
            split = split_named(str(item["subset"]), where)
            place = request.library.identified(video, f"{item.get('recipe_type', '')}/{video}.mp4".lstrip("/"))
            yield where, place, printable(str(item["class"])), split, item
