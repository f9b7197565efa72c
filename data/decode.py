"""From the bytes of a video file to the frames a clip needs: one function, two decoders.

Frame i is the i-th shown frame in presentation order, as `jepa.data.timeline` counts them. Where the timeline is clean,
random access is exact: seek to the last keyframe at or before the frame, decode up to it. Every other file is decoded
from its start and counted. Only the asked frames are converted to RGB; one thread per call, since loaders parallelise
over processes.

Backends: `decord` (fast, unmaintained, bundles FFmpeg 4.1) and `pyav` (current FFmpeg); they return the same
pixels. decord's `get_batch` never returns when a container announces more frames than it has, and it may
confuse frames where timestamps are not clean. So `auto` takes decord only if all of this holds
(`unsafe_for_decord` says what does not), else PyAV:
- decord is installed,
- H.264, HEVC, MPEG-4 part 2, VP8 or VP9, 8 bit 4:2:0, in mp4/mov or mkv/webm (a damaged avi makes decord crash),
- a clean timeline without packets that are hidden, discarded by an edit list, or cut off,
- the first frame is a keyframe and no frame is shown before the keyframe it follows (closed groups of pictures),
- the frame count of the header is absent or true.
If decord raises all the same, `auto` asks PyAV, which returns the very frames or raises too.
"""

import importlib
import io
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from jepa.data.timeline import Timeline, VideoInfo, decoded, inexact, iterate, label_of, one_line, opened, probe, scan
from jepa.errors import DataError

__all__ = ["Backend", "VideoInfo", "backends", "decode", "probe", "scaled_size", "unsafe_for_decord"]

Backend = Literal["auto", "decord", "pyav"]


def decode(
    video: bytes | Path,
    frames: Sequence[int],
    *,
    backend: Backend = "auto",
    short_side: int | None = None,
    name: str = "",
) -> np.ndarray:
    """The frames with the given indices, in the given order (repeats allowed): uint8 (T, H, W, 3) RGB.

    Args:
        short_side: shrink so that the shorter side has this many pixels (see `scaled_size`; never enlarges).
        name: what error messages call the video.

    Raises:
        DataError: the video cannot be read, has no such frame, or the asked backend cannot be trusted with it.
    """
    label = label_of(video, name)
    timeline = scan(video, label)
    if not frames or min(frames) < 0 or (timeline.pts is not None and max(frames) >= len(timeline.pts)):
        count = "" if timeline.pts is None else f" of a video of {len(timeline.pts)} frames"
        raise DataError(f"{label}: asked for frames {_span(frames)}{count}")
    unsafe = unsafe_for_decord(timeline) if backend != "pyav" else ""
    if backend == "decord" and unsafe is not None:
        raise DataError(f"{label}: decord cannot be trusted with it ({unsafe}); use the backend auto or pyav")
    if backend != "pyav" and unsafe is None:
        try:
            return _decode_decord(video, frames, short_side, label)
        except DataError:
            if backend == "decord":
                raise
    return _decode_pyav(video, frames, short_side, timeline, label)


def backends() -> dict[str, str | None]:
    """Version of each decoder; None if it is not installed."""
    module = _decord()
    return {"decord": None if module is None else str(module.__version__), "pyav": av.__version__}


def scaled_size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Height and width after shrinking the shorter side to `short_side`; smaller videos keep their size."""
    shorter = min(height, width)
    if short_side is None or shorter <= short_side:
        return height, width
    return round(height * short_side / shorter), round(width * short_side / shorter)


def unsafe_for_decord(timeline: Timeline) -> str | None:
    """Why `auto` does not give this video to decord; None if it does."""
    if _decord() is None:
        return "it is not installed"
    return inexact(timeline)


def _decode_decord(video: bytes | Path, frames: Sequence[int], short_side: int | None, label: str) -> np.ndarray:
    module: Any = _decord()
    data = video.read_bytes() if isinstance(video, Path) else video
    try:
        reader = module.VideoReader(io.BytesIO(data), ctx=module.cpu(0), num_threads=1)
        batch_THWC = reader.get_batch(list(frames)).asnumpy()
    except (module.DECORDError, RuntimeError, IndexError, AssertionError) as error:
        raise DataError(f"{label}: decord: {one_line(error)}") from None
    return np.stack([_shrunk(frame_HWC, short_side) for frame_HWC in batch_THWC])


def _decode_pyav(
    video: bytes | Path, frames: Sequence[int], short_side: int | None, timeline: Timeline, label: str
) -> np.ndarray:
    found: dict[int, np.ndarray] = {}
    with opened(video, label) as (container, stream):
        if timeline.pts is not None:
            found = _by_seeking(container, stream, timeline, sorted(set(frames)), short_side)
    missing = set(frames) - set(found)
    if missing:
        # Not seekable, or damaged: count from the start. Where the timeline is clean the count must agree with it.
        count = 0
        for count, frame in enumerate(iterate(video, label), start=1):
            if count - 1 in missing:
                found[count - 1] = _pixels(frame, short_side)
        if max(missing) >= count or (timeline.pts is not None and count != len(timeline.pts)):
            total = "" if timeline.pts is None else f" of {len(timeline.pts)}"
            raise DataError(f"{label}: frames {_span(sorted(missing))} cannot be decoded; only {count}{total} can")
    shapes = {array.shape for array in found.values()}
    if len(shapes) > 1:
        raise DataError(f"{label}: the frame size changes inside the video ({sorted(shapes)})")
    return np.stack([found[index] for index in frames])


def _by_seeking(
    container: InputContainer, stream: VideoStream, timeline: Timeline, wanted: Sequence[int], short_side: int | None
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
                found[group[frame.pts]] = _pixels(frame, short_side)
            if frame.pts is not None and frame.pts >= max(group):
                break
    return found


def _pixels(frame: VideoFrame, short_side: int | None) -> np.ndarray:
    frame_HWC = frame.to_ndarray(format="rgb24")
    return _shrunk(np.rot90(frame_HWC, frame.rotation // 90 % 4), short_side)


def _shrunk(frame_HWC: np.ndarray, short_side: int | None) -> np.ndarray:
    old_height, old_width, _ = frame_HWC.shape
    height, width = scaled_size(old_height, old_width, short_side)
    if (height, width) == (old_height, old_width):
        return frame_HWC
    return cv2.resize(np.ascontiguousarray(frame_HWC), (width, height), interpolation=cv2.INTER_AREA)


def _decord() -> Any | None:
    """The module, silenced, or None where it is not installed (it has no wheels outside x86-64 Linux)."""
    try:
        module = importlib.import_module("decord")
    except (ImportError, OSError):
        return None
    module.logging.set_level(module.logging.QUIET)
    return module


def _span(frames: Sequence[int]) -> str:
    return f"{min(frames)}..{max(frames)}" if frames else "(none)"
