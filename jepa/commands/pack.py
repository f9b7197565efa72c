"""`jepa pack`: turn videos into shards.

The videos are encoded by worker processes and written in the order in which they were found, so the shards do not
depend on the number of workers. What cannot be read is named on stderr and listed in skipped.tsv. With `--format` the
annotation files of a published data set say which videos, labels, splits and segments there are (docs/data.md).

Whatever stops it, the same command goes on behind the finished shards, and the result is the same bytes as if it had
not been stopped: `data/pack_journal.py` remembers, and `_settings` says what makes a command the same.
"""

import json
import logging
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import MISSING, dataclass, fields, replace
from functools import partial
from pathlib import Path

from jepa import rng
from jepa.cores import cores
from jepa.data.index import atomic
from jepa.data.known import formats
from jepa.data.lists import Entry, collect
from jepa.data.pack import PackConfig, Packed, Unreadable, try_pack
from jepa.data.pack_journal import SKIPPED, Journal
from jepa.data.pack_origin import FilmHashes
from jepa.data.pack_plan import make_plan
from jepa.data.shard_writer import FinishedShard, ShardWriter
from jepa.data.source import printable
from jepa.data.watchdog import call_watched
from jepa.data.workers import Loader, Loss
from jepa.errors import ConfigError, DataError
from jepa.logs import get_logger, progress
from jepa.version import __version__

SUMMARY = "Turn videos into shards: small, quick to decode, checked"
EXAMPLE = "jepa pack ~/videos --out shards/mine"
POSITIONAL = ("sources",)

NAMED = 20
"""Skipped videos that are named on stderr; a log of a hundred thousand of them helps nobody."""

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config(PackConfig):
    """Which videos `jepa pack` packs, and how."""

    sources: tuple[Path, ...]
    """Folders (sub-folder = label), video files, or lists (.csv, .tsv, .txt) of `path label`."""
    out: Path
    """Folder for the shards; made if missing. After a stop of any kind the same command goes on there."""
    format: str | None = None
    """Published data set whose annotations to read: kinetics, ssv2, jester, ucf101, hmdb51, diving48, coin, coin-steps,
    epic-kitchens-100, howto100m, imagenet, list; SOURCES are then the folders of its videos."""
    annotations: tuple[Path, ...] = ()
    """Its annotation files."""
    split: tuple[str, ...] = ()
    """Its splits to pack, all when none; val=test packs val as test. Names the split of files that do not say it."""
    fold: int = 1
    """Its division into train and test, where it has several (ucf101, hmdb51: 1 to 3)."""
    name: str | None = None
    """Name of the data set; that of the folder when none."""
    test_fraction: float = 0.0
    """Part of the videos that goes to OUT/test, the others to OUT/train; decided by a hash of each path."""
    shard_size: int = 1000
    """Videos in a shard, at most."""
    shard_mb: int | None = None
    """Megabytes in a shard, at most (but one video at least)."""
    workers: int | None = None
    """Processes; the result does not depend on it. None: one per core; 0: none beside this one."""
    deadline: float = 600.0
    """Seconds in which reading a video must come a step further; else its process is replaced and the video skipped."""
    seed: int = 0
    """Decides the test split."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources:
            raise ConfigError(f"sources: name a folder, a video or a list; example: {EXAMPLE}")
        if self.format is not None:
            formats.check(self.format, self.annotations, self.split, self.fold)
        elif self.annotations or self.split or self.fold != 1:
            raise ConfigError("annotations, split and fold belong to a published data set: name it with --format")
        if not 0 <= self.test_fraction < 1:
            raise ConfigError(f"test_fraction is {self.test_fraction}, expected at least 0 and below 1")
        if self.deadline <= 0:
            raise ConfigError(f"deadline is {self.deadline}, expected a positive number of seconds")
        least_values = {"shard_size": 1, "shard_mb": 1, "workers": 0}
        for name, least in least_values.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}, expected {least} or more")


def run(config: Config) -> int:
    """Pack, and say on stdout what was written."""
    with Journal(config.out) as journal:
        entries = _entries(config)
        splits = choose_splits(entries, config.test_fraction, config.seed)
        settings = _settings(config)
        journal.begin(make_plan(entries, splits, settings), entries)
        with ExitStack() as stack:
            writers = _Writers(config, settings, journal, stack)
            _pack(entries, splits, config, journal, writers)
            _list_skipped(config.out, entries, journal.skipped)
        journal.remove()
    facts = _facts(config.out, entries, journal.skipped, writers.finished())
    print(json.dumps(facts, indent=2) if config.json else _sentence(facts))
    return 0


def _entries(config: Config) -> list[Entry]:
    if config.format is None:
        return collect(config.sources)
    entries = formats.collect_known(config.format, config.sources, config.annotations, config.split, config.fold)
    if config.copy and any(entry.segment or entry.frame_rate for entry in entries):
        raise ConfigError(f"format {config.format} has no whole files to store as they are: leave out --copy")
    return entries


def choose_splits(entries: Sequence[Entry], test_fraction: float, seed: int) -> list[str | None]:
    """The split of each video; None for all if there are no splits.

    A hash of the path decides, so that a video stays in its split when others are added. With two videos or
    more each split gets at least one.

    Raises:
        ConfigError: the sources have splits of their own, and a test fraction is asked or some video has none.
    """
    own = [entry.split for entry in entries]
    if any(own):
        if test_fraction:
            raise ConfigError("the sources have splits of their own already: leave out --test-fraction")
        if not all(own):
            raise ConfigError("some sources have splits of their own and some have not: pack them separately")
        return own
    if not test_fraction:
        return own
    hashes = [rng.derive(seed, 0, f"split/{entry.name}") / 2**63 for entry in entries]
    test = {number for number, value in enumerate(hashes) if value < test_fraction}
    if len(entries) > 1 and len(test) in (0, len(entries)):
        test ^= {min(range(len(entries)), key=lambda number: hashes[number])}
    return ["test" if number in test else "train" for number in range(len(entries))]


class _Writers:
    """A writer for each split that has a sample; all end with their manifest."""

    def __init__(self, config: Config, settings: Mapping[str, object], journal: Journal, stack: ExitStack) -> None:
        self._config, self._settings, self._journal, self._stack = config, settings, journal, stack
        self._writers: dict[str | None, ShardWriter] = {}
        for split in journal.splits():
            self.of(split)

    def of(self, split: str | None) -> ShardWriter:
        if split not in self._writers:
            self._writers[split] = self._stack.enter_context(self._open(split))
        return self._writers[split]

    def finished(self) -> dict[str | None, Sequence[FinishedShard]]:
        """The shards of each split."""
        return {split: self._writers[split].shards for split in sorted(self._writers, key=str)}

    def _open(self, split: str | None) -> ShardWriter:
        config = self._config
        provenance = {"made_by": "jepa pack", **self._settings, "command": _command(config)}
        return ShardWriter(
            config.out if split is None else config.out / split,
            name="-".join(filter(None, [str(self._settings["name"]), split])),
            samples_per_shard=config.shard_size,
            bytes_per_shard=None if config.shard_mb is None else config.shard_mb * 10**6,
            provenance=provenance if split is None else {**provenance, "split": split},
            ledger=self._journal.ledger(split),
        )


def _pack(
    entries: Sequence[Entry], splits: Sequence[str | None], config: Config, journal: Journal, writers: _Writers
) -> None:
    """Write the samples that are not in a finished shard.

    Raises:
        DataError: every video was skipped.
    """
    left = journal.left(splits)
    workers = min(cores() if config.workers is None else config.workers, len(left))
    todo = [entries[number] for number in left]
    make = partial(try_pack, todo, config.encoding())
    films = [entry.path for entry in todo if entry.segment is not None]
    before, started, size = len(entries) - len(left), time.monotonic(), 0
    with FilmHashes(films) as hashes, progress(None, "packing videos", len(entries), before) as bar:
        for number, packed in zip(left, _in_order(make, len(left), workers, config.deadline), strict=True):
            made = _with_hash(entries[number], packed, hashes)
            if isinstance(made, Unreadable):
                _skip(journal, number, entries[number], made.reason)
            else:
                _write(writers.of(splits[number]), number, entries[number], made)
                size += len(made.video)
            rate = size / 1e6 / max(time.monotonic() - started, 1e-9)
            bar.advance(note=f"{rate:.1f} MB/s, {len(journal.skipped)} skipped")
    if not writers.finished():
        number, reason = min(journal.skipped.items())
        raise DataError(f"none of {len(entries)} videos can be packed; the first: {_shown(entries[number])}: {reason}")


def _with_hash(entry: Entry, packed: Packed | Unreadable, hashes: FilmHashes) -> Packed | Unreadable:
    """The part of a film, with the hash of the film."""
    if isinstance(packed, Unreadable) or entry.segment is None:
        return packed
    try:
        return replace(packed, origin_hash=hashes.of(entry.path))
    except DataError as error:
        return Unreadable(str(error))


def _write(writer: ShardWriter, number: int, entry: Entry, packed: Packed) -> None:
    writer.write(
        f"{number:06d}",
        packed.video,
        packed.info,
        entry.labels(),
        _extra(entry),
        printable(entry.path.resolve()),
        origin_hash=packed.origin_hash,
        segment=entry.segment,
    )


def _skip(journal: Journal, number: int, entry: Entry, reason: str) -> None:
    journal.skip(number, reason)
    # Of missing ones there can be ten thousands: their number was said, their names will be in the list.
    level = logging.DEBUG if entry.absent or len(journal.skipped) > NAMED else logging.WARNING
    log.log(level, "skipped %s: %s", _shown(entry), reason)
    if len(journal.skipped) == NAMED + 1:
        log.warning("further videos that are skipped are not named here; %s will list all", SKIPPED)


def _list_skipped(out: Path, entries: Sequence[Entry], skipped: Mapping[int, str]) -> None:
    """Write `skipped.tsv`, in the order of the videos."""
    if not skipped:
        return
    with atomic(out / SKIPPED) as stream:
        lines = ["path\treason", *(f"{_shown(entries[number])}\t{skipped[number]}" for number in sorted(skipped))]
        stream.write("\n".join([*lines, ""]).encode())
    log.warning("%d of %d videos skipped, listed in %s", len(skipped), len(entries), out / SKIPPED)


def _shown(entry: Entry) -> str:
    """The path of a video, and the seconds of the part of it: #t=10,20, as in media fragments."""
    part = "" if entry.segment is None else f"#t={entry.segment[0]:g},{entry.segment[1]:g}"
    return f"{printable(entry.path)}{part}"


def _extra(entry: Entry) -> dict[str, bytes]:
    """Where a part of a video comes from. No label, which a probe would try to tell apart."""
    if entry.segment is None:
        return {}
    start, end = entry.segment
    return {"segment.json": json.dumps({"name": printable(entry.name), "start": start, "end": end}).encode()}


def _settings(config: Config) -> dict[str, object]:
    """All that decides on the result, also on where splits and shards end: the same settings, the same bytes."""
    known = {"format": config.format, "annotations": _absolute(config.annotations), "fold": config.fold}
    return {
        "version": __version__,
        "name": config.name or printable(config.out.resolve().name),
        "sources": _absolute(config.sources),
        **({} if config.format is None else known),
        "splits": list(config.split),
        "test_fraction": config.test_fraction,
        "seed": config.seed,
        "shard_size": config.shard_size,
        "shard_mb": config.shard_mb,
        **config.encoding().provenance(),
    }


def _absolute(paths: Sequence[Path]) -> list[str]:
    return [printable(path.expanduser().absolute()) for path in paths]


def _command(config: Config) -> str:
    """The command that does this again, but for the folder and the number of workers, which change nothing."""
    words = ["jepa", "pack", *_absolute(config.sources), "--out", "OUT"]
    for field in fields(config):
        value = getattr(config, field.name)
        default = None if field.default is MISSING else field.default
        if field.name in ("sources", "out", "workers", "json") or value == default:
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        if isinstance(value, tuple):
            words.append(",".join(_absolute(value) if field.name == "annotations" else value))
        elif value is not True:
            words.append(str(value))
    return shlex.join(words)


def _in_order(
    make: "partial[Packed | Unreadable]", count: int, workers: int, deadline: float | None = None
) -> Iterator[Packed | Unreadable]:
    """All videos, by worker processes. A video that kills its process, or on which it hangs, costs only itself."""

    def unreadable(number: int, loss: Loss) -> Packed | Unreadable:
        return Unreadable(loss.reason)

    watched = partial(call_watched, make)
    return iter(Loader(watched, range(count), workers=workers, deadline=deadline, on_loss=unreadable))


def _facts(
    out: Path,
    entries: Sequence[Entry],
    skipped: Mapping[int, str],
    finished: Mapping[str | None, Sequence[FinishedShard]],
) -> dict[str, object]:
    """What lies in the folder now, from the sums of its shards; nothing is read back."""
    shards = [shard for of_split in finished.values() for shard in of_split]
    counts = {split: sum(shard.entry.count for shard in of_split) for split, of_split in finished.items()}
    labels = [entry.label for number, entry in enumerate(entries) if number not in skipped]
    return {
        "out": str(out),
        "packed": sum(counts.values()),
        "skipped": len(skipped),
        "frames": sum(shard.entry.frames for shard in shards),
        "seconds": round(sum(shard.entry.seconds for shard in shards), 3),
        "bytes": sum(shard.entry.bytes for shard in shards),
        "classes": len({label for label in labels if label is not None}),
        "unlabelled": sum(label is None for label in labels),
        "splits": {split: count for split, count in counts.items() if split is not None},
    }


def _sentence(facts: Mapping[str, object]) -> str:
    splits = facts["splits"]
    parts = ", ".join(f"{count} {name}" for name, count in splits.items()) if isinstance(splits, dict) else ""
    labels = f"{facts['classes']} classes" if facts["classes"] else "no labels"
    return (
        f"packed {facts['packed']} videos{f' ({parts})' if parts else ''}: {facts['frames']} frames, "
        f"{float(str(facts['seconds'])) / 60:.1f} minutes, {float(str(facts['bytes'])) / 1e6:.1f} MB, {labels}; "
        f"skipped {facts['skipped']}: {facts['out']}"
    )
