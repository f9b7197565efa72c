"""Windows of videos whose frames come unsteadily, against a naive search; loops; one window from each part."""

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jepa.data.source import SampleInfo
from jepa.data.timeline import CLOCK
from jepa.data.windows import (
    SLACK,
    WindowConfig,
    centre_window,
    random_window,
    segment_windows,
    tile_windows,
)  # fmt: skip
from jepa.errors import DataError


def steady(frames: int, fps: float = 30.0) -> SampleInfo:
    return SampleInfo("cat", frames, fps, 40, 40, {}, "cat.mp4")


def unsteady(gaps: list[float]) -> SampleInfo:
    """A video whose frames are so many seconds apart."""
    times = tuple(round(CLOCK * second) for second in accumulate([0.0, *gaps]))
    return SampleInfo("cat", len(times), (len(times) - 1) / (times[-1] / CLOCK), 40, 40, {}, "cat.mkv", times)


GAPS = st.lists(st.sampled_from([0.01, 0.02, 0.033, 0.04, 0.1, 0.5, 1.7]), min_size=2, max_size=60)
FPS = st.sampled_from([1.0, 4.0, 7.5, 25.0, 60.0])


def shown_at(info: SampleInfo, tick: float) -> int:
    """The last frame shown at or before a moment, by looking at all."""
    return max((number for number, time in enumerate(info.times) if time <= tick + SLACK), default=0)


@given(GAPS, FPS, st.integers(1, 8), st.integers(0, 9))
def test_frame_i_is_the_last_one_shown_at_start_plus_i_over_fps(
    gaps: list[float], fps: float, frames: int, seed: int
) -> None:
    info, config = unsteady(gaps), WindowConfig(frames, fps=fps, short="repeat")
    spare = max(0, info.times[-1] + SLACK - round((frames - 1) * CLOCK / fps))
    rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
    random_start = int(again.integers(spare + 1)) if spare > 0 else 0
    for window, start in (
        (centre_window(info, config), spare // 2),
        (random_window(info, config, rng), random_start),
        (tile_windows(info, config)[0], 0),
    ):
        assert window == tuple(shown_at(info, start + round(i * CLOCK / fps)) for i in range(frames))


@given(GAPS, FPS, st.integers(1, 8))
def test_tiles_follow_one_another_and_reach_the_end(gaps: list[float], fps: float, frames: int) -> None:
    info, config = unsteady(gaps), WindowConfig(frames, fps=fps, short="repeat")
    windows = tile_windows(info, config)
    period, end = round(frames * CLOCK / fps), info.times[-1] + SLACK
    spare = max(0, end - round((frames - 1) * CLOCK / fps))
    starts = [period * number for number in range(len(windows))]
    if starts[-1] > spare:
        starts[-1] = spare  # flush with the last frame
    assert [window[0] for window in windows] == [shown_at(info, start) for start in starts]
    assert starts[-1] + period > end or spare == 0, "what is left is shorter than a clip"
    assert windows[-1][-1] == len(info.times) - 1 or starts[-1] < spare


def test_rounding_to_milliseconds_repeats_no_frame() -> None:
    """At 30 fps all frames of a matroska file are shown, though its clock ticks in milliseconds."""
    times = [round(1000 * number / 30) for number in range(40)] + [2000, 3000]
    info = SampleInfo("cat", 42, 14.0, 40, 40, {}, "cat.mkv", tuple(90 * time for time in times))
    assert tile_windows(info, WindowConfig(20, fps=30.0))[:2] == [tuple(range(20)), tuple(range(20, 40))]


def test_a_steady_rate_and_a_stride_are_counted_in_frames_as_before() -> None:
    assert centre_window(unsteady([0.5, 0.01, 0.3, 0.1]), WindowConfig(3, stride=2)) == (0, 2, 4)
    assert centre_window(steady(100, 30.0), WindowConfig(4, fps=4)) == (37, 45, 53, 61)


def test_an_unsteady_video_that_is_too_short_says_how_many_seconds_it_has() -> None:
    info, config = unsteady([0.5, 0.75]), WindowConfig(8, fps=4.0)
    with pytest.raises(DataError) as caught:
        centre_window(info, config)
    assert str(caught.value) == (
        "video cat has 1.25 s between its first and last frame, a clip of 8 frames at 4 per second needs 1.75 s: "
        "raise clip.fps or lower clip.frames, or set clip.short: repeat"
    )
    assert centre_window(info, WindowConfig(8, fps=4.0, short="repeat")) == (0, 0, 1, 1, 1, 2, 2, 2)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 5))
def test_loop_starts_again(length: int, frames: int, stride: int) -> None:
    config = WindowConfig(frames, stride, short="loop")
    assume(length < (frames - 1) * stride + 1)
    for window in (
        centre_window(steady(length), config),
        random_window(steady(length), config, np.random.default_rng(0)),
    ):
        assert window == tuple(i * stride % length for i in range(frames))
    assert tile_windows(steady(length), config) == [tuple(i * stride % length for i in range(frames))]


def test_loop_by_time_shows_the_last_frame_as_long_as_the_others() -> None:
    info = unsteady([0.25, 0.75])  # the third frame is shown for half a second: a round takes 1.5 s
    assert centre_window(info, WindowConfig(8, fps=4.0, short="loop")) == (0, 1, 1, 1, 2, 2, 0, 1)


@pytest.mark.parametrize("short", ["repeat", "loop"])
def test_a_picture_makes_a_clip(short: str) -> None:
    picture = SampleInfo("cat", 1, 1.0, 40, 40, {}, "cat.jpg")
    for config in (WindowConfig(4, 3, short=short), WindowConfig(4, fps=4.0, short=short)):
        assert centre_window(picture, config) == tile_windows(picture, config)[0] == (0, 0, 0, 0)
    with pytest.raises(DataError, match="has 1 frames, a clip of 4 frames"):
        centre_window(picture, WindowConfig(4, 3))


@given(st.integers(1, 200), st.integers(1, 8), st.integers(1, 4), st.integers(1, 6), st.integers(0, 5))
def test_one_window_from_each_equal_part(length: int, frames: int, stride: int, count: int, seed: int) -> None:
    info, config = steady(length), WindowConfig(frames, stride, short="repeat")
    span = (frames - 1) * stride + 1
    for rng in (None, np.random.default_rng(seed)):
        windows = segment_windows(info, config, count, rng)
        assert len(windows) == count
        assert windows == sorted(windows)
        if length >= span:
            assert all(np.diff(window).tolist() == [stride] * (frames - 1) for window in windows)
        for number, window in enumerate(windows):
            first, end = number * length // count, (number + 1) * length // count
            if end - first >= span:
                assert first <= window[0] <= window[-1] < end
                if rng is None:
                    assert 0 <= (end - 1 - window[-1]) - (window[0] - first) <= 1
    if count > 1 and length >= span > -(-length // count):
        spread = segment_windows(info, config, count)
        assert (spread[0][0], spread[-1][-1]) == (0, length - 1)


@given(st.integers(1, 200), st.integers(1, 8), st.integers(1, 4), st.integers(0, 5))
def test_one_segment_is_the_usual_window(length: int, frames: int, stride: int, seed: int) -> None:
    info, config = steady(length), WindowConfig(frames, stride, short="repeat")
    assert segment_windows(info, config, 1) == [centre_window(info, config)]
    drawn = segment_windows(info, config, 1, np.random.default_rng(seed))
    assert drawn == [random_window(info, config, np.random.default_rng(seed))]
