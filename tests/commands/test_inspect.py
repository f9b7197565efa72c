"""`jepa inspect`: the table, the histograms and the sheet say what lies in the data set."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from jepa.cli import main
from jepa.data.source import open_source
from jepa.data.synthetic.video import encode_h264


def test_the_page_has_samples_and_histograms_of_every_part(
    tiny_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tiny_shards), "--rows", "2"]) == 0
    page = capsys.readouterr().out
    test, train = page.split("synthetic-easy-train (train): ")
    assert test.startswith("synthetic-easy-test (test): 12 samples, 192 frames, 0.4 minutes\n")
    lines = train.splitlines()
    assert lines[0] == "24 samples, 384 frames, 0.8 minutes"
    assert lines[2].split() == ["key", "frames", "fps", "s", "size", "labels"]
    infos = [open_source(tiny_shards).info(number) for number in (0, 23)]
    for info, line in zip(infos, lines[3:5], strict=True):
        assert line.split()[:5] == [info.key, "16", "8", "2.00", "40x40"]
        assert line.endswith(", ".join(f"{name}={value}" for name, value in info.labels.items()))
    assert "duration, s\n  2  24  ####" in train
    assert "size\n  40x40  24  ####" in train


def test_the_json_is_the_same(tiny_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_shards), "--split", "train", "--rows", "3", "--samples", "6", "--json"]) == 0
    (part,) = json.loads(capsys.readouterr().out)["parts"]
    assert (part["part"], part["samples"], part["surveyed"], len(part["rows"])) == ("train", 24, 6, 3)
    assert part["rate"] == [{"name": "8", "count": 6}]
    assert part["rows"][0]["labels"]["motion"]


def test_a_sheet_has_as_many_rows_and_frames_as_asked(tiny_shards: Path, tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    options = f"--sheet {path} --sheet-rows 3 --sheet-frames 5"
    assert main(["inspect", str(tiny_shards), *options.split()]) == 0
    picture = cv2.imread(str(path))
    assert picture is not None
    assert picture.shape == (3 * 98, 220 + 5 * 130, 3)


def test_what_cannot_be_decoded_has_a_row_that_says_so(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_shards / "test", tmp_path / "shards"))
    tar = folder / "shard-000000.tar"
    data = bytearray(tar.read_bytes())
    data[data.index(b"ftyp") + 600] ^= 1
    tar.write_bytes(data)
    assert main(["inspect", str(folder), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "not on the sheet: " in capsys.readouterr().err
    assert (tmp_path / "sheet.png").exists()


def test_a_plain_folder_of_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(encode_h264(np.zeros((8 + number, 32, 48, 3), np.uint8), 8))
    assert main(["inspect", str(tmp_path)]) == 0
    page = capsys.readouterr().out
    assert ": 3 samples, 27 frames" in page
    assert "3 samples have no label" in page
    assert "\n  48x32  3  " in page


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("{data} --split nosuch", 2, "has no such part; it has test, train"),
        ("{data} --sheet sheet.jpg", 2, "expected a file that ends with .png"),
        ("{data} --sheet /proc/none/sheet.png", 2, "cannot write /proc/none/sheet.png"),
        ("{data} --rows -1", 2, "rows is -1, expected 0 or more"),
        ("nowhere", 3, "no such file or folder: nowhere"),
    ],
)
def test_wrong_use_is_one_line(
    tiny_shards: Path, arguments: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", *arguments.format(data=tiny_shards).split()]) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("jepa inspect: error: ")
    assert words in last
