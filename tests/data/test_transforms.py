import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from jepa.data.transforms import AugmentConfig, augment, centre_crop, mirror, random_box, resize
from jepa.errors import ConfigError


def ramp(count: int, height: int, width: int) -> np.ndarray:
    """Frames whose red is the row, green the column and blue the frame number."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 0] = np.arange(height)[:, None] * 2
    frames[..., 1] = np.arange(width) * 2
    frames[..., 2] = np.arange(count)[:, None, None]
    return frames


def draw(frames: np.ndarray, config: AugmentConfig, seed: int) -> np.ndarray:
    return augment(frames, config, np.random.default_rng(seed))


@given(st.integers(0, 10**9))
def test_all_frames_of_a_clip_get_the_same_crop(seed: int) -> None:
    clip = draw(ramp(6, 48, 64), AugmentConfig(size=24), seed)
    assert clip.shape == (6, 24, 24, 3)
    assert clip.dtype == np.uint8
    assert (clip[..., :2] == clip[:1, ..., :2]).all()
    assert clip[:, 0, 0, 2].tolist() == list(range(6))  # and the order of frames stays


def test_same_generator_same_clip_and_another_one_another() -> None:
    frames, config = ramp(2, 48, 64), AugmentConfig(size=24)
    assert (draw(frames, config, 5) == draw(frames, config, 5)).all()
    assert len({draw(frames, config, seed).tobytes() for seed in range(20)}) == 20


def test_half_of_the_clips_are_mirrored() -> None:
    def mirrored(flip: bool) -> int:
        clips = (draw(ramp(1, 32, 32), AugmentConfig(32, (0.5, 1.0), flip=flip), seed) for seed in range(400))
        return sum(int(clip[0, 0, 0, 1]) > int(clip[0, 0, -1, 1]) for clip in clips)

    frames = np.random.default_rng(0).integers(0, 256, (3, 9, 14, 3), np.uint8)
    for view in (frames, frames[::2, 1:7, 2:11]):
        assert (mirror(view) == view[:, :, ::-1]).all()
    assert mirrored(False) == 0
    assert 150 < mirrored(True) < 250


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 10**9))
def test_boxes_lie_in_the_frame(height: int, width: int, seed: int) -> None:
    top, left, box_height, box_width = random_box(height, width, AugmentConfig(), np.random.default_rng(seed))
    assert 0 <= top <= top + box_height <= height
    assert 0 <= left <= left + box_width <= width
    assert box_height > 0
    assert box_width > 0


def test_boxes_have_uniform_area_and_log_uniform_ratio() -> None:
    config, rng = AugmentConfig(scale=(0.2, 0.5), ratio=(0.5, 2.0)), np.random.default_rng(0)
    boxes = np.array([random_box(1000, 1000, config, rng) for _ in range(4000)])
    area = boxes[:, 2] * boxes[:, 3] / 1e6
    ratio = np.log2(boxes[:, 3] / boxes[:, 2])
    # Deciles of a uniform law, for both.
    assert np.allclose(np.quantile(area, [0.1, 0.5, 0.9]), [0.23, 0.35, 0.47], atol=0.01)
    assert np.allclose(np.quantile(ratio, [0.1, 0.5, 0.9]), [-0.8, 0, 0.8], atol=0.06)


def test_frames_that_fit_no_ratio_give_the_largest_centred_box() -> None:
    rng = np.random.default_rng(0)
    assert random_box(100, 400, AugmentConfig(scale=(1, 1), ratio=(0.5, 2.0)), rng) == (0, 100, 100, 200)
    assert random_box(400, 100, AugmentConfig(scale=(1, 1), ratio=(0.5, 2.0)), rng) == (100, 0, 200, 100)


def test_nothing_is_resized_when_the_whole_frame_has_the_size() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    clip = draw(frames, AugmentConfig(32, scale=(1, 1), flip=False), 0)
    assert np.shares_memory(clip, frames)
    assert (clip == frames).all()
    assert (draw(frames, AugmentConfig(32, (1, 1)), 1) == frames[:, :, ::-1]).all() or (
        draw(frames, AugmentConfig(32, (1, 1)), 2) == frames[:, :, ::-1]
    ).all()


@pytest.mark.parametrize(("height", "width", "size"), [(40, 40, 32), (20, 30, 32), (128, 96, 32)])
def test_resize_is_what_torch_computes(height: int, width: int, size: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    ours = resize(frames, size).astype(float)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).double()
    if max(height, width) > 2 * size:  # whole blocks here, so INTER_AREA is their mean
        theirs = functional.adaptive_avg_pool2d(pixels, (size, size))
    else:
        theirs = functional.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)
    assert np.abs(ours - theirs.permute(0, 2, 3, 1).numpy()).max() <= 1


def test_centre_crop_takes_the_middle() -> None:
    assert (centre_crop(ramp(3, 32, 64), 32) == ramp(3, 32, 64)[:, :, 16:48]).all()
    assert (centre_crop(ramp(3, 65, 32), 32) == ramp(3, 65, 32)[:, 16:48]).all()
    assert centre_crop(ramp(3, 50, 70), 32).shape == (3, 32, 32, 3)


def test_grey_clips_keep_their_channel() -> None:
    assert resize(np.ones((2, 40, 40, 1), np.uint8), 32).sum() == 2 * 32 * 32


def test_small_clips_are_fast() -> None:
    frames, config, rng = ramp(16, 40, 40)[:15:2], AugmentConfig(32), np.random.default_rng(0)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(10):
            augment(frames, config, rng)
        best = min(best, (time.perf_counter() - start) / 10)
    assert best < 0.3e-3


@pytest.mark.parametrize("values", [{"size": 0}, {"scale": (0.5, 0.2)}, {"scale": (0.0, 1.0)}, {"ratio": (2.0, 1.0)}])
def test_settings_out_of_range(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"clip\.{next(iter(values))} is .* expected"):
        AugmentConfig(**values)
