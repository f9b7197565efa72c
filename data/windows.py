"""Which frames of a video make a clip.

A clip of `frames` frames at stride s spans (frames - 1) * s + 1 frames of the video. Pretraining starts that span
uniformly at random (`random_window`), a probe reads the centre (`centre_window`), and feature extraction covers the
whole video (`tile_windows`). With `fps` set, the stride follows from the frame rate of each video, so that a step of
a clip lasts equally long in all of them (V-JEPA 2 trains at 4 frames per second); else it is `stride`.

A video shorter than the span is an error unless the user asks for padding: official loaders repeat the last frame
silently, and a data set of still endings teaches exactly that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jepa.data.source import SampleInfo
from jepa.errors import ConfigError, DataError

Short = Literal["error", "repeat"]


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
    """A video too short for a clip: stop with an error, or repeat its last frame."""

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
    step, spare = _fit(info, config)
    start = int(rng.integers(spare + 1)) if spare > 0 else 0
    return _window(info, config, start, step)


def centre_window(info: SampleInfo, config: WindowConfig) -> tuple[int, ...]:
    """Frame ids of the clip in the middle of the video.

    Raises:
        DataError: the video is too short and `short` is "error".
    """
    step, spare = _fit(info, config)
    return _window(info, config, max(spare, 0) // 2, step)


def tile_windows(info: SampleInfo, config: WindowConfig) -> list[tuple[int, ...]]:
    """Frame ids of clips that cover the video from the first frame to the last, in order.

    Clips follow one another without overlap; what is left at the end gets a clip flush with the last frame.

    Raises:
        DataError: the video is too short and `short` is "error".
    """
    step, spare = _fit(info, config)
    starts = list(range(0, max(spare, 0) + 1, config.frames * step))
    # A clip that starts at s has read up to s + frames * step - 1 (the frames between its own count as covered).
    if starts[-1] + config.frames * step < info.frames:
        starts.append(spare)
    return [_window(info, config, start, step) for start in starts]


def _fit(info: SampleInfo, config: WindowConfig) -> tuple[int, int]:
    """Stride in frames of this video, and how many frames are to spare (negative: padded)."""
    step = _step(info, config)
    needed = (config.frames - 1) * step + 1
    if info.frames < 1 or (info.frames < needed and config.short == "error"):
        raise DataError(
            f"video {info.key} has {info.frames} frames, a clip of {config.frames} frames at stride {step} needs "
            f"{needed}: {_advice(config)}, or set clip.short: repeat"
        )
    return step, info.frames - needed


def _step(info: SampleInfo, config: WindowConfig) -> int:
    if config.fps is None:
        return config.stride
    if info.fps <= 0:
        raise DataError(f"video {info.key} states no frame rate: set clip.stride in place of clip.fps")
    return max(1, round(info.fps / config.fps))


def _advice(config: WindowConfig) -> str:
    return "lower clip.stride or clip.frames" if config.fps is None else "raise clip.fps or lower clip.frames"


def _window(info: SampleInfo, config: WindowConfig, start: int, step: int) -> tuple[int, ...]:
    last = info.frames - 1
    return tuple(min(start + i * step, last) for i in range(config.frames))
