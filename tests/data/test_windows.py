from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa.data.source import SampleInfo
from jepa.data.windows import WindowConfig, centre_window, random_window, tile_windows
from jepa.errors import ConfigError, DataError


def video(frames: int, fps: float = 30.0) -> SampleInfo:
    return SampleInfo("cat", frames, fps, 40, 40, {}, "cat.mp4")


def test_random_starts_are_uniform_and_fit() -> None:
    config = WindowConfig(frames=4, stride=3)  # spans 10 frames
    rng = np.random.default_rng(0)
    windows = [random_window(video(14), config, rng) for _ in range(2000)]
    assert all(np.diff(window).tolist() == [3, 3, 3] for window in windows)
    starts = Counter(window[0] for window in windows)
    assert sorted(starts) == [0, 1, 2, 3, 4]
    assert max(abs(count - 400) for count in starts.values()) < 5 * np.sqrt(2000 * 0.2 * 0.8)


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        ({}, WindowConfig(8, 1)),
        ({"stride": 3, "fps": None, "short": "error", "size": 32}, WindowConfig(8, 3)),
        ({"stride": 3, "fps": 4.0, "short": "repeat"}, WindowConfig(8, 3, 4.0, "repeat")),
    ],
)
def test_the_window_of_pretraining_is_read_from_its_facts(clip: dict[str, object], expected: WindowConfig) -> None:
    assert WindowConfig.of_facts(8, clip) == expected


def test_a_video_of_exactly_the_span_has_one_window() -> None:
    config = WindowConfig(frames=8, stride=2)
    whole = tuple(range(0, 15, 2))
    assert random_window(video(15), config, np.random.default_rng(1)) == whole
    assert centre_window(video(15), config) == whole
    assert tile_windows(video(15), config) == [whole]


@given(st.integers(1, 120), st.integers(1, 8), st.integers(1, 5))
def test_centre_is_symmetric(frames: int, length: int, stride: int) -> None:
    window = centre_window(video(frames), WindowConfig(length, stride, short="repeat"))
    if frames >= (length - 1) * stride + 1:
        assert 0 <= (frames - 1 - window[-1]) - window[0] <= 1


@given(st.integers(1, 120), st.integers(1, 8), st.integers(1, 5))
def test_tiles_cover_the_video_in_order(frames: int, length: int, stride: int) -> None:
    windows = tile_windows(video(frames), WindowConfig(length, stride, short="repeat"))
    assert windows == sorted(windows)
    assert all(len(window) == length and window[0] >= 0 and window[-1] < frames for window in windows)
    covered = {frame for window in windows for start in window for frame in range(start, start + stride)}
    assert covered >= set(range(frames)) if length > 1 or stride == 1 else 0 in covered
    # No more windows than the length asks for: one starts every length * stride frames, and one ends it.
    assert len(windows) <= max(0, frames - 1) // (length * stride) + 1


def test_frame_rate_sets_the_stride() -> None:
    config = WindowConfig(frames=4, fps=4)
    assert np.diff(centre_window(video(100, fps=30), config)).tolist() == [8, 8, 8]
    assert np.diff(centre_window(video(100, fps=25), config)).tolist() == [6, 6, 6]
    assert np.diff(centre_window(video(100, fps=3), config)).tolist() == [1, 1, 1]
    with pytest.raises(DataError, match="cat states no frame rate"):
        centre_window(video(100, fps=0), config)


@pytest.mark.parametrize("cut", [centre_window, tile_windows, lambda *a: random_window(*a, np.random.default_rng(0))])
def test_a_short_video_is_an_error_that_says_what_to_do(cut: Any) -> None:
    with pytest.raises(DataError) as caught:
        cut(video(9), WindowConfig(frames=8, stride=2))
    assert str(caught.value) == (
        "video cat has 9 frames, a clip of 8 frames at stride 2 needs 15: "
        "lower clip.stride or clip.frames, or set clip.short: repeat"
    )


def test_repeat_pads_with_the_last_frame() -> None:
    config = WindowConfig(frames=5, stride=2, short="repeat")
    assert centre_window(video(6), config) == (0, 2, 4, 5, 5)
    assert random_window(video(1), config, np.random.default_rng(0)) == (0,) * 5
    assert tile_windows(video(6), config) == [(0, 2, 4, 5, 5)]
    with pytest.raises(DataError, match="has 0 frames"):
        centre_window(video(0), config)


@pytest.mark.parametrize("values", [{"frames": 0}, {"stride": 0}, {"fps": -1.0}])
def test_settings_out_of_range(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"clip.{next(iter(values))} is .* positive"):
        WindowConfig(**values)
