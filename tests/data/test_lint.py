"""Every damage: `jepa lint` finds it, and training refuses it; none ends with fewer samples and no word."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jepa.data.decode import probe
from jepa.data.index import fingerprint_of, read_manifest, shard_entry, write_manifest, write_rows
from jepa.data.lint import Summary, lint
from jepa.data.lint_content import Checks
from jepa.data.lint_findings import ADVICE, Finding
from jepa.data.loader_config import LoaderConfig
from jepa.data.rows import Row, open_rows
from jepa.data.shard_writer import ShardWriter
from jepa.data.source import open_source
from jepa.data.stream import train_loader
from jepa.data.synthetic.video import encode_h264
from jepa.data.tar_walk import BLOCK, TarMember, walk_file
from jepa.data.transforms import AugmentConfig
from jepa.data.windows import WindowConfig
from jepa.errors import DataError
from jepa.masks.build import MaskSampler, MasksConfig
from jepa.tokens import TokenGrid

COUNT = 7
ALL = Checks(decode=True, window=WindowConfig(4, 2), classes=frozenset({"cat", "dog"}))
GRID = TokenGrid(2, 4, 4)
Damage = Callable[[Path], object]


def video(number: int, frames: int = 8) -> bytes:
    ramp = np.arange(frames * 32 * 32 * 3).reshape(frames, 32, 32, 3) * (number + 3) // 7
    return encode_h264((ramp % 251).astype(np.uint8), 8)


def write(folder: Path, videos: Sequence[bytes], labels: Sequence[str] = ("cat", "dog")) -> Path:
    info = probe(video(0))
    with ShardWriter(folder, name="mine", samples_per_shard=3) as writer:
        for number, content in enumerate(videos):
            label = {"label": labels[number % 2]}
            writer.write(f"{number:06d}", content, info, label, {"masks.npz": bytes([number]) * 700})
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 3, 3 and 1 samples: 000000 .. 000006, each an mp4, a json and a masks.npz."""
    return write(tmp_path_factory.mktemp("whole") / "shards", [video(number) for number in range(COUNT)])


@pytest.fixture
def shards(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "shards"))


def check(folder: Path, checks: Checks = ALL, workers: int = 0) -> tuple[list[Finding], Summary]:
    findings: list[Finding] = []
    return findings, lint(folder, checks, findings.append, workers)


def train(folder: Path) -> list[str]:
    """The keys of two epochs."""
    batches = train_loader(
        open_source(folder),
        window=WindowConfig(4, 2),
        augment=AugmentConfig(size=32),
        loader=LoaderConfig(batch_size=COUNT, workers=0, cache_gb=0),
        seed=0,
        first_step=0,
        last_step=2,
        grid=GRID,
        draw_masks=MaskSampler(MasksConfig(), GRID, seed=0),
    )
    return [key for batch in batches for key in batch.keys]


# --- ways to damage the shard in the middle ------------------------------------------------------------


def members(tar: Path) -> dict[str, TarMember]:
    return {one.name: one for one in walk_file(tar) if isinstance(one, TarMember)}


def cut(place: Callable[[TarMember], int], ending: bytes = b"") -> Damage:
    def damage(tar: Path) -> None:
        tar.write_bytes(tar.read_bytes()[: place(members(tar)["000004.mp4"])] + ending)

    return damage


def patch(place: Callable[[TarMember], int], content: bytes) -> Damage:
    def damage(tar: Path) -> None:
        with tar.open("r+b") as stream:
            stream.seek(place(members(tar)["000004.mp4"]))
            stream.write(content)

    return damage


def header(**fields: object) -> Damage:
    """Another header of the same size, with its checksum, for 000004.mp4."""

    def damage(tar: Path) -> None:
        member = members(tar)["000004.mp4"]
        info = tarfile.TarInfo("000004.mp4")
        info.size = member.size
        for name, value in fields.items():
            setattr(info, name, value)
        patch(lambda member: member.offset - BLOCK, info.tobuf(tarfile.USTAR_FORMAT))(tar)

    return damage


def flip(tar: Path) -> None:
    place = members(tar)["000004.mp4"].offset + 900
    byte = tar.read_bytes()[place]
    patch(lambda member: place, bytes([byte ^ 1]))(tar)


def again(tar: Path) -> None:
    """Add a member of a name that is there."""
    with tarfile.open(tar, "a") as archive:
        info = tarfile.TarInfo("000004.mp4")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"other"))


def rewrite(tar: Path, keep: Callable[[str], bool]) -> None:
    """The tar with some of its members, properly closed."""
    with tarfile.open(tar) as archive:
        kept = [(info, archive.extractfile(info)) for info in archive if keep(info.name)]
        with tarfile.open(tar.with_suffix(".new"), "w", format=tarfile.PAX_FORMAT) as other:
            for info, content in kept:
                other.addfile(info, content)
    tar.with_suffix(".new").replace(tar)


def rows_of(tar: Path) -> list[Row]:
    table = open_rows(tar.with_suffix(".arrow"))
    return [table.row(number) for number in range(table.num_rows)]


def index_of(change: Callable[[list[Row]], list[Row]], *, agreed: bool = True) -> Damage:
    """Another index; `agreed`: the manifest knows it."""

    def damage(tar: Path) -> None:
        manifest = read_manifest(tar.parent)
        rows = change(rows_of(tar))
        index, shards = tar.with_suffix(".arrow"), list(manifest.shards)
        write_rows(index, rows)
        entry = shard_entry(tar, index, rows)
        shards[1] = entry if agreed else replace(shards[1], index_bytes=entry.index_bytes)
        fingerprint = fingerprint_of(shards) if agreed else manifest.fingerprint
        write_manifest(tar.parent, replace(manifest, shards=tuple(shards), fingerprint=fingerprint))

    return damage


def manifest_of(change: Callable[[dict[str, object]], object]) -> Damage:
    def damage(tar: Path) -> None:
        path = tar.with_name("manifest.json")
        content = json.loads(path.read_bytes())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def miscount(content: dict[str, object]) -> None:
    content["shards"][1]["count"] = 4  # type: ignore[index]


def drop_shard(content: dict[str, object]) -> None:
    del content["shards"][1]  # type: ignore[attr-defined]


def twice(tar: Path) -> None:
    """The manifest lists the second shard again under the name of a copy."""
    for ending in (".tar", ".arrow"):
        shutil.copy(tar.with_suffix(ending), tar.with_name(f"shard-000009{ending}"))
    manifest = read_manifest(tar.parent)
    copy = replace(manifest.shards[1], file="shard-000009.tar", index="shard-000009.arrow")
    shards = (*manifest.shards, copy)
    write_manifest(tar.parent, replace(manifest, shards=shards, fingerprint=fingerprint_of(shards)))


def junk_json(tar: Path) -> None:
    with tar.open("r+b") as stream:
        stream.seek(members(tar)["000004.json"].offset)
        stream.write(b"\xff{")


END = bytes(2 * BLOCK)
SIZE = r"cut off or only partly copied|it is changed"
MOVED = "is damaged|of another member|ends without|zeros"
DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "cut at a member": (cut(lambda member: member.header), "cut-at-member", SIZE),
    "cut at a member, with an end": (cut(lambda member: member.header, END), "missing-member", SIZE),
    "cut in a header": (cut(lambda member: member.offset - 100), "cut-header", SIZE),
    "cut in the data": (cut(lambda member: member.offset + 100), "cut-data", SIZE),
    "corrupt header": (patch(lambda member: member.offset - BLOCK + 20, b"?"), "corrupt-header", "its checksum"),
    "zeroed header": (patch(lambda member: member.offset - BLOCK, bytes(BLOCK)), "zeroed-header", "its checksum"),
    "flipped bytes": (flip, "flipped-bytes", "000004: mp4 is damaged"),
    "duplicate name": (again, "duplicate-key", "000004.mp4 was added after the index was written"),
    "duplicate key in an index": (index_of(lambda rows: [*rows[:2], rows[1]]), "duplicate-key", "lists a key twice"),
    "duplicate shard": (twice, "duplicate-key", r"shard-000009\.tar, which holds the samples of shard-000001\.tar"),
    "missing video": (lambda tar: rewrite(tar, lambda name: name != "000004.mp4"), "missing-member", MOVED),
    "missing json": (lambda tar: rewrite(tar, lambda name: name != "000004.json"), "missing-member", MOVED),
    "other member": (header(name="000009.mp4"), "missing-member", "that of another member"),
    "symbolic link": (header(type=tarfile.SYMTYPE, linkname="/etc/passwd"), "link", "that of another member"),
    "hard link": (header(type=tarfile.LNKTYPE, linkname="000003.mp4"), "link", "that of another member"),
    "absolute name": (header(name="/tmp/000004.mp4"), "unsafe-name", "that of another member"),
    "name that leaves": (header(name="../000004.mp4"), "unsafe-name", "that of another member"),
    "count in the manifest": (manifest_of(miscount), "count", "lists 3 samples, manifest.json says 4"),
    "shard dropped from the manifest": (manifest_of(drop_shard), "shard", "lists other shards than it was written for"),
    "shard gone": (Path.unlink, "shard", "No such file"),
    "index gone": (lambda tar: tar.with_suffix(".arrow").unlink(), "shard", "No such file"),
    "manifest gone": (lambda tar: tar.with_name("manifest.json").unlink(), "manifest", "has no manifest.json"),
    "manifest cut": (
        lambda tar: tar.with_name("manifest.json").write_bytes(tar.with_name("manifest.json").read_bytes()[:99]),
        "manifest",
        "is not a manifest",
    ),
    "manifest without a name": (manifest_of(lambda content: content.pop("name")), "manifest", "is not a manifest"),
    "shard that nothing lists": (
        lambda tar: shutil.copy(tar, tar.with_name("extra.tar")), "shard", r"extra\.tar is not listed",
    ),
    "index of other offsets": (
        index_of(lambda rows: [replace(rows[0], video=replace(rows[0].video, offset=512)), *rows[1:]]),
        "index",
        "mp4 is damaged|that of another member",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_found(shards: Path, name: str) -> None:
    damage, kind, _ = DAMAGES[name]
    damage(shards / "shard-000001.tar")
    findings, summary = check(shards)
    assert kind in {finding.kind for finding in findings}
    assert {finding.shard for finding in findings} <= {
        "shard-000001.tar", "shard-000009.tar", "extra.tar", "manifest.json",
        *(["shard-000000.tar", "shard-000002.tar"] if name.startswith("manifest") else []),
    }  # fmt: skip
    assert summary.findings == len(findings) > 0
    assert all("\n" not in finding.line() for finding in findings)


@pytest.mark.parametrize("name", DAMAGES)
def test_training_refuses_a_damage(shards: Path, name: str) -> None:
    damage, _, message = DAMAGES[name]
    damage(shards / "shard-000001.tar")
    with pytest.raises(DataError, match=message):
        train(shards)


def test_a_file_that_changes_between_two_looks_is_read_again(shards: Path) -> None:
    tar = shards / "shard-000002.tar"  # the last one, whose samples are remembered
    good = tar.read_bytes()
    place = members(tar)["000006.mp4"].offset
    tar.write_bytes(good[: place - BLOCK] + bytes(BLOCK) + good[place:])
    assert "zeroed-header" in {finding.kind for finding in check(shards)[0]}
    tar.write_bytes(good[:place] + b"other" + good[place + 5 :])
    assert [finding.kind for finding in check(shards)[0]] == ["flipped-bytes"]


def test_whole_shards_have_no_findings_and_train(shards: Path) -> None:
    findings, summary = check(shards)
    assert findings == []
    assert (summary.shards, summary.samples, summary.unchecked) == (3, COUNT, ())
    assert summary.bytes == sum(tar.stat().st_size for tar in shards.glob("*.tar"))
    assert sorted(train(shards)) == sorted([f"{number:06d}" for number in range(COUNT)] * 2)


def test_a_whole_synthetic_data_set_has_no_findings(tiny_shards: Path) -> None:
    findings, summary = check(tiny_shards, Checks(decode=True, window=WindowConfig(16, 1)))
    assert findings == []
    assert (summary.shards, summary.samples) == (2, 36)


@pytest.mark.parametrize(
    ("name", "key", "offset", "words"),
    [
        ("zeroed header", None, True, "bytes of zeros where a header belongs, readers stop here"),
        ("cut at a member", None, True, "ends without the two blocks of zeros"),
        ("cut in the data", None, True, "000004.mp4 announces"),
        ("flipped bytes", "000004", True, "mp4 has not the checksum that the index has"),
        ("missing video", "000004", False, "lacks mp4"),
        ("missing json", "000004", False, "lacks json"),
        ("duplicate shard", "000003", False, "3 keys, this one first, are also in shard-000001.tar"),
        ("cut at a member, with an end", "000005", False, "not in the tar, but in the index"),
        ("shard that nothing lists", None, False, "manifest.json does not list it"),
    ],
)
def test_a_finding_names_the_place(shards: Path, name: str, key: str | None, offset: bool, words: str) -> None:
    DAMAGES[name][0](shards / "shard-000001.tar")
    findings, _ = check(shards)
    (finding,) = (one for one in findings if words in one.what)
    assert finding.key == key
    assert (finding.offset is not None) == offset
    assert finding.to_do in finding.line()


def test_one_pass_finds_all_damages_of_a_shard(shards: Path) -> None:
    tar = shards / "shard-000000.tar"
    places = members(tar)
    with tar.open("r+b") as stream:
        stream.seek(places["000000.mp4"].offset - BLOCK)
        stream.write(bytes(BLOCK))
        stream.seek(places["000001.masks.npz"].offset)
        stream.write(b"other")
        stream.seek(places["000002.json"].offset - BLOCK + 9)
        stream.write(b"?")
    findings, _ = check(shards)
    assert [(finding.kind, finding.key) for finding in findings] == [
        ("zeroed-header", None), ("corrupt-header", None), ("missing-member", "000000"),
        ("missing-member", "000002"), ("flipped-bytes", "000001"),
    ]  # fmt: skip


def test_damage_that_only_the_content_shows(tmp_path: Path) -> None:
    """The index agrees with all of it: the videos were bad when they were packed."""
    videos = [video(number) for number in range(COUNT)]
    videos[1] = b"no video" * 99
    videos[2] = videos[2][: len(videos[2]) * 2 // 3]
    videos[4] = video(4, frames=5)
    folder = write(tmp_path / "shards", videos, labels=("cat", "cow"))
    quick, _ = check(folder, Checks())
    assert quick == []
    findings, _ = check(folder)
    assert [(finding.kind, finding.key) for finding in findings] == [
        ("label", "000001"), ("undecodable", "000001"), ("undecodable", "000002"), ("label", "000003"),
        ("undecodable", "000004"), ("label", "000005"),
    ]  # fmt: skip
    whats = {(finding.kind, finding.key): finding.what for finding in findings}
    assert "no video that FFmpeg can read" in whats["undecodable", "000001"]
    assert whats["undecodable", "000004"] == "mp4: 5 of 8 frames decode"
    assert whats["label", "000001"] == "label is cow, no class of the list"
    with pytest.raises(DataError, match=r"000001: no video|000002: |000004: asked for frames"):
        train(folder)


def test_short_videos_are_found_by_the_index_and_refused_before_training(shards: Path) -> None:
    short = index_of(lambda rows: [replace(rows[0], frames=6), *rows[1:]])
    short(shards / "shard-000001.tar")
    findings, _ = check(shards, Checks(window=WindowConfig(4, 2)))
    (finding,) = findings
    assert (finding.kind, finding.key) == ("too-short", "000003")
    assert finding.line().startswith(
        "shard-000001.tar, key 000003: has 6 frames, a clip of 4 frames at stride 2 needs 7 [too-short]; lower"
    )
    with pytest.raises(DataError, match="video 000003 has 6 frames"):
        train(shards)


def test_a_changed_fact_in_the_index_is_found(shards: Path) -> None:
    """The index is not what the manifest has the hash of, and the json says another label."""
    change = index_of(lambda rows: [replace(rows[0], labels={"label": "cat"}), *rows[1:]], agreed=False)
    change(shards / "shard-000001.tar")
    findings, _ = check(shards)
    assert [(finding.kind, finding.key) for finding in findings] == [("index", None), ("json", "000003")]


def test_a_json_that_is_none_is_found(shards: Path) -> None:
    junk_json(shards / "shard-000001.tar")
    findings, _ = check(shards)
    assert [(finding.kind, finding.key, finding.what) for finding in findings] == [
        ("json", "000004", "its json cannot be read")
    ]


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(shards: Path) -> None:
    for name in ("flipped bytes", "shard that nothing lists"):
        DAMAGES[name][0](shards / "shard-000001.tar")
    assert check(shards, workers=2) == check(shards)


def test_nothing_to_check_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no shards \(\*\.tar, not compressed\) in"):
        check(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        check(tmp_path / "nowhere")


def test_every_kind_has_an_advice() -> None:
    assert all(ADVICE.values())
    line = Finding("link", "a.tar", "member x is a link", "x\n", 512).line()
    assert line == "a.tar, key x\\n, byte 512: member x is a link [link]; " + ADVICE["link"]
