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


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write .*order\.jsonl: No such file or directory"):
        OrderFile(tmp_path / "gone" / "order.jsonl").append(0, shown(BATCH), images=False)


def test_it_is_written_on_demand(micro: Callable[..., PretrainConfig]) -> None:
    config = micro(max_steps=2)
    pretrain(config)
    assert not (config.out / "order.jsonl").exists()
    pretrain(replace(config, max_steps=4, resume=True, run=replace(config.run, record_order=True)))
    assert {row["step"] for row in OrderFile(config.out / "order.jsonl").read()} == {2, 3}
