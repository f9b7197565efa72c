"""`jepa pack` from videos to a data set."""

import ctypes
import hashlib
import json
import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from jepa.arguments import field_docs
from jepa.commands import pack
from jepa.data.known.formats import FORMATS
from jepa.data.lists import Entry
from jepa.data.pack import PackConfig, Packed, pack_video
from jepa.data.rows import open_rows
from jepa.data.source import has_split, open_source
from jepa.data.synthetic.video import encode_h264
from jepa.errors import ConfigError, DataError

VIDEO = encode_h264(np.random.default_rng(0).integers(0, 255, (9, 32, 48, 3), dtype=np.uint8), 8)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Three cats and two dogs that can be read, a broken dog, and a file that is no video."""
    folder = tmp_path / "videos"
    for name in ("cats/a", "cats/b", "cats/sub/c", "dogs/a", "dogs/e"):
        file = folder / f"{name}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(VIDEO)
    (folder / "dogs/d.mp4").write_bytes(VIDEO[: len(VIDEO) // 2])
    (folder / "readme.txt").write_text("none")
    return folder


def config(videos: Path, out: Path, **options: object) -> pack.Config:
    return pack.Config(**{"sources": (videos,), "out": out, "preset": "ultrafast", "workers": 0, **options})


def test_pack_writes_shards_and_lists_what_it_skips(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "deep/shards"
    assert pack.run(config(videos, out, shard_size=2, json=True)) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["packed"], facts["skipped"], facts["classes"], facts["frames"]) == (5, 1, 2, 45)
    source = open_source(out)
    infos = [source.info(index) for index in range(len(source))]
    assert [info.origin for info in infos] == [
        str(videos / f"{name}.mp4") for name in ("cats/a", "cats/b", "cats/sub/c", "dogs/a", "dogs/e")
    ]
    assert [info.labels["label"] for info in infos] == ["cats"] * 3 + ["dogs"] * 2
    assert (out / "skipped.tsv").read_text().splitlines() == [
        "path\treason",
        f"{videos}/dogs/d.mp4\tthe index (moov) of this mp4 file is missing or damaged; it was probably cut off",
    ]
    assert caplog.records[0].getMessage().startswith(f"skipped {videos}/dogs/d.mp4: the index")
    assert sorted(path.name for path in out.glob("*.tar")) == [f"shard-00000{number}.tar" for number in range(3)]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["provenance"]["encoder"]["preset"] == "ultrafast"
    assert manifest["label_names"] == ["label"]


def test_the_sentence_is_the_result(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack.run(config(videos, tmp_path / "out", copy=True))
    text = capsys.readouterr().out
    assert text.startswith("packed 5 videos: 45 frames, ")
    assert "2 classes; skipped 1" in text
    assert open_source(tmp_path / "out").read(0) == VIDEO


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(videos: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        pack.run(config(videos, tmp_path / f"out{workers}", name="same", workers=workers))
    assert open_source(tmp_path / "out0").fingerprint == open_source(tmp_path / "out2").fingerprint
    tars = [(tmp_path / f"out{workers}/shard-000000.tar").read_bytes() for workers in (0, 2)]
    assert tars[0] == tars[1]


class Crash:
    """A function for the workers that dies like a decoder does, once it comes to the second video."""

    def __call__(self, number: int) -> Packed:
        if number == 1:
            os._exit(139)
        return Packed(b"%d" % number, None)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_video_that_kills_its_process_costs_only_itself() -> None:
    results = list(pack._in_order(Crash(), 4, workers=2))  # type: ignore[arg-type]
    assert [getattr(result, "video", None) for result in results] == [b"0", None, b"2", b"3"]
    assert getattr(results[1], "reason", "") == "the decoder crashed on it"


class Hang(Crash):
    """The same, but like a decoder that never comes back."""

    def __call__(self, number: int) -> Packed:
        if number == 1:
            ctypes.PyDLL(None).pause()
        return Packed(b"%d" % number, None)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_video_that_hangs_costs_only_itself() -> None:
    results = list(pack._in_order(Hang(), 4, workers=2, deadline=1))  # type: ignore[arg-type]
    assert [getattr(result, "video", None) for result in results] == [b"0", None, b"2", b"3"]
    assert getattr(results[1], "reason", "") == "the decoder did not come back within 1 s"


def test_a_test_split_by_source(videos: Path, tmp_path: Path) -> None:
    pack.run(config(videos, tmp_path / "out", test_fraction=0.3))
    train, test = (open_source(tmp_path / "out", split) for split in ("train", "test"))
    origins = [{source.info(index).origin for index in range(len(source))} for source in (train, test)]
    assert not origins[0] & origins[1]
    assert len(origins[0] | origins[1]) == 5
    assert {train.info(0).key, test.info(0).key} <= {f"{number:06d}" for number in range(6)}


def entries(count: int) -> list[Entry]:
    return [Entry(Path(f"/x/{number}.mp4"), f"{number}.mp4") for number in range(count)]


def test_splits_hang_on_the_path_alone() -> None:
    few, many = (pack.choose_splits(entries(count), 0.2, seed=3) for count in (200, 1000))
    assert many[:200] == few
    assert many.count("test") / 1000 == pytest.approx(0.2, abs=0.05)
    assert pack.choose_splits(entries(1000), 0.2, seed=4) != many
    for fraction in (0.01, 0.99):
        assert set(pack.choose_splits(entries(2), fraction, seed=0)) == {"train", "test"}
    assert pack.choose_splits(entries(3), 0.0, seed=0) == [None] * 3


def test_splits_of_the_source_stay(videos: Path, tmp_path: Path) -> None:
    (videos / "readme.txt").unlink()
    (videos / "cats").rename(videos / "train")
    (videos / "dogs").rename(videos / "test")
    pack.run(config(videos, tmp_path / "out"))
    assert [len(open_source(tmp_path / "out", split)) for split in ("train", "test")] == [3, 2]
    with pytest.raises(ConfigError, match="leave out --test-fraction"):
        pack.run(config(videos, tmp_path / "other", test_fraction=0.5))


def test_a_list_with_labels(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (videos / "list.csv").write_text("cats/a.mp4 0\ndogs/a.mp4 1\nnowhere.mp4 1\n")
    pack.run(config(videos / "list.csv", tmp_path / "out"))
    source = open_source(tmp_path / "out")
    assert [source.info(index).labels for index in range(2)] == [{"label": 0}, {"label": 1}]
    assert "nowhere.mp4\tNo such file or directory" in (tmp_path / "out/skipped.tsv").read_text()


def known(tmp_path: Path, **options: object) -> pack.Config:
    return config(tmp_path / "videos", tmp_path / "out", **options)


def test_the_annotations_of_a_published_data_set(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Splits, labels, a segment of a film, a missing video and a broken one."""
    (videos / "cats/a.mp4").rename(videos / "cats/11111111111_000010_000020.mp4")
    (videos / "cats/b.mp4").rename(videos / "22222222222_000000_000010.mp4")
    (videos / "dogs/a.mp4").rename(videos / "33333333333.mp4")
    (videos / "dogs/d.mp4").rename(videos / "44444444444_000000_000010.mp4")
    header = "label,youtube_id,time_start,time_end,split\n"
    (tmp_path / "train.csv").write_text(
        f"{header}petting cat,11111111111,10,20,train\npetting dog,33333333333,0,1,train\n"
        "petting dog,44444444444,0,10,train\npetting dog,55555555555,7,17,train\n"
    )
    (tmp_path / "val.csv").write_text(f"{header}petting cat,22222222222,0,10,val\n")
    annotations = tmp_path / "train.csv", tmp_path / "val.csv"
    caplog.set_level("INFO")
    run = known(tmp_path, format="kinetics", annotations=annotations, split=("train", "val=test"), json=True)
    assert pack.run(run) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["packed"], facts["skipped"], facts["classes"]) == (3, 2, 2)
    assert facts["splits"] == {"test": 1, "train": 2}
    train, test = (open_source(tmp_path / "out", split) for split in ("train", "test"))
    assert [train.info(index).labels for index in range(2)] == [{"label": "petting cat"}, {"label": "petting dog"}]
    assert test.info(0).labels == {"label": "petting cat"}
    # The clip of the video that was cut: 8 frames a second, so 8 of its 9 frames
    assert [train.info(index).frames for index in range(2)] == [9, 8]
    assert train.info(1).origin == str(videos / "33333333333.mp4")
    assert json.loads(train.extra(1, "segment.json")) == {"name": "33333333333_000000_000001", "start": 0, "end": 1}
    with pytest.raises(KeyError):
        train.extra(0, "segment.json")
    assert (tmp_path / "out/skipped.tsv").read_text().splitlines()[1:] == [
        f"{videos}/44444444444_000000_000010.mp4\t"
        "the index (moov) of this mp4 file is missing or damaged; it was probably cut off",
        f"{videos}/55555555555_000007_000017.mp4\tNo such file or directory",
    ]
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == f"1 of 5 videos are missing, such as {videos}/55555555555_000007_000017.mp4"
    assert [text.split(":")[0] for text in messages if text.startswith("skipped")] == [
        f"skipped {videos}/44444444444_000000_000010.mp4"
    ]
    provenance = json.loads((tmp_path / "out/train/manifest.json").read_text())["provenance"]
    assert (provenance["format"], provenance["annotations"]) == ("kinetics", [str(file) for file in annotations])


def test_several_segments_of_one_film_are_several_samples(videos: Path, tmp_path: Path) -> None:
    (videos / "cats/a.mp4").rename(videos / "abc.mp4")
    steps = [
        {"id": "1", "segment": times, "label": label}
        for times, label in (((0, 0.5), "cut"), ((0.5, 1.0), "mix"), ((0.5, 9.0), "fry"), ((0, 0.5), "peel"))
    ]
    database = {"abc": {"class": "Cook", "subset": "training", "annotation": steps, "recipe_type": 1}}
    (tmp_path / "COIN.json").write_text(json.dumps({"database": database}))
    pack.run(known(tmp_path, format="coin-steps", annotations=(tmp_path / "COIN.json",)))
    source = open_source(tmp_path / "out", "train")
    infos = [source.info(index) for index in range(len(source))]
    assert [(info.labels["label"], info.frames) for info in infos] == [("cut", 4), ("mix", 4), ("peel", 4)]
    assert {info.labels["task"] for info in infos} == {"Cook"}
    assert (tmp_path / "out/skipped.tsv").read_text().splitlines()[1:] == [
        f"{videos}/abc.mp4#t=0.5,9\tcut off or too short, only 0.6 s of 0.5 to 9 s are in it"
    ]
    with pytest.raises(ConfigError, match="coin-steps has no whole files to store as they are: leave out --copy"):
        pack.run(known(tmp_path, format="coin-steps", annotations=(tmp_path / "COIN.json",), copy=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "kinetic", "annotations": (Path("a"),)}, "format is 'kinetic'; did you mean 'kinetics'"),
        ({"format": "kinetics"}, "format kinetics needs --annotations"),
        ({"annotations": (Path("a"),)}, "name it with --format"),
        ({"split": ("train",)}, "name it with --format"),
        ({"fold": 2}, "name it with --format"),
    ],
)
def test_options_of_published_data_sets(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        known(tmp_path, **options)


def test_the_help_names_every_format() -> None:
    text = field_docs(pack.Config)["format"]
    assert all(re.search(rf"[ ,]{name}[,;]", text) for name in FORMATS)


def test_nothing_readable_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"junk" * 99)
    with pytest.raises(DataError, match=r"none of 1 videos can be packed; the first: .*a\.mp4: no video"):
        pack.run(config(tmp_path / "a.mp4", tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*"))


def test_shards_are_not_written_over_or_mixed(videos: Path, tmp_path: Path) -> None:
    pack.run(config(videos, tmp_path / "flat"))
    pack.run(config(videos, tmp_path / "split", test_fraction=0.5))
    for out in ("flat", "split"):
        for fraction in (0.0, 0.5):
            with pytest.raises(ConfigError, match=r"already holds manifest\.json"):
                pack.run(config(videos, tmp_path / out, test_fraction=fraction))
    assert has_split(tmp_path / "split", "train")
    assert not has_split(tmp_path / "flat", "train")


def test_a_folder_that_cannot_be_written(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write to the folder"):
        pack.run(config(videos, tmp_path / "file/out"))


def test_ctrl_c_keeps_finished_shards_and_nothing_half(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    def interrupted(path: Path, settings: PackConfig) -> Packed:
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return pack_video(path, settings)

    monkeypatch.setattr("jepa.data.pack.pack_video", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack.run(config(videos, tmp_path / "out", shard_size=1))
    # `test_pack_resume.py` tells what becomes of them.
    assert sorted(path.name for path in (tmp_path / "out").glob("*")) == [
        ".pack",
        "shard-000000.arrow",
        "shard-000000.tar",
    ]
    with pytest.raises(DataError, match="is unfinished"):
        open_source(tmp_path / "out")


@pytest.mark.parametrize(
    "options",
    [{"test_fraction": 1.0}, {"shard_size": 0}, {"shard_mb": 0}, {"workers": -1}, {"crf": -1}, {"deadline": 0}],
)
def test_settings_are_checked(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(options))} is .*, expected"):
        config(tmp_path, tmp_path / "out", **options)


def blake(content: bytes) -> str:
    """As `b2sum -l 128` prints it."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@pytest.mark.parametrize("limit", [2**20, 100])
def test_every_sample_tells_where_it_comes_from(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """In the index, in the `json` for plain webdataset readers, and how it was made in the manifest."""
    monkeypatch.setattr("jepa.data.pack_origin.IN_MEMORY", limit)  # below it files are read once, above it hashed apart
    pack.run(config(videos, tmp_path / "out", crf=30, workers=0))
    rows = [open_rows(tmp_path / "out/shard-000000.arrow").row(number) for number in range(5)]
    assert [row.origin for row in rows[:2]] == [str(videos / "cats/a.mp4"), str(videos / "cats/b.mp4")]
    assert {row.origin_hash for row in rows} == {blake(VIDEO)}
    with tarfile.open(tmp_path / "out/shard-000000.tar") as archive:
        described = json.load(archive.extractfile("000001.json"))  # type: ignore[arg-type]
    assert described["origin"] == str(videos / "cats/b.mp4")
    assert described["origin_hash"] == blake(VIDEO)
    assert "segment" not in described
    provenance = json.loads((tmp_path / "out/manifest.json").read_text())["provenance"]
    assert provenance["command"] == f"jepa pack {videos} --out OUT --crf 30 --preset ultrafast"
    assert provenance["sources"] == [str(videos)]
    assert provenance["versions"].keys() == {"pyav", "libavcodec", "opencv", "numpy"}
    assert provenance["encoder"]["crf"] == 30


def test_a_segment_tells_the_hash_of_its_film_and_where_it_lies(videos: Path, tmp_path: Path) -> None:
    (videos / "cats/a.mp4").rename(videos / "33333333333.mp4")
    (tmp_path / "train.csv").write_text("label,youtube_id,time_start,time_end,split\ncat,33333333333,0,1,train\n")
    annotations = (tmp_path / "train.csv",)
    pack.run(known(tmp_path, format="kinetics", annotations=annotations, split=("train",), name="my set"))
    row = open_rows(tmp_path / "out/train/shard-000000.arrow").row(0)
    assert row.origin_hash == blake(VIDEO)
    with tarfile.open(tmp_path / "out/train/shard-000000.tar") as archive:
        described = json.load(archive.extractfile("000000.json"))  # type: ignore[arg-type]
    assert (described["origin_hash"], described["segment"]) == (blake(VIDEO), [0, 1])
    provenance = json.loads((tmp_path / "out/train/manifest.json").read_text())["provenance"]
    assert provenance["command"] == (
        f"jepa pack {videos} --out OUT --preset ultrafast --format kinetics --annotations {annotations[0]} "
        "--split train --name 'my set'"
    )


def test_the_facts_need_no_sample(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sums of the shards and what the run counted are enough, for ten million samples as for five."""

    def never(*_: object) -> None:
        raise AssertionError("a row was read")

    for name in ("jepa.data.rows.open_rows", "jepa.data.shards.open_rows", "jepa.data.rows.Rows.row"):
        monkeypatch.setattr(name, never)
    pack.run(config(videos, tmp_path / "out", shard_size=2, json=True))
    facts = json.loads(capsys.readouterr().out)
    assert (facts["packed"], facts["frames"], facts["seconds"], facts["unlabelled"]) == (5, 45, 5 * 9 / 8, 0)
    assert facts["bytes"] == sum(file.stat().st_size for file in (tmp_path / "out").glob("*.tar"))


def test_of_many_skipped_videos_some_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "good.mp4").write_bytes(VIDEO)
    for number in range(pack.NAMED + 5):
        (tmp_path / f"bad{number:02d}.mp4").write_bytes(b"junk")
    pack.run(config(tmp_path, tmp_path / "out", copy=True))
    named = [record for record in caplog.records if record.getMessage().startswith("skipped ")]
    assert len([record for record in named if record.levelname == "WARNING"]) == pack.NAMED
    assert "further videos that are skipped are not named here; skipped.tsv will list all" in caplog.text
    assert len((tmp_path / "out/skipped.tsv").read_text().splitlines()) == pack.NAMED + 6


def test_a_log_line_tells_rate_and_time_left(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("jepa.logs.PLAIN_SECONDS", 0.0)
    monkeypatch.setattr("jepa.logs.PLAIN_SHARE", 0.0)
    caplog.set_level("INFO")
    pack.run(config(videos, tmp_path / "out"))
    lines = [record.getMessage() for record in caplog.records if record.name == "jepa.progress"]
    assert re.fullmatch(r"packing videos 5/6 \(83%\), [\d.]+/s, \d+ s left, [\d.]+ MB/s, 1 skipped", lines[4])
