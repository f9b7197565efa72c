"""metrics.csv holds whole rows, none beyond the checkpoint that a run resumes from."""

import csv
import math
from pathlib import Path

import pytest

from jepa.errors import ConfigError
from jepa.training.metrics import COLUMNS, MetricsFile


def row(step: int) -> dict[str, float]:
    return {name: step + index / 7 for index, name in enumerate(COLUMNS)} | {"step": step, "position": 4 * step}


@pytest.fixture
def metrics(tmp_path: Path) -> MetricsFile:
    file = MetricsFile(tmp_path / "metrics.csv")
    file.start(0)
    for step in (2, 4, 6):
        file.append(row(step))
    return file


def test_rows_come_back_bit_by_bit(metrics: MetricsFile) -> None:
    assert metrics.read() == [row(2), row(4), row(6)]


def test_any_csv_reader_can_read_it(metrics: MetricsFile) -> None:
    with metrics.path.open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [line["step"] for line in rows] == ["2", "4", "6"]


def test_rows_beyond_the_resumed_step_are_dropped(metrics: MetricsFile) -> None:
    metrics.start(5)
    assert metrics.read() == [row(2), row(4)]
    metrics.append(row(6))
    assert metrics.read() == [row(2), row(4), row(6)]


def test_a_row_cut_by_a_kill_is_dropped(metrics: MetricsFile) -> None:
    text = metrics.path.read_text()
    metrics.path.write_text(text[:-40])
    assert metrics.read() == [row(2), row(4)]
    metrics.start(6)
    metrics.append(row(6))
    assert metrics.path.read_text() == text


def test_the_first_row_decides_the_columns(tmp_path: Path) -> None:
    path, more = tmp_path / "metrics.csv", {"loss/a": 1.5, "variance": 2.5}
    file = MetricsFile(path)
    file.start(0)
    assert file.read() == []
    for step, extra in ((1, more), (2, more | {"loss/late": 1.0})):
        file.append(row(step) | extra)
    assert path.read_text().splitlines()[0].split(",") == [*COLUMNS, *more]
    resumed = MetricsFile(path)
    resumed.start(1)
    resumed.append(row(3))
    first, second = resumed.read()
    assert first == row(1) | more
    assert second["step"] == 3
    assert math.isnan(second["loss/a"])


def test_a_kill_in_the_header_leaves_no_rows(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    file.path.write_text("step,position,lo")
    assert file.read() == []
    file.start(0)
    file.append(row(1))
    assert file.read() == [row(1)]


def test_no_file_is_no_rows(tmp_path: Path) -> None:
    assert MetricsFile(tmp_path / "metrics.csv").read() == []


def test_an_unmeasured_speed_survives(metrics: MetricsFile) -> None:
    metrics.append(row(8) | {"clips_per_second": math.nan})
    assert math.isnan(metrics.read()[-1]["clips_per_second"])


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        MetricsFile(tmp_path / "file" / "metrics.csv").start(0)
