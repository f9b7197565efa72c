"""Which clips are probed, and what their labels make of them."""

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from jepa.data.source import Label, SampleInfo
from jepa.errors import DataError
from jepa.eval.clips import ClipSet, EvaluationData, choose_tasks, make_task, open_evaluation_data


class FakeSource:
    """Labels without videos."""

    name, fingerprint = "fake", "f"

    def __init__(self, labels: list[Mapping[str, Label]]) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def info(self, index: int) -> SampleInfo:
        return SampleInfo(str(index), 8, 8.0, 32, 32, self.labels[index], f"film {index}" if index else "")

    def read(self, index: int) -> bytes:
        raise AssertionError("labels need no video")

    def extra(self, index: int, name: str) -> bytes:
        raise KeyError(name)


def make_data(train: list[Mapping[str, Label]], test: list[Mapping[str, Label]]) -> EvaluationData:
    first, second = (ClipSet(FakeSource(labels), tuple(range(len(labels)))) for labels in (train, test))
    return EvaluationData("fake", first, second)


TWO: list[Mapping[str, Label]] = [{"motion": "a"}, {"motion": "b"}] * 3


def test_classes_are_sorted_and_numbers_are_classes() -> None:
    task = make_task(
        make_data([{"bodies": 2}, {"bodies": 1}, {}, {"bodies": 2}, {"bodies": 1}], [{"bodies": 2}]), "bodies"
    )
    assert task.classes == ("1", "2")
    assert task.train_rows.tolist() == [0, 1, 3, 4]
    assert task.train_targets.tolist() == [1, 0, 1, 0]
    assert task.origins == ("clip 0", "film 1", "film 3", "film 4")
    assert task.test_targets.tolist() == [1]


def test_a_missing_label_lists_the_others() -> None:
    with pytest.raises(DataError, match="label 'shape'; labels there: motion"):
        make_task(make_data(TWO, TWO), "shape")


def test_no_labels_at_all() -> None:
    with pytest.raises(DataError, match="one folder per class"):
        choose_tasks(make_data([{}] * 4, [{}]), ())


def test_one_class_is_nothing_to_learn() -> None:
    with pytest.raises(DataError, match="one class only"):
        make_task(make_data([{"motion": "a"}] * 4, TWO), "motion")


def test_a_label_of_its_own_per_clip_is_no_task() -> None:
    ids: list[Mapping[str, Label]] = [{"id": number} for number in range(6)]
    with pytest.raises(DataError, match="6 values in 6"):
        make_task(make_data(ids, ids), "id")


def test_a_class_of_the_test_part_alone_counts_and_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "jepa"):
        task = make_task(make_data(TWO, [{"motion": "a"}, {"motion": "z"}]), "motion")
    assert task.classes == ("a", "b", "z")
    assert task.learnable == 2
    assert task.test_targets.tolist() == [0, 2]
    assert "1 test clips have a class that no training clip has (z)" in caplog.text


def test_tasks_default_to_motion_and_shape_or_to_what_is_there() -> None:
    def both(kind: str) -> list[Mapping[str, Label]]:
        return [{"motion": kind, "shape": kind, "colour": kind}]

    full = both("a") * 3 + both("b") * 3
    assert [task.name for task in choose_tasks(make_data(full, full), ())] == ["motion", "shape"]
    assert [task.name for task in choose_tasks(make_data(full, full), ["colour"])] == ["colour"]
    folders: list[Mapping[str, Label]] = [{"label": "cats", "id": number, "speed": 1} for number in range(4)]
    folders += [{"label": "dogs", "id": number, "speed": number} for number in range(4, 8)]
    assert [task.name for task in choose_tasks(make_data(folders, folders), ())] == ["label"]


def test_splits_of_a_data_set_are_used(tiny_shards: Path) -> None:
    data = open_evaluation_data(tiny_shards)
    assert (len(data.train), len(data.test)) == (24, 12)
    fewer = open_evaluation_data(tiny_shards, limit=5)
    assert len(fewer.train) == len(fewer.test) == 5
    assert fewer.train.indices == open_evaluation_data(tiny_shards, limit=5).train.indices
    assert fewer.fingerprint != data.fingerprint


def test_without_a_test_split_a_fifth_is_held_out(tiny_shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "jepa"):
        data = open_evaluation_data(tiny_shards / "train")
    assert "holding out" in caplog.text
    assert set(data.train.indices).isdisjoint(data.test.indices)
    assert len(data.train) + len(data.test) == 24
    assert 3 <= len(data.test) <= 12
