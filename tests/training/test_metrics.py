"""metrics.csv holds whole rows, none beyond the checkpoint that a run resumes from."""

import csv
import errno
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jepa.errors import ConfigError, DataError
from jepa.training import metrics as metrics_module
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


def full(path: Path) -> Callable[..., None]:
    """Writing as on a disk without space, for this file."""

    def write(where: Path, text: bytes) -> None:
        assert where == path
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(where))

    return write


def test_a_full_disk_costs_rows_and_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    file.start(0)
    for steps in ((1, 2), (4, 5)):  # without a header, and behind one
        with monkeypatch.context() as patch:
            patch.setattr(metrics_module, "append", full(file.path))
            for step in steps:
                file.append(row(step))
        file.append(row(steps[-1] + 1))
    assert [found["step"] for found in file.read()] == [3, 6]
    complaints = [record.message for record in caplog.records]
    expected = f"cannot write {file.path}: No space left on device; training goes on, rows are missing until there is"
    assert [message.startswith(expected) for message in complaints] == [True], "it is said once"


def test_a_half_row_is_removed_before_the_next(metrics: MetricsFile) -> None:
    with metrics.path.open("ab") as file:
        file.write(b"8,32,0.")
    metrics.append(row(10))
    assert [found["step"] for found in metrics.read()] == [2, 4, 6, 10]


ONES = b",1" * 9 + b"\n"


@pytest.mark.parametrize(
    "damage",
    [b"\xff\n", b"\0" * 4000 + b"\n", b"\0" * 200_000 + b"\n", b"8,32\n", b"8,1" + ONES]
    + [step + ONES for step in (b"inf", b"nan", b"1e99", b"7.5", b"-1", b"x")],
)
def test_rows_before_a_damaged_one_are_kept(
    metrics: MetricsFile, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    good = metrics.path.read_bytes()
    metrics.path.write_bytes(good + damage + good.splitlines(True)[-1])
    assert metrics.read() == [row(2), row(4), row(6)]
    metrics.start(9)
    assert metrics.path.read_bytes() == good
    assert [record.message for record in caplog.records] == [
        f"{metrics.path} is damaged: 3 rows of it can be read, the rest is left out"
    ]


@pytest.mark.parametrize("content", [b"\xff\xfe\n1\n", b"step,step\n1,2\n", b"a,b\n", b"\0" * 300_000 + b"\n"])
def test_what_is_no_table_is_begun_anew(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    file.path.write_bytes(content)
    assert file.read() == []
    file.start(4)
    file.append(row(5))
    assert file.read() == [row(5)]
    assert [str(file.path) in record.message for record in caplog.records] == [True]


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.csv")
    with pytest.raises(DataError, match=r"cannot read .*metrics\.csv: it is no ordinary file"):
        MetricsFile(tmp_path / "metrics.csv").read()
