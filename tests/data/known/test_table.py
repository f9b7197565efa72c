"""What all formats share: splits, missing videos, options that do not fit, malformed files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jepa.data.known.formats import FORMATS, check, collect_known, wanted_splits
from jepa.errors import ConfigError, DataError

Put = Callable[..., Path]


def test_splits_are_chosen_and_renamed(put: Put, tmp_path: Path) -> None:
    csv = put(
        "all.csv",
        "label,youtube_id,time_start,time_end,split\n"
        "a,11111111111,0,10,train\nb,22222222222,0,10,val\nc,33333333333,0,10,test\n",
    )
    put("v/11111111111_000000_000010.mp4")
    put("v/22222222222_000000_000010.mp4")
    for wanted, expected in (
        ((), [("a", "train"), ("b", "val"), ("c", "test")]),
        (("train", "val=test"), [("a", "train"), ("b", "test")]),
        (("validation",), [("b", "val")]),
    ):
        entries = collect_known("kinetics", [tmp_path / "v"], [csv], wanted)
        assert [(entry.label, entry.split) for entry in entries] == expected
    csv.write_text("label,youtube_id,time_start,time_end,split\na,11111111111,0,10,train\n")
    with pytest.raises(DataError, match="the annotations hold no split val, but train"):
        collect_known("kinetics", [tmp_path / "v"], [csv], ["val"])


def test_a_split_that_nothing_names_is_asked_for(put: Put, tmp_path: Path) -> None:
    file = put("mine.csv", "1;Swiping Left\n")
    put("v/1.mp4")
    with pytest.raises(ConfigError, match=r"mine\.csv: its name does not say which split it holds; give --split"):
        collect_known("jester", [tmp_path / "v"], [file])
    (entry,) = collect_known("jester", [tmp_path / "v"], [file], ["train"])
    assert entry.split == "train"


def test_a_video_in_two_splits_is_said(put: Put, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = [put("trainlist01.txt", "A/v.avi 1\n"), put("testlist02.txt", "A/v.avi\n")]
    put("v/A/v.avi")
    collect_known("ucf101", [tmp_path / "v"], files)
    assert "1 videos are in two splits" in caplog.text


def test_missing_videos_are_counted_and_nothing_at_all_is_an_error(
    put: Put, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = put("train.txt", "a.mp4\nb.mp4\nc.mp4\n")
    put("v/b.mp4")
    assert [entry.absent for entry in collect_known("howto100m", [tmp_path / "v"], [file])] == [True, False, True]
    assert f"2 of 3 videos are missing, such as {tmp_path}/v/a.mp4" in caplog.text
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"none of 3 videos is there; the first: .*empty/a\.mp4"):
        collect_known("howto100m", [tmp_path / "empty"], [file])


@pytest.mark.parametrize(
    ("name", "annotations", "splits", "fold", "message"),
    [
        ("kinetic", ["x"], (), 1, "format is 'kinetic'; did you mean 'kinetics'"),
        ("zzz", ["x"], (), 1, "format is 'zzz'; there are: kinetics, ssv2"),
        ("kinetics", [], (), 1, "format kinetics needs --annotations: train.csv, val.csv"),
        ("kinetics", ["x"], (), 2, "fold is 2, expected 1 with kinetics"),
        ("ucf101", ["x"], (), 4, "fold is 4, expected 1 to 3 with ucf101"),
        ("coin", ["x"], ("trian",), 1, "split is 'trian'; did you mean 'train'"),
        ("coin", ["x"], ("val=tset",), 1, "split is 'val=tset'; did you mean 'test'"),
        ("coin", ["x"], ("val", "val=test"), 1, "split names val twice"),
    ],
)
def test_options_that_do_not_fit(
    name: str, annotations: list[str], splits: tuple[str, ...], fold: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(name, [Path(text) for text in annotations], splits, fold)


def test_splits_of_the_command_line() -> None:
    assert wanted_splits(["training", "validation=test"]) == {"train": "train", "val": "test"}


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("kinetics", "train.csv", "", r"train\.csv: no column youtube_id, time_start, time_end .*nothing"),
        ("kinetics", "train.csv", "youtube_id,time_start,time_end\na,x,1\n", "line 2: 'x' is not a number"),
        ("kinetics", "train.csv", "youtube_id,time_start,time_end\n\na,1\n", "line 3: 2 columns, the first line has 3"),
        ("kinetics", "x.csv", "youtube_id,time_start,time_end,split\na,1,2,b\n", "line 2: split 'b', expected one of"),
        ("ssv2", "train.json", "{", r"train\.json is not JSON: .*line 1"),
        ("ssv2", "train.json", "{}", r"train\.json: expected a list"),
        ("ssv2", "train.json", "[1]", "item 0: expected an object with an id"),
        ("jester", "train.csv", "", r"train\.csv is empty"),
        ("jester", "train.csv", "12;a;b\n", "line 1: expected `ID;label`, got '12;a;b'"),
        ("ucf101", "trainlist01.txt", "a.avi 1\n", r"line 1: expected `Class/video\.avi`, got 'a\.avi 1'"),
        ("hmdb51", "list.txt", "a.avi 1\n", r"list\.txt: expected a name such as brush_hair_test_split1"),
        ("diving48", "train.json", '[{"label": 1}]', "item 0: expected an object with a vid_name"),
        ("diving48", "train.json", '[{"vid_name": "a", "label": "b"}]', "item 0: label 'b' is not the number"),
        ("coin", "COIN.json", '{"a": 1}', "expected a key 'database'"),
        ("coin", "COIN.json", '{"database": {"a": {"class": "b"}}}', "video a: expected a class and a subset"),
        (
            "coin-steps", "COIN.json",
            '{"database": {"a": {"class": "b", "subset": "training", "annotation": [{"segment": [1], "label": "c"}]}}}',
            "video a, step 0: expected a label and a segment",
        ),
        ("epic-kitchens-100", "train.csv", "uid\n1\n", "no column narration_id, video_id, start_timestamp"),
        ("imagenet", "val.csv", "ImageId,PredictionString\na,dog 1\n", "line 2: 'dog' is not a WordNet number"),
        ("list", "train.csv", "a,b,c\n", "line 1: expected `path label`, got 3 columns"),
    ],
)  # fmt: skip
def test_a_malformed_file_is_named(put: Put, tmp_path: Path, name: str, file: str, text: str, message: str) -> None:
    put("v/a.mp4")
    path = put(file, text)
    with pytest.raises(DataError, match=message) as caught:
        collect_known(name, [tmp_path / "v"], [path])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_and_folders_that_are_not_there(put: Put, tmp_path: Path) -> None:
    file = put("train.txt", "a.mp4\n")
    with pytest.raises(DataError, match=r"no such folder: .*nowhere"):
        collect_known("howto100m", [tmp_path / "nowhere"], [file])
    with pytest.raises(DataError, match=r"not a folder: .*train\.txt"):
        collect_known("howto100m", [file], [file])
    with pytest.raises(DataError, match=r"no such file or folder: .*none\.txt"):
        collect_known("howto100m", [tmp_path], [tmp_path / "none.txt"])
    for name, known in FORMATS.items():
        if not known.optional and name not in ("ucf101", "hmdb51"):
            with pytest.raises(DataError, match=r"Is a directory|its name does not say"):
                collect_known(name, [tmp_path], [tmp_path], ["train"])
