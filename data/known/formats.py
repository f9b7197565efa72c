"""The table of formats, and what all of them share: which splits are taken, and under which names.

Another format is a module with a function `Request -> list[Entry]` and a line in the table.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jepa.config import nearest
from jepa.data.known import coin, diving48, epic, imagenet, kinetics, paths, twentybn, ucf_hmdb
from jepa.data.known.library import Library
from jepa.data.known.tables import SPLIT_NAMES, Request
from jepa.data.lists import Entry
from jepa.data.source import printable
from jepa.errors import ConfigError, DataError
from jepa.logs import get_logger

log = get_logger(__name__)


@dataclass(frozen=True)
class Format:
    """How a data set is published."""

    read: Callable[[Request], list[Entry]]
    annotations: str
    """The files to name, in words."""
    optional: bool = False
    """Whether it can do without annotations."""
    folds: int = 1
    """Official divisions into train and test that one set of annotations holds."""


FORMATS: Mapping[str, Format] = {
    "kinetics": Format(kinetics.read, "train.csv, val.csv, test.csv of Kinetics-400, 600 or 700"),
    "ssv2": Format(twentybn.read_something, "train.json, validation.json, test.json of Something-Something V2"),
    "jester": Format(twentybn.read_jester, "jester-v1-train.csv, jester-v1-validation.csv"),
    "ucf101": Format(ucf_hmdb.read_ucf101, "the folder ucfTrainTestlist, or trainlist01.txt, testlist01.txt", folds=3),
    "hmdb51": Format(ucf_hmdb.read_hmdb51, "the folder testTrainMulti_7030_splits", folds=3),
    "diving48": Format(diving48.read, "Diving48_V2_train.json, Diving48_V2_test.json"),
    "coin": Format(coin.read_tasks, "COIN.json; whole videos, label = task"),
    "coin-steps": Format(coin.read_steps, "COIN.json; segments, label = step"),
    "epic-kitchens-100": Format(epic.read, "EPIC_100_train.csv, EPIC_100_validation.csv"),
    "howto100m": Format(paths.read_howto100m, "HowTo100M_v1.csv, or a list of paths or identifiers"),
    "imagenet": Format(imagenet.read, "none, or LOC_val_solution.csv for an unsorted val folder", optional=True),
    "list": Format(paths.read_path_label, "lists of `path label`, paths relative to the folder of videos"),
}
"""Name -> how to read it."""


def check(name: str, annotations: Sequence[Path], splits: Sequence[str], fold: int) -> None:
    """Whether these options fit together; reads nothing.

    Raises:
        ConfigError: there is no such format, or another option does not fit it.
    """
    if name not in FORMATS:
        raise ConfigError(f"format is '{name}'{nearest(name, list(FORMATS))}")
    known = FORMATS[name]
    if not annotations and not known.optional:
        raise ConfigError(f"format {name} needs --annotations: {known.annotations}")
    if not 1 <= fold <= known.folds:
        raise ConfigError(f"fold is {fold}, expected {f'1 to {known.folds}' if known.folds > 1 else '1'} with {name}")
    wanted_splits(splits)


def wanted_splits(splits: Sequence[str]) -> dict[str, str]:
    """Split of the annotations -> split that it is packed as, from `train` or `val=test`.

    Raises:
        ConfigError: a split has no known name, or is named twice.
    """
    wanted: dict[str, str] = {}
    for text in splits:
        first, _, second = text.partition("=")
        for name in (first, second or first):
            if name not in SPLIT_NAMES:
                raise ConfigError(f"split is '{text}'{nearest(name, sorted(set(SPLIT_NAMES.values())))}")
        if SPLIT_NAMES[first] in wanted:
            raise ConfigError(f"split names {first} twice")
        wanted[SPLIT_NAMES[first]] = SPLIT_NAMES[second or first]
    return wanted


def collect_known(
    name: str, roots: Sequence[Path], annotations: Sequence[Path], splits: Sequence[str] = (), fold: int = 1
) -> list[Entry]:
    """What the annotations of a published data set list, in their order.

    Args:
        name: one of `FORMATS`.
        roots: folders that hold the videos.
        splits: which to take, such as `train`, or `val=test` to take `val` under the name `test`; all if none.
        fold: which of several official divisions into train and test.

    Raises:
        ConfigError: the options do not fit together, or nothing says which split a file holds.
        DataError: an annotation file or a folder cannot be used, a split is empty, or every video is missing.
    """
    check(name, annotations, splits, fold)
    wanted = wanted_splits(splits)
    library = Library(tuple(roots))
    for file in (files := tuple(path.expanduser() for path in annotations)):
        if not file.exists():
            raise DataError(f"no such file or folder: {printable(file)}")
    only = next(iter(wanted)) if len(wanted) == 1 else None
    entries = FORMATS[name].read(Request(files, library, only, fold))
    entries = _chosen(entries, wanted)
    _warn_of_overlap(entries)
    missing = [entry for entry in entries if entry.absent]
    if len(missing) == len(entries):
        raise DataError(f"none of {len(entries)} videos is there; the first: {printable(missing[0].path)}")
    if missing:
        first = printable(missing[0].path)
        log.warning("%d of %d videos are missing, such as %s", len(missing), len(entries), first)
    return entries


def _chosen(entries: list[Entry], wanted: Mapping[str, str]) -> list[Entry]:
    """The entries of the wanted splits, under their new names."""
    counts = Counter(entry.split for entry in entries)
    for split in wanted:
        if not counts[split]:
            there = ", ".join(sorted(str(name or "no split") for name in counts)) or "nothing"
            raise DataError(f"the annotations hold no split {split}, but {there}")
    if not wanted:
        return entries
    return [replace(entry, split=wanted[entry.split or ""]) for entry in entries if entry.split in wanted]


def _warn_of_overlap(entries: Sequence[Entry]) -> None:
    """Say that a clip is in two splits, such as with the lists of two folds: a test on it would flatter."""
    splits: dict[tuple[Path, tuple[float, float] | None], str | None] = {}
    twice = [e for e in entries if splits.setdefault((e.path, e.segment), e.split) != e.split]
    if twice:
        log.warning("%d videos are in two splits, such as %s", len(twice), printable(twice[0].path))
