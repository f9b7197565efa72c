"""Micro runs: configurations of a few steps on the tiny data set."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jepa.config import make_layer, read_layer, resolve
from jepa.training.config import PretrainConfig

Configure = Callable[..., PretrainConfig]


@pytest.fixture
def micro(tiny_shards: Path, tmp_path: Path) -> Configure:
    """`micro(optim={"steps": 3})`: tests/micro.yaml with changes, writing to a temporary folder."""
    base = read_layer(PretrainConfig, Path(__file__).parents[1] / "micro.yaml")

    def configure(**changes: object) -> PretrainConfig:
        paths = {"data": str(tiny_shards), "out": str(tmp_path / "run")}
        return resolve(PretrainConfig, [base, make_layer(PretrainConfig, paths | changes, "test")]).build()

    return configure
