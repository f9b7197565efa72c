"""Each published format, in tiny."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jepa.data.known.epic import seconds
from jepa.data.known.formats import collect_known
from jepa.data.lists import Entry
from jepa.errors import ConfigError, DataError

Put = Callable[..., Path]


def facts(entries: list[Entry], root: Path) -> list[tuple[object, ...]]:
    """Where, which label, which split, which part; with a minus where the video is missing."""
    return [
        (
            ("-" if entry.absent else "") + entry.path.relative_to(root).as_posix(),
            entry.label,
            entry.split,
            *([entry.segment] if entry.segment else []),
        )
        for entry in entries
    ]


def test_kinetics_in_all_its_layouts(put: Put, tmp_path: Path) -> None:
    train = put(
        "ann/train.csv",
        "label,youtube_id,time_start,time_end,split,is_cc\r\n"
        "abseiling,-3B32lodo2M,59,69,train,0\r\n"
        '"dancing ""gangnam"", style",_dbcJuKJQNs,40,50,train,0\r\n'
        "air drumming,0a0b0c0d0e0,3,13,train,1\r\n"
        "air drumming,wholefilm00,7.0,17.0,train,0\r\n"
        "zumba,gone0000000,100,110,train,0\r\n",
    )
    val = put("ann/val.csv", "label,youtube_id,time_start,time_end,split\nzumba,_-_-_-_-_-_,0,10,validate\n")
    test = put("ann/test.csv", "youtube_id,time_start,time_end,split\nabcdefghijk,12,22,test\n")
    put("k400/train/-3B32lodo2M_000059_000069.mp4")  # flat, as the part archives unpack
    put("k400/train/dancing gangnam style/_dbcJuKJQNs_000040_000050.mkv")  # in a folder per class
    put("k400/train/air_drumming/0a0b0c0d0e0_000003_000013.mp4")
    put("k400/replacement/replacement_for_corrupted_k400/0a0b0c0d0e0_000003_000013.mp4")
    put("k400/wholefilm00.webm")
    put("k400/val/_-_-_-_-_-__000000_000010.mp4")
    put("k400/test/abcdefghijk_000012_000022.mp4")
    root = tmp_path / "k400"
    assert facts(collect_known("kinetics", [root], [train, val, test]), root) == [
        ("train/-3B32lodo2M_000059_000069.mp4", "abseiling", "train"),
        ("train/dancing gangnam style/_dbcJuKJQNs_000040_000050.mkv", 'dancing "gangnam", style', "train"),
        ("replacement/replacement_for_corrupted_k400/0a0b0c0d0e0_000003_000013.mp4", "air drumming", "train"),
        ("wholefilm00.webm", "air drumming", "train", (7.0, 17.0)),
        ("-gone0000000_000100_000110.mp4", "zumba", "train"),
        ("val/_-_-_-_-_-__000000_000010.mp4", "zumba", "val"),
        ("test/abcdefghijk_000012_000022.mp4", None, "test"),
    ]


def test_kinetics_600_as_deepmind_publishes_it_and_as_the_mirror_does(put: Put, tmp_path: Path) -> None:
    header = "label,youtube_id,time_start,time_end,split\n"
    val = put("kinetics600/validate.csv", f"{header}zumba,abcdefghijk,0,10,validate\n")
    test = put("annotations/test.csv", "youtube_id,time_start,time_end,split\n--6bJUbfpnQ,17,27,test\n")
    put("v/abcdefghijk_000000_000010.mp4")
    assert facts(collect_known("kinetics", [tmp_path / "v"], [val, test]), tmp_path / "v") == [
        ("abcdefghijk_000000_000010.mp4", "zumba", "val"),
        ("---6bJUbfpnQ_000017_000027.mp4", None, "test"),
    ]
    plain = put("annotations/train.txt", "zumba/abcdefghijk_000000_000010.mp4 599\n")
    with pytest.raises(DataError, match=r"train\.txt: no column youtube_id, time_start, time_end in its first line"):
        collect_known("kinetics", [tmp_path / "v"], [plain])


def test_the_file_of_the_own_split_comes_first_among_equal_names(put: Put, tmp_path: Path) -> None:
    csv = put("train.csv", "label,youtube_id,time_start,time_end,split\nzumba,abcdefghijk,0,10,train\n")
    put("v/other/abcdefghijk_000000_000010.mp4")
    put("v/zumba/abcdefghijk_000000_000010.mp4")
    (entry,) = collect_known("kinetics", [tmp_path / "v"], [csv])
    assert entry.path == tmp_path / "v/zumba/abcdefghijk_000000_000010.mp4"


def test_something_something(put: Put, tmp_path: Path) -> None:
    put(
        "ann/labels.json",
        json.dumps({"Holding something next to something": "22", "Lifting something up, then down": "30"}),
    )
    train = put(
        "ann/train.json",
        json.dumps(
            [
                {
                    "id": "78687",
                    "label": "holding potato next to vicks vaporub bottle",
                    "template": "Holding [something] next to [something]",
                    "placeholders": ["potato", "vicks vaporub bottle"],
                },
                {"id": "2", "label": "x", "template": "Lifting [something] up, then down", "placeholders": ["x"]},
            ]
        ),
    )
    test = put("ann/something-something-v2-test.json", '[{"id":"1420"}]')
    for number in (78687, 1420):
        put(f"20bn-something-something-v2/{number}.webm")
    root = tmp_path / "20bn-something-something-v2"
    assert facts(collect_known("ssv2", [root], [train, test]), root) == [
        ("78687.webm", "Holding something next to something", "train"),
        ("-2.webm", "Lifting something up, then down", "train"),
        ("1420.webm", None, "test"),
    ]
    wrong = put("ann/validation.json", '[{"id": "3", "template": "Eating [something]"}]')
    with pytest.raises(DataError, match=r"validation\.json item 0: the template 'Eating something' is not in the list"):
        collect_known("ssv2", [root], [wrong])


def test_ucf101(put: Put, tmp_path: Path) -> None:
    put("ucfTrainTestlist/classInd.txt", "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n")
    train = put(
        "ucfTrainTestlist/trainlist01.txt",
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\nHandstandPushups/v_HandStandPushups_g08_c01.avi 2\r\n",
    )
    put("ucfTrainTestlist/testlist01.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\r\n")
    put("ucfTrainTestlist/trainlist02.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\n")
    put("ucfTrainTestlist/testlist02.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi\n")
    put("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi")
    put("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.mp4")  # converted
    root, lists = tmp_path / "UCF-101", tmp_path / "ucfTrainTestlist"
    assert facts(collect_known("ucf101", [root], [lists]), root) == [
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.mp4", "ApplyEyeMakeup", "test"),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "ApplyEyeMakeup", "train"),
        ("-HandstandPushups/v_HandStandPushups_g08_c01.avi", "HandstandPushups", "train"),
    ]
    assert [entry.split for entry in collect_known("ucf101", [root], [train])] == ["train", "train"]
    second = facts(collect_known("ucf101", [root], [lists], fold=2), root)
    assert second == [
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "ApplyEyeMakeup", "test"),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.mp4", "ApplyEyeMakeup", "train"),
    ]
    with pytest.raises(ConfigError, match="give the folder to --annotations"):
        collect_known("ucf101", [root], [train], fold=2)
    with pytest.raises(DataError, match=r"holds no \*list03\.txt"):
        collect_known("ucf101", [root], [lists], fold=3)
    train.write_text("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 2\n")
    with pytest.raises(DataError, match=r"trainlist01\.txt line 1: class ApplyEyeMakeup 2 is not so in classInd"):
        collect_known("ucf101", [root], [train])


def test_hmdb51(put: Put, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    put(
        "splits/brush_hair_test_split1.txt",
        "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \nAtheanas (Extended)_brush_hair_f_cm_np1_le_goo_0.avi 2 \n"
        "Blonde_being_brushed_brush_hair_f_nm_np2_ri_med_0.avi 0 \n",
    )
    put("splits/climb_test_split1.txt", "#1_Nice_climb_f_cm_np1_ba_bad_8.avi 1 \n")
    put("splits/climb_test_split2.txt", "#1_Nice_climb_f_cm_np1_ba_bad_8.avi 2 \n")
    put("videos/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi")
    put("videos/brush_hair/brush_hair/Atheanas (Extended)_brush_hair_f_cm_np1_le_goo_0.avi")
    put("videos/climb/#1_Nice_climb_f_cm_np1_ba_bad_8.avi")
    root = tmp_path / "videos"
    assert facts(collect_known("hmdb51", [root], [tmp_path / "splits"]), root) == [
        ("brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair", "train"),
        ("brush_hair/brush_hair/Atheanas (Extended)_brush_hair_f_cm_np1_le_goo_0.avi", "brush_hair", "test"),
        ("climb/#1_Nice_climb_f_cm_np1_ba_bad_8.avi", "climb", "train"),
    ]
    assert "fold 1 leaves 1 videos out" in caplog.text
    (second,) = collect_known("hmdb51", [root], [tmp_path / "splits"], fold=2)
    assert (second.label, second.split) == ("climb", "test")
    wrong = put("splits/chew_test_split3.txt", "a.avi 3\n")
    with pytest.raises(
        DataError, match=r"chew_test_split3\.txt line 1: expected `video\.avi 0`, 1 or 2, got 'a\.avi 3'"
    ):
        collect_known("hmdb51", [root], [wrong])


def test_diving48(put: Put, tmp_path: Path) -> None:
    items = [
        {"vid_name": "-mmq0PT-u8k_00155", "label": 1, "start_frame": 0, "end_frame": 48},
        {"vid_name": "_8Vy3dlHg2w_00000", "label": 0, "start_frame": 0, "end_frame": 70},
    ]
    train = put("Diving48_V2_train.json", json.dumps(items))
    put("rgb/-mmq0PT-u8k_00155.mp4")
    root = tmp_path / "rgb"
    assert [entry.label for entry in collect_known("diving48", [root], [train])] == [1, 0]
    put("Diving48_vocab.json", '[["Back", "15som", "05Twis", "FREE"], ["Back", "15som", "15Twis", "FREE"]]')
    assert facts(collect_known("diving48", [root], [train]), root) == [
        ("-mmq0PT-u8k_00155.mp4", "Back 15som 15Twis FREE", "train"),
        ("-_8Vy3dlHg2w_00000.mp4", "Back 15som 05Twis FREE", "train"),
    ]
    test = put("Diving48_V2_test.json", json.dumps([{"vid_name": "a", "label": 48}]))
    with pytest.raises(DataError, match=r"Diving48_V2_test\.json item 0: label 48 is not the number of a class"):
        collect_known("diving48", [root], [test])


def test_jester_as_pictures_and_as_videos(put: Put, tmp_path: Path) -> None:
    train = put("jester-v1-train.csv", "34870;Drumming Fingers\n56557;Sliding Two Fingers Right\n")
    test = put("jester-v1-test.csv", "119451\n")
    put("pictures/20bn-jester-v1/56557/00001.jpg")
    put("pictures/20bn-jester-v1/119451/00001.jpg")
    root = tmp_path / "pictures"
    entries = collect_known("jester", [root], [train, test])
    assert facts(entries, root) == [
        ("-20bn-jester-v1/34870", "Drumming Fingers", "train"),
        ("20bn-jester-v1/56557", "Sliding Two Fingers Right", "train"),
        ("20bn-jester-v1/119451", None, "test"),
    ]
    assert {entry.frame_rate for entry in entries} == {12.0}
    put("videos/34870.mp4")
    put("videos/56557.webm")
    entries = collect_known("jester", [tmp_path / "videos"], [train])
    assert facts(entries, tmp_path / "videos") == [
        ("34870.mp4", "Drumming Fingers", "train"),
        ("56557.webm", "Sliding Two Fingers Right", "train"),
    ]
    assert {entry.frame_rate for entry in entries} == {None}


COIN = {
    "database": {
        "LtRSn-ntcLY": {
            "duration": 131.0309,
            "class": "ReplaceCDDriveWithSSD",
            "video_url": "https://www.youtube.com/embed/LtRSn-ntcLY",
            "start": 56.640895694775196,
            "annotation": [
                {"id": "212", "segment": [60.0, 69.0], "label": "take out the laptop CD drive"},
                {"id": "216", "segment": [71.0, 82.5], "label": "insert the hard disk tray"},
            ],
            "subset": "training",
            "end": 85.714362947023,
            "recipe_type": 131,
        },
        "_hYDpmtE9hg": {"class": "BoilNoodles", "subset": "testing", "annotation": [], "recipe_type": 4},
    }
}


def test_coin(put: Put, tmp_path: Path) -> None:
    file = put("COIN.json", json.dumps(COIN))
    put("videos/131/LtRSn-ntcLY.mp4")
    root = tmp_path / "videos"
    assert facts(collect_known("coin", [root], [file]), root) == [
        ("131/LtRSn-ntcLY.mp4", "ReplaceCDDriveWithSSD", "train"),
        ("-4/_hYDpmtE9hg.mp4", "BoilNoodles", "test"),
    ]
    steps = collect_known("coin-steps", [root], [file])
    assert facts(steps, root) == [
        ("131/LtRSn-ntcLY.mp4", "take out the laptop CD drive", "train", (60.0, 69.0)),
        ("131/LtRSn-ntcLY.mp4", "insert the hard disk tray", "train", (71.0, 82.5)),
    ]
    assert steps[0].more == {"task": "ReplaceCDDriveWithSSD"}


EPIC_HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)


def test_epic_kitchens(put: Put, tmp_path: Path) -> None:
    train = put(
        "ann/EPIC_100_train.csv",
        EPIC_HEADER
        + "P01_01_0,P01,P01_01,00:00:01.089,00:00:00.14,00:00:03.37,8,202,open door,open,1,door,0,['door'],[0]\n"
        "P03_102_15,P03,P03_102,00:00:24.900,01:02:03.79,01:02:04.60,1427,1476,put rubbish in the bin,put-in,0,"
        "rubbish,1,\"['rubbish', 'bin']\",\"[1, 36]\"\n",
    )
    test = put(
        "ann/EPIC_100_test_timestamps.csv",
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame\n"
        "P01_101_0,P01,P01_101,00:00:02.851,00:00:02.86,00:00:03.87,143,193\n",
    )
    put("EPIC-KITCHENS/P01/videos/P01_01.MP4")
    put("EPIC-KITCHENS/P03_102.mp4")
    root = tmp_path / "EPIC-KITCHENS"
    numbers = collect_known("epic-kitchens-100", [root], [train])
    assert [entry.labels() for entry in numbers] == [
        {"label": "1 0", "verb": 1, "noun": 0},
        {"label": "0 1", "verb": 0, "noun": 1},
    ]
    put(
        "ann/EPIC_100_verb_classes.csv",
        "id,key,instances,category\n0,insert,\"['put-in']\",leave\n1,open,['open'],access\n",
    )
    put("ann/EPIC_100_noun_classes_v2.csv", "id,key,instances,category\n0,door,['door'],x\n1,bag:bin,['rubbish'],x\n")
    entries = collect_known("epic-kitchens-100", [root], [train, test])
    assert facts(entries, root) == [
        ("P01/videos/P01_01.MP4", "open door", "train", (0.14, 3.37)),
        ("P03_102.mp4", "insert bag:bin", "train", (3723.79, 3724.6)),
        ("-P01/videos/P01_101.MP4", None, "test", (2.86, 3.87)),
    ]
    assert [dict(entry.more) for entry in entries] == [
        {"verb": "open", "noun": "door"},
        {"verb": "insert", "noun": "bag:bin"},
        {},
    ]
    assert [entry.name for entry in entries] == ["P01_01_0", "P03_102_15", "P01_101_0"]
    train.write_text(EPIC_HEADER + "P01_01_0,P01,P01_01,0,00:00:00.14,3.37,8,202,open door,open,1,door,0,[],[]\n")
    with pytest.raises(DataError, match=r"EPIC_100_train\.csv line 2: time stamp '3\.37', expected HH:MM:SS"):
        collect_known("epic-kitchens-100", [root], [train])


def test_time_stamps() -> None:
    assert seconds("01:02:03.5", "x") == 3723.5
    with pytest.raises(DataError, match="x: 'nan' is not a number"):
        seconds("00:00:nan", "x")


def test_howto100m(put: Put, tmp_path: Path) -> None:
    table = put(
        "HowTo100M_v1.csv",
        "video_id,category_1,category_2,rank,task_id\nnVbIUDjzWY4,Cars & Other Vehicles,Motorcycles,27,52907\n",
    )
    plain = put("train_list.txt", "part 1/-a.mp4\nnVbIUDjzWY4\n\n/elsewhere/gone.mp4\n")
    features = put("todo.csv", "video_path,feature_path\npart 1/-a.mp4,x.npy\n")
    put("videos/part 1/-a.mp4")
    put("videos/deep/nVbIUDjzWY4.webm")
    root = tmp_path / "videos"
    (entry,) = collect_known("howto100m", [root], [table])
    assert entry.path == root / "deep/nVbIUDjzWY4.webm"
    expected = {"category_1": "Cars & Other Vehicles", "category_2": "Motorcycles", "task_id": "52907"}
    assert (entry.split, entry.labels()) == (None, expected)
    entries = collect_known("howto100m", [root], [plain])
    assert [(entry.path, entry.absent, entry.split) for entry in entries] == [
        (root / "part 1/-a.mp4", False, "train"),
        (root / "deep/nVbIUDjzWY4.webm", False, "train"),
        (Path("/elsewhere/gone.mp4"), True, "train"),
    ]
    assert [entry.path.name for entry in collect_known("howto100m", [root], [features])] == ["-a.mp4"]


def test_imagenet(put: Put, tmp_path: Path) -> None:
    put("in/train/n01440764/n01440764_10026.JPEG")
    put("in/train/n01443537/n01443537_2.JPEG")
    put("in/train/readme.txt")
    put("in/val/n01440764/ILSVRC2012_val_00000293.JPEG")
    root = tmp_path / "in"
    assert facts(collect_known("imagenet", [root], []), root) == [
        ("train/n01440764/n01440764_10026.JPEG", "n01440764", "train"),
        ("train/n01443537/n01443537_2.JPEG", "n01443537", "train"),
        ("val/n01440764/ILSVRC2012_val_00000293.JPEG", "n01440764", "val"),
    ]
    only = collect_known("imagenet", [root / "train"], [], ["train"])
    assert [entry.split for entry in only] == ["train", "train"]
    put("flat/val/ILSVRC2012_val_00048981.JPEG")
    solution = put(
        "LOC_val_solution.csv", "ImageId,PredictionString\nILSVRC2012_val_00048981,n03995372 85 1 499 272 \n"
    )
    assert facts(collect_known("imagenet", [tmp_path / "flat"], [solution]), tmp_path / "flat") == [
        ("val/ILSVRC2012_val_00048981.JPEG", "n03995372", "val"),
    ]
    with pytest.raises(DataError, match=r"no pictures in .*flat; expected train/n01440764"):
        collect_known("imagenet", [tmp_path / "flat"], [])


def test_lists_of_path_and_label(put: Put, tmp_path: Path) -> None:
    train = put("lists/train.csv", "a b.mp4 3\n/data/x/c.mp4 1\n")
    rest = put("lists/rest.csv", "d.mp4 2\n")
    put("videos/a b.mp4")
    put("videos/sub/c.mp4")  # absolute paths of another machine: found by name
    put("videos/d.mp4")
    root = tmp_path / "videos"
    assert facts(collect_known("list", [root], [train]), root) == [
        ("a b.mp4", 3, "train"),
        ("sub/c.mp4", 1, "train"),
    ]
    assert facts(collect_known("list", [root], [rest]), root) == [("d.mp4", 2, None)]
    assert facts(collect_known("list", [root], [rest], ["val"]), root) == [("d.mp4", 2, "val")]
