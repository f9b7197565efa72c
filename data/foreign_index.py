"""The index of tars of others: what `jepa index` makes, without a byte of the tars being changed.

Two passes. The first walks over the headers of all tars, which takes milliseconds for each, and settles what can be
settled before hours are spent: damage, keys that are there twice, samples in which a person must say what the video
is, and tars whose index is there already. The second reads every member once, for its checksum, and counts the frames
of every video. It works in parts of a few samples, so all processes are busy however large a tar is, and a video that
kills its process costs that video.

An index is written when its tar is done, whole or not at all, and says in its notes of which tar (size, time of change)
and with which options it was made. So a run that was interrupted goes on with the tar at hand, and one over a folder
to which tars were added makes the new indices only. The manifest is written last.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from jepa.data.digests import key_hash
from jepa.data.foreign import (
    ForeignSample,
    ForeignTar,
    Indexed,
    Skipped,
    digest_of_rows,
    look,
    samples_in,
    usable,
)
from jepa.data.index import Manifest, ShardEntry, entry_of, fingerprint_of, write_manifest, write_rows
from jepa.data.parts import Part, Parts
from jepa.data.rows import IndexNotes, Row, Rows, open_rows
from jepa.data.source import printable
from jepa.data.workers import Loader
from jepa.errors import ConfigError, DataError
from jepa.logs import get_logger, progress

RULES = 2
"""Raised when the same tar and options give another index: indices of before are then made anew."""

log = get_logger(__name__)


@dataclass(frozen=True)
class ForeignOptions:
    """What a person must say about tars of others."""

    member: tuple[str, ...] = ()
    """Ending of the member that is the clip; of several, the first that a sample has. By default the only video, or
    else the only picture."""
    prefix: bool = False
    """Put the name of its tar before each key, where keys are unique in one tar only."""
    skip_damaged: bool = False
    """Leave out tars that are damaged, and list them."""


@dataclass(frozen=True)
class Done:
    """A tar whose index is on disk; without an entry if it has no sample that can be used."""

    entry: ShardEntry | None
    label_names: frozenset[str]
    """Labels that all its samples have."""
    notes: IndexNotes


@dataclass(frozen=True)
class Walked:
    """What the headers of a tar tell."""

    samples: int = 0
    """To be read; 0 if the index is there."""
    done: Done | None = None
    damage: str = ""
    keys: np.ndarray | None = None
    """uint64: a hash of each key that has a video."""


@dataclass(frozen=True)
class Outcome:
    """What was made of a folder."""

    samples: int
    shards: int
    kept: int
    """Shards whose index was there already."""
    skipped: tuple[tuple[str, str], ...]
    """Tar, or tar#key, and why it is left out."""
    doubts: tuple[tuple[str, str], ...]
    """tar#key, and what could not be read of its labels."""


def index_tars(
    tars: Sequence[ForeignTar],
    out: Path,
    options: ForeignOptions,
    *,
    name: str,
    place: str = "",
    provenance: dict[str, object] | None = None,
    workers: int = 0,
    deadline: float | None = None,
) -> Outcome:
    """Write an index for each tar, and the manifest.

    Args:
        out: folder of the indices and the manifest; it exists.
        name: of the data set.
        place: where the tars lie (`Manifest.tars`).
        workers: processes; 0 for none beside this one. The result does not depend on it.
        deadline: seconds in which reading a sample must come a step further; else it is skipped.

    Raises:
        ConfigError: a sample has several videos, or a file is in the way.
        DataError: a tar is damaged, a key is there twice, or no sample can be used.
    """
    walk = partial(_walk, tars, out, options)
    walked = list(progress(Loader(walk, range(len(tars)), workers=min(workers, len(tars))), "walking through tars"))
    damaged = [one.damage for one in walked if one.damage]
    if damaged and not options.skip_damaged:
        more = f" ({len(damaged)} tars are damaged)" if len(damaged) > 1 else ""
        raise DataError(f"{damaged[0]}{more}; copy it again, or leave it out with --skip-damaged")
    if not options.prefix:
        _require_unique(tars, walked, options)
    made = dict(_make(tars, walked, out, options, workers, deadline))
    done = [made.get(number, one.done) for number, one in enumerate(walked)]
    outcome = _outcome(tars, walked, done)
    entries = tuple(one.entry for one in done if one is not None and one.entry is not None)
    if not entries:
        first = f"; the first: {': '.join(outcome.skipped[0])}" if outcome.skipped else ""
        raise DataError(f"no sample in {name} can be used{first}")
    names = frozenset.intersection(*(one.label_names for one in done if one is not None and one.entry is not None))
    left_out = tuple(tar.name for tar, one in zip(tars, done, strict=True) if one is None or one.entry is None)
    manifest = Manifest(name, entries, tuple(sorted(names)), provenance or {}, fingerprint_of(entries), place, left_out)
    write_manifest(out, manifest)
    return outcome


def _walk(tars: Sequence[ForeignTar], out: Path, options: ForeignOptions, number: int) -> Walked:
    tar = tars[number]
    kept = _kept(tar, index_path(out, tar), options)
    if kept is not None:
        rows, done = kept
        return Walked(0, done, keys=_hashes(map(rows.key, range(len(rows)))))
    try:
        samples = samples_in(tar)
    except DataError as error:
        return Walked(damage=str(error))
    keys = _hashes(sample.key for sample in usable(tar, samples, options.member))
    return Walked(len(samples), keys=keys) if samples else Walked(0, _empty(), keys=keys)


def index_path(out: Path, tar: ForeignTar) -> Path:
    """Where the index of a tar is written."""
    return (out / tar.name).with_suffix(".arrow")


def _empty() -> Done:
    return Done(None, frozenset(), IndexNotes())


def _hashes(keys: Iterator[str]) -> np.ndarray:
    return np.array([key_hash(key) for key in keys], np.uint64)


def _kept(tar: ForeignTar, path: Path, options: ForeignOptions) -> tuple[Rows, Done] | None:
    """The index of a tar, if it is there and still holds.

    Raises:
        ConfigError: there is a file of that name that is no index.
    """
    if not path.exists():
        return None
    try:
        rows = open_rows(path)
        whole = [rows.row(number) for number in range(len(rows))]
    except DataError as error:
        if _is_index(path):
            return None
        raise ConfigError(f"{error}; move it away, or choose another folder with --out") from None
    notes = rows.notes
    if not whole or notes.made_of != _made_of(tar, options) or notes.rows_digest != digest_of_rows(whole):
        return None
    if notes.prefix != _prefix(tar, options):
        notes = replace(notes, prefix=_prefix(tar, options))
        write_rows(path, whole, notes)
    return rows, _done(tar, path, whole, notes)


def _is_index(path: Path) -> bool:
    """Whether a file that cannot be read as an index is one of another version."""
    try:
        names = pa.ipc.open_file(str(path)).schema.names
    except (pa.ArrowException, OSError):
        return False
    return {"key", "video", "extras"} <= set(names)


def _made_of(tar: ForeignTar, options: ForeignOptions) -> str:
    return json.dumps({"rules": RULES, "size": tar.size, "version": tar.version, "member": options.member})


def _prefix(tar: ForeignTar, options: ForeignOptions) -> str:
    return f"{Path(tar.name).stem}/" if options.prefix else ""


def _done(tar: ForeignTar, path: Path, rows: Sequence[Row], notes: IndexNotes) -> Done:
    names = frozenset.intersection(*(frozenset(row.labels) for row in rows))
    return Done(entry_of(tar.name, tar.size, path, rows, notes.prefix), names, notes)


def _require_unique(tars: Sequence[ForeignTar], walked: Sequence[Walked], options: ForeignOptions) -> None:
    """Raise DataError if two tars have a key in common; names both."""
    hashes = [one.keys for one in walked if one.keys is not None]
    found, counts = np.unique(np.concatenate(hashes) if hashes else np.zeros(0, np.uint64), return_counts=True)
    twice = set(found[counts > 1].tolist())
    first: dict[str, ForeignTar] = {}
    for tar, one in zip(tars, walked, strict=True):
        if one.keys is None or not twice.intersection(one.keys.tolist()):
            continue
        for sample in usable(tar, samples_in(tar), options.member):
            other = first.setdefault(sample.key, tar) if key_hash(sample.key) in twice else tar
            if other is not tar:
                raise DataError(
                    f"key {sample.text} is in {printable(other.name)} and in {tar.where}: add --prefix, "
                    "which puts the name of the tar before each key"
                )


def _make(
    tars: Sequence[ForeignTar],
    walked: Sequence[Walked],
    out: Path,
    options: ForeignOptions,
    workers: int,
    deadline: float | None,
) -> Iterator[tuple[int, Done]]:
    """Read all samples that have no index yet: number of the tar, and what became of it."""
    counts = [one.samples for one in walked]
    parts = Parts.of(partial(_look, tars, options), partial(_lost, tars), counts)
    found: list[Indexed | Skipped] = []
    with progress(None, "indexing samples", sum(counts)) as bar:
        for part, some in parts.run(workers, deadline):
            found += some
            bar.advance(len(part))
            if part.end == counts[part.shard]:
                yield part.shard, _write(tars[part.shard], out, options, found)
                found = []


def _look(tars: Sequence[ForeignTar], options: ForeignOptions, part: Part) -> list[Indexed | Skipped]:
    tar = tars[part.shard]
    return [look(tar, sample, options.member) for sample in _samples(tar)[part.first : part.end]]


@lru_cache(maxsize=1)  # a process is asked for one part of a tar after the other
def _samples(tar: ForeignTar) -> list[ForeignSample]:
    return samples_in(tar)


def _lost(tars: Sequence[ForeignTar], shard: int, number: int, reason: str) -> list[Indexed | Skipped]:
    return [Skipped(_samples(tars[shard])[number].text, reason)]


def _write(tar: ForeignTar, out: Path, options: ForeignOptions, found: Sequence[Indexed | Skipped]) -> Done:
    """Write the index of a tar."""
    rows = [one.row for one in found if isinstance(one, Indexed)]
    notes = IndexNotes(
        prefix=_prefix(tar, options),
        skipped=tuple((one.key, one.reason) for one in found if isinstance(one, Skipped)),
        doubts=tuple((printable(one.row.key), one.doubt) for one in found if isinstance(one, Indexed) and one.doubt),
        made_of=_made_of(tar, options),
        rows_digest=digest_of_rows(rows),
    )
    if not rows:
        return Done(None, frozenset(), notes)
    path = index_path(out, tar)
    write_rows(path, rows, notes)
    return _done(tar, path, rows, notes)


def _outcome(tars: Sequence[ForeignTar], walked: Sequence[Walked], done: Sequence[Done | None]) -> Outcome:
    skipped: list[tuple[str, str]] = []
    doubts: list[tuple[str, str]] = []
    for tar, seen, one in zip(tars, walked, done, strict=True):
        name = printable(tar.name)
        if one is None:
            skipped.append((name, seen.damage))
            continue
        skipped += [(f"{name}#{key}", reason) for key, reason in one.notes.skipped]
        if one.entry is None:
            skipped.append((name, "it holds no sample that can be used"))
        doubts += [(f"{name}#{key}", reason) for key, reason in one.notes.doubts]
    entries = [one.entry for one in done if one is not None and one.entry is not None]
    kept = sum(one.done is not None and one.done.entry is not None for one in walked)
    return Outcome(sum(entry.count for entry in entries), len(entries), kept, tuple(skipped), tuple(doubts))
