"""ImageNet: pictures in folders train/n01440764/*.JPEG, the label being the WordNet number of the folder.

The same with val/ after sorting it into folders; with all of val/ in one folder, as published, LOC_val_solution.csv
(`ImageId,PredictionString`, the number being the first word of the latter) has the labels. A picture is packed as
the file it is, or as a smaller JPEG.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from jepa.data.folder import visible_files
from jepa.data.known.tables import Request, rows, split_of
from jepa.data.lists import Entry
from jepa.data.source import printable
from jepa.errors import DataError

ENDINGS = frozenset({".jpeg", ".jpg", ".png"})
SYNSET = re.compile(r"n\d{8}")


def read(request: Request) -> list[Entry]:
    """One entry a picture: all below the folders if there are no annotations.

    Raises:
        ConfigError: the split is said nowhere.
        DataError: there is no picture, or a row of the annotations is malformed.
    """
    entries = [entry for file in request.annotations for entry in _listed(file, request)]
    if not request.annotations:
        entries = [entry for root in request.library.roots for entry in _folders(root, request)]
    if not entries:
        shown = printable(request.library.roots[0])
        raise DataError(f"no pictures in {shown}; expected train/n01440764/*.JPEG, or with --split n01440764/*.JPEG")
    return entries


def _folders(root: Path, request: Request) -> Iterator[Entry]:
    """The pictures that lie in a folder called by a WordNet number."""
    for file in sorted(visible_files(root)):
        label = file.parent.name
        if file.suffix.lower() not in ENDINGS or not SYNSET.fullmatch(label):
            continue
        name = file.relative_to(root)
        yield Entry(file, name.as_posix(), label, split_of(file.parent.parent, request))


def _listed(file: Path, request: Request) -> Iterator[Entry]:
    """The pictures that a file of solutions names."""
    split = split_of(file, request)
    for where, row in rows(file, ("ImageId", "PredictionString")):
        label = row["PredictionString"].partition(" ")[0]
        if not SYNSET.fullmatch(label):
            raise DataError(f"{where}: '{printable(label)}' is not a WordNet number such as n01440764")
        picture = f"{row['ImageId']}.JPEG"
        paths = (f"{split}/{picture}", f"{split}/{label}/{picture}", picture, f"{label}/{picture}")
        places = [request.library.at(path) for path in paths]
        yield next((place for place in places if not place.absent), places[0]).entry(label, split)
