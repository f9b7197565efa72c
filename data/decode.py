"""From the bytes of a video or picture to the frames a clip needs: one function, three decoders.

Frame i is the i-th shown frame in presentation order, as `jepa.data.timeline` counts them; a picture is a video of
one frame. Only the asked frames are converted to RGB, upright; one thread per call, since loaders parallelise over
processes. All decoders return the same frames of a file, or refuse it in one line. The pixels are the same too, up
to 1 of 255 in MPEG-4 part 2, where versions of FFmpeg round differently.

`auto` takes decord only if all of this holds (`unsafe_for_decord` says what does not), else PyAV:
- decord is installed,
- H.264, HEVC, MPEG-4 part 2, VP8 or VP9, 8 bit 4:2:0, in mp4/mov or mkv/webm (a damaged avi makes decord crash),
- a clean timeline without packets that are hidden, discarded by an edit list, or cut off,
- the first frame is a keyframe and no frame is shown before the keyframe it follows (closed groups of pictures),
- the frame count of the header is absent or true,
- the frames are stored upright and of one size.
Where the size of the frames is known, `auto` takes PyAV for those of more than 640x480 pixels too: it
needs a quarter less processor time for them (docs/benchmarks.md), and the frames are the same.
If decord raises all the same, `auto` asks PyAV, which returns the very frames or raises too. To know all this takes
a pass over the packets, about a millisecond; the index of a packed data set holds the answer, and with `exact`
decord is asked at once. (PyAV needs the timeline to seek, so it makes that pass all the same.)
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from jepa.data.decoders import decord_backend, pyav_backend, torchcodec_backend
from jepa.data.decoders.shrink import scaled_size, shrunk
from jepa.data.limits import DEFAULT_LIMITS, Limits
from jepa.data.pictures import is_picture, read_picture
from jepa.data.timeline import Timeline, VideoInfo, inexact, probe, scan
from jepa.data.video_file import label_of
from jepa.errors import ConfigError, DataError, SampleError
from jepa.logs import get_logger

__all__ = [
    "Backend",
    "VideoInfo",
    "announce",
    "backends",
    "decode",
    "is_large",
    "probe",
    "scaled_size",
    "unsafe_for_decord",
]

Backend = Literal["auto", "decord", "pyav", "torchcodec"]

LARGE = 640 * 480
"""Pixels of a frame beyond which PyAV is quicker than decord."""

log = get_logger(__name__)


def decode(
    video: bytes | Path,
    frames: Sequence[int],
    *,
    backend: Backend = "auto",
    short_side: int | None = None,
    name: str = "",
    exact: bool = False,
    size: tuple[int, int] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> np.ndarray:
    """The frames with the given indices, in the given order (repeats allowed): uint8 (T, H, W, 3) RGB.

    Args:
        video: the file, or its bytes.
        frames: indices, at least one.
        backend: the decoder.
        short_side: shrink so that the shorter side has this many pixels (see `scaled_size`; never enlarges).
        name: what error messages call the video.
        exact: every decoder is known to count the same frames in this file (`SampleInfo.exact`, `VideoInfo.exact`),
            which saves a look at its packets. The caller checks the limits against the known size and duration.
        size: height and width of the frames, if they are known: `auto` leaves large ones to PyAV.
        limits: what exceeds them is not decoded.

    Raises:
        SampleError: the video cannot be read, exceeds the limits, or has no such frame.
        DataError: the asked backend cannot be trusted with it.
        ConfigError: the asked backend is not installed.
    """
    label = label_of(video, name)
    if not frames or min(frames) < 0:
        raise SampleError(f"{label}: asked for frames {_span(frames)}")
    if is_picture(video, label, limits):
        return _repeated(read_picture(video, label, limits).pixels, frames, short_side, label)
    _require(backend)
    if backend == "auto" and size is not None and is_large(*size):
        backend = "pyav"
    timeline = None if exact and backend != "pyav" else _timeline(video, frames, label, limits)
    unsafe = _unsafe(backend, timeline)
    if unsafe is not None and backend != "auto":
        raise DataError(f"{label}: {backend} cannot be trusted with it ({unsafe}); use the backend auto or pyav")
    if backend == "torchcodec":
        return torchcodec_backend.read_frames(video, frames, short_side, timeline, label)
    if backend != "pyav" and unsafe is None:
        try:
            return decord_backend.read_frames(video, frames, short_side, label)
        except SampleError:
            if backend == "decord":
                raise
            unsafe = "errors that decord raises"
    if unsafe is not None:
        _say(unsafe.partition(" (")[0])
    timeline = timeline or _timeline(video, frames, label, limits)
    return pyav_backend.read_frames(video, frames, short_side, timeline, label, limits)


def is_large(height: int, width: int) -> bool:
    """Whether `auto` leaves frames of this size to PyAV."""
    return height * width > LARGE


def backends() -> dict[str, str | None]:
    """Version of each decoder; None if it is not installed or cannot be loaded."""
    return {
        "decord": decord_backend.version(),
        "pyav": pyav_backend.version(),
        "torchcodec": torchcodec_backend.version(),
    }


@cache
def announce(backend: Backend) -> None:
    """Log which decoder reads which files, once per process."""
    decord, pyav = decord_backend.version(), f"PyAV {pyav_backend.version()}"
    if backend != "auto":
        log.info("decoder: %s %s", backend, backends()[backend])
    elif decord is None:
        log.info("decoder: %s for all files, as decord is not installed (auto)", pyav)
    else:
        log.info(
            "decoder: decord %s for files in which its frames are exact and of at most 640x480 pixels, %s for the "
            "others (auto)", decord, pyav,
        )  # fmt: skip


def unsafe_for_decord(timeline: Timeline) -> str | None:
    """Why `auto` does not give this video to decord; None if it does."""
    return "decord is not installed" if decord_backend.version() is None else inexact(timeline)


def _unsafe(backend: Backend, timeline: Timeline | None) -> str | None:
    """Why the file is not for the fast decoder of a backend; None if it is, or if there is none."""
    if backend == "pyav":
        return None
    if backend == "torchcodec":
        return None if timeline is None else torchcodec_backend.unsafe(timeline)
    if timeline is None:
        return None if decord_backend.version() else "decord is not installed"
    return unsafe_for_decord(timeline)


def _require(backend: Backend) -> None:
    """Raise ConfigError if the backend is not installed."""
    if backend == "torchcodec":
        torchcodec_backend.decoder()
    elif backend == "decord" and decord_backend.version() is None:
        raise ConfigError("the backend decord is not installed (it has no wheel for this machine): use auto or pyav")


def _timeline(video: bytes | Path, frames: Sequence[int], label: str, limits: Limits) -> Timeline:
    """Timeline of a video that has these frames."""
    timeline = scan(video, label, limits)
    if timeline.pts is not None and max(frames) >= len(timeline.pts):
        raise SampleError(f"{label}: asked for frames {_span(frames)} of a video of {len(timeline.pts)} frames")
    return timeline


def _repeated(pixels_HWC: np.ndarray, frames: Sequence[int], short_side: int | None, label: str) -> np.ndarray:
    """A picture as often as its only frame is asked for."""
    if max(frames) > 0:
        raise SampleError(f"{label}: asked for frames {_span(frames)} of a picture, which has one")
    return np.repeat(shrunk(pixels_HWC, short_side)[None], len(frames), axis=0)


@cache
def _say(reason: str) -> None:
    """Log a reason for not taking decord, once per process."""
    log.info("decoder: PyAV for some files, because of %s (auto)", reason)


def _span(frames: Sequence[int]) -> str:
    return f"{min(frames)}..{max(frames)}" if frames else "(none)"
