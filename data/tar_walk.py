"""A strict walk over the headers of a tar: every member with its place, and every damage with its place.

Common readers are lenient where it hurts. A tar that is cut between two members, or in a header, reads as a shorter
tar; so does one in which a header was overwritten with zeros, since two blocks of zeros mark the end of an archive
and readers stop at the first; none of them raises. Here the end counts only if the zeros last to the end of the file,
every header must have its checksum, and all that a member announces must be there. After a damage the walk looks for
the next header and goes on, so that one pass finds all of them.

The format (POSIX 1003.1 ustar and pax, GNU): blocks of 512 bytes; a header block, the content filled up to whole
blocks, and so on; two blocks of zeros. Long names stand in an extended header before the member. Only headers are
read, so a walk costs one small read per member and O(1) memory, on whatever can seek.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from jepa.data.source import printable
from jepa.errors import DataError

BLOCK = 512
"""Bytes of a header; contents are filled up to a multiple of it."""
END_BLOCKS = 2
"""Blocks of zeros at the end, at least."""
NAME_BYTES = 100
"""A name that is longer or not ASCII may stand elsewhere than in the name field of its header."""
LARGE = 8**11
"""The size of a file of so many bytes or more may stand elsewhere than in the size field of its header."""
FILE_TYPES = frozenset({b"0", b"\0", b"7"})
"""Types of plain files."""

MemberKind = Literal["file", "folder", "link", "special"]
DamageKind = Literal["cut-at-member", "cut-header", "corrupt-header", "zeroed-header", "cut-data"]

_KINDS: dict[bytes, MemberKind] = {
    **dict.fromkeys(FILE_TYPES, "file"), b"1": "link", b"2": "link", b"5": "folder",
}  # fmt: skip
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"
_EXTENDED = frozenset({_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK})
_MOST_EXTENDED = 1 << 20  # bytes of an extended header: more is no name
_CHUNK = 1 << 20  # bytes read at once while looking for something
_ZERO = bytes(BLOCK)
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*")
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class TarMember:
    """A member that is there from its first byte to its last."""

    name: str
    """As the archive has it; bytes that are no UTF-8 as surrogates."""
    header: int
    """Bytes from the start of the tar to the first header block of the member, extended headers included."""
    offset: int
    """Bytes from the start of the tar to the content."""
    size: int
    """Bytes of content; 0 for what is no file."""
    kind: MemberKind


@dataclass(frozen=True)
class TarDamage:
    """Something that the archive should not look like."""

    kind: DamageKind
    offset: int
    """Where, in bytes from the start of the tar."""
    what: str


@dataclass(frozen=True)
class Header:
    """One header block, checked."""

    name: str
    """Up to 256 bytes; longer names and those outside ASCII may stand in an extended header before it."""
    size: int
    type: bytes
    """One byte: 0 or NUL a file, 1 and 2 links, 5 a folder, x and g pax, L and K long names of GNU."""


def walk(stream: BinaryIO, size: int, start: int = 0) -> Iterator[TarMember | TarDamage]:
    """Every member and every damage of a tar, in the order of their places.

    Args:
        stream: seekable; its position is changed.
        size: bytes of the tar.
        start: place of the header to begin with.
    """
    offset, names = start, _Extended()
    while True:
        block = _read(stream, offset, BLOCK)
        if len(block) < BLOCK:
            yield _cut(offset, len(block), size)
            return
        if block == _ZERO:
            behind = _first_content(stream, offset)
            if behind is None:
                if size - offset < END_BLOCKS * BLOCK:
                    yield TarDamage("cut-at-member", size, "one of the two blocks of zeros at the end is missing")
                return
            yield TarDamage(
                "zeroed-header", offset, f"{behind - offset} bytes of zeros where a header belongs, readers stop here"
            )
            offset, names = _next_header(stream, behind), _Extended()
            continue
        header = parse_header(block)
        if isinstance(header, str):
            yield TarDamage("corrupt-header", offset, header)
            offset, names = _next_header(stream, offset + BLOCK), _Extended()
            continue
        first = offset if names.start is None else names.start
        content = offset + BLOCK
        length = header.size if names.size is None or header.type in _EXTENDED else names.size
        if header.type not in _EXTENDED and _KINDS.get(header.type, "special") in ("link", "folder"):
            length = 0  # GNU tar writes the size of the file that a hard link points to
        if content + length > size:
            name = printable(names.name or header.name)
            yield TarDamage("cut-data", offset, f"{name} announces {length} bytes, {size - content} are there")
            return
        offset = content + _whole(length)
        if header.type in _EXTENDED:
            problem = names.take(header.type, first, _read(stream, content, min(length, _MOST_EXTENDED + 1)))
            if problem:
                yield TarDamage("corrupt-header", content - BLOCK, problem)
            continue
        kind = _KINDS.get(header.type, "special")
        yield TarMember(names.name or header.name, first, content, length, kind)
        names = _Extended()


def walk_file(path: Path) -> Iterator[TarMember | TarDamage]:
    """`walk` over a local file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            yield from walk(stream, path.stat().st_size)
    except OSError as error:
        raise DataError(f"{printable(path)}: {error.strerror}") from None


def parse_header(block: bytes) -> Header | str:
    """The header in a block of 512 bytes, or in words why it is none."""
    if len(block) < BLOCK:
        return "the header is cut off"
    if not _has_checksum(block):
        if block[:2] == b"\x1f\x8b":
            return "gzip data: shards must not be compressed"
        return "the header does not have its checksum"
    size = _number(block[124:136])
    if size is None or size < 0:
        return "the header has no valid size"
    name = _text(block[:NAME_BYTES])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    return Header(name, size, block[156:157])


def unsafe(member: TarMember) -> str | None:
    """Why a member must not be in a shard, as the end of a sentence; None if it may."""
    if member.kind == "link":
        return "is a link"
    if member.kind == "special":
        return "is neither a file nor a folder"
    parts = re.split(r"[/\\]", member.name)
    if not parts[0] or _DRIVE.match(member.name):
        return "has an absolute name" if member.name else "has no name"
    if ".." in parts:
        return "leaves the folder (..)"
    if any(ord(char) < 32 or ord(char) == 127 for char in member.name):
        return "has control characters in its name"
    return None


def split_name(name: str) -> tuple[str, str] | None:
    """Key and ending of a member: `a/17.masks.npz` is ("a/17", "masks.npz"). None for files that have no key.

    The rule of webdataset: the key ends at the first dot of the last part of the path. Hidden files have none.
    """
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, dot, ending = base.partition(".")
    return (f"{folder}{slash}{stem}", ending) if stem and dot and ending else None


class _Extended:
    """What extended headers said about the next member."""

    def __init__(self) -> None:
        self.start: int | None = None
        self.name = ""
        self.size: int | None = None

    def take(self, kind: bytes, start: int, content: bytes) -> str | None:
        """Take the content of an extended header; what is wrong with it, or None."""
        if len(content) > _MOST_EXTENDED:
            return "an extended header of more than a megabyte"
        self.start = start
        if kind == _LONG_NAME:
            self.name = _text(content)
        if kind != _PAX:
            return None  # names of links and global headers tell nothing about the place of contents
        try:
            records = dict(_pax_records(content))
            if "path" in records:
                self.name = records["path"]
            if "size" in records:
                self.size = _decimal(records["size"].encode())
        except ValueError:
            return "an extended header that cannot be read"
        if any(name.startswith("GNU.sparse.") for name in records):
            return "a sparse file"
        return None


def _pax_records(content: bytes) -> Iterator[tuple[str, str]]:
    """The records `LENGTH NAME=VALUE\\n`; ValueError where they are none."""
    while content:
        digits, space, _ = content.partition(b" ")
        length = _decimal(digits)
        record = content[:length]
        name, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not space or not equals or len(record) != length or record[-1:] != b"\n":
            raise ValueError("no pax record")
        yield name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape")
        content = content[length:]


def _cut(offset: int, rest: int, size: int) -> TarDamage:
    """The file ends where a header is expected."""
    if rest:
        return TarDamage("cut-header", offset, f"the file ends after {rest} of the {BLOCK} bytes of a header")
    return TarDamage("cut-at-member", size, "the file ends without the two blocks of zeros that end a tar")


def _first_content(stream: BinaryIO, offset: int) -> int | None:
    """Place of the first block that is not all zeros; None if there is none."""
    while chunk := _read(stream, offset, _CHUNK):
        rest = chunk.lstrip(b"\0")
        if rest:
            return offset + (len(chunk) - len(rest)) // BLOCK * BLOCK
        offset += len(chunk)
    return None


def _next_header(stream: BinaryIO, offset: int) -> int:
    """Place of the first header from here on, or of the blocks of zeros at the end."""
    while chunk := _read(stream, offset, _CHUNK):
        for place in range(0, len(chunk), BLOCK):
            block = chunk[place : place + BLOCK]
            if block[257:262] == b"ustar" and isinstance(parse_header(block), Header):
                return offset + place
        offset += len(chunk)
    return _end_of_content(stream, offset)


def _end_of_content(stream: BinaryIO, size: int) -> int:
    """Place of the zeros that last to the end of the file, in whole blocks."""
    end = size
    while end > 0:
        start = max(0, end - _CHUNK)
        kept = _read(stream, start, end - start).rstrip(b"\0")
        if kept:
            return _whole(start + len(kept))
        end = start
    return 0


def _read(stream: BinaryIO, offset: int, size: int) -> bytes:
    stream.seek(offset)
    return stream.read(size)


def _whole(size: int) -> int:
    """Bytes of whole blocks that hold so many bytes."""
    return -(-size // BLOCK) * BLOCK


def _has_checksum(block: bytes) -> bool:
    """Whether the sum of the bytes, with the checksum itself as spaces, is the one stated (some add signed bytes)."""
    stated, rest = _number(block[148:156]), block[:148] + b" " * 8 + block[156:]
    return stated == sum(rest) or stated == sum(rest) - 256 * sum(byte > 127 for byte in rest)


def _number(field: bytes) -> int | None:
    """Octal digits, or binary after a first byte of 0x80 (GNU, for files above 8 GB)."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    match = _OCTAL.fullmatch(field)
    return int(match[1], 8) if match else None


def _decimal(digits: bytes) -> int:
    if not digits.isdigit():  # int() alone would take a sign, and the walk would go backwards
        raise ValueError("no number")
    return int(digits)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
