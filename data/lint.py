"""Looking for every damage in folders of shards: what `jepa lint` does.

First the structure, shard by shard: headers only, so this is quick (`lint_shard`). Then keys that occur in two shards:
64 bits per key are kept, ten million keys are 80 MB. Then the content, in parts of a few samples, so that one large
shard keeps all processes busy and the progress moves (`lint_content`). Findings come in the order of shards and
samples, whatever the number of processes; a video that kills its process, or on which it hangs, costs that video and
not the run.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np

from jepa.data.index import FORMAT_VERSION, Manifest, ShardEntry, fingerprint_of
from jepa.data.lint_content import Checks, check_content
from jepa.data.lint_findings import Finding
from jepa.data.lint_shard import ShardFiles, Structure, check_structure, hash_of, samples_of
from jepa.data.source import MANIFEST, printable
from jepa.data.watchdog import call_watched
from jepa.data.workers import Loader, Loss
from jepa.errors import DataError
from jepa.logs import progress

PART = 32
"""Samples that a process looks at in one go."""


@dataclass(frozen=True)
class Summary:
    """What was looked at."""

    shards: int
    samples: int
    bytes: int
    """Of the tars."""
    findings: int
    damaged: int
    """Files that a finding names."""
    unchecked: tuple[str, ...]
    """What could not be or was not to be checked, and why."""


def lint(
    root: Path, checks: Checks, found: Callable[[Finding], None], workers: int = 0, deadline: float | None = None
) -> Summary:
    """Check every shard below a folder, or one tar.

    Args:
        found: is called with each finding, in order.
        workers: processes; 0 for none beside this one. The findings do not depend on it, but for videos that crash a
            decoder or make it hang: they need a process that can be lost.
        deadline: seconds in which a video must make a step forward.

    Raises:
        DataError: there is no shard.
    """
    counted: list[str] = []

    def report(findings: Sequence[Finding]) -> None:
        counted.extend(finding.shard for finding in findings)
        for finding in findings:
            found(finding)

    samples_of.cache_clear()  # the files may have changed since this process looked at them
    shards, problems = find_shards(root)
    report(problems)
    structures: list[Structure] = []
    make = partial(_structure, shards)
    for structure in progress(
        Loader(make, range(len(shards)), workers=min(workers, len(shards))), "walking through shards", len(shards)
    ):
        report(structure.findings)
        structures.append(structure)
    report(_duplicates(shards, structures))
    looked = [s.samples if checks.need_content(shard) else 0 for shard, s in zip(shards, structures, strict=True)]
    with progress(None, "checking samples", sum(looked)) as bar:
        for count, findings in _contents(_Parts.of(shards, looked, checks), workers, deadline):
            report(findings)
            bar.advance(count)
    return Summary(
        len(shards),
        sum(structure.samples for structure in structures),
        sum(shard.tar.stat().st_size for shard in shards if shard.tar.exists()),
        len(counted),
        len(set(counted)),
        tuple(_unchecked(shards, checks)),
    )


def find_shards(root: Path) -> tuple[list[ShardFiles], list[Finding]]:
    """The shards below a folder in the order of their names, and what is wrong with manifests.

    Raises:
        DataError: nothing is there.
    """
    if not root.exists():
        raise DataError(f"no such file or folder: {printable(root)}")
    if root.is_file():
        entries, _ = _entries(root.parent, root.parent)
        return [_shard(root, root.parent, entries)], []
    shards: list[ShardFiles] = []
    findings: list[Finding] = []
    for folder in _folders(root):
        tars = {path.name for path in folder.glob("*.tar") if not path.name.startswith(".")}
        if not tars and not (folder / MANIFEST).is_file():
            continue
        entries, problems = _entries(folder, root)
        findings += problems
        for name in sorted(tars | set(entries)):
            shards.append(_shard(folder / name, root, entries))
            if entries and name not in entries:
                what = f"{MANIFEST} does not list it: nothing reads it"
                findings.append(Finding("shard", shards[-1].name, what))
    if not shards and not findings:
        raise DataError(f"no shards (*.tar, not compressed) in {printable(root)}")
    return shards, findings


def _folders(root: Path) -> Iterator[Path]:
    for path, folders, _ in os.walk(root, followlinks=True):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        yield Path(path)


def _shard(tar: Path, root: Path, entries: dict[str, ShardEntry]) -> ShardFiles:
    entry = entries.get(tar.name)
    index = tar.with_suffix(".arrow") if entry is None else tar.with_name(entry.index)
    return ShardFiles(str(tar.relative_to(root)), tar, index if entry or index.exists() else None, entry)


def _entries(folder: Path, root: Path) -> tuple[dict[str, ShardEntry], list[Finding]]:
    """What the manifest lists, by name of the tar. Unlike `read_manifest` this goes on behind the first damage."""
    path = folder / MANIFEST
    name = str(path.relative_to(root))
    if not path.is_file():
        if any(folder.glob("*.arrow")):
            return {}, [Finding("manifest", name, "there are indices but no manifest: writing was cut short")]
        return {}, []
    try:
        content = json.loads(path.read_bytes())
        version = content.pop("format_version")
        if version != FORMAT_VERSION:
            return {}, [Finding("manifest", name, f"format version {version} is not known")]
        shards = tuple(ShardEntry(**shard) for shard in content["shards"])
        manifest = Manifest(**{**content, "shards": shards})
    except OSError as error:
        return {}, [Finding("unreadable", name, error.strerror or str(error))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, [Finding("manifest", name, f"cannot be read as a manifest of shards: {error}")]
    findings = []
    if manifest.fingerprint != fingerprint_of(shards):
        findings.append(Finding("manifest", name, "the fingerprint is not that of the shards it lists"))
    entries = {shard.file: shard for shard in shards}
    if len(entries) < len(shards):
        findings.append(Finding("manifest", name, f"lists {len(shards) - len(entries)} shards twice"))
    return entries, findings


def _structure(shards: Sequence[ShardFiles], number: int) -> Structure:
    return check_structure(shards[number])


def _duplicates(shards: Sequence[ShardFiles], structures: Sequence[Structure]) -> list[Finding]:
    """Keys that occur in two shards of one folder, a finding for each pair of shards."""
    findings = []
    for folder in dict.fromkeys(shard.tar.parent for shard in shards):
        inside = [number for number, shard in enumerate(shards) if shard.tar.parent == folder]
        hashes, counts = np.unique(np.concatenate([structures[number].keys for number in inside]), return_counts=True)
        twice = hashes[counts > 1]
        first: dict[str, int] = {}
        for number in inside if len(twice) else []:
            if not np.isin(structures[number].keys, twice).any():
                continue
            pairs: dict[int, list[str]] = {}
            wanted = set(twice.tolist())
            for key in (sample.key for sample in samples_of(shards[number]) if hash_of(sample.key) in wanted):
                pairs.setdefault(first.setdefault(key, number), []).append(key)
            for other, keys in pairs.items():
                if other != number:
                    many = f"{len(keys)} keys, this one first, are" if len(keys) > 1 else "is"
                    what = f"{many} also in {shards[other].name}"
                    findings.append(Finding("duplicate-key", shards[number].name, what, keys[0]))
    return findings


@dataclass(frozen=True)
class _Part:
    """A few samples of one shard."""

    shard: ShardFiles
    first: int
    end: int


@dataclass(frozen=True)
class _Parts:
    """The samples of all shards in parts of `size`, numbered through."""

    shards: tuple[ShardFiles, ...]
    ends: tuple[int, ...]
    """Number of the part behind the last one of each shard."""
    samples: tuple[int, ...]
    checks: Checks

    @classmethod
    def of(cls, shards: Sequence[ShardFiles], samples: Sequence[int], checks: Checks) -> "_Parts":
        """Args: samples: how many of each shard are to be looked at."""
        return cls(tuple(shards), tuple(accumulate(-(-count // PART) for count in samples)), tuple(samples), checks)

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def part(self, number: int) -> _Part:
        shard = int(np.searchsorted(self.ends, number, side="right"))
        place = number - (self.ends[shard - 1] if shard else 0)
        return _Part(self.shards[shard], place * PART, min((place + 1) * PART, self.samples[shard]))

    def __call__(self, number: int) -> list[Finding]:
        part = self.part(number)
        return check_content(part.shard, part.first, part.end, self.checks)

    def alone(self, part: _Part) -> Callable[[int], list[Finding]]:
        """Number of a sample in its shard -> its findings."""
        return partial(_one, part.shard, self.checks)


def _one(shard: ShardFiles, checks: Checks, number: int) -> list[Finding]:
    return check_content(shard, number, number + 1, checks)


def _contents(parts: _Parts, workers: int, deadline: float | None = None) -> Iterator[tuple[int, list[Finding]]]:
    """(samples, their findings) of each part, in order."""

    def one_by_one(number: int, _: Loss) -> list[Finding]:
        part = parts.part(number)
        return list(_one_by_one(part, parts.alone(part), deadline))

    make = partial(call_watched, parts)
    loader = Loader(make, range(len(parts)), workers=workers, deadline=deadline, on_loss=one_by_one)
    for number, findings in enumerate(loader):
        part = parts.part(number)
        yield part.end - part.first, findings


def _one_by_one(part: _Part, make: Callable[[int], list[Finding]], deadline: float | None = None) -> Iterator[Finding]:
    """The findings of a part of which some sample is known to be fatal."""

    def fatal(number: int, loss: Loss) -> list[Finding]:
        return [Finding("undecodable", part.shard.name, loss.reason, samples_of(part.shard)[number].key)]

    samples = range(part.first, part.end)
    for findings in Loader(partial(call_watched, make), samples, workers=1, deadline=deadline, on_loss=fatal):
        yield from findings


def _unchecked(shards: Sequence[ShardFiles], checks: Checks) -> Iterator[str]:
    foreign = sum(shard.index is None for shard in shards)
    if foreign:
        what = "checksums, counts, keys in two shards"
        if checks.window is not None and not checks.decode:
            what += ", lengths (--decode finds them)"
        yield f"{what}: {foreign} of {len(shards)} shards have no index"
    if not checks.decode:
        yield "decoding: without --decode"
    if checks.window is None:
        yield "lengths: without --frames"
    if checks.classes is None:
        yield "labels: without --classes"
