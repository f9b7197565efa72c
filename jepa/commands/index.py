"""`jepa index`: make webdataset tars of others usable as they are.

Writes an index for each tar and a manifest, as `jepa pack` does, and leaves the tars alone. What is a sample, which
member is its video and what becomes labels is told in docs/data.md. Samples that cannot be used are listed in
skipped.tsv. The same command again makes only what is missing: after an interruption, or when tars were added.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from jepa.cores import cores
from jepa.data.foreign_index import ForeignOptions, Outcome, index_tars
from jepa.data.foreign_tars import TarSet, find_tars
from jepa.data.index import FORMAT_VERSION, atomic, writing
from jepa.data.shards import ShardSource
from jepa.data.source import MANIFEST, is_unfinished
from jepa.data.storage import local_path, url_of
from jepa.data.totals import Totals, totals
from jepa.errors import ConfigError, DataError
from jepa.logs import get_logger
from jepa.version import __version__

SUMMARY = "Make webdataset tars of others usable as they are: an index beside each, and a manifest"
EXAMPLE = "jepa index tars/theirs"
POSITIONAL = ("folder",)

SKIPPED = "skipped.tsv"
MADE_BY = "jepa index"
SHOWN = 10
"""Samples that are left out are named on stderr, up to so many."""

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config(ForeignOptions):
    """Which tars to index, and how."""

    folder: Path
    """Folder of tars, or of folders train, val, test with tars; or a URL like https://host/set/train-{0000..0146}.tar."""
    out: Path | None = None
    """Folder for indices and manifest; beside the tars when none. Tars behind a URL need one."""
    name: str | None = None
    """Name of the data set; that of the folder when none."""
    workers: int | None = None
    """Processes; the result does not depend on it. None: one per core; 0: none beside this one."""
    deadline: float = 600.0
    """Seconds in which reading a sample must come a step further; else its process is replaced, the sample skipped."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"workers is {self.workers}, expected 0 or more")
        if self.deadline <= 0:
            raise ConfigError(f"deadline is {self.deadline}, expected a positive number of seconds")
        if any(not ending or ending.startswith(".") or "/" in ending for ending in self.member):
            raise ConfigError(f"member is {', '.join(self.member)}, expected endings without the first dot, like mp4")

    def options(self) -> ForeignOptions:
        """The options that decide what is in an index."""
        return ForeignOptions(**{field.name: getattr(self, field.name) for field in fields(ForeignOptions)})


def run(config: Config) -> int:
    """Index, and say on stdout what is there now."""
    sets = find_tars(config.folder)
    out = _out(config)
    for folder in {config.folder.expanduser(), *(out / split for split in sets)}:
        if is_unfinished(folder):
            raise DataError(f"{folder} is what `jepa pack` has not finished: run the same command again, it goes on")
    for split in sets:
        claim_index(out / split)
    outcomes = {split: _index(config, out / split, split, tars) for split, tars in sets.items()}
    sums = totals(ShardSource(out / split) for split in sets)
    facts = _facts(out, outcomes, sums)
    print(json.dumps(facts, indent=2) if config.json else _sentence(facts, sums))
    return 0


def _out(config: Config) -> Path:
    if config.out is not None:
        return config.out.expanduser()
    url = url_of(config.folder)
    if url is not None and not url.startswith("file://"):
        raise ConfigError("tars behind a URL need a folder for their index: --out DIR")
    return config.folder.expanduser() if url is None else local_path(url)


def claim_index(out: Path) -> None:
    """Create the folder of an index, or see that nothing of others is written over.

    Raises:
        ConfigError: it holds the manifest of something else, or cannot be written to.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write to the folder {out}: no permission; --out DIR puts the index elsewhere")
    path = out / MANIFEST
    if not path.exists():
        return
    try:
        content = json.loads(path.read_bytes())
        version, made_by = content["format_version"], content["provenance"].get("made_by")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(f"{path} is no manifest of shards: move it away, or choose a folder with --out") from None
    if made_by != MADE_BY and version == FORMAT_VERSION:
        raise ConfigError(f"{path} is there already, made by {made_by}: the shards are indexed, use them as they are")


def _index(config: Config, out: Path, split: str, tars: TarSet) -> Outcome:
    outcome = index_tars(
        tars.tars,
        out,
        config.options(),
        name="-".join(filter(None, [config.name or tars.name, split])),
        place="" if str(out.resolve()) == tars.place else tars.place,
        provenance={"made_by": MADE_BY, "version": __version__, **asdict(config.options())},
        workers=cores() if config.workers is None else config.workers,
        deadline=config.deadline,
    )
    _list_skipped(out / SKIPPED, outcome)
    return outcome


def _list_skipped(path: Path, outcome: Outcome) -> None:
    """Write down what was left out, and say it."""
    for name, reason in outcome.skipped[:SHOWN]:
        log.warning("skipped %s: %s", name, reason)
    if outcome.doubts:
        name, reason = outcome.doubts[0]
        log.warning("%d samples have labels that cannot be read; the first: %s: %s", len(outcome.doubts), name, reason)
    if not outcome.skipped:
        path.unlink(missing_ok=True)
        return
    with atomic(path) as stream:
        lines = ["path\treason", *(f"{name}\t{reason}" for name, reason in outcome.skipped)]
        stream.write("\n".join([*lines, ""]).encode())
    log.warning("%d samples or tars skipped, listed in %s", len(outcome.skipped), path)


def _facts(out: Path, outcomes: Mapping[str, Outcome], sums: Totals) -> dict[str, object]:
    return {
        "out": str(out),
        "shards": sum(outcome.shards for outcome in outcomes.values()),
        "kept": sum(outcome.kept for outcome in outcomes.values()),
        "skipped": sum(len(outcome.skipped) for outcome in outcomes.values()),
        **asdict(sums),
        "splits": {split: outcome.samples for split, outcome in outcomes.items() if split},
    }


def _sentence(facts: Mapping[str, object], sums: Totals) -> str:
    splits = facts["splits"]
    parts = ", ".join(f"{count} {name}" for name, count in splits.items()) if isinstance(splits, dict) else ""
    labels = f"{sums.classes} classes" if sums.classes else "no labels"
    return (
        f"indexed {sums.samples} samples{f' ({parts})' if parts else ''} in {facts['shards']} shards: "
        f"{sums.frames} frames, {sums.seconds / 60:.1f} minutes, {sums.bytes / 1e6:.1f} MB, {labels}; "
        f"skipped {facts['skipped']}: {facts['out']}"
    )
