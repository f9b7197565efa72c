"""decord 0.6: fast, unmaintained, with FFmpeg 4.1 inside; wheels for x86-64 Linux only.

It trusts the frame count of the header and the timestamps: `get_batch` never returns when a container announces more
frames than it has, and it crashes on damaged avi. So it is given only files of which `jepa.data.timeline.inexact` finds
nothing to say.
"""

import importlib
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from jepa.data.decoders.shrink import shrunk_clip
from jepa.data.video_file import one_line
from jepa.errors import SampleError

NO_SUBSTITUTES = 1e-9
"""Share of the frames that may be copies of others because they do not decode; -1, the default, allows all."""


@cache
def module() -> Any | None:
    """decord, silenced, or None where it is not installed."""
    try:
        found = importlib.import_module("decord")
    except (ImportError, OSError):
        return None
    found.logging.set_level(found.logging.QUIET)
    return found


def version() -> str | None:
    """Version of decord; None if it is not installed."""
    found = module()
    return None if found is None else str(found.__version__)


def read_frames(video: bytes | Path, frames: Sequence[int], short_side: int | None, label: str) -> np.ndarray:
    """The frames, in the given order, shrunk: uint8 (T, H, W, 3).

    Raises:
        SampleError: decord cannot read the file, or counts fewer frames.
    """
    decord: Any = module()
    try:
        data = video.read_bytes() if isinstance(video, Path) else video
        reader = decord.VideoReader(io.BytesIO(data), ctx=decord.cpu(0), num_threads=1, fault_tol=NO_SUBSTITUTES)
        if max(frames) >= len(reader):
            span = f"{min(frames)}..{max(frames)}"
            raise SampleError(f"{label}: asked for frames {span} of a video of {len(reader)} frames")
        clip_THWC: np.ndarray = reader.get_batch(frames).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError, AssertionError, OSError) as error:
        raise SampleError(f"{label}: decord: {one_line(error)}") from None
    return shrunk_clip(clip_THWC, short_side)
