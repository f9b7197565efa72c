"""Processes that are about to train different things are refused, with what differs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa.errors import ConfigError, DataError
from jepa.training.config import PretrainConfig
from jepa.training.launch import Ranks
from jepa.training.ranks_alike import require_same
from jepa.training.team import Team

Configure = Callable[..., PretrainConfig]


class Replay(Team):
    """A team of one, which hears of others what they would say."""

    def __init__(self) -> None:
        super().__init__(Ranks(), torch.device("cpu"), 1.0)
        self.said: list[Any] = []

    def gather(self, value: Any) -> list[Any]:
        self.said.append(value)
        return self.said


def compare(*processes: tuple[PretrainConfig, str]) -> None:
    """What the last of these processes does, after the others have spoken."""
    team = Replay()
    for config, data in processes:
        require_same(team, config, data)


def test_alike_is_alike(micro: Configure, tmp_path: Path) -> None:
    elsewhere = micro(loader={"batch_size": 4, "workers": 0, "cache": str(tmp_path)}, data=str(tmp_path))
    compare((micro(), "a"), (micro(), "a"), (elsewhere, "a"))


def test_another_configuration_is_named_with_its_rank(micro: Configure) -> None:
    config = micro()
    other = replace(config, seed=7, run=replace(config.run, log_every=3))
    with pytest.raises(
        ConfigError, match=r"rank 2 of 3 started with another .* seed \(7, not 0\), run.log_every \(3, not 2\)"
    ):
        compare((config, "a"), (config, "a"), (other, "a"))


def test_other_data_is_named_with_its_ranks(micro: Configure) -> None:
    team = Replay()
    team.said = [said(micro(), "a"), said(micro(), "b")]  # each has spoken before it is compared with
    with pytest.raises(DataError, match=r"ranks 1 and 2 of 3: other data at .* than on rank 0"):
        require_same(team, micro(), "b")


def said(config: PretrainConfig, data: str) -> Any:
    team = Replay()
    require_same(team, config, data)
    return team.said[0]
