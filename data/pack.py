"""Making a video cheap to train from: small, H.264, with a keyframe at least every 30 frames.

What a clip costs to decode is set by the file and not by the library: 16 frames of a 720p file with a keyframe every
250 cost over ten times what they cost at 340 x 256 with a keyframe every 30. So every video is decoded once, here, and
encoded again: the shorter side shrunk to 256 (never enlarged), sizes cropped to even numbers, upright (rotation
marks are applied), 8 bit 4:2:0 BT.601, no audio. The frames and their times stay: a constant rate is kept exactly,
a variable one by its timestamps. `copy` keeps the file as it is, but decodes it once all the
same, to know that it can be.

A video of which less than 90 % can be decoded is refused as cut off: half a video would get the label of a whole one.
"""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from jepa.data.decode import scaled_size
from jepa.data.source import printable
from jepa.data.timeline import Timeline, VideoInfo, iterate, probe, scan
from jepa.errors import ConfigError, DataError

LEAST_SHARE = 0.9
"""Part of the announced frames that must decode."""
CLOCK = 90_000
"""Ticks per second of the timestamps of a video with a variable rate."""
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
        """What the manifest records about the files."""
        if self.copy:
            return {"encoder": "none: the files are as they were"}
        settings = {name: value for name, value in asdict(self).items() if name != "copy"}
        return {"encoder": {"codec": "libx264", "pixels": "yuv420p", **settings}, "pyav": av.__version__}


@dataclass(frozen=True)
class Unreadable:
    """What comes in place of a video that cannot be packed."""

    reason: str


@dataclass(frozen=True)
class Packed:
    """A video as it goes into a shard."""

    video: bytes
    info: VideoInfo


def try_pack(paths: Sequence[Path], config: PackConfig, number: int) -> Packed | Unreadable:
    """Pack one of the videos; what happens in a worker process."""
    path = paths[number]
    try:
        return pack_video(path, config)
    except DataError as error:
        return Unreadable(str(error).removeprefix(f"{printable(path)}: "))


def pack_video(path: Path, config: PackConfig) -> Packed:
    """Read, check and (unless `copy`) encode one video.

    Raises:
        DataError: it cannot be read or is cut off.
    """
    info = probe(path)
    expected = max(info.frames, info.announced or 0)
    if config.copy:
        decoded = sum(1 for _ in iterate(path))
        _check_share(path, decoded, expected)
        if decoded != info.frames:
            raise DataError(
                f"{printable(path)}: damaged, {decoded} of {info.frames} frames decode; pack it without --copy"
            )
        suffix = path.suffix[1:].lower()
        # The name of a member ends with its kind; a file without a usual ending gets that of its container.
        extension = suffix if suffix.isalnum() and suffix not in ("json", "npz") else info.extension
        return Packed(path.read_bytes(), replace(info, extension=extension))
    _check_share(path, info.frames, expected)
    video, decoded = encode(path, info, config)
    _check_share(path, decoded, expected)
    return Packed(video, probe(video, printable(path)))


def encode(path: Path, info: VideoInfo, config: PackConfig) -> tuple[bytes, int]:
    """Encode a video as described at the top: the bytes of an mp4 file, and the number of its frames.

    Raises:
        DataError: the video cannot be opened, or is too small.
    """
    height, width = (side // 2 * 2 for side in scaled_size(info.height, info.width, config.short_side))
    if min(height, width) < 2:
        raise DataError(f"{printable(path)}: {info.width}x{info.height} pixels are too few")
    timeline = scan(path)
    rate = Fraction(info.fps).limit_denominator(1001)
    ticks = _ticks(timeline, rate)
    file, count, last = io.BytesIO(), 0, -1
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {
            "preset": config.preset,
            "crf": str(config.crf),
            "x264-params": f"keyint={config.keyframe_interval}:threads=1",
        }
        stream.codec_context.thread_count = 1
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.time_base = 1 / rate if ticks is None else Fraction(1, CLOCK)
        converter = VideoReformatter()
        for count, frame in enumerate(iterate(path), start=1):
            array_HWC = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90 % 4)
            picture = converter.reformat(
                av.VideoFrame.from_ndarray(_fitted(array_HWC, height, width), format="rgb24"),
                format="yuv420p",
                dst_colorspace=Colorspace.ITU601,
                dst_color_range=ColorRange.MPEG,
            )
            time = count - 1 if ticks is None or frame.pts is None else ticks.get(frame.pts, last + 1)
            last = max(time, last + 1)
            picture.pts, picture.time_base = last, stream.codec_context.time_base
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return file.getvalue(), count


def _ticks(timeline: Timeline, rate: Fraction) -> dict[int, int] | None:
    """Timestamp -> ticks of the clock since the first frame; None if the frames come at a constant rate."""
    if timeline.pts is None:
        return None
    start = timeline.pts[0]
    seconds = {pts: (pts - start) * timeline.time_base for pts in timeline.pts}
    # Half a frame: containers round timestamps to milliseconds.
    if all(abs(second * rate - number) < Fraction(1, 2) for number, second in enumerate(seconds.values())):
        return None
    return {pts: round(second * CLOCK) for pts, second in seconds.items()}


def _fitted(array_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """The picture at the size of the file: cropped if a row or a column is too many, else resized."""
    old_height, old_width, _ = array_HWC.shape
    if height <= old_height <= height + 1 and width <= old_width <= width + 1:
        return np.ascontiguousarray(array_HWC[:height, :width])
    return cv2.resize(np.ascontiguousarray(array_HWC), (width, height), interpolation=cv2.INTER_AREA)


def _check_share(path: Path, decoded: int, expected: int) -> None:
    if decoded < LEAST_SHARE * expected:
        raise DataError(f"{printable(path)}: cut off or damaged, only {decoded} of {expected} frames can be decoded")
