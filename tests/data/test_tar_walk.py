"""The walk agrees with tarfile on whole tars, and sees what tarfile does not say on damaged ones."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa.data.tar_walk import (
    BLOCK,
    Header,
    TarDamage,
    TarMember,
    parse_header,
    split_name,
    unsafe,
    walk,
)

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def make(members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def found(data: bytes) -> list[TarMember | TarDamage]:
    return list(walk(io.BytesIO(data), len(data)))


def kinds(data: bytes) -> list[str]:
    return [one.kind for one in found(data)]


THREE = {"a.mp4": b"A" * 700, "b.mp4": b"B" * 600, "c.mp4": b"C" * 512}
TAR = make(THREE)


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,9}/[a-z]{1,60}\.[a-z4]{2,9}", fullmatch=True), st.binary(max_size=1500)))
def test_a_whole_tar_is_what_tarfile_says(form: int, members: dict[str, bytes]) -> None:
    data = make(members, form)
    walked = found(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        theirs = [(info.name, info.offset, info.offset_data, info.size) for info in archive]
    assert [(one.name, one.header, one.offset, one.size) for one in walked] == theirs  # type: ignore[union-attr]
    assert [data[one.offset :][: one.size] for one in walked] == list(members.values())  # type: ignore[union-attr]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["x" * 300 + ".mp4", "ü/日本.mp4", "d/" * 120 + "a.mp4"])
def test_long_and_foreign_names_stand_in_extended_headers(form: int, name: str) -> None:
    data = make({"first.mp4": b"1", name: b"22", "last.mp4": b"333"}, form)
    members = found(data)
    assert [member.name for member in members] == ["first.mp4", name, "last.mp4"]  # type: ignore[union-attr]
    assert isinstance(members[1], TarMember)
    assert data[members[1].offset :][:2] == b"22"


def test_a_tar_of_gnu_tar_with_folders_and_links() -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, kind in [
            ("d", tarfile.DIRTYPE),
            ("l", tarfile.SYMTYPE),
            ("h", tarfile.LNKTYPE),
            ("f", tarfile.FIFOTYPE),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    assert kinds(data.getvalue()) == ["folder", "link", "link", "special"]
    problems = [unsafe(one) for one in found(data.getvalue()) if isinstance(one, TarMember)]
    assert problems == [None, "is a link", "is a link", "is neither a file nor a folder"]


def test_sizes_above_eight_gigabytes_are_binary_or_in_pax() -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("big.mp4")
        info.size = 9 << 30
        data = info.tobuf(form)
        (damage,) = found(data)
        assert isinstance(damage, TarDamage)
        assert damage.kind == "cut-data"
        assert f"big.mp4 announces {9 << 30} bytes, 0 are there" in damage.what


def test_every_cut_is_seen_wherever_it_is() -> None:
    """tarfile reads most of these to a normal end."""
    end = max(one.offset + one.size for one in found(TAR) if isinstance(one, TarMember))
    silent = 0
    for size in range(0, end + 2 * BLOCK, 64):
        damages = [one for one in found(TAR[:size]) if isinstance(one, TarDamage)]
        assert len(damages) == 1, size
        assert damages[0].kind in ("cut-at-member", "cut-header", "cut-data")
        try:
            with tarfile.open(fileobj=io.BytesIO(TAR[:size])) as archive:
                silent += len(archive.getnames()) < 3
        except tarfile.TarError:
            pass
    assert silent > 10, "if tarfile complained by itself, this walk would not be needed"
    assert kinds(TAR[: end + 2 * BLOCK]) == ["file"] * 3


@pytest.mark.parametrize(
    ("size", "kind", "place"),
    [
        (1536, "cut-at-member", 1536),
        (1600, "cut-header", 1536),
        (1536 + 512 + 99, "cut-data", 1536),
        (0, "cut-at-member", 0),
    ],
)
def test_a_cut_has_its_kind_and_place(size: int, kind: str, place: int) -> None:
    *members, damage = found(TAR[:size])
    assert isinstance(damage, TarDamage)
    assert (damage.kind, damage.offset) == (kind, place)
    assert all(isinstance(member, TarMember) for member in members)


@pytest.mark.parametrize(
    ("place", "rest"), [(0, ["b.mp4", "c.mp4"]), (1536, ["a.mp4", "c.mp4"]), (3072, ["a.mp4", "b.mp4"])]
)
def test_a_zeroed_header_does_not_hide_what_follows(place: int, rest: list[str]) -> None:
    data = TAR[:place] + bytes(BLOCK) + TAR[place + BLOCK :]
    walked = found(data)
    assert [one.name for one in walked if isinstance(one, TarMember)] == rest
    (damage,) = (one for one in walked if isinstance(one, TarDamage))
    assert (damage.kind, damage.offset) == ("zeroed-header", place)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert len(archive.getnames()) < 2 + place // 3072, "tarfile stops there and says nothing"


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([0, 1536, 3072]), st.integers(0, BLOCK - 1), st.integers(1, 255))
def test_a_header_with_any_other_byte_is_corrupt_and_the_walk_goes_on(place: int, byte: int, change: int) -> None:
    data = bytearray(TAR)
    data[place + byte] ^= change
    walked = found(bytes(data))
    if 148 <= byte < 156 and len(walked) == 3 and all(isinstance(one, TarMember) for one in walked):
        assert parse_header(bytes(data[place : place + BLOCK])) == parse_header(TAR[place : place + BLOCK])
        return  # a space for a NUL at the end of the checksum says the same
    assert [one.offset for one in walked if isinstance(one, TarDamage)] == [place]
    assert len([one for one in walked if isinstance(one, TarMember)]) == 2


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(TAR) - 1), st.integers(0, 255)), max_size=40), st.integers(0, len(TAR)))
def test_no_bytes_make_it_loop_or_crash(changes: list[tuple[int, int]], size: int) -> None:
    data = bytearray(make({"é" * 60 + ".mp4": b"x" * 900, **THREE}))
    for place, value in changes:
        data[place] = value
    walked = found(bytes(data[:size]))
    assert len(walked) <= len(data) // BLOCK + 1
    assert all(0 <= one.offset <= len(data) for one in walked)


def pax(record: bytes) -> bytes:
    header = tarfile.TarInfo("PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    return header.tobuf(tarfile.USTAR_FORMAT) + record.ljust(BLOCK, b"\0")


@pytest.mark.parametrize("record", [b"11 size=-5\n", b"-3 size=5\n", b"9 path\n", b"99 path=a\n", b"x", b"0 path=a\n"])
def test_an_extended_header_that_lies_is_corrupt(record: bytes) -> None:
    assert kinds(pax(record) + TAR) == ["corrupt-header", "file", "file", "file"]


def test_a_gzip_file_is_told_what_it_is() -> None:
    (first, *_) = found(b"\x1f\x8b\x08" + bytes(range(1, 256)) * 8)
    assert isinstance(first, TarDamage)
    assert first.what == "gzip data: shards must not be compressed"


@pytest.mark.parametrize(
    ("name", "word"),
    [("/etc/x.mp4", "absolute"), ("../x.mp4", "leaves"), ("a/../../x.mp4", "leaves"), ("a\\..\\x.mp4", "leaves"),
     ("C:/x.mp4", "absolute"), ("a\nb.mp4", "control"), ("", "no name"), ("a/..b.mp4", None), ("./a.mp4", None)],
)  # fmt: skip
def test_names_that_must_not_be_unpacked(name: str, word: str | None) -> None:
    problem = unsafe(TarMember(name, 0, BLOCK, 1, "file"))
    assert (problem is None) if word is None else word in str(problem)


def test_the_key_ends_at_the_first_dot_as_in_webdataset() -> None:
    from webdataset.tariterators import base_plus_ext

    for name in ("a.mp4", "d/e.f/17.masks.npz", "README", "a.", "d.e/readme"):
        theirs = base_plus_ext(name)
        assert split_name(name) == (None if theirs[0] is None or not theirs[1] else theirs)
    assert split_name("./a.mp4") == ("a", "mp4")
    assert split_name("x/.hidden") is None


def test_a_header_is_read() -> None:
    assert parse_header(TAR[:BLOCK]) == Header("a.mp4", 700, b"0")
