"""Decoders alone: the bytes of a video in memory and frame numbers in, pixels out, and nothing else.

That is the most a loader on top of them could reach. They do not check the file, do not shrink, crop or stack, and
believe what the container says; so they are given only files that every decoder reads alike (`SampleInfo.exact`).
"""

import importlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import av
import numpy as np

from jepa.data.timeline import scan

Read = Callable[[], np.ndarray]
"""Decode one clip: uint8 (T, H, W, 3)."""


def bare_decoders() -> dict[str, Callable[[bytes, Sequence[int]], Read]]:
    """By name, for each decoder that is installed and loads: (video, frame numbers) -> what decodes them."""
    kinds = {"decord": _decord, "pyav": _pyav, "torchcodec": _torchcodec}
    return {name: kind for name, kind in kinds.items() if name == "pyav" or _loads(name)}


def _loads(name: str) -> bool:
    try:
        importlib.import_module({"torchcodec": "torchcodec.decoders"}.get(name, name))
    except (ImportError, OSError, RuntimeError):  # torchcodec: RuntimeError where FFmpeg's libraries are missing
        return False
    return True


def _decord(video: bytes, frames: Sequence[int]) -> Read:
    module: Any = importlib.import_module("decord")

    def read() -> np.ndarray:
        reader = module.VideoReader(io.BytesIO(video), ctx=module.cpu(0), num_threads=1)
        array: np.ndarray = reader.get_batch(list(frames)).asnumpy()
        return array

    return read


def _torchcodec(video: bytes, frames: Sequence[int]) -> Read:
    module: Any = importlib.import_module("torchcodec.decoders")

    def read() -> np.ndarray:
        decoder = module.VideoDecoder(video, dimension_order="NHWC", num_ffmpeg_threads=1)
        array: np.ndarray = decoder.get_frames_at(indices=list(frames)).data.numpy()
        return array

    return read


def _pyav(video: bytes, frames: Sequence[int]) -> Read:
    shown = scan(video).pts  # which time is which frame is known beforehand: the others have an index of their own
    assert shown is not None
    times = [shown[number] for number in frames]

    def read() -> np.ndarray:
        found = {}
        with av.open(io.BytesIO(video), "r") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            container.seek(times[0], stream=stream)
            for frame in container.decode(stream):
                if frame.pts in times:
                    found[frame.pts] = frame.to_ndarray(format="rgb24")
                if frame.pts is not None and frame.pts >= times[-1]:
                    break
        return np.stack([found[time] for time in times])

    return read
