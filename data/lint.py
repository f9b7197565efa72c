"""Looking for every damage in folders of shards: what `jepa lint` does.

First the structure, shard by shard: headers only, so this is quick (`lint_shard`). Then keys that occur in two shards:
64 bits per key are kept, ten million keys are 80 MB. Then the content, in parts of a few samples, so that one large
shard keeps all processes busy and the progress moves (`lint_content`). Findings come in the order of shards and
samples, whatever the number of processes; a video that kills its process, or on which it hangs, costs that video and
not the run.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from jepa.data.digests import key_hash
from jepa.data.index import ShardEntry, fingerprint_of, parse_manifest
from jepa.data.lint_content import Checks, check_content
from jepa.data.lint_findings import Finding
from jepa.data.lint_shard import LintedShard, Sample, Structure, check_structure, samples_of
from jepa.data.parts import Part, Parts
from jepa.data.source import MANIFEST, is_unfinished, printable
from jepa.data.storage import url_of
from jepa.data.workers import Loader
from jepa.errors import DataError
from jepa.logs import progress


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
        for part, findings in contents(shards, looked, checks).run(workers, deadline):
            report(findings)
            bar.advance(len(part))
    return Summary(
        len(shards),
        sum(structure.samples for structure in structures),
        sum(shard.tar.stat().st_size for shard in shards if shard.tar.exists()),
        len(counted),
        len(set(counted)),
        tuple(_unchecked(shards, checks)),
    )


def _key(sample: Sample) -> str:
    """The key as the source gives it."""
    return sample.prefix + sample.key


@dataclass(frozen=True)
class _Listed:
    """What the manifest of a folder says."""

    entries: Mapping[str, ShardEntry] = field(default_factory=dict)
    """By name of the tar."""
    left_out: frozenset[str] = frozenset()
    tars: str = ""


def find_shards(root: Path) -> tuple[list[LintedShard], list[Finding]]:
    """The shards below a folder in the order of their names, and what is wrong with manifests.

    Raises:
        DataError: nothing is there, or the tars lie behind a URL.
    """
    if url_of(root) is not None:
        raise DataError(f"{root} is a URL: lint a copy of the tars")
    if not root.exists():
        raise DataError(f"no such file or folder: {printable(root)}")
    if root.is_file():
        return [_shard(root.parent, root.name, root.parent, _listed(root.parent, root.parent)[0])], []
    shards: list[LintedShard] = []
    findings: list[Finding] = []
    for folder in _folders(root):
        if not (folder / MANIFEST).is_file() and not any(folder.glob("[!.]*.tar")):
            continue
        listed, problems = _listed(folder, root)
        findings += problems
        tars = {path.name for path in (folder / listed.tars).glob("[!.]*.tar")}
        for name in sorted(tars | set(listed.entries)):
            shards.append(_shard(folder, name, root, listed))
            if listed.entries and name not in listed.entries and name not in listed.left_out:
                what = f"{MANIFEST} does not list it: nothing reads it"
                findings.append(Finding("shard", shards[-1].name, what))
    if not shards and not findings:
        raise DataError(f"no shards (*.tar, not compressed) in {printable(root)}")
    return shards, findings


def _folders(root: Path) -> Iterator[Path]:
    for path, folders, _ in os.walk(root, followlinks=True):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        yield Path(path)


def _shard(folder: Path, name: str, root: Path, listed: _Listed) -> LintedShard:
    tar, entry = folder / listed.tars / name, listed.entries.get(name)
    index = (folder / name).with_suffix(".arrow") if entry is None else folder / entry.index
    shown = tar.relative_to(root) if tar.is_relative_to(root) else tar
    return LintedShard(str(shown), tar, index if entry or index.exists() else None, entry)


def _listed(folder: Path, root: Path) -> tuple[_Listed, list[Finding]]:
    """What the manifest lists. Unlike `read_manifest` this goes on behind the first damage."""
    path = folder / MANIFEST
    name = str(path.relative_to(root))
    if not path.is_file():
        if is_unfinished(folder):
            what = "`jepa pack` has not finished: run the same command again, it goes on where it stopped"
            return _Listed(), [Finding("manifest", name, what)]
        if any(folder.glob("*.arrow")):
            return _Listed(), [Finding("manifest", name, "there are indices but no manifest: writing was cut short")]
        return _Listed(), []
    try:
        manifest = parse_manifest(path.read_bytes(), "it")
    except OSError as error:
        return _Listed(), [Finding("unreadable", name, error.strerror or str(error))]
    except DataError as error:
        return _Listed(), [Finding("manifest", name, str(error))]
    if url_of(manifest.tars) is not None:
        raise DataError(f"{path} is about tars behind a URL: lint a copy of them")
    findings = []
    if manifest.fingerprint != fingerprint_of(manifest.shards):
        findings.append(Finding("manifest", name, "the fingerprint is not that of the shards it lists"))
    entries = {shard.file: shard for shard in manifest.shards}
    if len(entries) < len(manifest.shards):
        twice = len(manifest.shards) - len(entries)
        findings.append(Finding("manifest", name, f"lists {twice} shards twice"))
    return _Listed(entries, frozenset(manifest.left_out), manifest.tars), findings


def _structure(shards: Sequence[LintedShard], number: int) -> Structure:
    return check_structure(shards[number])


def _duplicates(shards: Sequence[LintedShard], structures: Sequence[Structure]) -> list[Finding]:
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
            for key in (key for key in map(_key, samples_of(shards[number])) if key_hash(key) in wanted):
                pairs.setdefault(first.setdefault(key, number), []).append(key)
            for other, keys in pairs.items():
                if other != number:
                    many = f"{len(keys)} keys, this one first, are" if len(keys) > 1 else "is"
                    what = f"{many} also in {shards[other].name}"
                    findings.append(Finding("duplicate-key", shards[number].name, what, keys[0]))
    return findings


def contents(shards: Sequence[LintedShard], samples: Sequence[int], checks: Checks) -> Parts[Finding]:
    """The check of the first so many samples of each shard."""
    return Parts.of(partial(_content, shards, checks), partial(_lost, shards), samples)


def _content(shards: Sequence[LintedShard], checks: Checks, part: Part) -> list[Finding]:
    return check_content(shards[part.shard], part.first, part.end, checks)


def _lost(shards: Sequence[LintedShard], shard: int, number: int, reason: str) -> list[Finding]:
    return [Finding("undecodable", shards[shard].name, reason, samples_of(shards[shard])[number].key)]


def _unchecked(shards: Sequence[LintedShard], checks: Checks) -> Iterator[str]:
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
