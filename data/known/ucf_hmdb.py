"""UCF101 and HMDB51: split lists in plain text, three divisions ("folds") into train and test each.

UCF101: `trainlist01.txt` has `Class/v_Class_g08_c01.avi 1`, `testlist01.txt` the path alone, `classInd.txt` the classes
`1 ApplyEyeMakeup`. HMDB51: a file per class and fold, `brush_hair_test_split1.txt`, with `NAME.avi 1`, where 1 is
training, 2 is test, and 0 is neither. Instead of files their folder can be given; the fold then says which are meant.
Videos lie in one folder per class.
"""

from collections.abc import Mapping
from pathlib import Path

from jepa.data.known.tables import Request, beside, lines, split_of
from jepa.data.lists import Entry
from jepa.data.source import printable
from jepa.errors import ConfigError, DataError
from jepa.logs import get_logger

HMDB_SPLITS = {"1": "train", "2": "test"}
HMDB_ENDING = "_test_split"

log = get_logger(__name__)


def read_ucf101(request: Request) -> list[Entry]:
    """UCF101: one entry a line.

    Raises:
        ConfigError: the split is said nowhere, or the fold chooses nothing.
        DataError: a file or a line is malformed, a class is not in classInd.txt or has another number there.
    """
    entries = []
    for file in _files(request, f"*list{request.fold:02d}.txt"):
        split, classes = split_of(file, request), _classes(file)
        for where, line in lines(file):
            path, _, number = line.replace("\\", "/").partition(" ")
            folder = path.rpartition("/")[0].rpartition("/")[2]
            if not folder:
                raise DataError(f"{where}: expected `Class/video.avi`, got '{printable(line[:60])}'")
            if classes and (folder not in classes or (number.strip() and classes[folder] != number.strip())):
                raise DataError(f"{where}: class {printable(folder)} {number.strip()} is not so in classInd.txt")
            entries.append(request.library.find(path, within=folder).entry(folder, split))
    return entries


def _classes(file: Path) -> Mapping[str, str]:
    """Class -> its number, if classInd.txt lies beside the list."""
    listed = beside(file, "classInd.txt")
    if listed is None:
        return {}
    pairs = [(where, line.split()) for where, line in lines(listed)]
    for where, pair in pairs:
        if len(pair) != 2:
            raise DataError(f"{where}: expected `number class`")
    return {name: number for _, (number, name) in pairs}


def read_hmdb51(request: Request) -> list[Entry]:
    """HMDB51: one entry a line, but none for the videos that a fold leaves out.

    Raises:
        DataError: a file or a line is malformed.
    """
    entries, unused = [], 0
    for file in _files(request, f"*{HMDB_ENDING}{request.fold}.txt"):
        label, ending, _ = file.stem.rpartition(HMDB_ENDING)
        if not ending:
            raise DataError(f"{printable(file)}: expected a name such as brush_hair{HMDB_ENDING}1.txt")
        for where, line in lines(file):
            video, _, use = line.rpartition(" ")
            if not video or use not in ("0", *HMDB_SPLITS):
                raise DataError(f"{where}: expected `video.avi 0`, 1 or 2, got '{printable(line[:60])}'")
            if use == "0":
                unused += 1
                continue
            place = request.library.find(f"{label}/{video.strip()}", within=label)
            entries.append(place.entry(label, HMDB_SPLITS[use]))
    if unused:
        log.info("fold %d leaves %d videos out (0 in its files)", request.fold, unused)
    return entries


def _files(request: Request, pattern: str) -> list[Path]:
    """The annotation files: those given, and those in the folders given that the pattern fits.

    Raises:
        ConfigError: a fold is asked for, but files are given.
        DataError: no file in a folder fits the pattern.
    """
    files: list[Path] = []
    if request.fold != 1 and not all(path.is_dir() for path in request.annotations):
        raise ConfigError("fold chooses among the files of a folder: give the folder to --annotations, or no --fold")
    for path in request.annotations:
        inside = sorted(path.glob(pattern)) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{printable(path)} holds no {pattern}")
        files += inside
    return files
