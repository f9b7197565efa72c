"""The encoders that come with the package: small, whole, documented, and more than random."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import jepa
from jepa.checkpoints import source
from jepa.checkpoints.load import random_encoder, shipped
from jepa.data.synthetic.world import WorldConfig, make_clip
from jepa.objectives.diagnostics import effective_rank

MEGABYTE = 2**20


def folder(name: str) -> Path:
    return source._SHIPPED / name


def test_the_nano_encoder_is_shipped() -> None:
    assert "jepa-nano" in shipped()


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_encoder_is_small_and_says_where_it_comes_from(name: str) -> None:
    assert sum(path.stat().st_size for path in folder(name).iterdir()) <= 10 * MEGABYTE
    card = (folder(name) / "README.md").read_text()
    for word in ("jepa demo", "--seed", "two-core", "Apache-2.0", "motion", "random"):
        assert word in card, word


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_encoder_loads_anywhere(name: str, tmp_path: Path) -> None:
    code = f"import jepa; print(jepa.load_encoder({name!r}).config.width)"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(result.stdout) == jepa.load_encoder(name).config.width


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_encoder_has_learnt_something(name: str) -> None:
    encoder = jepa.load_encoder(name)
    world = WorldConfig(world="hard")
    clips = torch.stack(
        [
            torch.from_numpy(make_clip(world, 1, index, "test").frames[: 2 * encoder.config.frames : 2])
            for index in range(32)
        ]
    )  # (B, T, H, W, C)
    size = (encoder.config.frames, encoder.config.size, encoder.config.size)
    views = torch.nn.functional.interpolate(clips.permute(0, 4, 1, 2, 3).float(), size=size, mode="trilinear")
    clips_BCTHW = encoder.preprocess(views.to(torch.uint8))
    tokens = encoder(clips_BCTHW)
    assert tokens.isfinite().all()
    assert effective_rank(tokens) > encoder.config.width / 4
    random = random_encoder(encoder.config, seed=0)(clips_BCTHW)
    assert not torch.allclose(tokens, random, atol=0.1)
