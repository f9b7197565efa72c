"""What a video file holds: how many frames, when each is shown, where decoding can start.

Frame i of a video is the i-th *shown* frame in presentation order, counted over what the file holds, never over what
its header announces: headers of real files announce too many frames, too few, or a negative number. Most files
give a clean timeline: every packet has its own timestamp and makes one frame, so that a pass over the packets (about
a millisecond) is enough, and frame i is the frame with the i-th smallest timestamp. In all other files the frames that
come out of the decoder are counted.

What is damaged is left out of the count: packets that the container marks as cut off, and everything behind the place
where the container itself ends early.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from jepa.data.source import printable
from jepa.data.watchdog import beat
from jepa.errors import DataError

ONE_PACKET_ONE_FRAME = frozenset({"h264", "hevc", "mpeg4", "vp8", "vp9", "av1", "mjpeg", "png"})
"""Codecs of which a packet makes one frame (VP8: if it is a shown one)."""
EXACT_INDEX = frozenset({"mp4"})
"""Containers whose frame count is that of an index of all frames; elsewhere it is a guess."""
DEFAULT_FPS = Fraction(25)
"""Where a file says nothing about time: FFmpeg's own assumption."""
CLOCK = 90_000
"""Ticks per second of the times of frames that do not come at a steady rate."""
EXACT_CODECS = frozenset({"h264", "hevc", "mpeg4", "vp8", "vp9"})
EXACT_CONTAINERS = frozenset({"mp4", "matroska"})
EXACT_PIXELS = frozenset({"yuv420p", "yuvj420p"})


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
    times: tuple[int, ...] = ()
    """When each frame is shown, in ticks of `CLOCK` since the first; empty where they come at a steady rate."""
    exact: bool = False
    """Every decoder counts the same frames in this file (see `inexact`)."""


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
    """Frame count of the header; 0 if it has none."""
    indexed: int
    """Frames in the container's index, less those that an edit list trims."""
    whole: bool
    """No packet is hidden, discarded or cut off."""
    closed: bool
    """Starts with a keyframe, and every frame is shown after the keyframe it follows."""


def probe(video: bytes | Path, name: str = "") -> VideoInfo:
    """Count the frames of a video and measure its rate; decodes one frame (all, if the timeline is not clean).

    Raises:
        DataError: the file is missing, unreadable, no video, or none of its frames decodes.
    """
    label = label_of(video, name)
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
    announced = timeline.indexed if timeline.container in EXACT_INDEX else None
    shown = ticks(pts, timeline.time_base, Fraction(fps).limit_denominator(1001))
    return VideoInfo(
        frames, fps, height, width, frames / fps, timeline.codec, keyframes, announced, _extension(timeline.container),
        tuple(shown.values()) if shown else (), inexact(timeline) is None,
    )  # fmt: skip


def ticks(pts: Sequence[int] | None, base: Fraction, rate: Fraction) -> dict[int, int] | None:
    """Timestamp -> ticks of the clock since the first frame; None if the frames come at a constant rate."""
    if pts is None:
        return None
    seconds = {time: (time - pts[0]) * base for time in pts}
    # Half a frame: containers round timestamps to milliseconds.
    if all(abs(second * rate - number) < Fraction(1, 2) for number, second in enumerate(seconds.values())):
        return None
    return {time: round(second * CLOCK) for time, second in seconds.items()}


def inexact(timeline: Timeline) -> str | None:
    """Why decoders may count other frames in this file than we do; None if they cannot."""
    if timeline.codec not in EXACT_CODECS:
        return f"codec {timeline.codec}"
    if timeline.container not in EXACT_CONTAINERS:
        return f"container {timeline.container}"
    if timeline.pixels not in EXACT_PIXELS:
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


def iterate(video: bytes | Path, name: str = "") -> Iterator[VideoFrame]:
    """Every frame that decodes, in presentation order; what is damaged is left out, as in `probe`'s count.

    Raises:
        DataError: the file cannot be opened.
    """
    with opened(video, label_of(video, name)) as (container, stream):
        yield from decoded(container, stream)


def scan(video: bytes | Path, name: str = "") -> Timeline:
    """Read the packets of the video stream without decoding them.

    Raises:
        DataError: the file cannot be opened or has no video stream.
    """
    with opened(video, label_of(video, name)) as (container, stream):
        context = stream.codec_context
        codec = context.name
        times: list[int] = []
        keys: list[int] = []
        container_name = _container(container.format.name)
        # avi stores decoding times only: where the codec reorders frames they are not the times of the frames.
        clean = codec in ONE_PACKET_ONE_FRAME and not (container_name == "avi" and context.has_b_frames)
        whole, closed = True, True
        for packet in packets(container, stream):
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
        indexed = sum(not entry.is_discard for entry in stream.index_entries)
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate or DEFAULT_FPS
        return Timeline(
            codec, container_name, context.pix_fmt or "", pts, tuple(sorted(keys)),
            stream.time_base or Fraction(1, 1000), Fraction(rate), stream.frames, indexed, whole, closed,
        )  # fmt: skip


@contextmanager
def opened(video: bytes | Path, label: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Container and video stream; whatever the native library raises inside becomes a DataError."""
    try:
        # A Python file and no path: FFmpeg would read "12:30.mp4" as a protocol. A playlist must not open other files.
        file: BinaryIO = io.BytesIO(video) if isinstance(video, bytes) else video.open("rb")
        with file:
            if not file.read(1):
                raise DataError(f"{label}: the file is empty")
            file.seek(0)
            with av.open(file, "r", metadata_errors="replace", options={"protocol_whitelist": "none"}) as container:
                yield container, _video_stream(container, label)
    except DataError:
        raise
    except av.error.InvalidDataError:
        raise DataError(f"{label}: {_why_invalid(video)}") from None
    except (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError) as error:
        strerror = error.strerror if isinstance(error, OSError) else None
        raise DataError(f"{label}: {strerror or one_line(error)}") from None


def _video_stream(container: InputContainer, label: str) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise DataError(f"{label}: no video stream")
    if stream.codec_context is None:
        raise DataError(f"{label}: no decoder for its video stream")
    stream.codec_context.thread_count = 1
    return stream


def packets(container: InputContainer, stream: VideoStream) -> Iterator["Packet[VideoStream]"]:
    """Packets with data, up to the end or the first place where the container itself is damaged."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        beat()
        if packet.size:
            yield packet


def decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Frames of the packets from here on. A packet that does not decode gives none; half a packet is not tried."""
    for packet in packets(container, stream):
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


def label_of(video: bytes | Path, name: str) -> str:
    return name or (printable(video) if isinstance(video, Path) else f"video of {len(video)} bytes")


def _why_invalid(video: bytes | Path) -> str:
    if isinstance(video, Path):
        with video.open("rb") as file:
            start = file.read(8)
    else:
        start = video[:8]
    if start[4:8] == b"ftyp":
        return "the index (moov) of this mp4 file is missing or damaged; it was probably cut off"
    return "no video that FFmpeg can read (damaged, cut off or another kind of file)"


def one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


av.logging.set_level(None)  # FFmpeg's own lines would go to stderr without saying which file; our errors do
