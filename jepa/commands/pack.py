"""`jepa pack`: turn videos into shards.

The videos are encoded by worker processes and written in the order in which they were found, so the shards do not
depend on the number of workers. What cannot be read is named on stderr and listed in skipped.tsv. With `--format` the
annotation files of a published data set say which videos, labels, splits and segments there are (docs/data.md).
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jepa import rng
from jepa.data.index import atomic
from jepa.data.known import formats
from jepa.data.lists import Entry, collect
from jepa.data.pack import PackConfig, Packed, Unreadable, try_pack
from jepa.data.shard_writer import ShardWriter, claim
from jepa.data.source import Source, open_source, printable, split_folders
from jepa.data.watchdog import call_watched
from jepa.data.workers import Loader, Loss
from jepa.errors import ConfigError, DataError
from jepa.logs import get_logger, progress
from jepa.version import __version__

SUMMARY = "Turn videos into shards: small, quick to decode, checked"
EXAMPLE = "jepa pack ~/videos --out shards/mine"
POSITIONAL = ("sources",)

SKIPPED = "skipped.tsv"

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config(PackConfig):
    """Which videos `jepa pack` packs, and how."""

    sources: tuple[Path, ...]
    """Folders (sub-folder = label), video files, or lists (.csv, .tsv, .txt) of `path label`."""
    out: Path
    """Folder for the shards; made if missing."""
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
    entries = _entries(config)
    splits = choose_splits(entries, config.test_fraction, config.seed)
    _claim_all(config.out)
    skipped = _pack(entries, splits, config)
    if skipped:
        with atomic(config.out / SKIPPED) as stream:
            lines = ["path\treason", *(f"{path}\t{reason}" for path, reason in skipped)]
            stream.write("\n".join([*lines, ""]).encode())
        log.warning("%d of %d videos skipped, listed in %s", len(skipped), len(entries), config.out / SKIPPED)
    facts = _facts(config.out, skipped)
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


def _claim_all(out: Path) -> None:
    """Refuse a folder in which shards would lie side by side with these."""
    claim(out)
    for folder in split_folders(out).values():
        claim(folder)


def _pack(entries: Sequence[Entry], splits: Sequence[str | None], config: Config) -> list[tuple[str, str]]:
    """Write all shards; returns path and reason of each video that was skipped.

    Raises:
        DataError: every video was skipped.
    """
    skipped: list[tuple[str, str]] = []
    writers: dict[str | None, ShardWriter] = {}
    workers = min((os.cpu_count() or 1) if config.workers is None else config.workers, len(entries))
    make = partial(try_pack, entries, config.encoding())
    with ExitStack() as stack, progress(None, "packing videos", len(entries)) as bar:
        for number, packed in enumerate(_in_order(make, len(entries), workers, config.deadline)):
            entry, split = entries[number], splits[number]
            if isinstance(packed, Unreadable):
                skipped.append((_shown(entry), packed.reason))
                # Of missing ones there can be ten thousands: their number was said, their names are in the list.
                level = logging.DEBUG if entry.absent else logging.WARNING
                log.log(level, "skipped %s: %s", *skipped[-1])
            else:
                if split not in writers:
                    writers[split] = stack.enter_context(_writer(split, config))
                key, origin = f"{number:06d}", printable(entry.path.resolve())
                writers[split].write(key, packed.video, packed.info, entry.labels(), _extra(entry), origin)
            bar.advance()
        if not writers:
            path, reason = skipped[0]
            raise DataError(f"none of {len(entries)} videos can be packed; the first: {path}: {reason}")
    return skipped


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


def _writer(split: str | None, config: Config) -> ShardWriter:
    sources = [printable(source) for source in config.sources]
    known = (
        {}
        if config.format is None
        else {"format": config.format, "annotations": config.annotations, "fold": config.fold}
    )
    provenance = {"made_by": "jepa pack", "version": __version__, "sources": sources, **known}
    provenance |= config.encoding().provenance()
    return ShardWriter(
        config.out if split is None else config.out / split,
        name="-".join(filter(None, [config.name or printable(config.out.resolve().name), split])),
        samples_per_shard=config.shard_size,
        bytes_per_shard=None if config.shard_mb is None else config.shard_mb * 10**6,
        provenance=provenance if split is None else {**provenance, "split": split},
    )


def _in_order(
    make: "partial[Packed | Unreadable]", count: int, workers: int, deadline: float | None = None
) -> Iterator[Packed | Unreadable]:
    """All videos, by worker processes. A video that kills its process, or on which it hangs, costs only itself."""

    def unreadable(number: int, loss: Loss) -> Packed | Unreadable:
        return Unreadable(loss.reason)

    watched = partial(call_watched, make)
    return iter(Loader(watched, range(count), workers=workers, deadline=deadline, on_loss=unreadable))


def _facts(out: Path, skipped: Sequence[tuple[str, str]]) -> dict[str, object]:
    """What lies in the folder now, read back from it."""
    names: list[str | None] = [*sorted(split_folders(out))] or [None]
    sources: dict[str | None, Source] = {name: open_source(out, name) for name in names}
    infos = [source.info(index) for source in sources.values() for index in range(len(source))]
    return {
        "out": str(out),
        "packed": len(infos),
        "skipped": len(skipped),
        "frames": sum(info.frames for info in infos),
        "seconds": round(sum(info.frames / info.fps for info in infos), 3),
        "bytes": sum(file.stat().st_size for file in out.rglob("shard-*.tar")),
        "classes": len({info.labels["label"] for info in infos if "label" in info.labels}),
        "unlabelled": sum("label" not in info.labels for info in infos),
        "splits": {name: len(source) for name, source in sources.items() if name is not None},
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
