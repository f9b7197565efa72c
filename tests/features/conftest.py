"""A folder of short videos and an untrained encoder for it."""

from pathlib import Path

import numpy as np
import pytest

from jepa.checkpoints.load import FrozenEncoder, random_encoder
from jepa.data.synthetic.video import encode_h264
from jepa.models.encoder import EncoderConfig

LENGTHS = {"a": 20, "b": 9, "c": 32, "short": 4}
"""Frames of each video; clips take 8."""


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, frames in LENGTHS.items():
        colours = rng.integers(0, 255, (frames, 1, 1, 3))
        shade = np.linspace(0.3, 1, 24)[None, :, None, None] * np.ones((1, 1, 32, 1))
        (folder / f"{name}.mp4").write_bytes(encode_h264((colours * shade).astype(np.uint8), 8))
    return folder


@pytest.fixture
def encoder() -> FrozenEncoder:
    config = EncoderConfig(width=24, depth=2, heads=2, patch=8, frames=8, size=16, positions="sincos")
    return random_encoder(config, seed=0, facts={"clip": {"stride": 1}})
