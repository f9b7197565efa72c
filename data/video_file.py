"""A video file as FFmpeg gives it: container and stream, packets, frames, and which way up they are.

What native code raises becomes a SampleError of one line; limits are held against the header before a decoder
starts. Files are given as Python files and never as names: FFmpeg would read "12:30.mp4" as a protocol.

Phones store frames as the sensor gives them, with a matrix that says how to turn them; some mirror them too.
`upright` applies it, to the nearest quarter turn. Other decoders do not always (decord 0.6 fails on quarter turns,
decord and torchcodec take mirrored for plain ones), so files with such a matrix are decoded here.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from jepa.data.limits import DEFAULT_LIMITS, Limits
from jepa.data.source import printable
from jepa.data.watchdog import beat
from jepa.errors import DataError, SampleError

Turn = tuple[bool, bool, bool]
"""Transpose, then mirror left to right, then top to bottom."""

UPRIGHT: Turn = (False, False, False)

CHROMA = Interpolation.BICUBIC
"""Between the stored colours, where FFmpeg interpolates them (odd sizes, more than 8 bits): what torchcodec does."""


@contextmanager
def opened(
    video: bytes | Path, label: str, limits: Limits = DEFAULT_LIMITS
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Container and video stream; whatever the native library raises inside becomes a SampleError.

    Raises:
        SampleError: no video, or one that exceeds the limits.
    """
    try:
        limits.check_size(video, label)
        file: BinaryIO = io.BytesIO(video) if isinstance(video, bytes) else video.open("rb")
        with file:
            if not file.read(1):
                raise SampleError(f"{label}: the file is empty")
            file.seek(0)
            # A playlist must not open other files.
            options = {"protocol_whitelist": "none", "max_pixels": str(limits.max_pixels)}
            with av.open(file, "r", metadata_errors="replace", options=options) as container:
                yield container, _video_stream(container, label, limits)
    except DataError:
        raise
    except av.error.InvalidDataError:
        raise SampleError(f"{label}: {_why_invalid(video)}") from None
    except (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError) as error:
        strerror = error.strerror if isinstance(error, OSError) else None
        raise SampleError(f"{label}: {strerror or one_line(error)}") from None


def _video_stream(container: InputContainer, label: str, limits: Limits) -> VideoStream:
    try:
        stream = container.streams.best("video")
    except IndexError:
        raise SampleError(f"{label}: its list of streams is damaged") from None
    if not isinstance(stream, VideoStream):
        raise SampleError(f"{label}: no video stream")
    context = stream.codec_context
    if context is None:
        raise SampleError(f"{label}: no decoder for its video stream")
    if not context.height or not context.width:  # FFmpeg forgets a size above its own limit, which is ours
        most = f"the {limits.max_pixels} pixels of loader.limits.max_pixels"
        raise SampleError(f"{label}: the size of its frames is unknown, or more than {most}")
    limits.check_pixels(context.height, context.width, label)
    context.thread_count = 1
    context.options = {"max_pixels": str(limits.max_pixels)}
    return stream


def packets(container: InputContainer, stream: VideoStream) -> Iterator["Packet[VideoStream]"]:
    """Packets with data, up to the end or the first place where the container itself is damaged."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        except IndexError:  # at the end, PyAV does not know a stream that began after the file was opened
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


def iterate(video: bytes | Path, name: str = "", limits: Limits = DEFAULT_LIMITS) -> Iterator[VideoFrame]:
    """Every frame that decodes, in presentation order; what is damaged is left out, as in `probe`'s count.

    Raises:
        SampleError: the file cannot be opened.
    """
    with opened(video, label_of(video, name), limits) as (container, stream):
        yield from decoded(container, stream)


def turn_of(frame: VideoFrame) -> Turn:
    """How the frame is to be turned to stand upright.

    The matrix maps a point (x, y) to (a x + c y, b x + d y), in fixed point; a matrix of zeros means nothing.
    """
    found: Any = frame.side_data  # a container of which the stubs know one key
    all_data = (found[index] for index in range(len(found)))
    matrix = next((data for data in all_data if data.type == Type.DISPLAYMATRIX), None)
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(matrix), np.int32, 5))
    swap = abs(b) + abs(c) > abs(a) + abs(d)
    return swap, (c if swap else a) < 0, (b if swap else d) < 0


def upright(frame: VideoFrame, converter: VideoReformatter | None = None) -> np.ndarray:
    """The frame as it is to be seen: uint8 (H, W, 3) RGB, possibly a view with other strides.

    Args:
        converter: one for all frames of a video saves a third of the time that 16 frames of 340x256 take.
    """
    frame_HWC = (
        (converter or VideoReformatter()).reformat(frame, format="rgb24", interpolation=CHROMA, threads=1).to_ndarray()
    )
    swap, mirror, flip = turn_of(frame)
    if swap:
        frame_HWC = frame_HWC.transpose(1, 0, 2)
    return frame_HWC[:: -1 if flip else 1, :: -1 if mirror else 1]


def label_of(video: bytes | Path, name: str) -> str:
    """What messages call a video."""
    return name or (printable(video) if isinstance(video, Path) else f"video of {len(video)} bytes")


def start_of(video: bytes | Path, count: int) -> bytes:
    """The first bytes of a file.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(video, bytes):
        return video[:count]
    with video.open("rb") as file:
        return file.read(count)


def _why_invalid(video: bytes | Path) -> str:
    if start_of(video, 8)[4:8] == b"ftyp":
        return "the index (moov) of this mp4 file is missing or damaged; it was probably cut off"
    return "no video that FFmpeg can read (damaged, cut off or another kind of file)"


def one_line(error: Exception) -> str:
    """First line of what a library says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


av.logging.set_level(None)  # FFmpeg's own lines would go to stderr without saying which file; our errors do
