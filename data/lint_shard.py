"""The structure of one shard: its tar walked from header to header, against its index and against the manifest.

What is compared: sizes of the files, counts and sums with `manifest.json`; the hashes of the index; every member that
the index lists with the member that the walk finds at that place. A tar without an index is held to its own rules: no
damage, no links, no name twice, a video or an image in every sample, and in all of them a member that nine of ten have.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from jepa.data.digests import file_digest, key_hash
from jepa.data.folder import VIDEO_ENDINGS
from jepa.data.index import ShardEntry, digest_of
from jepa.data.lint_findings import Finding, FindingKind
from jepa.data.rows import IndexNotes, Row, Rows, open_rows
from jepa.data.shard_guard import sums_problem
from jepa.data.source import MANIFEST, printable
from jepa.data.tar_walk import TarDamage, TarMember, split_name, unsafe, walk_file
from jepa.errors import DataError

IMAGE_ENDINGS = frozenset({"bmp", "jpeg", "jpg", "png", "tif", "tiff", "webp"})
LEAST_SAMPLES = 3
"""In a shard of fewer samples nothing can be called usual."""


@dataclass(frozen=True)
class LintedShard:
    """A shard to check."""

    name: str
    """Path of the tar from the folder that is checked."""
    tar: Path
    index: Path | None
    """None for a tar of others."""
    entry: ShardEntry | None
    """What the manifest says of it."""


@dataclass(frozen=True)
class Structure:
    """What the walk over one shard tells."""

    findings: tuple[Finding, ...]
    samples: int
    """Samples whose content can be checked."""
    keys: np.ndarray
    """uint64 (samples,): a hash of each key; empty without an index."""


@dataclass(frozen=True)
class Sample:
    """A sample of a shard, as the walk found it."""

    key: str
    members: Mapping[str, TarMember]
    """Ending -> place."""
    row: Row | None
    """What the index says; None without one."""
    prefix: str = ""
    """Stands before the key where keys are unique in one tar only."""


@dataclass
class _Listing:
    """A tar by samples."""

    samples: dict[str, dict[str, TarMember]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def check_structure(shard: LintedShard) -> Structure:
    """Walk the tar and compare it with the index and the manifest."""
    findings = list(_sizes(shard))
    if not shard.tar.exists():
        return Structure(tuple(findings), 0, _hashes([]))
    try:
        listing = _list(shard)
        findings += listing.findings
    except DataError as error:
        return Structure((Finding("unreadable", shard.name, str(error)),), 0, _hashes([]))
    rows: Rows | None = None
    if shard.index is not None and shard.index.exists():
        try:
            rows = open_rows(shard.index)
            whole = [rows.row(number) for number in range(len(rows))]
        except DataError as error:
            findings.append(Finding("index", shard.name, str(error)))
            rows = None
    if rows is None:
        findings += _incomplete(shard, listing)
        return Structure(tuple(findings), len(listing.samples), _hashes([]))
    findings += [*_index_against_manifest(shard, rows, whole), *_index_against_tar(shard, rows.notes, whole, listing)]
    keys = dict.fromkeys(row.key for row in whole)
    return Structure(tuple(findings), len(keys), _hashes(rows.notes.prefix + key for key in keys))


@lru_cache(maxsize=1)  # a worker is asked for one part of a shard after the other
def samples_of(shard: LintedShard) -> Sequence[Sample]:
    """The samples that `check_structure` counted.

    Raises:
        DataError: the tar cannot be read.
    """
    listing = _list(shard)
    if shard.index is not None:
        with suppress(DataError):  # the structure says so
            rows = open_rows(shard.index)
            by_key = {row.key: row for row in map(rows.row, range(len(rows)))}
            prefix = rows.notes.prefix
            return [Sample(key, listing.samples.get(key, {}), row, prefix) for key, row in by_key.items()]
    return [Sample(key, members, None) for key, members in listing.samples.items()]


def is_image(ending: str) -> bool:
    return ending.rpartition(".")[2].lower() in IMAGE_ENDINGS


def is_media(ending: str) -> bool:
    """Whether a member of this ending is a video or an image."""
    return is_image(ending) or ending.rpartition(".")[2].lower() in VIDEO_ENDINGS


def _hashes(keys: Iterable[str]) -> np.ndarray:
    return np.array([key_hash(key) for key in keys], np.uint64)


def _list(shard: LintedShard) -> _Listing:
    """Walk the tar. Of members with one name the last counts, as when a tar is unpacked."""
    listing, seen = _Listing(), dict[str, int]()
    for found in walk_file(shard.tar):
        if isinstance(found, TarDamage):
            listing.findings.append(Finding(found.kind, shard.name, found.what, offset=found.offset))
            continue
        parts = split_name(found.name)
        key = parts[0] if parts else None
        if problem := unsafe(found):
            kind: FindingKind = "link" if found.kind == "link" else "unsafe-name"
            listing.findings.append(Finding(kind, shard.name, f"member {found.name} {problem}", key, found.header))
        elif found.kind == "file" and parts:
            if found.name in seen:
                what = f"member {found.name} is there again, first at byte {seen[found.name]}"
                listing.findings.append(Finding("duplicate-key", shard.name, what, key, found.header))
            seen[found.name] = found.header
            listing.samples.setdefault(parts[0], {})[parts[1]] = found
    return listing


def _sizes(shard: LintedShard) -> Iterator[Finding]:
    if shard.entry is None or shard.index is None:
        return
    for path, expected in ((shard.tar, shard.entry.bytes), (shard.index, shard.entry.index_bytes)):
        try:
            size = path.stat().st_size
        except OSError as error:
            yield Finding("shard", shard.name, f"{path.name}: {error.strerror}, but {MANIFEST} lists it")
            continue
        if size != expected:
            yield Finding("size", shard.name, f"{path.name} has {size} bytes, {MANIFEST} says {expected}")


def _index_against_manifest(shard: LintedShard, rows: Rows, whole: Sequence[Row]) -> Iterator[Finding]:
    if shard.entry is None or shard.index is None:
        return
    if len(rows) != shard.entry.count:
        what = f"the index lists {len(rows)} samples, {MANIFEST} says {shard.entry.count}"
        yield Finding("count", shard.name, what)
    if file_digest(shard.index) != shard.entry.index_digest:
        yield Finding("index", shard.name, f"the index does not have the hash that {MANIFEST} says")
    elif digest_of(whole, rows.notes.prefix) != shard.entry.digest:
        yield Finding("index", shard.name, f"the facts in the index are not those that {MANIFEST} has the hash of")
    elif problem := sums_problem(rows, shard.entry):
        yield Finding("count", shard.name, problem)


def _index_against_tar(
    shard: LintedShard, notes: IndexNotes, rows: Sequence[Row], listing: _Listing
) -> Iterator[Finding]:
    for key, times in Counter(row.key for row in rows).items():
        if times > 1:
            yield Finding("duplicate-key", shard.name, f"the index lists it {times} times", key)
    # What an index lists in one sample may be absent in another; what it never lists (json) is expected in all.
    usual = _usual(listing.samples.values()) - {member.name for row in rows for member in (row.video, *row.extras)}
    lacking: list[tuple[str, str]] = []
    for row in rows:
        numbers = (-1, *row.keyframes, row.frames)
        if any(one >= other for one, other in pairwise(numbers)):
            yield Finding("index", shard.name, "its keyframes are not ascending numbers of its frames", row.key)
        members = listing.samples.get(row.key, {})
        listed = {member.name: member for member in (row.video, *row.extras)}
        missing = [name for name in [*listed, *sorted(usual)] if name not in members]
        lacking.append((row.key, _lack(missing, gone=not members)))
        for name in listed.keys() & members.keys():
            here, there = members[name], listed[name]
            if (here.offset, here.size) != (there.offset, there.size):
                what = f"the index has {there.size} bytes of {name} at {there.offset}, the tar {here.size} bytes"
                yield Finding("index", shard.name, what, row.key, here.offset)
    yield from _runs(shard, lacking)
    known = {row.key for row in rows} | {key for key, _ in notes.skipped}
    unlisted = [key for key in listing.samples if printable(key) not in known]
    if unlisted:
        what = f"the tar holds {len(unlisted)} samples that the index does not list, such as {min(unlisted)}"
        yield Finding("count", shard.name, what)


def _incomplete(shard: LintedShard, listing: _Listing) -> Iterator[Finding]:
    """Samples of a tar without an index that lack what they should have."""
    usual = _usual(listing.samples.values())
    lacking = []
    for key, members in listing.samples.items():
        missing = sorted(usual - members.keys())
        if not any(is_media(ending) for ending in members):
            missing.insert(0, "a video or an image")
        lacking.append((key, _lack(missing)))
    yield from _runs(shard, lacking)


def _usual(samples: Iterable[Mapping[str, TarMember]]) -> set[str]:
    """Endings that at most one sample lacks, or one in ten; those of videos and images aside, whose kinds differ."""
    lists = [list(members) for members in samples]
    counts = Counter(ending for endings in lists for ending in endings if not is_media(ending))
    few = max(1, len(lists) // 10)
    return {ending for ending, count in counts.items() if len(lists) >= LEAST_SAMPLES and len(lists) - count <= few}


def _lack(missing: Sequence[str], gone: bool = False) -> str:
    if gone:
        return "not in the tar, but in the index"
    return f"lacks {', '.join(missing)}" if missing else ""


def _runs(shard: LintedShard, lacking: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    """One finding for each run of samples that lack the same."""
    starts = [place for place, (one, other) in enumerate(pairwise(lacking), 1) if one[1] != other[1]]
    bounds = [0, *starts, len(lacking)]
    for first, end in pairwise(bounds):
        if first == end or not lacking[first][1]:
            continue
        many = f"{end - first} samples to {lacking[end - 1][0]}: " if end - first > 1 else ""
        yield Finding("missing-member", shard.name, many + lacking[first][1], lacking[first][0])
