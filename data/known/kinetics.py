"""Kinetics-400, 600 and 700: a CSV of `label,youtube_id,time_start,time_end,split`, times in seconds.

Downloads hold each clip as a file of its own, ID_000010_000020.mp4: flat (part archives of the CVDF), in one folder per
class (after its sorting script, or the archives of Kinetics-600 and 700), beside a folder of replacements for files
that are damaged. All of these are found by the name alone. Where only ID.mp4 is there, it is taken as the whole film
and the clip is cut out of it. Test files (Kinetics-600 of the CVDF, 700-2020) may have no column `label`; the older
train.txt and val.txt of Kinetics-600 are no CSV files and name no times, so they are refused.
"""

from jepa.data.known.tables import Request, number, rows, split_named, split_of
from jepa.data.lists import Entry
from jepa.data.source import printable


def read(request: Request) -> list[Entry]:
    """One entry a row.

    Raises:
        ConfigError: the split is said nowhere.
        DataError: a file or a row is malformed.
    """
    entries = []
    for file in request.annotations:
        for where, row in rows(file, ("youtube_id", "time_start", "time_end")):
            split = split_named(row["split"], where) if row.get("split") else split_of(file, request)
            start, end = number(row["time_start"], where), number(row["time_end"], where)
            label = printable(row.get("label", "")) or None
            entries.append(_entry(request, row["youtube_id"], (start, end), label, split))
    return entries


def _entry(request: Request, video: str, segment: tuple[float, float], label: str | None, split: str) -> Entry:
    name = f"{video}_{int(segment[0]):06d}_{int(segment[1]):06d}"
    library = request.library
    if place := library.named(name, within=label):
        return place.entry(label, split)
    if film := library.named(video, within=label):
        return film.entry(label, split, name=name, segment=segment)
    return library.at(f"{name}.mp4").entry(label, split)
