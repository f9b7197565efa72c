"""The content of the samples of a shard: checksums, labels, length, and whether the videos decode.

Checksums, facts and labels of an index come from the index. Without one there is nothing to compare the bytes with:
labels are read from the members `cls` and `json`, and only decoding can tell whether a video is whole.
"""

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from jepa.data.foreign_labels import LABEL_MEMBERS, labels_of
from jepa.data.lint_findings import Finding
from jepa.data.lint_shard import LintedShard, Sample, is_image, is_media, samples_of
from jepa.data.rows import Member
from jepa.data.source import Label, SampleInfo
from jepa.data.tar_walk import TarMember
from jepa.data.timeline import probe
from jepa.data.video_file import iterate
from jepa.data.watchdog import beat
from jepa.data.windows import WindowConfig, centre_window
from jepa.errors import DataError

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Checks:
    """What is looked at beside the structure and the checksums."""

    decode: bool = False
    """Decode every video and image."""
    window: WindowConfig | None = None
    """Frames that a video must have."""
    classes: frozenset[str] | None = None
    """Values that the label may have."""
    label: str = "label"
    """Name of that label."""

    def need_content(self, shard: LintedShard) -> bool:
        """Whether the samples of a shard are to be looked at one by one."""
        return shard.index is not None or self.decode or self.classes is not None


def check_content(shard: LintedShard, first: int, end: int, checks: Checks) -> list[Finding]:
    """Check the samples first .. end - 1 of a shard."""
    try:
        samples = samples_of(shard)[first:end]
        with shard.tar.open("rb") as stream:
            return [finding for sample in samples for finding in _check(shard, sample, stream.fileno(), checks)]
    except DataError as error:
        return [Finding("unreadable", shard.name, str(error))]
    except OSError as error:
        return [Finding("unreadable", shard.name, error.strerror or str(error))]


def _check(shard: LintedShard, sample: Sample, descriptor: int, checks: Checks) -> Iterator[Finding]:
    damaged = set()
    for member in _listed(sample):
        place = sample.members.get(member.name)
        if place is None or (place.offset, place.size) != (member.offset, member.size):
            continue  # the structure says so
        if _crc32(descriptor, place) != member.crc32:
            damaged.add(member.name)
            what = f"{member.name} has not the checksum that the index has"
            yield Finding("flipped-bytes", shard.name, what, sample.key, place.offset)
    described, problem = _described(sample, descriptor)
    if problem:
        yield Finding("json", shard.name, problem, sample.key, sample.members["json"].offset)
    elif sample.row is not None and not (damaged & set(LABEL_MEMBERS)):
        small = {ending: sample.members[ending] for ending in LABEL_MEMBERS if ending in sample.members}
        labels, _ = labels_of({ending: _read(descriptor, place) for ending, place in small.items()})
        if small and labels != dict(sample.row.labels):
            ending = next(iter(small))
            what = f"the labels in its {ending} are not those of the index"
            yield Finding("json", shard.name, what, sample.key, small[ending].offset)
    if checks.classes is not None:
        label = _label(sample, described, descriptor, checks.label)
        if label is None or not _is_class(label, checks.classes):
            what = f"no label {checks.label}" if label is None else f"{checks.label} is {label}, no class of the list"
            yield Finding("label", shard.name, what, sample.key)
    yield from _check_video(shard, sample, descriptor, checks, damaged)


def _check_video(
    shard: LintedShard, sample: Sample, descriptor: int, checks: Checks, damaged: set[str]
) -> Iterator[Finding]:
    """Length by the index or, if they are decoded, by the frames that come out."""
    row = sample.row
    info = None if row is None else SampleInfo(row.key, row.frames, row.fps, row.height, row.width, {}, "")
    for ending, place in sample.members.items():
        is_video = ending == row.video.name if row is not None else is_media(ending)
        if not checks.decode or not is_video or ending in damaged:
            continue
        try:
            found, problem = _decode(_read(descriptor, place), sample.key, None if row is None else row.frames)
        except DataError as error:
            problem, found = str(error).removeprefix(f"{sample.key}: "), None
        if problem:
            yield Finding("undecodable", shard.name, f"{ending}: {problem}", sample.key, place.offset)
        elif not is_image(ending) and info is None:
            info = found
    if checks.window is not None and info is not None and not (row is not None and is_image(row.video.name)):
        try:
            centre_window(info, checks.window)
        except DataError as error:
            what, _, advice = str(error).removeprefix(f"video {sample.key} ").partition(": ")
            yield Finding("too-short", shard.name, what, sample.key, advice=advice)


def _decode(video: bytes, key: str, frames: int | None) -> tuple[SampleInfo, str]:
    """Facts of a video that was decoded to its end, and what is wrong with it.

    Raises:
        DataError: it cannot be opened, or no frame decodes.
    """
    info = probe(video, key)
    expected = max(info.frames, info.announced or 0) if frames is None else frames
    decoded = damaged = 0
    for frame in iterate(video, key):
        decoded += 1
        damaged += frame.is_corrupt
    problem = ""
    if decoded != expected:
        problem = f"{decoded} of {expected} frames decode"
    elif damaged:
        problem = f"{damaged} of {decoded} frames decode with errors"
    return SampleInfo(key, decoded, info.fps, info.height, info.width, {}, ""), problem


def _described(sample: Sample, descriptor: int) -> tuple[Mapping[str, object], str]:
    """The json member, and what is wrong with it."""
    if "json" not in sample.members:
        return {}, ""
    try:
        content = json.loads(_read(descriptor, sample.members["json"]))
    except ValueError:  # also what is no UTF-8
        return {}, "its json cannot be read"
    return (content, "") if isinstance(content, dict) else ({}, "")


def _label(sample: Sample, described: Mapping[str, object], descriptor: int, name: str) -> Label | None:
    """The label of the index; without one `cls`, or the value of that name in the json."""
    if sample.row is not None:
        return sample.row.labels.get(name)
    labels = described.get("labels")
    for place in (labels, described):
        if isinstance(place, dict) and isinstance(place.get(name), str | int | float):
            return place[name]  # type: ignore[no-any-return]
    if "cls" in sample.members:
        return _read(descriptor, sample.members["cls"]).decode("utf-8", "replace").strip()
    return None


def _is_class(label: Label, classes: frozenset[str]) -> bool:
    """Whether a label is a name of the list or, where no name is a number, the number of a line from 0 on."""
    if str(label) in classes:
        return True
    if isinstance(label, float) or any(name.isdecimal() for name in classes):
        return False
    with suppress(ValueError):
        return 0 <= int(label) < len(classes)
    return False


def _listed(sample: Sample) -> tuple[Member, ...]:
    return () if sample.row is None else (sample.row.video, *sample.row.extras)


def _crc32(descriptor: int, place: TarMember) -> int:
    crc = 0
    for chunk in _chunks(descriptor, place):
        crc = zlib.crc32(chunk, crc)
    return crc


def _read(descriptor: int, place: TarMember) -> bytes:
    return b"".join(_chunks(descriptor, place))


def _chunks(descriptor: int, place: TarMember) -> Iterator[bytes]:
    offset, end = place.offset, place.offset + place.size
    while offset < end and (chunk := os.pread(descriptor, min(_CHUNK, end - offset), offset)):
        beat()
        yield chunk
        offset += len(chunk)
