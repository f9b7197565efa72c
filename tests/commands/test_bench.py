import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from jepa.bench.laps import Spread
from jepa.bench.material import FilmConfig, make_films
from jepa.bench.official import missing
from jepa.cli import main
from jepa.commands.bench import batch_size, spread, table


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films") / "films"
    make_films(folder, FilmConfig(count=4, frames=24, height=64, width=96, rate=12), seed=0)
    return folder


def test_data_compares_every_row_with_the_bare_decoder(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = f"--data {films} --clips 4 --rounds 2 --workers 0 --frames 4 --stride 2 --size 32 --json"
    assert main(["bench", "data", *options.split()]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = {(row["group"], row["name"]): row for row in report["figures"]}
    names = {"reading", "bare pyav", "loader pyav"} | ({"official"} if missing() is None else set())
    for group in ("unpacked", "packed"):
        assert names <= {name for where, name in rows if where == group}
        assert rows[group, "bare pyav"]["of_bare"] == {"median": 1, "low": 1, "high": 1}
        for (where, name), row in rows.items():
            if where == group:
                assert 0 < row["per_core"]["low"] <= row["per_core"]["median"] <= row["per_core"]["high"]
                assert (row["of_bare"] is None) == (name == "reading")
    assert "4 videos, 96 frames of 96x64" in report["material"]["unpacked"]
    assert report["machine"]["av"]
    assert bool(report["notes"]) >= (missing() is not None)


@pytest.mark.slow
def test_data_with_workers_prints_a_table(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = f"--data {films} --clips 8 --rounds 1 --workers 2 --frames 4 --stride 2 --size 32"
    assert main(["bench", "data", *options.split()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| videos")
    assert len({len(line) for line in lines if line.startswith("|")}) == 1
    assert sum("| loader, 2 workers" in line for line in lines) == 2
    assert any("8 clips of 4 frames at stride 2, to 32x32" in line for line in lines)


@dataclasses.dataclass(frozen=True)
class Facts:
    samples: int
    times: tuple[float, ...]

    @property
    def slowest_seconds(self) -> float:
        return max(self.times)


def test_manifest_prints_whatever_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stand_in, folders = ModuleType("jepa.bench.manifest"), []

    def measure(samples: int, folder: Path) -> Facts:
        assert folder.is_dir()
        folders.append(folder)
        return Facts(samples, (1.23456, 0.5))

    stand_in.measure = measure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jepa.bench.manifest", stand_in)
    assert main(["bench", "manifest", "--samples", "2000"]) == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert lines[2:] == [["samples", "2,000"], ["times", "1.235, 0.5"], ["slowest seconds", "1.235"]]
    assert main(["bench", "manifest", "--samples", "2000", "--folder", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"samples": 2000, "times": [1.23456, 0.5], "slowest_seconds": 1.23456}
    assert not folders[0].exists()
    assert folders[1] == tmp_path


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("", 2, "missing what; example: jepa bench data"),
        ("speed", 2, "expected one of data, manifest, got 'speed'"),
        ("data --clips 0", 2, "clips is 0, expected 1 or more"),
        ("data --size 30", 2, "clip height is 30, expected a positive multiple of 16"),
        ("data --data {films}/nothing", 3, "nothing"),
        ("data --data {films} --frames 16 --clips 4", 3, "24 frames, a clip spans 61: lower --frames or --stride"),
    ],
)
def test_errors_are_one_line(
    films: Path, options: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *options.format(films=films).split()]) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("jepa bench: error: ")
    assert message in last


def test_spreads_and_tables() -> None:
    assert spread(Spread(0.91234, 0.9, 1.0)) == "0.912 (0.9 to 1)"
    assert spread(Spread(5461.2, 99.96, 12345.6)) == "5461 (100 to 12346)"
    assert spread(None) == "-"
    assert table([["a", "row"], ["long", "x"]]) == ["| a    | row |", "|------|-----|", "| long | x   |"]


@pytest.mark.parametrize(("clips", "most", "expected"), [(48, 6, 6), (48, 48, 8), (7, 48, 7), (11, 5, 1), (4, 1, 1)])
def test_batches_divide_the_clips(clips: int, most: int, expected: int) -> None:
    assert batch_size(clips, most) == expected
