"""PyAV: current FFmpeg, every codec and container, and the reference for what frame i is.

Where the timeline is clean, random access is exact: seek to the last keyframe at or before the frame, decode up to
it. Every other file is decoded from its start and counted.
"""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from jepa.data.decoders.shrink import shrunk
from jepa.data.limits import Limits
from jepa.data.timeline import Timeline
from jepa.data.video_file import decoded, iterate, opened, upright
from jepa.errors import SampleError


def version() -> str:
    """Version of PyAV."""
    return av.__version__


def read_frames(
    video: bytes | Path, frames: Sequence[int], short_side: int | None, timeline: Timeline, label: str, limits: Limits
) -> np.ndarray:
    """The frames, in the given order, shrunk: uint8 (T, H, W, 3).

    Raises:
        SampleError: the file cannot be read, exceeds the limits, or holds fewer frames.
    """
    found: dict[int, np.ndarray] = {}
    converter = VideoReformatter()
    with opened(video, label, limits) as (container, stream):
        if timeline.pts is not None:
            found = _by_seeking(container, stream, timeline, sorted(set(frames)), short_side, converter)
    missing = set(frames) - set(found)
    if missing:
        # Not seekable, or damaged: count from the start. Where the timeline is clean the count must agree with it.
        count = 0
        for count, frame in enumerate(iterate(video, label, limits), start=1):
            if count - 1 in missing:
                found[count - 1] = shrunk(upright(frame, converter), short_side)
        if max(missing) >= count or (timeline.pts is not None and count != len(timeline.pts)):
            total = "" if timeline.pts is None else f" of {len(timeline.pts)}"
            span = f"{min(missing)}..{max(missing)}"
            raise SampleError(f"{label}: frames {span} cannot be decoded; only {count}{total} can")
    shapes = {array.shape for array in found.values()}
    if len(shapes) > 1:
        raise SampleError(f"{label}: the frame size changes inside the video ({sorted(shapes)})")
    return np.stack([found[index] for index in frames])


def _by_seeking(
    container: InputContainer,
    stream: VideoStream,
    timeline: Timeline,
    wanted: Sequence[int],
    short_side: int | None,
    converter: VideoReformatter,
) -> dict[int, np.ndarray]:
    """Decode from the keyframe before each wanted frame; frames that do not turn up are left out."""
    assert timeline.pts is not None
    groups: dict[int, dict[int, int]] = {}
    for index in wanted:
        place = bisect_right(timeline.keys, timeline.pts[index]) - 1
        start = timeline.keys[place] if place >= 0 else timeline.pts[0]
        groups.setdefault(start, {})[timeline.pts[index]] = index
    found = {}
    for start, group in groups.items():
        container.seek(start, stream=stream, backward=True)
        for frame in decoded(container, stream):
            if frame.pts in group:
                found[group[frame.pts]] = shrunk(upright(frame, converter), short_side)
            if frame.pts is not None and frame.pts >= max(group):
                break
    return found
