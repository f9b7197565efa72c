"""`jepa lint` as a user meets it: lines, codes, JSON, and what pretraining does with the same shards."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa.cli import main
from jepa.commands.lint import read_classes
from jepa.data.rows import open_rows
from jepa.errors import ConfigError, DataError
from jepa.training.trainer import pretrain

Damage = Callable[[bytearray, int], object]


def zero(data: bytearray, place: int) -> None:
    data[place - 512 : place] = bytes(512)


def flip(data: bytearray, place: int) -> None:
    data[place + 900] ^= 1


@pytest.fixture
def shards(tiny_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_shards, tmp_path / "shards"))


def damage(shards: Path, change: Damage, *, number: int = 3) -> tuple[str, int]:
    """Change the video of one sample of train; its key and place."""
    tar = shards / "train" / "shard-000000.tar"
    row = open_rows(tar.with_suffix(".arrow")).row(number)
    data = bytearray(tar.read_bytes())
    change(data, row.video.offset)
    tar.write_bytes(data)
    return row.key, row.video.offset


def test_whole_shards_are_one_line_and_code_0(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(shards), "--workers", "0"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("nothing found in 2 shards with 36 samples, 0.5 MB; not checked: decoding: without --decode")


def test_every_finding_is_a_line_and_the_code_is_3(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, place = damage(shards, flip)
    _, zeroed = damage(shards, zero, number=5)
    assert main(["lint", str(shards), "--workers", "0", "--decode"]) == 3
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith(
        f"train/shard-000000.tar, byte {zeroed - 512}: 512 bytes of zeros where a header belongs"
    )
    assert lines[-1] == (
        f"train/shard-000000.tar, key {key}, byte {place}: mp4 has not the checksum that the index has "
        "[flipped-bytes]; copy the shard again, or pack its videos again"
    )
    assert f"{len(lines)} findings in 1 file (2 shards with 36 samples" in printed.err.splitlines()[-1]


def test_json_holds_the_same(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, place = damage(shards, flip)
    assert main(["lint", str(shards), "--workers", "0", "--json"]) == 3
    content = json.loads(capsys.readouterr().out)
    assert (content["shards"], content["samples"]) == (2, 36)
    (finding,) = content["findings"]
    assert (finding["kind"], finding["key"], finding["offset"]) == ("flipped-bytes", key, place)
    assert finding["shard"] == "train/shard-000000.tar"


def test_labels_outside_the_list(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = tmp_path / "shapes.txt"
    shapes.write_text("round\nsquare\n\ntriangle\ncross\nbar\nstar\n")
    assert read_classes(shapes) == {"round", "square", "triangle", "cross", "bar", "star"}
    command = ["lint", str(shards), "--workers", "0", "--classes", str(shapes)]
    assert main([*command, "--label", "shape"]) == 0
    shapes.write_text("round\nsquare\ntriangle\ncross\nbar\n")
    capsys.readouterr()
    assert main([*command, "--label", "shape"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all("shape is star, no class of the list [label]" in line for line in lines)
    assert main(command) == 3  # there is no label called label
    assert len(capsys.readouterr().out.splitlines()) == 36


@pytest.mark.parametrize(("change", "message"), [(flip, "is damaged"), (zero, "its checksum")])
def test_pretraining_on_damaged_shards_does_not_end_normally(
    micro: Callable[..., Any], shards: Path, change: Damage, message: str
) -> None:
    key, _ = damage(shards, change)
    with pytest.raises(DataError, match=rf"shard-000000\.tar, sample {key}: .*{message}"):
        pretrain(micro(data=str(shards), loader={"cache_gb": 0}))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("nowhere", 3, "no such file or folder: nowhere"),
        ("{empty}", 3, "no shards (*.tar, not compressed) in {empty}"),
        ("{empty} --frames 0", 2, "frames is 0, expected 1 or more"),
        ("{empty} --stride 2", 2, "give its --frames too"),
        ("{empty} --classes nowhere.txt", 2, "--classes nowhere.txt: No such file"),
        ("", 2, "missing folder"),
    ],
)
def test_wrong_use_is_one_line(
    tmp_path: Path, arguments: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lint", *arguments.format(empty=tmp_path).split()]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words.format(empty=tmp_path) in printed.err.splitlines()[-1]


def test_a_list_of_no_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ConfigError, match="names no class"):
        read_classes(tmp_path / "empty.txt")


def test_a_url_is_refused_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "https://host/shards"]) == 3
    assert "is a URL: lint a copy of the tars" in capsys.readouterr().err
