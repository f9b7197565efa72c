"""Which frames of a video make a clip.

A clip of `frames` frames at stride s spans (frames - 1) * s + 1 frames of the video. Pretraining starts that span
uniformly at random (`random_window`), a probe reads the centre (`centre_window`) or one clip from each of n equal parts
(`segment_windows`), and feature extraction covers the whole video (`tile_windows`). With `fps` set, the stride follows
from the frame rate of each video, so that a step of a clip lasts equally long in all of them (V-JEPA 2 trains at 4
frames per second); else it is `stride`.

Videos whose frames do not come at a steady rate are cut by time when `fps` is set: frame i of a clip is the last one
that is shown at or before start + i / fps, as a player would show it. Without `fps` a stride counts frames in them too.

A video shorter than the span is an error unless the user asks for padding, by its last frame or by starting again:
official loaders repeat the last frame silently, and a data set of still endings teaches exactly that.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jepa.data.source import SampleInfo
from jepa.data.timeline import CLOCK
from jepa.errors import ConfigError, DataError

Short = Literal["error", "repeat", "loop"]

SLACK = CLOCK // 2000
"""Ticks by which a frame may come late: half a millisecond, since containers round timestamps to milliseconds."""


@dataclass(frozen=True)
class WindowConfig:
    """How a clip is cut from the time axis of a video."""

    frames: int = 16
    """Frames in a clip."""
    stride: int = 4
    """Take every n-th frame of the video."""
    fps: float | None = None
    """Frames per second of a clip; when set, the stride follows from each video's frame rate."""
    short: Short = "error"
    """A video too short for a clip: stop with an error, repeat its last frame, or start it again."""

    def __post_init__(self) -> None:
        for name, value in (("frames", self.frames), ("stride", self.stride), ("fps", self.fps)):
            if value is not None and value <= 0:
                raise ConfigError(f"clip.{name} is {value}, expected a positive number")

    @classmethod
    def of_facts(cls, frames: int, clip: Mapping[str, Any]) -> "WindowConfig":
        """The clips an encoder was trained on.

        Args:
            frames: of a clip; the architecture says how many.
            clip: `clip` facts kept beside the weights, or of a run's configuration; what they leave out is stride 1
                without a frame rate, and no padding.
        """
        return cls(frames, int(clip.get("stride", 1)), clip.get("fps"), clip.get("short", "error"))


def random_window(info: SampleInfo, config: WindowConfig, rng: np.random.Generator) -> tuple[int, ...]:
    """Frame ids of a clip that starts anywhere it fits, each start equally likely.

    Raises:
        DataError: the video is too short and `short` is "error".
    """
    fit = _fit(info, config)
    return fit.window(int(rng.integers(fit.spare + 1)) if fit.spare > 0 else 0)


def centre_window(info: SampleInfo, config: WindowConfig) -> tuple[int, ...]:
    """Frame ids of the clip in the middle of the video.

    Raises:
        DataError: the video is too short and `short` is "error".
    """
    fit = _fit(info, config)
    return fit.window(max(fit.spare, 0) // 2)


def segment_windows(
    info: SampleInfo, config: WindowConfig, count: int, rng: np.random.Generator | None = None
) -> list[tuple[int, ...]]:
    """Frame ids of `count` clips in order, one from each of as many equal parts of the video.

    Each lies in the middle of its part or, with a generator, anywhere in it. Clips longer than a part overlap, evenly
    spread from the first frame to the last. One segment is `centre_window` or `random_window`.

    Raises:
        DataError: the video is too short and `short` is "error".
    """
    fit = _fit(info, config)
    spare, length = max(fit.spare, 0), max(fit.spare, 0) + fit.span
    windows = []
    for number in range(count):
        first, end = number * length // count, (number + 1) * length // count
        free = end - first - fit.span
        if free >= 0:
            start = first + (free // 2 if rng is None else int(rng.integers(free + 1)))
        else:
            start = number * spare // max(count - 1, 1)
        windows.append(fit.window(start))
    return windows


def tile_windows(info: SampleInfo, config: WindowConfig) -> list[tuple[int, ...]]:
    """Frame ids of clips that cover the video from the first frame to the last, in order.

    Clips follow one another without overlap; what is left at the end gets a clip flush with the last frame.

    Raises:
        DataError: the video is too short and `short` is "error".
    """
    fit = _fit(info, config)
    starts = list(range(0, max(fit.spare, 0) + 1, fit.period))
    # A clip that starts at s has covered all before s + period (what lies between its own frames counts as covered).
    if fit.spare > 0 and starts[-1] + fit.period < fit.spare + fit.span:
        starts.append(fit.spare)
    return [fit.window(start) for start in starts]


@dataclass(frozen=True)
class _Fit:
    """A clip on the axis of a video, whose unit is a frame or, where frames come unsteadily, a tick of the clock."""

    offsets: tuple[int, ...]
    """Distance of each frame of the clip from its start."""
    length: int
    """Units of the video from the first frame to the last, both included."""
    period: int
    """Distance from one clip to the next that continues it."""
    times: Sequence[int]
    """When the frames are shown; empty if the unit is a frame."""
    loop: bool

    @property
    def span(self) -> int:
        """Units that a clip covers, the first and the last included."""
        return self.offsets[-1] + 1

    @property
    def spare(self) -> int:
        """How far the clip can be moved; negative if it is longer than the video."""
        return self.length - self.span

    def window(self, start: int) -> tuple[int, ...]:
        """Frame ids of the clip that starts here."""
        return tuple(self._frame(start + offset) for offset in self.offsets)

    def _frame(self, place: int) -> int:
        if not self.times:
            return place % self.length if self.loop else min(place, self.length - 1)
        last = self.times[-1]
        if self.loop and place > last + SLACK:
            # The last frame is shown as long as the others on average, before the first one comes again.
            place %= last + max(1, last // max(1, len(self.times) - 1))
        return bisect_right(self.times, place + SLACK) - 1


def _fit(info: SampleInfo, config: WindowConfig) -> _Fit:
    """The clip on the axis of this video.

    Raises:
        DataError: the video is too short and `short` is "error", or has no frame rate and needs one.
    """
    loop = config.short == "loop"
    if config.fps is not None and info.times:
        offsets = tuple(round(number * CLOCK / config.fps) for number in range(config.frames))
        period = max(1, round(config.frames * CLOCK / config.fps))
        fit = _Fit(offsets, info.times[-1] + SLACK + 1, period, info.times, loop)
        clip = f"a clip of {config.frames} frames at {config.fps:g} per second needs {offsets[-1] / CLOCK:.2f} s"
        what = f"{info.times[-1] / CLOCK:.2f} s between its first and last frame, {clip}"
    else:
        step = _step(info, config)
        fit = _Fit(tuple(number * step for number in range(config.frames)), info.frames, config.frames * step, (), loop)
        what = f"{info.frames} frames, a clip of {config.frames} frames at stride {step} needs {fit.span}"
    if info.frames < 1 or (fit.spare < 0 and config.short == "error"):
        raise DataError(f"video {info.key} has {what}: {_advice(config)}, or set clip.short: repeat")
    return fit


def _step(info: SampleInfo, config: WindowConfig) -> int:
    if config.fps is None:
        return config.stride
    if info.fps <= 0:
        raise DataError(f"video {info.key} states no frame rate: set clip.stride in place of clip.fps")
    return max(1, round(info.fps / config.fps))


def _advice(config: WindowConfig) -> str:
    return "lower clip.stride or clip.frames" if config.fps is None else "raise clip.fps or lower clip.frames"
