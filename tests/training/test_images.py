"""Images between the videos of a run."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from jepa.checkpoints.io import load_state
from jepa.errors import ConfigError
from jepa.tokens import TokenGrid
from jepa.training.config import PretrainConfig
from jepa.training.metrics import MetricsFile
from jepa.training.order_file import OrderFile
from jepa.training.trainer import pretrain

Configure = Callable[..., PretrainConfig]
RUN = {"device": "cpu", "threads": 1, "log_every": 3, "checkpoint_every": 3, "record_order": True}


@pytest.fixture
def mixed(micro: Configure, video_pictures: Path) -> Configure:
    images = {"data": str(video_pictures), "share": 0.25, "batch_size": 2, "size": 24}

    def configure(**changes: Any) -> PretrainConfig:
        return micro(run=RUN, **{"images": images, **changes})

    return configure


@pytest.fixture
def video_pictures(tiny_shards: Path) -> Path:
    return tiny_shards / "test"


@pytest.mark.parametrize(
    "changes", [{}, {"model": {"size": "nano", "patch": 8, "positions": "sincos"}}, {"objective": {"target": "pixels"}}]
)
def test_a_run_with_images_learns_from_both(mixed: Configure, changes: dict[str, Any]) -> None:
    config = mixed(**changes)
    assert config.image_grid == TokenGrid(1, 3, 3)
    pretrain(config)
    consumed = OrderFile(config.out / "order.jsonl").read()
    assert [row["step"] for row in consumed if row["kind"] == "image"] == [3, 3, 7, 7]
    assert [row["position"] for row in consumed if row["kind"] == "image"] == [0, 1, 2, 3]
    assert [row["position"] for row in consumed if row["kind"] == "video"] == list(range(24))
    assert {len(row["frames"]) for row in consumed if row["kind"] == "image"} == {1}
    rows = MetricsFile(config.out / "metrics.csv").read()
    assert [(row["step"], row["position"]) for row in rows] == [(1, 4), (3, 12), (6, 22), (8, 28)]
    assert [row["images"] for row in rows] == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert [row["of_image"] for row in rows] == [0, 0, 0, 1]
    assert math.isnan(rows[0]["loss/images"])
    for row in rows[2:]:
        share = row["images"]
        assert row["loss"] == pytest.approx(share * row["loss/images"] + (1 - share) * row["loss/videos"])
    assert load_state(config.out / "checkpoints" / "last.ckpt")["jepa"]["position"] == 28


def test_the_videos_are_those_of_a_run_without_images(micro: Configure, mixed: Configure, tmp_path: Path) -> None:
    alone, both = micro(out=str(tmp_path / "alone"), run=RUN, max_steps=6), mixed()
    for config in (alone, both):
        pretrain(config)
    consumed = [
        [(row["position"], row["key"], row["frames"]) for row in OrderFile(config.out / "order.jsonl").read()
         if row["kind"] == "video"]
        for config in (alone, both)
    ]  # fmt: skip
    assert consumed[0] == consumed[1]


@pytest.mark.parametrize("cut", [3, 4, 5])
def test_a_run_with_images_resumes_exactly(mixed: Configure, tmp_path: Path, cut: int) -> None:
    whole, parts = mixed(out=str(tmp_path / "whole")), mixed(out=str(tmp_path / "parts"))
    pretrain(whole)
    pretrain(replace(parts, max_steps=cut))
    pretrain(replace(parts, resume=True))
    expected, found = load_file(whole.out / "model.safetensors"), load_file(parts.out / "model.safetensors")
    assert all(expected[name].equal(found[name]) for name in expected)
    for name in ("order.jsonl",):
        assert (whole.out / name).read_bytes() == (parts.out / name).read_bytes()


def test_other_images_are_other_data(mixed: Configure, video_pictures: Path) -> None:
    config = mixed(max_steps=3)
    pretrain(config)
    other = replace(config.images, data=video_pictures.parent / "train")
    with pytest.raises(ConfigError, match="cannot resume on other data"):
        pretrain(replace(config, images=other, max_steps=None, resume=True))
    with pytest.raises(ConfigError, match=r"images.share \(was 0.25, now 0.5\)"):
        pretrain(replace(config, images=replace(config.images, share=0.5), resume=True))


def test_images_must_fit_the_patches(mixed: Configure) -> None:
    with pytest.raises(ConfigError, match="clip height is 20, expected a positive multiple of 8"):
        mixed(images={"data": "x", "size": 20})
