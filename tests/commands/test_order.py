"""`jepa order`: what it prints is what training consumes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jepa.cli import main
from jepa.data.source import open_source
from jepa.training.config import PretrainConfig
from jepa.training.order_file import OrderFile
from jepa.training.trainer import pretrain

Configure = Callable[..., PretrainConfig]
MICRO = Path(__file__).parents[1] / "micro.yaml"


def order(capsys: pytest.CaptureFixture[str], *options: object) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["order", *map(str, options), "--json"]) == 0, capsys.readouterr().err
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def without(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


@pytest.mark.parametrize("mixed", [False, True])
def test_it_prints_what_a_run_consumed(
    micro: Configure, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mixed: bool
) -> None:
    changes: dict[str, Any] = {}
    if mixed:
        (tmp_path / "mix.yaml").write_text(
            f"sources: [{{data: '{tiny_shards}', repeat: 1}}, {{data: '{tiny_shards}', split: test, repeat: 2}}]"
        )
        changes = {
            "data": str(tmp_path / "mix.yaml"),
            "images": {"data": str(tiny_shards), "share": 0.25, "batch_size": 2, "size": 16},
            "loader": {"batch_size": 4, "workers": 0, "clips_per_video": 2},
        }
    config = micro(run={"device": "cpu", "threads": 1, "record_order": True, "log_every": 2}, **changes)
    pretrain(config)
    consumed = OrderFile(config.out / "order.jsonl").read()
    assert len(consumed) == (6 * 4 + 2 * 2 if mixed else 8 * 4)
    found = order(capsys, "--config", config.out / "config.yaml", "--count", len(consumed))
    assert without(found, "shard", "rank") == consumed
    assert all(Path(row["shard"]).is_file() for row in found)


def test_any_stretch_is_a_part_of_the_whole(tiny_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--config", MICRO, "--data", tiny_shards, "--images.data", tiny_shards, "--images.batch_size", 4]
    whole = order(capsys, *options, "--count", 60)
    assert [row["kind"] for row in whole[:12]] == ["video"] * 4 + ["image"] * 4 + ["video"] * 4
    for start, count, ranks in ((0, 60, 2), (17, 9, 4), (59, 1, 1)):
        part = order(capsys, *options, "--start", start, "--count", count, "--world-size", ranks)
        assert without(part, "rank") == without(whole[start : start + count], "rank")
        assert [row["rank"] for row in part] == [n % 4 * ranks // 4 for n in range(start, start + count)]


def test_a_far_position_needs_no_way_there(tiny_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = order(capsys, "--config", MICRO, "--data", tiny_shards, "--start", 9 * 10**15, "--count", 1)
    assert (row["position"], row["step"]) == (9 * 10**15, 9 * 10**15 // 4)


def test_ranks_are_named_and_workers_change_nothing(tiny_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--config", MICRO, "--data", tiny_shards, "--start", 8, "--count", 16, "--world-size", 2]
    found = order(capsys, *options, "--workers", 3)
    assert [(row["step"], row["rank"]) for row in found[::2]] == [
        (step, rank) for step in range(2, 6) for rank in (0, 1)
    ]
    assert order(capsys, *options) == found


def test_known_bad_samples_are_replaced_as_in_training(
    micro: Configure, tiny_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loader = {"batch_size": 24, "workers": 0, "max_bad": 0.1}
    config = micro(run={"device": "cpu", "threads": 1, "record_order": True}, loader=loader)
    options = ["--config", MICRO, "--data", tiny_shards, "--count", 48, "--loader.batch_size", 24]
    before = order(capsys, *options)
    source = open_source(tiny_shards)
    known = config.loader.bad_samples(source)
    try:
        for index in (3, 7):
            known.add(index, "test")
        bad = {source.info(index).key for index in (3, 7)}
        found = order(capsys, *options)
        pretrain(replace(config, max_steps=2))
    finally:
        known.quarantine.path.unlink()
    assert not bad & {row["key"] for row in found}
    changed = [(old["key"], new["key"]) for old, new in zip(before, found, strict=True) if old != new]
    assert sorted(old for old, _ in changed) == sorted([*bad, *bad])
    assert without(found, "shard", "rank") == OrderFile(config.out / "order.jsonl").read()


def test_the_table_for_people(tiny_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["order", "--config", str(MICRO), "--data", str(tiny_shards), "--count", "2"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["step", "position", "kind", "rank", "source", "shard", "key", "frames"]
    assert [line.split()[:4] for line in lines] == [["0", "0", "video", "0"], ["0", "1", "video", "0"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--world-size 3", "loader.batch_size 4 does not divide among 3 processes: use a multiple"),
        (
            "--world-size 2 --loader.clips_per_video 4",
            "gives each process 2 clips, not whole videos of",
        ),
        ("--start -1", "start is -1, expected 0 or more"),
        ("--loader.batch_size 400", "batch_size 400 is larger than the data set (24 clips"),
        ("--images.share 1", "images.share is 1.0, expected a number between 0 and 1"),
        ("--loader.window_shards -1", "loader.window_shards is -1, expected 0 or more"),
    ],
)
def test_mistakes_are_one_line(
    tiny_shards: Path, capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    assert main(["order", "--config", str(MICRO), "--data", str(tiny_shards), *options.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert message in line


def test_phases_are_told_one_by_one(micro: Configure, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    changes = {"clip": {"frames": 8}, "loader.batch_size": 6, "optim.steps": 2}
    run = {"device": "cpu", "threads": 1, "record_order": True}
    config = micro(run=run, max_steps=2, phases=[{"name": "early"}, {"name": "late", "changes": changes}])
    pretrain(config)
    file = config.out / "config.yaml"
    late = ["--phase", "late"]
    for options, name, count in (([], "1-early", 8), (["--phase", "early"], "1-early", 8), (late, "2-late", 12)):
        consumed = OrderFile(config.out / name / "order.jsonl").read()
        assert len(consumed) == count
        assert without(order(capsys, "--config", file, "--count", count, *options), "shard", "rank") == consumed
        whole = order(capsys, "--config", config.out / name / "config.yaml", "--count", count)
        assert without(whole, "shard", "rank") == consumed
    for source, message in ((file, "phase is 'x', but the phases are early, late"), (MICRO, "this run has no phases")):
        data = str(config.data)
        assert main(["order", "--config", str(source), "--data", data, "--phase", "x"]) == 2
        assert message in capsys.readouterr().err
