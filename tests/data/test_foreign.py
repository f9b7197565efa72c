"""Tars of others: members in any order, any names, labels from any member, pictures; and what is refused."""

import io
import json
import math
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa.data.foreign import ForeignSample, ForeignTar, Indexed, Skipped, look, samples_in, usable
from jepa.data.foreign_index import ForeignOptions, Outcome, index_tars
from jepa.data.foreign_labels import LONGEST, labels_of
from jepa.data.index import Manifest, read_manifest
from jepa.data.rows import open_rows
from jepa.data.shards import ShardSource
from jepa.data.storage import LocalStore
from jepa.data.synthetic.video import encode_h264
from jepa.errors import ConfigError, DataError

Members = Mapping[str, bytes]


def video(number: int, frames: int = 8) -> bytes:
    ramp = np.arange(frames * 32 * 32 * 3).reshape(frames, 32, 32, 3) * (number + 3) // 7
    return encode_h264((ramp % 251).astype(np.uint8), 8)


VIDEO = video(0)


def picture(ending: str) -> bytes:
    encoded: np.ndarray = cv2.imencode(f".{ending}", np.full((24, 32, 3), 99, np.uint8))[1]
    return encoded.tobytes()


def put(path: Path, members: Members, form: int = tarfile.GNU_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_at(path: Path) -> ForeignTar:
    return ForeignTar(LocalStore(path.parent), path.name, path.stat().st_size, str(path.stat().st_mtime_ns))


def index(folder: Path, options: ForeignOptions | None = None) -> Outcome:
    tars = [tar_at(path) for path in sorted(folder.glob("*.tar"))]
    provenance: dict[str, object] = {"made_by": "jepa index"}
    return index_tars(tars, folder, options or ForeignOptions(), name="theirs", provenance=provenance)


def looked(path: Path, wanted: tuple[str, ...] = ()) -> list[Indexed | Skipped]:
    tar = tar_at(path)
    return [look(tar, sample, wanted) for sample in samples_in(tar)]


@given(st.data())
def test_the_order_of_members_does_not_matter(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Beside a naive grouping of the names."""
    part = st.text("ab1-", min_size=1, max_size=3)
    keys = data.draw(st.lists(st.lists(part, min_size=1, max_size=3).map("/".join), unique=True, max_size=6))
    endings = st.lists(st.sampled_from(["mp4", "json", "cls", "cam1.mp4", "depth.png"]), unique=True)
    expected = {key: set(some) for key in keys if (some := data.draw(endings))}
    names = [f"{key}.{ending}" for key, some in expected.items() for ending in some]
    order = data.draw(st.permutations(names))
    path = put(tmp_path_factory.mktemp("tar") / "a.tar", {name: name.encode() for name in order})
    found = samples_in(tar_at(path))
    assert {sample.key: set(sample.members) for sample in found} == expected
    content = path.read_bytes()
    for sample in found:
        for ending, place in sample.members.items():
            assert content[place.offset : place.offset + place.size] == f"{sample.key}.{ending}".encode()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_all_kinds_are_read_again(tmp_path: Path, form: int) -> None:
    """Folders, dots, letters beyond ASCII, and names too long for a header."""
    keys = ["plain", "a/b/000", "./here/1", "ünder/的", f"{'deep/' * 25}last"]
    if form == tarfile.USTAR_FORMAT:
        keys = keys[:3]
    members = {f"{key}.{ending}": video(n, 4 + n) for n, key in enumerate(keys) for ending in ("cam1.MP4",)}
    members |= {f"{key}.json": b'{"label": "x"}' for key in keys}
    put(tmp_path / "a.tar", members, form)
    index(tmp_path)
    source = ShardSource(tmp_path)
    assert [source.info(n).key for n in range(len(source))] == [key.removeprefix("./") for key in keys]
    for number in range(len(keys)):
        assert source.read(number) == video(number, 4 + number)
        assert source.extra(number, "json") == b'{"label": "x"}'
        assert source.info(number).frames == 4 + number


@pytest.mark.parametrize("ending", ["jpg", "jpeg", "png", "webp"])
def test_pictures_are_videos_of_one_frame(tmp_path: Path, ending: str) -> None:
    (found,) = looked(put(tmp_path / "a.tar", {f"1.{ending}": picture(ending), "1.cls": b"7"}))
    assert isinstance(found, Indexed)
    assert (found.row.frames, found.row.height, found.row.width) == (1, 24, 32)
    assert found.row.labels == {"label": 7}


@pytest.mark.parametrize(
    ("members", "wanted", "chosen"),
    [
        (["mp4", "jpg", "json"], (), "mp4"),
        (["jpg", "json"], (), "jpg"),
        (["cam1.mp4", "cam2.mp4"], ("cam2.mp4",), "cam2.mp4"),
        (["webm", "mkv"], ("mkv", "webm"), "mkv"),
        (["jpg", "seg.png"], ("jpg",), "jpg"),
        (["json", "txt"], (), None),
        (["mp4"], ("cam1.mp4",), None),
    ],
)
def test_which_member_is_the_video(
    tmp_path: Path, members: list[str], wanted: tuple[str, ...], chosen: str | None
) -> None:
    content = {name: picture("png") if name.endswith(("png", "jpg")) else VIDEO for name in members}
    content |= dict.fromkeys({"json", "txt"} & set(members), b"{}")
    (found,) = looked(put(tmp_path / "a.tar", {f"1.{name}": content[name] for name in members}), wanted)
    assert (found.row.video.name if isinstance(found, Indexed) else None) == chosen
    if isinstance(found, Indexed):
        assert {extra.name for extra in found.row.extras} == set(members) - {chosen}


def test_two_videos_are_one_too_many(tmp_path: Path) -> None:
    put(tmp_path / "a.tar", {"1.mp4": VIDEO, "2.cam1.mp4": VIDEO, "2.cam2.mp4": VIDEO})
    with pytest.raises(ConfigError, match=r"a\.tar, key 2 has cam1\.mp4 and cam2\.mp4: say with --member which"):
        index(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar"]


@pytest.mark.parametrize(
    ("contents", "labels"),
    [
        ({"json": b'{"label": "cat", "n": 3, "p": 0.5, "yes": true, "none": null, "list": [1]}'},
         {"label": "cat", "n": 3, "p": 0.5, "yes": 1}),
        ({"json": b'{"class": "dog"}', "cls": b"3"}, {"class": "dog", "label": "dog"}),
        ({"json": b'{"url": "http://x"}', "cls": b" 12\n"}, {"url": "http://x", "label": 12}),
        ({"json": b'{"labels": {"motion": "roll"}, "frames": 16}'}, {"motion": "roll"}),
        ({"json": b'"cat"'}, {"label": "cat"}),
        ({"json": b"[1, 2]", "txt": b"a dog runs\n"}, {"label": "a dog runs"}),
        ({"cls": b"dog", "txt": b"a dog"}, {"label": "dog"}),
        ({"cls": b"-3"}, {"label": -3}),
        ({"txt": b"two\nlines"}, {}),
        ({"txt": b"x" * (LONGEST + 1)}, {}),
        ({"json": json.dumps({"caption": "x" * (LONGEST + 1), "bad": math.nan, "half": "\ud800"}).encode()}, {}),
        ({}, {}),
    ],
)  # fmt: skip
def test_labels(contents: dict[str, bytes], labels: dict[str, object]) -> None:
    assert labels_of(contents) == (labels, "")


def test_labels_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    assert labels_of({"json": b"{"}) == ({}, "its json cannot be read")
    assert labels_of({"json": b"[" * 100_000}) == ({}, "its json cannot be read")
    assert labels_of({"cls": b"\xff", "json": b"{}"}) == ({}, "its cls is no text")
    put(tmp_path / "a.tar", {"1.mp4": VIDEO, "1.json": b"{", "2.mp4": VIDEO})
    assert index(tmp_path).doubts == (("a.tar#1", "its json cannot be read"),)


@pytest.mark.parametrize("name", ["label", "class"])
@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", "7" * 3000, '"\\ud800"', f'"{"7" * 3000}"', "[1]"])
def test_a_label_that_is_there_and_is_none_is_said(tmp_path: Path, name: str, value: str) -> None:
    for content in (f'{{"{name}": {value}}}', f'{{"labels": {{"{name}": {value}}}}}'):
        if "labels" in content and value.startswith('"7'):
            continue  # our own tars may have long ones
        assert labels_of({"json": content.encode()}) == ({}, f"the {name} in its json is no label")
        both = {"json": content.encode(), "cls": b"3"}
        assert labels_of(both) == ({"label": 3}, f"the {name} in its json is no label")
    put(tmp_path / "a.tar", {"1.mp4": VIDEO, "1.json": f'{{"{name}": {value}}}'.encode(), "2.mp4": VIDEO})
    assert index(tmp_path).doubts == (("a.tar#1", f"the {name} in its json is no label"),)


def test_a_cls_that_is_no_label_is_said() -> None:
    for content in (b"7" * 3000, b"-Infinity", b"nan", b"two\nlines"):
        assert labels_of({"cls": content}) == ({}, "its cls is no label")
        assert labels_of({"cls": content, "txt": b"a dog"}) == ({"label": "a dog"}, "its cls is no label")
    for nothing in ({"json": b'{"label": null}'}, {"cls": b" \n"}, {"txt": b"nan"}):
        assert labels_of(nothing)[1] == ""


def test_what_is_skipped_and_why(tmp_path: Path) -> None:
    members = {
        "0.mp4": VIDEO, "1.mp4": b"no video", "2.json": b"{}", "README": b"x", ".hidden.mp4": b"x", "dir/._0.mp4": b"x",
        "3.mp4": VIDEO, "4.mp4": b"",
    }  # fmt: skip
    path = put(tmp_path / "a.tar", members)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("3.cam.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        outside = tarfile.TarInfo("../9.mp4")
        outside.size = len(VIDEO)
        archive.addfile(outside, io.BytesIO(VIDEO))
        bad = tarfile.TarInfo(os.fsdecode(b"\xff.mp4"))
        bad.size = len(VIDEO)
        archive.addfile(bad, io.BytesIO(VIDEO))
    outcome = index(tmp_path)
    reasons = dict(outcome.skipped)
    assert (outcome.samples, outcome.shards) == (1, 1)
    assert {key: reason.partition(" (")[0] for key, reason in reasons.items()} == {
        "a.tar#1": "mp4: no video that FFmpeg can read",
        "a.tar#2": "no video or picture",
        "a.tar#3": "its member cam.mp4 is a link",
        "a.tar#4": "mp4: the file is empty",
        "a.tar#../9": "its member mp4 leaves the folder",
        "a.tar#\ufffd": "its name is no text in UTF-8",
    }
    source = ShardSource(tmp_path)
    assert source.read(0) == VIDEO  # what was skipped lies behind it, and is not taken for added later


def test_a_member_that_is_added_later_is_noticed(tmp_path: Path) -> None:
    path = put(tmp_path / "a.tar", {"0.mp4": VIDEO, "1.txt": b"skipped"})
    index(tmp_path)
    size = path.stat().st_size
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("2.mp4")
        archive.addfile(info)
    assert path.stat().st_size == size  # into the padding
    with pytest.raises(DataError, match=r"2\.mp4 was added after the index was written"):
        ShardSource(tmp_path).read(0)


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "a.tar", {"0.mp4": VIDEO})
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("0.mp4")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"other"))
    with pytest.raises(DataError, match=r"a\.tar: member 0\.mp4 is there twice \(bytes 0 and \d+\); write"):
        index(tmp_path, ForeignOptions())
    assert index_left(tmp_path) == []


def index_left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".tar")


def test_keys_that_start_again_in_every_tar_get_a_prefix(tmp_path: Path) -> None:
    for name in ("00.tar", "01.tar"):
        put(tmp_path / name, {"0.mp4": video(int(name[1])), "1.mp4": VIDEO, "meta.json": b"{}"})
    with pytest.raises(DataError, match=r"^key 0 is in 00\.tar and in .*01\.tar: add --prefix"):
        index(tmp_path)
    assert index_left(tmp_path) == []
    outcome = index(tmp_path, ForeignOptions(prefix=True))
    assert (outcome.samples, outcome.kept) == (4, 0)
    source = ShardSource(tmp_path)
    assert [source.info(n).key for n in range(4)] == ["00/0", "00/1", "01/0", "01/1"]
    assert source.read(2) == video(1)


def test_the_prefix_can_be_changed_without_reading_the_tars(tmp_path: Path) -> None:
    put(tmp_path / "00.tar", {"0.mp4": VIDEO})
    index(tmp_path)
    before = read_manifest(tmp_path)
    outcome = index(tmp_path, ForeignOptions(prefix=True))
    assert outcome.kept == 1
    assert ShardSource(tmp_path).info(0).key == "00/0"
    assert read_manifest(tmp_path).fingerprint != before.fingerprint


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.index(b"11.mp4")
    content[place : place + 512] = bytes(512)
    path.write_bytes(content)


def test_a_damaged_tar_is_refused_or_left_out_as_a_whole(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / f"{number}.tar", {f"{number}{key}.mp4": VIDEO for key in range(3)})
    damage(tmp_path / "1.tar")
    with pytest.raises(DataError, match=r"1\.tar, byte \d+: damaged, 512 bytes of zeros .*or leave it out with --skip"):
        index(tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    outcome = index(tmp_path, ForeignOptions(skip_damaged=True))
    ((name, reason),) = outcome.skipped
    assert name == "1.tar"
    assert "zeros where a header belongs" in reason
    source = ShardSource(tmp_path)  # the tar that is left out may stay where it is
    assert [source.info(n).key for n in range(len(source))] == ["00", "01", "02", "20", "21", "22"]
    put(tmp_path / "3.tar", {"3.mp4": VIDEO})
    with pytest.raises(DataError, match=r"3\.tar is not listed in manifest\.json: move it away, or run `jepa index` "):
        ShardSource(tmp_path)


def without_digests(manifest: Manifest) -> dict[str, object]:
    return {shard.file: (shard.count, shard.digest) for shard in manifest.shards}


def test_only_what_is_new_or_changed_is_made_again(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / f"{number}.tar", {f"{number}.mp4": VIDEO, f"{number}.txt": b"cat", f"{number}-.txt": b"x"})
    assert index(tmp_path).kept == 0
    first = (tmp_path / "manifest.json").read_bytes(), index(tmp_path)
    assert first[1].kept == 3
    assert len(first[1].skipped) == 3  # also those of indices that were there
    assert (tmp_path / "manifest.json").read_bytes() == first[0]
    put(tmp_path / "3.tar", {"3.mp4": VIDEO})
    put(tmp_path / "1.tar", {"1.mp4": video(5)})
    (tmp_path / "2.arrow").unlink()
    assert index(tmp_path).kept == 1
    assert len(ShardSource(tmp_path)) == 4
    flipped = bytearray((tmp_path / "0.arrow").read_bytes())
    place = flipped.index(b"cat")
    flipped[place : place + 3] = b"dog"
    (tmp_path / "0.arrow").write_bytes(flipped)
    assert index(tmp_path).kept == 3
    assert ShardSource(tmp_path).info(0).labels == {"label": "cat"}
    assert index(tmp_path, ForeignOptions(member=("mp4",))).kept == 0


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        put(tmp_path / f"{number}.tar", {f"{number}.mp4": VIDEO})

    def stop(tar: ForeignTar, sample: ForeignSample, wanted: object) -> Indexed | Skipped:
        if tar.name == "1.tar":
            raise KeyboardInterrupt
        return look(tar, sample, ())

    with monkeypatch.context() as patch:
        patch.setattr("jepa.data.foreign_index.look", stop)
        with pytest.raises(KeyboardInterrupt):
            index(tmp_path)
    assert index_left(tmp_path) == ["0.arrow"]
    assert index(tmp_path).kept == 1


def test_files_of_others_are_not_written_over(tmp_path: Path) -> None:
    put(tmp_path / "a.tar", {"0.mp4": VIDEO})
    (tmp_path / "a.arrow").write_bytes(b"theirs")
    with pytest.raises(ConfigError, match=r"a\.arrow is not an index of a shard: .*; move it away, or choose another"):
        index(tmp_path)
    assert (tmp_path / "a.arrow").read_bytes() == b"theirs"


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    put(tmp_path / "a.tar", {"0.json": b"{}"})
    with pytest.raises(DataError, match=r"no sample in theirs can be used; the first: a\.tar#0: no video or picture"):
        index(tmp_path)
    put(tmp_path / "b.tar", {"1.mp4": VIDEO})
    assert index(tmp_path).samples == 1
    assert len(ShardSource(tmp_path)) == 1


def test_usable_asks_the_headers_only(tmp_path: Path) -> None:
    tar = tar_at(put(tmp_path / "a.tar", {"0.mp4": b"no video", "1.json": b"{}"}))
    assert [sample.key for sample in usable(tar, samples_in(tar), ())] == ["0"]


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        for number in range(2):
            members = {f"{number}{key:02d}.mp4": video(key) for key in range(40)}
            put(tmp_path / folder / f"{number}.tar", members | {f"{number}99.mp4": b"bad"})
    tars = [[tar_at(path) for path in sorted((tmp_path / name).glob("*.tar"))] for name in ("one", "two")]
    outcomes = [
        index_tars(some, tmp_path / name, ForeignOptions(), name="x", workers=workers)
        for some, name, workers in zip(tars, ("one", "two"), (0, 2), strict=True)
    ]
    assert outcomes[0] == outcomes[1]
    manifests = [read_manifest(tmp_path / name) for name in ("one", "two")]
    assert without_digests(manifests[0]) == without_digests(manifests[1])
    rows = [[open_rows(tmp_path / name / "1.arrow").row(n) for n in range(40)] for name in ("one", "two")]
    assert rows[0] == rows[1]
