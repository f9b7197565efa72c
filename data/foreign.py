"""Tars of others, as samples: which members belong together, which of them is the video, and what it holds.

The rule of webdataset: members with the same path up to the first dot of the file name are a sample, and the rest of
the name says what each is. Nothing is asked of their order, so the members of a sample need not be neighbours. Files
without an ending and hidden ones belong to no sample.

The video is the member with the ending that was asked for, else the only one with the ending of a video, else the only
one with that of a picture, which is a video of one frame. Two are one too many: a person must say which.

A sample that cannot be used is skipped, with its reason. A tar that is damaged is refused as a whole: what a damage
took away does not show in what is left.
"""

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from jepa.data.folder import VIDEO_ENDINGS
from jepa.data.foreign_labels import LABEL_MEMBERS, labels_of, origin_of
from jepa.data.pictures import PICTURE_ENDINGS
from jepa.data.rows import Member, Row
from jepa.data.source import printable
from jepa.data.storage import Store, StoredFile
from jepa.data.tar_walk import TarDamage, TarMember, split_name, unsafe, walk
from jepa.data.timeline import probe
from jepa.errors import ConfigError, DataError

KINDS = (VIDEO_ENDINGS - {"ogg"}, PICTURE_ENDINGS)
"""Last part of the ending of a video, and of a picture, in lower case; an ogg in a tar is mostly sound."""


@dataclass(frozen=True)
class ForeignTar:
    """A tar to index."""

    store: Store
    name: str
    """Its path in the store."""
    size: int
    """Bytes."""
    version: str
    """Another one when the tar was written again: its time of change."""

    @property
    def where(self) -> str:
        """The tar as messages name it."""
        return printable(self.store.where(self.name))


@dataclass
class ForeignSample:
    """A sample as the walk over the headers found it."""

    key: str
    members: dict[str, TarMember] = field(default_factory=dict)
    """Ending -> place."""
    problem: str = ""
    """Why it must not be used; empty if it may."""

    @property
    def text(self) -> str:
        """The key as it can be written."""
        return printable(self.key)


@dataclass(frozen=True)
class Skipped:
    """A sample that cannot be used."""

    key: str
    reason: str


@dataclass(frozen=True)
class Indexed:
    """A sample that can."""

    row: Row
    doubt: str
    """What could not be read of its labels."""


def samples_in(tar: ForeignTar) -> list[ForeignSample]:
    """The samples of a tar in the order of their first members.

    Raises:
        DataError: the tar is damaged or cannot be read, or a name is there twice.
    """
    samples: dict[str, ForeignSample] = {}
    stream = io.BufferedReader(StoredFile(tar.store, tar.name, tar.size))
    for found in walk(stream, tar.size):
        if isinstance(found, TarDamage):
            raise DataError(f"{tar.where}, byte {found.offset}: damaged, {found.what}")
        parts = split_name(found.name)
        if parts is None or found.kind == "folder":
            continue
        sample = samples.setdefault(parts[0], ForeignSample(parts[0]))
        if problem := unsafe(found):
            sample.problem = sample.problem or f"its member {printable(parts[1])} {problem}"
            continue
        if (first := sample.members.get(parts[1])) is not None:
            places = f"bytes {first.header} and {found.header}"
            raise DataError(
                f"{tar.where}: member {printable(found.name)} is there twice ({places}); write the tar anew"
            )
        sample.members[parts[1]] = found
    return list(samples.values())


def video_of(tar: ForeignTar, sample: ForeignSample, wanted: Sequence[str]) -> str | None:
    """Ending of the member that is the video, or None if there is none.

    Args:
        wanted: endings to look for, the first one found is taken; by the rule above if empty.

    Raises:
        ConfigError: several could be it.
    """
    if wanted:
        return next((ending for ending in wanted if ending in sample.members), None)
    for kinds in KINDS:
        found = [ending for ending in sample.members if ending.rpartition(".")[2].lower() in kinds]
        if len(found) > 1:
            names = " and ".join(printable(ending) for ending in sorted(found)[:2])
            raise ConfigError(
                f"{tar.where}, key {sample.text} has {names}: say with --member which of them is the clip"
            )
        if found:
            return found[0]
    return None


def usable(tar: ForeignTar, samples: Sequence[ForeignSample], wanted: Sequence[str]) -> list[ForeignSample]:
    """The samples with a video, as far as their headers tell.

    Raises:
        ConfigError: one has several.
    """
    return [one for one in samples if not one.problem and video_of(tar, one, wanted) is not None]


def look(tar: ForeignTar, sample: ForeignSample, wanted: Sequence[str]) -> Indexed | Skipped:
    """Read all members of a sample, and count the frames of its video.

    Raises:
        ConfigError: it has several members that could be the video.
        DataError: the tar cannot be read.
    """
    ending = video_of(tar, sample, wanted)
    if sample.problem or ending is None:
        what = f"no member {' or '.join(wanted)}" if wanted else "no video or picture"
        return Skipped(sample.text, sample.problem or what)
    if printable(sample.key) != sample.key or any(printable(name) != name for name in sample.members):
        return Skipped(sample.text, "its name is no text in UTF-8")
    places, small = {}, dict[str, bytes]()
    info = None
    for name, place in sample.members.items():
        content = tar.store.read(tar.name, place.offset, place.size) if place.size else b""
        places[name] = Member(name, place.offset, place.size, zlib.crc32(content))
        if name == ending:
            try:
                info = probe(content, sample.text)
            except DataError as error:
                return Skipped(sample.text, f"{name}: {str(error).removeprefix(f'{sample.text}: ')}")
        elif name.lower() in LABEL_MEMBERS:
            small[name.lower()] = content
    assert info is not None
    labels, doubt = labels_of(small)
    extras = tuple(place for name, place in places.items() if name != ending)
    row = Row(
        sample.key, places[ending], info.frames, info.fps, info.height, info.width, info.codec, info.keyframes,
        labels, origin_of(small), extras, info.times, info.exact,
    )  # fmt: skip
    return Indexed(row, doubt)


def digest_of_rows(rows: Sequence[Row]) -> str:
    """Hash of everything in the rows: an index that is found again must still say what it said."""
    digest = blake2b(digest_size=16)
    for row in rows:
        digest.update(repr(row).encode())
    return digest.hexdigest()
