"""Making a video cheap to train from: small, H.264, with a keyframe at least every 30 frames.

What a clip costs to decode is set by the file and not by the library: 16 frames of a 720p file with a keyframe every
250 cost over ten times what they cost at 340 x 256 with a keyframe every 30. So every video is decoded once, here, and
encoded again: the shorter side shrunk to 256 (never enlarged), sizes cropped to even numbers, upright (rotation
marks are applied), 8 bit 4:2:0 BT.601, no audio. The frames and their times stay: a constant rate is kept exactly,
a variable one by its timestamps. `copy` keeps the file as it is, but decodes it once all the
same, to know that it can be. The file is hashed as it is read (`pack_origin.py`).

A picture is stored as the file it is; one that is larger than wanted becomes a smaller JPEG.

A video of which less than 90 % can be decoded is refused as cut off: half a video would get the label of a whole one.

Annotations may name a part of a long video, from one second to another. Such a part is found by seeking, so that a
hundred parts of one film do not cost a hundred passes over it; its frames are those nearest to the asked times. A
folder of pictures can stand for a video too, at a frame rate that its annotations name.
"""

import errno
import io
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from jepa.data.decode import scaled_size
from jepa.data.folder import visible_files
from jepa.data.limits import DEFAULT_LIMITS
from jepa.data.lists import Entry
from jepa.data.pack_origin import PictureHash, read_source
from jepa.data.pictures import is_picture, stored_picture
from jepa.data.source import printable
from jepa.data.timeline import CLOCK, DEFAULT_FPS, VideoInfo, probe, scan, ticks
from jepa.data.video_file import decoded, iterate, opened, packets, upright
from jepa.errors import ConfigError, DataError

LEAST_SHARE = 0.9
"""Part of the announced frames that must decode."""
PICTURES = frozenset({"jpg", "jpeg", "png"})
"""Endings of the pictures in a folder that stands for a video, without the dot, in lower case."""
AVX_512F = 13
"""OpenCV's number for the instruction set (cv::CpuFeatures; the Python module does not name it)."""
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")


@dataclass(frozen=True)
class PackConfig:
    """How each video is stored."""

    copy: bool = False
    """Store each file as it is; slower to train from if its frames are large or its keyframes rare."""
    short_side: int = 256
    """Shrink until the shorter side has this many pixels; smaller videos keep their size."""
    keyframe_interval: int = 30
    """Frames from one keyframe to the next, at most."""
    crf: int = 20
    """Quality of x264, 0 (lossless) to 51; 6 more halves the size."""
    preset: str = "fast"
    """Effort of x264, ultrafast to veryslow: slower is smaller."""

    def __post_init__(self) -> None:
        if self.short_side < 16:
            raise ConfigError(f"short_side is {self.short_side}, expected 16 or more")
        if self.keyframe_interval < 1:
            raise ConfigError(f"keyframe_interval is {self.keyframe_interval}, expected 1 or more")
        if not 0 <= self.crf <= 51:
            raise ConfigError(f"crf is {self.crf}, expected 0 to 51")
        if self.preset not in PRESETS:
            raise ConfigError(f"preset is {self.preset}, expected one of {', '.join(PRESETS)}")

    def encoding(self) -> "PackConfig":
        """These settings alone, where they are part of a larger configuration."""
        return PackConfig(**{field.name: getattr(self, field.name) for field in fields(PackConfig)})

    def provenance(self) -> dict[str, object]:
        """What the manifest records about the files: the settings, and the programs that decide on the bytes."""
        codec = ".".join(map(str, av.library_versions["libavcodec"]))
        versions = {"pyav": av.__version__, "libavcodec": codec, "opencv": cv2.__version__, "numpy": np.__version__}
        if self.copy:
            return {"encoder": "none: the files are as they were", "versions": versions}
        settings = {name: value for name, value in asdict(self).items() if name != "copy"}
        return {"encoder": {"codec": "libx264", "pixels": "yuv420p", **settings}, "versions": versions}


@dataclass(frozen=True)
class Unreadable:
    """What comes in place of a video that cannot be packed."""

    reason: str


@dataclass(frozen=True)
class Packed:
    """A video as it goes into a shard."""

    video: bytes
    info: VideoInfo
    origin_hash: str = ""
    """Of what it was made from (see `pack_origin`); empty for a part of a film, which has many parts."""


@dataclass(frozen=True)
class _Film:
    """What is to be encoded."""

    name: str
    height: int
    width: int
    rate: Fraction
    ticks: dict[int, int] | None
    """Timestamp -> ticks of the clock since the first frame; None if the frames come at a constant rate."""
    frames: Iterator[tuple[np.ndarray, int | None]]
    """Upright pictures (H, W, 3) and their timestamps."""


def try_pack(entries: Sequence[Entry], config: PackConfig, number: int) -> Packed | Unreadable:
    """Pack one of the videos; what happens in a worker process."""
    entry = entries[number]
    try:
        return pack_entry(entry, config)
    except DataError as error:
        return Unreadable(str(error).removeprefix(f"{printable(entry.path)}: "))


def pack_entry(entry: Entry, config: PackConfig) -> Packed:
    """Read, check and encode what an entry of a list names: a video, a part of one, or a folder of pictures.

    Raises:
        DataError: it cannot be read, is cut off, or is to be copied although it is no whole file.
    """
    if entry.segment is None and entry.frame_rate is None:
        return pack_video(entry.path, config)
    name = printable(entry.path)
    if config.copy:
        raise DataError(f"{name}: only whole files can be stored as they are; leave out --copy")
    if entry.frame_rate is not None:
        digest = PictureHash()
        film = _from_pictures(entry.path, Fraction(entry.frame_rate).limit_denominator(1001), digest)
        packed = _packed(film, config)
        return replace(packed, origin_hash=digest.hexdigest())
    assert entry.segment is not None
    with opened(entry.path, name) as (container, stream):
        cut, times = _cut(container, stream, name, entry.segment)
    film = _from_cut(entry.path, name, cut, times)
    return _packed(film, config, expected=len(times))


def pack_video(path: Path, config: PackConfig) -> Packed:
    """Read, check and (unless `copy`) encode one video; a picture stays one, as a file of its kind.

    Raises:
        DataError: it cannot be read or is cut off.
    """
    name = printable(path)
    video, digest = read_source(path)
    if is_picture(video, name, DEFAULT_LIMITS):
        picture = stored_picture(video, None if config.copy else config.short_side, name, DEFAULT_LIMITS)
        return Packed(picture, probe(picture, name), digest)
    info = probe(video, name)
    expected = max(info.frames, info.announced or 0)
    if config.copy:
        decoded_frames = sum(1 for _ in iterate(video, name))
        _check_share(name, decoded_frames, expected)
        if decoded_frames != info.frames:
            raise DataError(f"{name}: damaged, {decoded_frames} of {info.frames} frames decode; pack it without --copy")
        suffix = path.suffix[1:].lower()
        # The name of a member ends with its kind; a file without a usual ending gets that of its container.
        extension = suffix if suffix.isalnum() and suffix not in ("json", "npz") else info.extension
        content = video if isinstance(video, bytes) else path.read_bytes()
        return Packed(content, replace(info, extension=extension), digest)
    _check_share(name, info.frames, expected)
    return replace(_packed(_from_file(video, name, info), config, expected), origin_hash=digest)


def _packed(film: _Film, config: PackConfig, expected: int = 0) -> Packed:
    video, count = _encode(film, config)
    _check_share(film.name, count, expected)
    return Packed(video, probe(video, film.name))


def _from_file(video: bytes | Path, name: str, info: VideoInfo) -> _Film:
    """A whole video."""
    timeline = scan(video, name)
    rate = Fraction(info.fps).limit_denominator(1001)
    shown = ticks(timeline.pts, timeline.time_base, rate)
    frames = ((upright(frame), frame.pts) for frame in iterate(video, name))
    return _Film(name, info.height, info.width, rate, shown, frames)


def _from_pictures(folder: Path, rate: Fraction, digest: PictureHash) -> _Film:
    """A folder of pictures, in the order of their names; numbers in names may have leading zeros or not.

    Args:
        digest: gets every picture as it is read.

    Raises:
        DataError: the folder is missing or holds no picture; while the frames are read: a picture cannot be read.
    """
    if not folder.is_dir():
        reason = "not a folder of pictures" if folder.exists() else os.strerror(errno.ENOENT)
        raise DataError(f"{printable(folder)}: {reason}")
    files = [file for file in visible_files(folder) if file.suffix[1:].lower() in PICTURES]
    if not files:
        raise DataError(f"{printable(folder)}: the folder holds no picture ({', '.join(sorted(PICTURES))})")
    files.sort(key=lambda file: (len(file.stem), file.stem))
    height, width = _picture(files[0], PictureHash()).shape[:2]
    return _Film(printable(folder), height, width, rate, None, ((_picture(file, digest), None) for file in files))


def _picture(file: Path, digest: PictureHash) -> np.ndarray:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{printable(file)}: {error.strerror}") from None
    digest.add(file.name, content)
    array_HWC = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if array_HWC is None:
        raise DataError(f"{printable(file)}: no picture that can be read")
    return cv2.cvtColor(array_HWC, cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class _Cut:
    """A part of a video, in units of the time base of its stream."""

    start: int
    """Timestamp that the first frame has at least."""
    end: int
    """Timestamp that frames stay below."""
    seek: bool
    """Whether seeking leads to a keyframe at or before the start; else all that lies before is decoded."""


def _cut(
    container: InputContainer, stream: VideoStream, name: str, segment: tuple[float, float]
) -> tuple[_Cut, list[int]]:
    """Where a segment lies, and the timestamps of its frames, from a pass over the packets around it.

    Raises:
        DataError: the segment is empty, or less than 90 % of it are in the video; or the frames have no timestamps.
    """
    start, end = segment
    shown = f"{start:g} to {end:g} s"
    base, rate = stream.time_base or Fraction(1, 1000), _rate(stream)
    if not 0 <= start < end:
        raise DataError(f"{name}: {shown} is no part of a video")
    first = stream.start_time or 0
    # Half a frame earlier: the frames nearest to the asked times, as many as the segment is long.
    low, high = (first + math.ceil((Fraction(second) - 1 / (2 * rate)) / base) for second in segment)
    for seek in (low > first, False):
        cut = _Cut(low, high, seek)
        times = list(_timestamps(container, stream, cut))
        if not cut.seek or (times and times[0] is not None and times[0] <= low):
            break
        container.seek(first, stream=stream)
    if None in times:
        raise DataError(f"{name}: its frames have no timestamps, so {shown} cannot be cut out; convert it to mp4")
    inside = sorted(time for time in times if time is not None and low <= time < high)
    seconds = float((inside[-1] - low) * base + 1 / (2 * rate)) if inside else 0.0
    # One frame is forgiven: a segment of three frames may hold two and a half.
    if not inside or seconds + 1 / rate < LEAST_SHARE * (end - start):
        raise DataError(f"{name}: cut off or too short, only {seconds:.1f} s of {shown} are in it")
    return cut, inside


def _timestamps(container: InputContainer, stream: VideoStream, cut: _Cut) -> Iterator[int | None]:
    """Timestamps of the packets from the keyframe before a cut to its end, in the order of the file."""
    if cut.seek:
        container.seek(cut.start, stream=stream)
    for packet in packets(container, stream):
        if packet.dts is not None and packet.dts >= cut.end:
            return
        yield packet.pts


def _from_cut(path: Path, name: str, cut: _Cut, times: list[int]) -> _Film:
    """A part of a video."""
    with opened(path, name) as (container, stream):
        base, rate = stream.time_base or Fraction(1, 1000), _rate(stream)
        first = next(_frames_between(container, stream, cut), None)
    if first is None:
        raise DataError(f"{name}: no frame of the segment can be decoded (damaged, cut off or encrypted)")
    if times[-1] > times[0]:
        measured = (len(times) - 1) / ((times[-1] - times[0]) * base)
        rate = rate if abs(measured / rate - 1) < Fraction(1, 100) else measured.limit_denominator(1001)
    height, width = upright(first).shape[:2]
    return _Film(name, height, width, rate, ticks(times, base, rate), _read_cut(path, name, cut))


def _read_cut(path: Path, name: str, cut: _Cut) -> Iterator[tuple[np.ndarray, int | None]]:
    with opened(path, name) as (container, stream):
        for frame in _frames_between(container, stream, cut):
            yield upright(frame), frame.pts


def _frames_between(container: InputContainer, stream: VideoStream, cut: _Cut) -> Iterator[VideoFrame]:
    if cut.seek:
        container.seek(cut.start, stream=stream)
    for frame in decoded(container, stream):
        if frame.pts is None or frame.pts < cut.start:
            continue
        if frame.pts >= cut.end:
            return
        yield frame


def _rate(stream: VideoStream) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate or DEFAULT_FPS
    return Fraction(rate).limit_denominator(1001)


def _encode(film: _Film, config: PackConfig) -> tuple[bytes, int]:
    """Encode a video as described at the top: the bytes of an mp4 file, and the number of its frames.

    Raises:
        DataError: the video is too small, or cannot be read.
    """
    height, width = (side // 2 * 2 for side in scaled_size(film.height, film.width, config.short_side))
    if min(height, width) < 2:
        raise DataError(f"{film.name}: {film.width}x{film.height} pixels are too few")
    file, count, last = io.BytesIO(), 0, -1
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=film.rate)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {
            "preset": config.preset,
            "crf": str(config.crf),
            "x264-params": f"keyint={config.keyframe_interval}:threads=1{_without_avx512()}",
        }
        stream.codec_context.thread_count = 1
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.time_base = 1 / film.rate if film.ticks is None else Fraction(1, CLOCK)
        converter = VideoReformatter()
        for count, (array_HWC, pts) in enumerate(film.frames, start=1):
            picture = converter.reformat(
                av.VideoFrame.from_ndarray(_fitted(array_HWC, height, width), format="rgb24"),
                format="yuv420p",
                dst_colorspace=Colorspace.ITU601,
                dst_color_range=ColorRange.MPEG,
            )
            time = count - 1 if film.ticks is None or pts is None else film.ticks.get(pts, last + 1)
            last = max(time, last + 1)
            picture.pts, picture.time_base = last, stream.codec_context.time_base
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return file.getvalue(), count


def _without_avx512() -> str:
    """A setting for x264 where the processor has AVX-512: its macroblock tree reads memory there that nobody wrote.

    The same film then gives other bytes every few times. Without, x264 is as quick, and a film gives the same bytes on
    every x86 processor. (Where there is no AVX-512, x264 chooses itself: it believes this setting without looking.)
    """
    return ":asm=avx2" if cv2.checkHardwareSupport(AVX_512F) else ""


def _fitted(array_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """The picture at the size of the file: cropped if a row or a column is too many, else resized."""
    old_height, old_width, _ = array_HWC.shape
    if height <= old_height <= height + 1 and width <= old_width <= width + 1:
        return np.ascontiguousarray(array_HWC[:height, :width])
    return cv2.resize(np.ascontiguousarray(array_HWC), (width, height), interpolation=cv2.INTER_AREA)


def _check_share(name: str, count: int, expected: int) -> None:
    if count < LEAST_SHARE * expected:
        raise DataError(f"{name}: cut off or damaged, only {count} of {expected} frames can be decoded")
