"""What a video file holds: how many frames, when each is shown, where decoding can start.

Frame i of a video is the i-th *shown* frame in presentation order, counted over what the file holds, never over what
its header announces: headers of real files announce too many frames, too few, or a negative number. Most files
give a clean timeline: every packet has its own timestamp and makes one frame, so that a pass over the packets (about
a millisecond) is enough, and frame i is the frame with the i-th smallest timestamp. In all other files the frames that
come out of the decoder are counted.

What is damaged is left out of the count: packets that the container marks as cut off, and everything behind the place
where the container itself ends early.

A picture is a video of one frame that is shown for a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from jepa.data.frame_sizes import size_mark
from jepa.data.limits import DEFAULT_LIMITS, Limits
from jepa.data.nal_units import starts_afresh
from jepa.data.pictures import is_picture, read_picture
from jepa.data.video_file import UPRIGHT, Turn, iterate, label_of, opened, packets, turn_of
from jepa.errors import SampleError

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
    steady: bool = True
    """No keyframe says that the size of the frames changes."""
    odd: bool = False
    """Height or width is an odd number, so that decoders do not agree on the colours between two stored ones."""
    turn: Turn = UPRIGHT
    """How the frames are to be turned to stand upright; looked up only where `inexact` finds nothing else."""
    fresh: bool = True
    """Every keyframe is one with which decoding can really start (see `nal_units.starts_afresh`)."""
    interlaced: bool = False
    """Frames are two half pictures, of odd and of even lines; looked up as the turn is."""

    @property
    def mirrored(self) -> bool:
        """The turn is no plain rotation."""
        return sum(self.turn) % 2 == 1


def probe(video: bytes | Path, name: str = "", limits: Limits = DEFAULT_LIMITS) -> VideoInfo:
    """Count the frames of a video and measure its rate; decodes one frame (all, if the timeline is not clean).

    Raises:
        SampleError: the file is missing, unreadable, no video, exceeds the limits, or none of its frames decodes.
    """
    label = label_of(video, name)
    if is_picture(video, label, limits):
        return _picture_info(video, label, limits)
    timeline = scan(video, label, limits)
    keyframes: tuple[int, ...] = ()
    first = next(iterate(video, label, limits), None)
    if first is None:
        raise SampleError(f"{label}: no frame can be decoded (damaged, cut off or encrypted)")
    if timeline.pts is None:
        times = [frame.pts for frame in iterate(video, label, limits)]
        pts = None if None in times else sorted(time for time in times if time is not None)
        frames = len(times)
    else:
        pts, frames = list(timeline.pts), len(timeline.pts)
        position = {time: index for index, time in enumerate(pts)}
        keyframes = tuple(position[key] for key in timeline.keys)
    fps = _fps(pts, timeline)
    height, width = (first.width, first.height) if turn_of(first)[0] else (first.height, first.width)
    announced = timeline.indexed if timeline.container in EXACT_INDEX else None
    shown = ticks(pts, timeline.time_base, Fraction(fps).limit_denominator(1001))
    return VideoInfo(
        frames, fps, height, width, frames / fps, timeline.codec, keyframes, announced, _extension(timeline.container),
        tuple(shown.values()) if shown else (), inexact(timeline) is None,
    )  # fmt: skip


def _picture_info(picture: bytes | Path, label: str, limits: Limits) -> VideoInfo:
    read = read_picture(picture, label, limits)
    height, width, _ = read.pixels.shape
    return VideoInfo(1, 1.0, height, width, 1.0, read.codec, (0,), None, read.extension, (), False)


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
        return "timestamps that are missing, double or not those of the frames"
    if not timeline.whole:
        return "hidden, discarded or cut-off frames"
    if not timeline.closed:
        return "open groups of pictures"
    if not timeline.fresh:
        return "keyframes that need the frames before them"
    if timeline.announced not in (0, len(timeline.pts)):
        return f"a wrong frame count in the header ({timeline.announced}, the file holds {len(timeline.pts)})"
    if not timeline.steady:
        return "frames that change their size"
    if timeline.odd:
        return "an odd height or width"
    if timeline.turn != UPRIGHT:
        return "frames that are stored turned or mirrored"
    if timeline.interlaced:
        return "interlaced frames"
    return None


def scan(video: bytes | Path, name: str = "", limits: Limits = DEFAULT_LIMITS) -> Timeline:
    """Read the packets of the video stream without decoding them (but for one frame, if all depends on it).

    Raises:
        SampleError: the file cannot be opened, has no video stream or exceeds the limits.
    """
    label = label_of(video, name)
    with opened(video, label, limits) as (container, stream):
        timeline, span = _scan(container, stream)
        limits.check_seconds(span, label)
        if inexact(timeline) is None and (frame := _key_frame(container, stream, timeline.keys[0])) is not None:
            timeline = replace(timeline, turn=turn_of(frame), interlaced=frame.interlaced_frame)
        return timeline


def _key_frame(container: InputContainer, stream: VideoStream, key: int) -> VideoFrame | None:
    """The frame of the first keyframe: some things only the decoder tells."""
    try:
        container.seek(key, stream=stream)
        packet = next(packets(container, stream), None)
        frames = [] if packet is None else [*stream.decode(packet), *stream.decode(None)]
    except av.FFmpegError:
        return None
    return frames[0] if frames else None


def _scan(container: InputContainer, stream: VideoStream) -> tuple[Timeline, float]:
    """The timeline, and the seconds from the first packet to the last."""
    context = stream.codec_context
    codec = context.name
    times: list[int] = []
    keys: list[int] = []
    container_name = _container(container.format.name)
    # avi stores decoding times only: where the codec reorders frames they are not the times of the frames.
    clean = codec in ONE_PACKET_ONE_FRAME and not (container_name == "avi" and context.has_b_frames)
    whole, closed, fresh = True, True, True
    sizes: set[bytes] = set()
    extradata = context.extradata or b""
    for packet in packets(container, stream):
        if packet.is_corrupt or packet.is_discard or not _shown(codec, packet):
            whole = False
        elif packet.pts is None:
            clean = False
        else:
            if packet.is_keyframe:
                keys.append(packet.pts)
                content = bytes(packet)
                sizes.add(size_mark(codec, content, extradata))
                fresh = fresh and starts_afresh(codec, content, extradata)
            closed = closed and bool(keys) and packet.pts >= keys[-1]
            times.append(packet.pts)
    clean = clean and bool(times) and len(set(times)) == len(times)
    pts = tuple(sorted(times)) if clean else None
    indexed = sum(not entry.is_discard for entry in stream.index_entries)
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate or DEFAULT_FPS
    base = stream.time_base or Fraction(1, 1000)
    span = float((max(times) - min(times)) * base) if times else 0.0
    timeline = Timeline(
        codec, container_name, context.pix_fmt or "", pts, tuple(sorted(keys)), base, Fraction(rate), stream.frames,
        indexed, whole, closed, len(sizes) < 2, bool(context.height % 2 or context.width % 2),
        fresh=fresh,
    )  # fmt: skip
    return timeline, span


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
