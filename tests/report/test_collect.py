"""What is read from run folders, whole and damaged ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa.errors import DataError
from jepa.eval.results import Predictions, Result, record
from jepa.report.collect import read_metrics, read_run


def test_a_step_logged_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss,extra\n10,1.0,\n20,2.0,5\n30,9.0,\n20,3.0,7\n")
    notes: list[str] = []
    table = read_metrics(path, notes)
    assert table["step"].tolist() == [10, 20, 30]
    assert table["loss"].tolist() == [1, 3, 9]
    np.testing.assert_array_equal(table["extra"], [np.nan, 7, np.nan])
    assert notes == []


def test_results_are_those_that_evaluation_records(tmp_path: Path) -> None:
    result = Result(
        task="motion/fine", encoder="pretrained", probe="knn", metric="accuracy", value=0.5, low=0.4, high=0.6,
        count=10, seed=0, config_hash="a", checkpoint_hash="b", classes=2, chance=0.5, settings={"k": 5}, data="d",
    )  # fmt: skip
    record(tmp_path, result, Predictions(("x", "y"), (0, 1, 1), (0, 1, 0)))
    run = read_run(tmp_path)
    score = run.scores[0]
    assert (score.task, score.value, score.low, score.high, score.chance) == ("motion/fine", 0.5, 0.4, 0.6, 0.5)
    found = run.predictions_of(score)
    assert found is not None
    assert (found.classes, found.truth, found.predicted) == (("x", "y"), (0, 1, 1), (0, 1, 0))


def test_the_last_of_several_results_counts_and_the_page_says_so(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_run()
    lines = (folder / "results.jsonl").read_text().splitlines()
    newer = json.loads(lines[0]) | {"value": 0.99, "seed": 1}
    (folder / "results.jsonl").write_text("\n".join([*lines, json.dumps(newer), '{"task": "motion", "enco']))
    run = read_run(folder)
    assert len(run.scores) == len(lines)
    assert run.scores[0].value == 0.99
    assert [note for note in run.notes if "earlier" in note]
    assert [note for note in run.notes if "unreadable" in note]


@pytest.mark.parametrize("name", ["seed", "checkpoint_hash", "config_hash"])
def test_predictions_of_another_measurement_are_left_out(tmp_path: Path, name: str) -> None:
    first = Result(
        task="motion", encoder="pretrained", probe="knn", metric="accuracy", value=0.5, low=0.4, high=0.6, count=2,
        seed=0, config_hash="a", checkpoint_hash="b", classes=2, chance=0.5,
    )  # fmt: skip
    changed: dict[str, Any] = {name: 1 if name == "seed" else "other"}
    second = replace(first, **changed)
    said = Predictions(("x", "y"), (0, 1), (0, 1))
    for result in (first, second):
        record(tmp_path, result, said)
    run = read_run(tmp_path)
    assert run.predictions_of(run.scores[0]) is not None
    assert not [note for note in run.notes if note.startswith("predictions")]
    record(tmp_path, first, said)  # its line stays before the second, which remains the one shown
    run = read_run(tmp_path)
    assert run.predictions_of(run.scores[0]) is None
    assert [note for note in run.notes if note.startswith("predictions/motion-pretrained-knn.json is of another seed")]


def test_results_on_other_data_supersede_nothing(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    lines = (folder / "results.jsonl").read_text().splitlines()
    other = json.loads(lines[0]) | {"value": 0.99, "data": "elsewhere"}
    (folder / "results.jsonl").write_text("\n".join([*lines, json.dumps(other)]))
    run = read_run(folder)
    assert len(run.scores) == len(lines) + 1
    assert [score.data for score in run.scores if score.value == 0.99] == ["elsewhere"]
    assert not [note for note in run.notes if "earlier" in note]


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("config.yaml", "a: [1", "damaged"), ("environment.json", "{", "damaged"),
        ("results.jsonl", "[]\n", "unreadable"),
        ("metrics.csv", "step,loss\n", "no rows"), ("metrics.csv", "loss\n1\n", "no column"),
        ("predictions/motion-pretrained-linear.json", '{"classes": ["a"], "truth": [3], "predicted": [0]}', "damaged"),
        ("config.yaml", b"\xff\xfe\x00", "unreadable"),
    ],
)  # fmt: skip
def test_damage_becomes_a_note(make_run: Callable[..., Path], name: str, content: str | bytes, word: str) -> None:
    folder = make_run()
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert [note for note in read_run(folder).notes if note.startswith(name) and word in note]


def test_stages_are_runs(make_run: Callable[..., Path]) -> None:
    run = read_run(make_run())
    assert [stage.name for stage in run.stages] == ["reconstruction"]
    assert run.stages[0].config["objective"] == {"target": "pixels"}


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run folder"):
        read_run(tmp_path)
    with pytest.raises(DataError, match="no such run folder"):
        read_run(tmp_path / "absent")
