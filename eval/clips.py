"""The labelled clips of an evaluation: a training and a test part, and the tasks their labels make.

A task is a name among the labels of the samples (`motion`, `shape`; the sub-folder in a plain folder of
videos). Its classes are those of the training part. A class that occurs in the test part alone cannot be
answered: its clips stay in the test and count as wrong, because leaving them out would report another question.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from jepa.data.source import SampleInfo, Source, has_split, open_source
from jepa.data.storage import RemoteOptions, url_of, without_secrets
from jepa.errors import DataError
from jepa.eval.split import hold_out
from jepa.logs import get_logger
from jepa.rng import generator

log = get_logger(__name__)

TEST_FRACTION = 0.2
DEFAULT_TASKS = ("motion", "shape")


@dataclass(frozen=True)
class ClipSet:
    """Some samples of a source, in order."""

    source: Source
    indices: tuple[int, ...]

    @cached_property
    def infos(self) -> tuple[SampleInfo, ...]:
        return tuple(self.source.info(index) for index in self.indices)

    @cached_property
    def origins(self) -> tuple[str, ...]:
        """File each clip was made from; a clip that was made from none, or does not say so, is its own."""
        return tuple(info.origin or f"clip {info.key}" for info in self.infos)

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class EvaluationData:
    """What probes are trained on and what they are tested on, once."""

    name: str
    """Where it came from, for the results."""
    train: ClipSet
    test: ClipSet

    @property
    def fingerprint(self) -> tuple[str, str, int, int]:
        """Names the clips: hashes of the sources and numbers of clips."""
        return self.train.source.fingerprint, self.test.source.fingerprint, len(self.train), len(self.test)

    @property
    def label_names(self) -> list[str]:
        return sorted({name for info in (*self.train.infos, *self.test.infos) for name in info.labels})


@dataclass(frozen=True)
class Task:
    """One question about the clips, with its answers as class numbers."""

    name: str
    classes: tuple[str, ...]
    """The classes of the training part, sorted, then those that only the test part has."""
    learnable: int
    """How many of them the training part has."""
    train_rows: Tensor
    """int64: which clips of the training part have the label."""
    train_targets: Tensor
    """int64, class number per training row."""
    test_rows: Tensor
    test_targets: Tensor
    origins: tuple[str, ...]
    """Origin per training row."""


def open_evaluation_data(
    path: str | Path,
    *,
    seed: int = 0,
    labelled: int | None = None,
    limit: int | None = None,
    remote: RemoteOptions | None = None,
) -> EvaluationData:
    """Labelled clips of a folder of shards or videos.

    Without a test split, a fifth of the clips is held out by origin, and the log says so.

    Args:
        path: data set, as `jepa.data.source.open_source` takes it.
        seed: seed of the held-out part and of the clips that `limit` keeps.
        labelled: at most so many training clips, chosen at random: how few labels will do.
        limit: at most so many clips of each part, chosen at random.
        remote: how a URL is read.

    Raises:
        DataError: the data cannot be used.
    """
    if has_split(path, "test", remote):
        train, test = (open_source(path, split, remote) for split in ("train", "test"))
        parts = ClipSet(train, tuple(range(len(train)))), ClipSet(test, tuple(range(len(test))))
    else:
        parts = _hold_out_test(open_source(path, "train", remote), path, seed)
    named = zip(parts, ("train", "test"), strict=True)
    first, second = (_limited(part, limit, seed, name) for part, name in named)
    first = _limited(first, labelled, seed, "labelled")
    return EvaluationData(name=without_secrets(url_of(path) or str(path)), train=first, test=second)


def _hold_out_test(source: Source, path: str | Path, seed: int) -> tuple[ClipSet, ClipSet]:
    whole = ClipSet(source, tuple(range(len(source))))
    # Any label will do to spread the classes; with several, the first by name.
    labels = [str(next(iter(sorted(info.labels.items())), "")) for info in whole.infos]
    kept, held = hold_out(labels, whole.origins, TEST_FRACTION, seed=seed, purpose="test")
    if not held:
        raise DataError(f"{path} has no test split and too few clips to hold some out; add clips or a test/ folder")
    log.info("%s has no test split: holding out %d of %d clips, by origin", path, len(held), len(whole))
    return ClipSet(source, tuple(kept)), ClipSet(source, tuple(held))


def _limited(clips: ClipSet, limit: int | None, seed: int, part: str) -> ClipSet:
    if limit is None or limit >= len(clips):
        return clips
    chosen = generator(seed, 0, f"limit {part}").choice(len(clips), size=limit, replace=False)
    return ClipSet(clips.source, tuple(clips.indices[position] for position in sorted(chosen.tolist())))


def choose_tasks(data: EvaluationData, wanted: Sequence[str]) -> list[Task]:
    """The wanted tasks; if none is named, motion and shape where the data has them, else every label with classes.

    Raises:
        DataError: the data has no such label, or no label with classes.
    """
    if wanted:
        return [make_task(data, name) for name in dict.fromkeys(wanted)]
    names = data.label_names
    if usual := [name for name in DEFAULT_TASKS if name in names]:
        return [make_task(data, name) for name in usual]
    tasks, reason = [], "put the videos into one folder per class, or pack a list with labels"
    for name in names:
        try:
            task = make_task(data, name)
        except DataError as error:
            reason = str(error)
            log.info("skipping a label: %s", reason)
            continue
        # A label with about as many values as clips is a number or a name, not a class.
        if 2 * task.learnable <= len(task.train_rows):
            tasks.append(task)
        else:
            reason = f"label '{name}' has {task.learnable} values in {len(task.train_rows)} training clips: add clips"
    if not tasks:
        raise DataError(f"{data.name} has no labels to probe; {reason}")
    return tasks


def make_task(data: EvaluationData, name: str) -> Task:
    """The task of one label.

    Raises:
        DataError: no training or no test clip has the label, one class only, or every clip has its own.
    """
    train_rows, train_labels = _labelled(data.train, name)
    test_rows, test_labels = _labelled(data.test, name)
    for part, rows in (("training", train_rows), ("test", test_rows)):
        if not rows:
            known = ", ".join(data.label_names) or "none"
            raise DataError(f"no {part} clip of {data.name} has a label '{name}'; labels there: {known}")
    seen = sorted(set(train_labels))
    if len(seen) < 2:
        raise DataError(f"label '{name}' of {data.name} has one class only ({seen[0]}): nothing to tell apart")
    if len(seen) == len(train_labels):
        raise DataError(
            f"label '{name}' of {data.name} has {len(seen)} values in {len(train_labels)} training clips: "
            "no classes to learn; add clips"
        )
    classes = (*seen, *_unseen(name, seen, test_labels))
    number = {label: index for index, label in enumerate(classes)}
    return Task(
        name=name,
        classes=classes,
        learnable=len(seen),
        train_rows=torch.tensor(train_rows),
        train_targets=torch.tensor([number[label] for label in train_labels]),
        test_rows=torch.tensor(test_rows),
        test_targets=torch.tensor([number[label] for label in test_labels]),
        origins=tuple(data.train.origins[row] for row in train_rows),
    )


def _labelled(clips: ClipSet, name: str) -> tuple[list[int], list[str]]:
    """Positions of the clips that have the label, and their labels."""
    found = [(row, str(info.labels[name])) for row, info in enumerate(clips.infos) if name in info.labels]
    if found and len(found) < len(clips):
        log.warning("%d of %d clips have no label '%s' and are left out", len(clips) - len(found), len(clips), name)
    return [row for row, _ in found], [label for _, label in found]


def _unseen(name: str, seen: Sequence[str], test_labels: Sequence[str]) -> list[str]:
    counts = Counter(label for label in test_labels if label not in set(seen))
    if counts:
        log.warning(
            "task %s: %d test clips have a class that no training clip has (%s); they count as wrong",
            name, counts.total(), ", ".join(sorted(counts)[:5]),
        )  # fmt: skip
    return sorted(counts)
