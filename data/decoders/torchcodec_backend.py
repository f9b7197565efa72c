"""torchcodec: the decoder of the PyTorch project (extra `torchcodec`); uses the FFmpeg libraries of the machine.

Its exact mode looks at all packets and finds frames by their timestamps, as we do, and says for each frame when it
is shown. So what it returns is checked: the count, and the time of every frame.
"""

import importlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from jepa.data.decoders.shrink import shrunk_clip
from jepa.data.timeline import Timeline
from jepa.data.video_file import one_line
from jepa.errors import ConfigError, SampleError

EXTRA = "pip install 'jepa-video[torchcodec]'"


@cache
def decoder() -> Any:
    """torchcodec's VideoDecoder.

    Raises:
        ConfigError: it is not installed, or finds no FFmpeg.
    """
    try:
        return importlib.import_module("torchcodec.decoders").VideoDecoder
    except ModuleNotFoundError:
        raise ConfigError(f"the backend torchcodec is not installed: {EXTRA}") from None
    except (ImportError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"torchcodec cannot be loaded ({one_line(error)}): it needs the FFmpeg libraries of the system (libavcodec "
            "and others), and the torchcodec that belongs to this torch"
        ) from None


def version() -> str | None:
    """Version of torchcodec; None if it is not installed or cannot be loaded."""
    try:
        decoder()
    except ConfigError:
        return None
    return str(importlib.import_module("torchcodec").__version__)


def unsafe(timeline: Timeline) -> str | None:
    """Why torchcodec may return other frames of this file than we mean; None if it does not."""
    if timeline.pts is None:
        return "timestamps that are missing, double or not those of the frames"
    if not timeline.whole:
        return "hidden, discarded or cut-off frames"
    if timeline.mirrored:
        return "a display matrix that mirrors it"
    return None


def read_frames(
    video: bytes | Path, frames: Sequence[int], short_side: int | None, timeline: Timeline | None, label: str
) -> np.ndarray:
    """The frames, in the given order, shrunk: uint8 (T, H, W, 3).

    Args:
        timeline: of the file, clean; None if every decoder is known to count the same frames in it.

    Raises:
        SampleError: torchcodec cannot read the file, or returns other frames than were asked for.
        ConfigError: it is not installed.
    """
    make = decoder()
    try:
        data = video.read_bytes() if isinstance(video, Path) else video
        reader = make(data, dimension_order="NHWC", num_ffmpeg_threads=1, device="cpu", seek_mode="exact")
        count = len(reader)
        if max(frames) >= count:
            raise SampleError(f"{label}: asked for frames {min(frames)}..{max(frames)} of a video of {count} frames")
        batch = reader.get_frames_at(list(frames))
        clip_THWC: np.ndarray = batch.data.numpy()
    except (RuntimeError, ValueError, IndexError, AssertionError, OSError) as error:
        if isinstance(error, SampleError):
            raise
        # It begins with the name of a function and the line of a C++ file.
        raise SampleError(
            f"{label}: torchcodec: {one_line(error).rpartition('.cpp:')[2].lstrip('0123456789, ')}"
        ) from None
    if timeline is not None:
        _check(timeline, frames, count, batch.pts_seconds.tolist(), label)
    return shrunk_clip(clip_THWC, short_side)


def _check(timeline: Timeline, frames: Sequence[int], count: int, seconds: Sequence[float], label: str) -> None:
    """Raise SampleError unless these are the frames that the timeline has at these places."""
    assert timeline.pts is not None
    if count != len(timeline.pts):
        raise SampleError(f"{label}: torchcodec counts {count} frames, the file holds {len(timeline.pts)}")
    base = float(timeline.time_base)
    for index, second in zip(frames, seconds, strict=True):
        if abs(second - timeline.pts[index] * base) > base / 2:
            raise SampleError(
                f"{label}: torchcodec returns another frame than number {index} (shown at {second:.3f} s)"
            )
