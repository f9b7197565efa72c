"""Frames to an H.264 file in memory, through PyAV.

Every setting that changes the bytes is stated: constant rate factor, a quick preset without B-frames or
look-ahead, 4:2:0, BT.601 limited range, a keyframe every 8 frames, one thread (more threads change the
bytes). The same frames give the same file with the same version of libx264. One colour converter serves
all frames: PyAV's default, one per frame, costs more than the encoder.
"""

import io
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

KEYFRAME_INTERVAL = 8
ENCODER: dict[str, str] = {
    "codec": "libx264",
    "preset": "superfast",
    "crf": "18",
    "pix_fmt": "yuv420p",
    "container": "mp4",
    "keyint": str(KEYFRAME_INTERVAL),
}
"""What the provenance of a data set records about its files."""

_X264 = ":".join(
    [
        f"keyint={KEYFRAME_INTERVAL}",
        f"min-keyint={KEYFRAME_INTERVAL}",
        "scenecut=0:bframes=0:threads=1:rc-lookahead=0:sync-lookahead=0",
    ]
)


def encode_h264(frames: np.ndarray, fps: int) -> bytes:
    """An mp4 file of `frames`, uint8 (T, H, W, 3) RGB with even H and W; ValueError for other arrays."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.shape[0]:
        raise ValueError(f"frames {frames.dtype} {frames.shape}: expected uint8 (T, H, W, 3) with T >= 1")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"frames of {height}x{width}: 4:2:0 needs even height and width; crop or resize them")
    file = io.BytesIO()
    with av.open(file, mode="w", format=ENCODER["container"]) as container:
        stream = container.add_stream(ENCODER["codec"], rate=Fraction(fps))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, ENCODER["pix_fmt"]
        stream.codec_context.thread_count = 1
        stream.options = {"preset": ENCODER["preset"], "crf": ENCODER["crf"], "x264-params": _X264}
        stream.codec_context.color_range = ColorRange.MPEG
        converter = VideoReformatter()
        for number, array in enumerate(frames):
            picture = converter.reformat(
                av.VideoFrame.from_ndarray(array, format="rgb24"),
                format=ENCODER["pix_fmt"],
                dst_colorspace=Colorspace.ITU601,
                dst_color_range=ColorRange.MPEG,
            )
            picture.pts, picture.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return file.getvalue()
