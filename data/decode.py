"""From the bytes of a video file to the frames a clip needs: one function, two decoders.

Frame i is the i-th *shown* frame in presentation order, counted over what the file holds, never over what
its header announces. Most files give a clean timeline: every packet has its own timestamp and makes one
frame. There frame i is the frame with the i-th smallest timestamp, and random access is exact: seek to the
last keyframe at or before it, decode up to it. Every other file is decoded from its start and counted.

Backends: `decord` (fast, unmaintained, bundles FFmpeg 4.1) and `pyav` (current FFmpeg); they return the same
pixels. decord's `get_batch` never returns when a container announces more frames than it has, and it may
confuse frames where timestamps are not clean. So `auto` takes decord only if all of this holds
(`unsafe_for_decord` says which does not), else PyAV:
- decord is installed,
- H.264, HEVC, MPEG-4 part 2, VP8 or VP9, 8 bit 4:2:0, in mp4/mov, mkv/webm or avi,
- a clean timeline without packets that are hidden, discarded by an edit list, or cut off,
- the first frame is a keyframe and no frame is shown before the keyframe it follows (closed groups of pictures),
- the frame count of the header is absent or true.
Only the asked frames are converted to RGB; one thread per call, since loaders parallelise over processes.
"""

import importlib
import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Literal

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from jepa.errors import DataError

Backend = Literal["auto", "decord", "pyav"]

ONE_PACKET_ONE_FRAME = frozenset({"h264", "hevc", "mpeg4", "vp8", "vp9", "av1", "mjpeg", "png"})
DECORD_CODECS = frozenset({"h264", "hevc", "mpeg4", "vp8", "vp9"})
DECORD_CONTAINERS = frozenset({"mp4", "matroska", "avi"})
DECORD_PIXELS = frozenset({"yuv420p", "yuvj420p"})
EXACT_INDEX = frozenset({"mp4"})
DEFAULT_FPS = Fraction(25)


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds, counted and measured."""

    frames: int
    """Frames that the file holds."""
    fps: float
    """Frames per second; the mean over the timestamps where the rate varies."""
    height: int
    """Pixels as shown: after the rotation that the container asks for."""
    width: int
    """Pixels as shown."""
    duration: float
    """Seconds: frames / fps."""
    codec: str
    """FFmpeg's name of the codec, such as h264."""
    keyframes: tuple[int, ...]
    """Indices of the frames where decoding can start; empty where only the start is known to be one."""
    announced: int | None = None
    """Frame count of the container's index, if that kind of index is exact (mp4, mov); more than `frames`: cut off."""
    extension: str = "mp4"
    """Usual ending of such a file, without the dot."""


@dataclass(frozen=True)
class Timeline:
    """What a pass over the packets, without decoding, tells."""

    codec: str
    container: str
    pixels: str
    pts: tuple[int, ...] | None
    """Timestamps of the frames in presentation order, in units of `time_base`; None if not clean."""
    keys: tuple[int, ...]
    """Timestamps of the keyframes, ascending."""
    time_base: Fraction
    rate: Fraction
    announced: int
    whole: bool
    """No packet is hidden, discarded or cut off."""
    closed: bool
    """Starts with a keyframe, and every frame is shown after the keyframe it follows."""


def probe(video: bytes | Path, name: str = "") -> VideoInfo:
    """Count the frames of a video and measure its rate; decodes one frame (all, if the timeline is not clean).

    Raises:
        DataError: the file is missing, unreadable, no video, or none of its frames decodes.
    """
    label = _label(video, name)
    timeline = scan(video, label)
    keyframes: tuple[int, ...] = ()
    first = next(iterate(video, label), None)
    if first is None:
        raise DataError(f"{label}: no frame can be decoded (damaged, cut off or encrypted)")
    if timeline.pts is None:
        times = [frame.pts for frame in iterate(video, label)]
        pts = None if None in times else sorted(time for time in times if time is not None)
        frames = len(times)
    else:
        pts, frames = list(timeline.pts), len(timeline.pts)
        position = {time: index for index, time in enumerate(pts)}
        keyframes = tuple(position[key] for key in timeline.keys)
    fps = _fps(pts, timeline)
    height, width = (first.width, first.height) if first.rotation // 90 % 2 else (first.height, first.width)
    announced = timeline.announced if timeline.container in EXACT_INDEX else None
    return VideoInfo(
        frames, fps, height, width, frames / fps, timeline.codec, keyframes, announced, _extension(timeline.container)
    )


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
    label = _label(video, name)
    timeline = scan(video, label)
    if not frames or min(frames) < 0 or (timeline.pts is not None and max(frames) >= len(timeline.pts)):
        count = "" if timeline.pts is None else f" of a video of {len(timeline.pts)} frames"
        raise DataError(f"{label}: asked for frames {_span(frames)}{count}")
    unsafe = unsafe_for_decord(timeline) if backend != "pyav" else ""
    if backend == "decord" and unsafe is not None:
        raise DataError(f"{label}: decord cannot be trusted with it ({unsafe}); use the backend auto or pyav")
    if backend != "pyav" and unsafe is None:
        return _decode_decord(video, frames, short_side, label)
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


def iterate(video: bytes | Path, name: str = "") -> Iterator[VideoFrame]:
    """Every frame that decodes, in presentation order; what is damaged is left out, as in `probe`'s count.

    Raises:
        DataError: the file cannot be opened.
    """
    with _opened(video, _label(video, name)) as (container, stream):
        yield from _decoded(container, stream)


def scan(video: bytes | Path, name: str = "") -> Timeline:
    """Read the packets of the video stream without decoding them.

    Raises:
        DataError: the file cannot be opened or has no video stream.
    """
    with _opened(video, _label(video, name)) as (container, stream):
        context = stream.codec_context
        codec = context.name
        times: list[int] = []
        keys: list[int] = []
        container_name = _container(container.format.name)
        # avi stores decoding times only: where the codec reorders frames they are not the times of the frames.
        clean = codec in ONE_PACKET_ONE_FRAME and not (container_name == "avi" and context.has_b_frames)
        whole, closed = True, True
        for packet in _packets(container, stream):
            if packet.is_corrupt or packet.is_discard or not _shown(codec, packet):
                whole = False
            elif packet.pts is None:
                clean = False
            else:
                if packet.is_keyframe:
                    keys.append(packet.pts)
                closed = closed and bool(keys) and packet.pts >= keys[-1]
                times.append(packet.pts)
        clean = clean and bool(times) and len(set(times)) == len(times)
        pts = tuple(sorted(times)) if clean else None
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate or DEFAULT_FPS
        return Timeline(
            codec, container_name, context.pix_fmt or "", pts, tuple(sorted(keys)),
            stream.time_base or Fraction(1, 1000), Fraction(rate), stream.frames, whole, closed,
        )  # fmt: skip


def unsafe_for_decord(timeline: Timeline) -> str | None:
    """Why `auto` does not give this video to decord; None if it does."""
    if _decord() is None:
        return "it is not installed"
    if timeline.codec not in DECORD_CODECS:
        return f"codec {timeline.codec}"
    if timeline.container not in DECORD_CONTAINERS:
        return f"container {timeline.container}"
    if timeline.pixels not in DECORD_PIXELS:
        return f"pixel format {timeline.pixels}"
    if timeline.pts is None:
        return "timestamps are missing, double or not those of the frames"
    if not timeline.whole:
        return "hidden, discarded or cut-off frames"
    if not timeline.closed:
        return "open groups of pictures"
    if timeline.announced not in (0, len(timeline.pts)):
        return f"the header announces {timeline.announced} frames, the file holds {len(timeline.pts)}"
    return None


def _decode_decord(video: bytes | Path, frames: Sequence[int], short_side: int | None, label: str) -> np.ndarray:
    module: Any = _decord()
    data = video.read_bytes() if isinstance(video, Path) else video
    try:
        reader = module.VideoReader(io.BytesIO(data), ctx=module.cpu(0), num_threads=1)
        batch_THWC = reader.get_batch(list(frames)).asnumpy()
    except (RuntimeError, IndexError, AssertionError) as error:  # DECORDError is a RuntimeError
        raise DataError(f"{label}: decord: {_one_line(error)}") from None
    return np.stack([_shrunk(frame_HWC, short_side) for frame_HWC in batch_THWC])


def _decode_pyav(
    video: bytes | Path, frames: Sequence[int], short_side: int | None, timeline: Timeline, label: str
) -> np.ndarray:
    found: dict[int, np.ndarray] = {}
    with _opened(video, label) as (container, stream):
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
        for frame in _decoded(container, stream):
            if frame.pts in group:
                found[group[frame.pts]] = _pixels(frame, short_side)
            if frame.pts is not None and frame.pts >= max(group):
                break
    return found


@contextmanager
def _opened(video: bytes | Path, label: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Container and video stream; whatever the native library raises inside becomes a DataError."""
    try:
        # A Python file and no path: FFmpeg would read "12:30.mp4" as a protocol. A playlist must not open other files.
        file: BinaryIO = io.BytesIO(video) if isinstance(video, bytes) else video.open("rb")
        with file, av.open(file, metadata_errors="replace", options={"protocol_whitelist": "none"}) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream):
                raise DataError(f"{label}: no video stream")
            if stream.codec_context is None:
                raise DataError(f"{label}: no decoder for its video stream")
            stream.codec_context.thread_count = 1
            yield container, stream
    except DataError:
        raise
    except (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError) as error:
        raise DataError(f"{label}: {_reason(error)}") from None


def _packets(container: InputContainer, stream: VideoStream) -> Iterator["Packet[VideoStream]"]:
    """Packets with data, up to the end or the first place where the container itself is damaged."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        if packet.size:
            yield packet


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Frames of the packets from here on. A packet that does not decode gives none; half a packet is not tried."""
    for packet in _packets(container, stream):
        if packet.is_corrupt:
            continue
        try:
            yield from stream.decode(packet)
        except av.FFmpegError:
            continue
    try:
        yield from stream.decode(None)
    except av.FFmpegError:
        return


def _shown(codec: str, packet: "Packet[VideoStream]") -> bool:
    """VP8 stores frames that are only referred to in packets of their own; bit 4 of the frame tag says "shown"."""
    return codec != "vp8" or bool(bytes(packet)[0] & 0x10)


def _pixels(frame: VideoFrame, short_side: int | None) -> np.ndarray:
    frame_HWC = frame.to_ndarray(format="rgb24")
    return _shrunk(np.rot90(frame_HWC, frame.rotation // 90 % 4), short_side)


def _shrunk(frame_HWC: np.ndarray, short_side: int | None) -> np.ndarray:
    old_height, old_width, _ = frame_HWC.shape
    height, width = scaled_size(old_height, old_width, short_side)
    if (height, width) == (old_height, old_width):
        return frame_HWC
    return cv2.resize(np.ascontiguousarray(frame_HWC), (width, height), interpolation=cv2.INTER_AREA)


def _fps(pts: Sequence[int] | None, timeline: Timeline) -> float:
    """The container's mean rate where the timestamps confirm it to 1 %, else the timestamps' own."""
    if pts is None or len(pts) < 2 or pts[-1] == pts[0]:
        return float(timeline.rate)
    measured = (len(pts) - 1) / float((pts[-1] - pts[0]) * timeline.time_base)
    return float(timeline.rate) if abs(measured / timeline.rate - 1) < 0.01 else measured


def _container(demuxer: str) -> str:
    """Short name of FFmpeg's comma-separated list of what a demuxer reads."""
    return {"mov": "mp4", "matroska": "matroska"}.get(demuxer.split(",")[0], demuxer.split(",")[0])


def _extension(container: str) -> str:
    return {"matroska": "mkv", "mpegts": "ts", "mpeg": "mpg", "asf": "wmv"}.get(container, container)


def _decord() -> Any | None:
    """The module, silenced, or None where it is not installed (it has no wheels outside x86-64 Linux)."""
    try:
        module = importlib.import_module("decord")
    except (ImportError, OSError):
        return None
    module.logging.set_level(module.logging.QUIET)
    return module


def _label(video: bytes | Path, name: str) -> str:
    return name or (str(video) if isinstance(video, Path) else f"video of {len(video)} bytes")


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.InvalidDataError):
        return "no video that FFmpeg can read (damaged, cut off or another kind of file)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return _one_line(error)


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _span(frames: Sequence[int]) -> str:
    return f"{min(frames)}..{max(frames)}" if frames else "(none)"


av.logging.set_level(None)  # FFmpeg's own lines would go to stderr without saying which file; our errors do
