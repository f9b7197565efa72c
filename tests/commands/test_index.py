"""`jepa index` as a user meets it: tars of others become a data set that trains, and stay as they are."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from jepa.cli import main
from jepa.data.shards import ShardSource
from jepa.data.source import open_source
from jepa.data.synthetic.video import encode_h264

COUNT = 6


def video(number: int, frames: int = 16) -> bytes:
    ramp = np.arange(frames * 32 * 32 * 3).reshape(frames, 32, 32, 3) * (number + 3) // 7
    return encode_h264((ramp % 251).astype(np.uint8), 8)


def picture(number: int) -> bytes:
    encoded: np.ndarray = cv2.imencode(".jpg", np.full((40, 48, 3), 20 * number, np.uint8))[1]
    return encoded.tobytes()


def put(path: Path, ending: str = "mp4") -> None:
    """A tar in odd order: first all labels, then all videos backwards, under nested keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    make = {"mp4": video, "jpg": picture}[ending]
    labels = {f"./{path.stem}/{n:03d}.cls": b"%d" % (n % 2) for n in range(COUNT)}
    videos = {f"./{path.stem}/{n:03d}.{ending}": make(n) for n in reversed(range(COUNT))}
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in {**labels, **videos}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    put(tmp_path / "theirs/a.tar")
    put(tmp_path / "theirs/b.tar")
    return tmp_path / "theirs"


def train(data: Path, out: Path, *more: str) -> int:
    options = ["--max-steps", "2", "--loader.batch_size", "4", "--loader.workers", "0", *more]
    return main(["pretrain", "--config", "demo", "--data", str(data), "--out", str(out), *options])


def test_tars_of_others_train_after_indexing(theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in theirs.iterdir()}
    assert train(theirs, tmp_path / "run") == 3
    error = capsys.readouterr().err
    assert "a.tar has no manifest.json beside it: writing was cut short, or others made it" in error
    assert f"then run `jepa index {theirs}`" in error
    capsys.readouterr()
    assert main(["index", str(theirs), "--workers", "0", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["samples"], facts["shards"], facts["kept"], facts["skipped"]) == (2 * COUNT, 2, 0, 0)
    assert (facts["frames"], facts["classes"], facts["unlabelled"]) == (2 * COUNT * 16, 2, 0)
    assert {name: (theirs / name).read_bytes() for name in before} == before
    assert main(["lint", str(theirs), "--workers", "0", "--decode"]) == 0
    assert main(["inspect", str(theirs)]) == 0
    assert train(theirs, tmp_path / "run") == 0


def test_pictures_train_with_repeated_frames(theirs: Path, tmp_path: Path) -> None:
    shutil.rmtree(theirs)
    put(theirs / "a.tar", "jpg")
    assert main(["index", str(theirs), "--workers", "0"]) == 0
    assert main(["lint", str(theirs), "--workers", "0", "--decode", "--frames", "16"]) == 0
    assert train(theirs, tmp_path / "run") == 3
    assert train(theirs, tmp_path / "run", "--clip.short", "repeat") == 0


def test_splits(theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        put(tmp_path / f"splits/{split}/a.tar")
    assert main(["index", str(tmp_path / "splits"), "--workers", "0"]) == 0
    assert capsys.readouterr().out.startswith("indexed 12 samples (6 train, 6 val) in 2 shards: 192 frames")
    assert open_source(tmp_path / "splits", "val").name == "splits-val"
    shutil.copy(theirs / "a.tar", tmp_path / "splits/a.tar")
    assert main(["index", str(tmp_path / "splits")]) == 3
    assert "holds a.tar beside the splits train, val" in capsys.readouterr().err


def test_the_index_may_lie_elsewhere(theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine"
    assert main(["index", str(theirs), "--out", str(out), "--workers", "0"]) == 0
    assert sorted(path.name for path in theirs.iterdir()) == ["a.tar", "b.tar"]
    assert sorted(path.name for path in out.iterdir()) == ["a.arrow", "b.arrow", "manifest.json"]
    source = open_source(out)
    assert isinstance(source, ShardSource)
    assert source.read(0) == video(0)
    assert main(["lint", str(out), "--workers", "0"]) == 0
    capsys.readouterr()
    with (theirs / "b.tar").open("r+b") as stream:
        stream.seek(0)
        stream.write(bytes(512))
    assert main(["lint", str(out), "--workers", "0"]) == 3
    assert f"{theirs}/b.tar, byte 0: 512 bytes of zeros where a header belongs" in capsys.readouterr().out


def test_what_is_skipped_is_listed(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tarfile.open(theirs / "b.tar", "a") as archive:
        info = tarfile.TarInfo("bad.mp4")
        info.size = 9
        archive.addfile(info, io.BytesIO(b"no videos"))
    assert main(["index", str(theirs), "--workers", "0"]) == 0
    assert "1 samples or tars skipped, listed in" in capsys.readouterr().err
    heading, line = (theirs / "skipped.tsv").read_text().splitlines()
    assert heading == "path\treason"
    assert line.startswith("b.tar#bad\tmp4: no video that FFmpeg can read")
    assert main(["lint", str(theirs), "--workers", "0"]) == 0
    put(theirs / "b.tar")
    assert main(["index", str(theirs), "--workers", "0"]) == 0
    assert not (theirs / "skipped.tsv").exists()


def test_shards_of_version_1_are_indexed_again(tmp_path: Path, tiny_shards: Path) -> None:
    """Their tars have all that is needed: videos, and labels and origin in the json."""
    shards = Path(shutil.copytree(tiny_shards / "train", tmp_path / "train"))
    source = ShardSource(shards)
    before = [source.info(number) for number in range(len(source))]
    content = json.loads((shards / "manifest.json").read_bytes())
    (shards / "manifest.json").write_text(json.dumps({**content, "format_version": 1}))
    for index in shards.glob("*.arrow"):
        index.unlink()
    assert main(["index", str(shards), "--workers", "0"]) == 0
    after = ShardSource(shards)
    assert [after.info(number) for number in range(len(after))] == before
    assert main(["lint", str(shards), "--workers", "0"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("{nowhere}", 3, "no such folder"),
        ("{empty}", 3, "no tars"),
        ("{above}", 3, r"no tars (*.tar, not compressed) in"),
        ("{packed}", 2, "made by jepa synth: the shards are indexed, use them as they are"),
        ("{json}", 2, "is no manifest of shards: move it away, or choose a folder with --out"),
        ("{theirs} --member .mp4", 2, "expected endings without the first dot"),
        ("{theirs} --workers -1", 2, "workers is -1"),
        ("{theirs} --member webm", 3, "no member webm"),
    ],
)
def test_what_cannot_be_is_one_line(
    theirs: Path, tmp_path: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str],
    arguments: str, code: int, message: str,
) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    shutil.copytree(theirs, tmp_path / "json")
    (tmp_path / "json/manifest.json").write_text('{"files": []}')
    places = {name: tmp_path / name for name in ("nowhere", "empty", "json")}
    packed = tiny_shards / "train"
    words = arguments.format(**places, above=tmp_path, theirs=theirs, packed=packed).split()
    assert main(["index", "--workers", "0", *words]) == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("jepa index: ")]
    assert message in line


def test_what_pack_has_not_finished_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tarfile.open(tmp_path / "shard-000000.tar", "w"):
        pass
    (tmp_path / ".pack").mkdir()
    (tmp_path / ".pack" / "plan.json").write_text("{}")
    before = sorted(tmp_path.iterdir())
    assert main(["index", str(tmp_path)]) == 3
    assert "has not finished: run the same command again" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
    assert main(["lint", str(tmp_path), "--workers", "0"]) == 3
    assert "has not finished: run the same command again" in capsys.readouterr().out
