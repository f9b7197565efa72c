"""order.jsonl holds whole lines, none beyond the checkpoint that a run resumes from."""

import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jepa.errors import ConfigError
from jepa.tokens import TokenGrid
from jepa.training.config import PretrainConfig
from jepa.training.order_file import OrderFile, shown
from jepa.training.trainer import pretrain
from jepa.types import ClipBatch

BATCH = ClipBatch(
    torch.zeros(2, 3, 2, 8, 8), (), TokenGrid(1, 1, 1), torch.tensor([6, 7]), ("a", "ä"), ("s", "t"), ((0, 2), (1, 3))
)


def test_lines_are_clips(tmp_path: Path) -> None:
    file = OrderFile(tmp_path / "order.jsonl")
    assert file.read() == []
    file.start(0)
    file.append(3, shown(BATCH), images=False)
    file.append(4, shown(BATCH), images=True)
    assert file.read()[1:3] == [
        {"step": 3, "kind": "video", "position": 7, "source": "t", "key": "ä", "frames": [1, 3]},
        {"step": 4, "kind": "image", "position": 6, "source": "s", "key": "a", "frames": [0, 2]},
    ]


def test_a_restart_cuts_what_will_happen_again(tmp_path: Path) -> None:
    file = OrderFile(tmp_path / "order.jsonl")
    for step in range(4):
        file.append(step, shown(BATCH), images=False)
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:-5])  # killed while it wrote
    file.start(3)
    assert [row["step"] for row in file.read()] == [0, 0, 1, 1, 2, 2]
    file.append(3, shown(BATCH), images=False)
    assert file.path.read_bytes() == whole


def test_a_file_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write .*order\.jsonl: part of the path is a file"):
        OrderFile(tmp_path / "file" / "order.jsonl").start(0)


def test_a_disk_that_is_full_leaves_a_gap_and_whole_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A limit on the size of files acts as a full disk does: a write ends short, the next one fails."""
    file = OrderFile(tmp_path / "order.jsonl")
    file.start(0)
    file.append(0, shown(BATCH), images=False)
    size = file.path.stat().st_size
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + size // 2 + 5, before[1]))
        file.append(1, shown(BATCH), images=False)
        assert file.path.stat().st_size == size
        file.append(2, shown(BATCH), images=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    file.append(3, shown(BATCH), images=False)
    assert [row["step"] for row in file.read()] == [0, 0, 3, 3]
    assert [record.message for record in caplog.records] == [
        f"cannot write {file.path}: No space left on device; training goes on, and the clips from step 1 on are "
        "missing from it until there is space"
    ]


@pytest.mark.parametrize(
    "damage", [b"[1]\n", b"null\n", b'{"a": 1}\n', b'{"step": "x"}\n', b"\xff\n", b"[" * 99999 + b"\n"]
)
def test_lines_before_a_damaged_one_are_kept(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    file = OrderFile(tmp_path / "order.jsonl")
    file.append(0, shown(BATCH), images=False)
    good = file.path.read_bytes()
    file.path.write_bytes(good + damage + good)
    file.start(5)
    assert file.path.read_bytes() == good
    assert [record.message for record in caplog.records] == [
        f"{file.path} is damaged: 2 lines of it can be read, the rest is left out"
    ]


def test_it_is_written_on_demand(micro: Callable[..., PretrainConfig]) -> None:
    config = micro(max_steps=2)
    pretrain(config)
    assert not (config.out / "order.jsonl").exists()
    pretrain(replace(config, max_steps=4, resume=True, run=replace(config.run, record_order=True)))
    assert {row["step"] for row in OrderFile(config.out / "order.jsonl").read()} == {2, 3}
