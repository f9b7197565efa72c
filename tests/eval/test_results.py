"""Lines of results.jsonl: complete, replaced when measured again, kept otherwise."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jepa.errors import ConfigError, DataError
from jepa.eval.results import (
    Predictions,
    Result,
    as_json,
    predictions_path,
    read_predictions,
    read_results,
    record,
    table,
)

RESULT = Result(
    task="motion", encoder="pretrained", probe="linear", metric="accuracy", value=0.5, low=0.4, high=0.6, count=90,
    seed=0, config_hash="c", checkpoint_hash="w", classes=10, chance=0.1, settings={"strength": 0.1}, data="shards",
)  # fmt: skip


def test_a_line_holds_what_scripts_rely_on(tmp_path: Path) -> None:
    record(tmp_path, RESULT)
    line = json.loads((tmp_path / "results.jsonl").read_text())
    promised = "task encoder probe metric value low high count seed config_hash checkpoint_hash"
    assert set(promised.split()) <= set(line)
    assert read_results(tmp_path) == [RESULT]


@pytest.mark.parametrize("name", ["task", "encoder", "probe", "metric", "seed", "checkpoint_hash", "config_hash"])
def test_measuring_again_replaces_and_anything_else_is_appended(tmp_path: Path, name: str) -> None:
    record(tmp_path, RESULT)
    changed: dict[str, Any] = {name: 1 if name == "seed" else "other"}
    other = replace(RESULT, **changed)
    record(tmp_path, other)
    record(tmp_path, replace(RESULT, value=0.7))
    assert read_results(tmp_path) == [replace(RESULT, value=0.7), other], "the line stands where it stood"


def test_predictions_lie_beside(tmp_path: Path) -> None:
    said = Predictions(("a", "b"), (0, 1, 1), (0, 0, 1))
    record(tmp_path, RESULT, said)
    path = tmp_path / "predictions" / "motion-pretrained-linear.json"
    assert predictions_path(tmp_path, RESULT) == path
    assert read_predictions(tmp_path, RESULT) == said
    path.write_text("{}")
    with pytest.raises(DataError, match="probe again"):
        read_predictions(tmp_path, RESULT)


@pytest.mark.parametrize("name", ["seed", "checkpoint_hash", "config_hash"])
def test_predictions_say_which_measurement_they_are_of(tmp_path: Path, name: str) -> None:
    changed: dict[str, Any] = {name: 1 if name == "seed" else "other"}
    newer = replace(RESULT, **changed)
    record(tmp_path, RESULT, Predictions(("a", "b"), (0, 1), (0, 0)))
    record(tmp_path, newer, Predictions(("a", "b"), (0, 1), (0, 1)))
    assert read_predictions(tmp_path, newer).predicted == (0, 1)
    with pytest.raises(DataError, match=f"another measurement .other {name}."):
        read_predictions(tmp_path, RESULT)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    record(tmp_path, RESULT)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"task": "motion"\n')
    with pytest.raises(DataError, match="line 2"):
        read_results(tmp_path)


def test_a_folder_that_cannot_be_written_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        record(tmp_path / "file", RESULT)


def test_table_and_json_say_the_same() -> None:
    shown = table([RESULT, replace(RESULT, task="shape", value=0.123)])
    assert "50.0 %" in shown
    assert "40.0 to 60.0" in shown
    assert "12.3 %" in shown
    assert [item["value"] for item in json.loads(as_json([RESULT]))] == [0.5]


def test_the_table_names_metrics_other_than_accuracy() -> None:
    assert "accuracy" in table([RESULT]).splitlines()[0]
    shown = table([RESULT, replace(RESULT, probe="segmentation", metric="mean_iou")]).splitlines()
    assert "accuracy" not in shown[0]
    assert "linear " in shown[2]
    assert "segmentation, mean_iou" in shown[3]
