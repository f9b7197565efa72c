"""Frames of a source by (video, frame numbers): from a decoded copy where it fits, else decoded on demand.

The decoded copy (`frame_file.py`) is made once per source and resolution, in a cache folder, and named after the
source's fingerprint, so every later run finds it. Whether it fits is decided from the index, before anything is
decoded. A cache folder that cannot be written or a full disk costs speed, not the run: one warning, and frames are
decoded on demand. The pixels are the same either way.

A video that cannot be decoded, or that a decoder hangs or crashes on, goes into the quarantine and has no frames in the
copy; asking for it is an error that training answers with another video.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jepa.data.bad_samples import BadSamples, refuse
from jepa.data.decode import Backend, decode, scaled_size
from jepa.data.frame_file import DamagedFileError, FrameFile, write_frame_file
from jepa.data.limits import DEFAULT_LIMITS, Limits
from jepa.data.source import SampleInfo, Source, cache_name
from jepa.data.storage import default_cache
from jepa.data.watchdog import watched
from jepa.data.workers import Loader, Loss, StartMethod
from jepa.errors import ConfigError, DataError, SampleError
from jepa.logs import get_logger, progress

GIGABYTE = 10**9

DECODED_BYTES_PER_WORKER = 64 * 10**6
"""Fewer pixels than this are decoded before a further process has started."""

NOTHING = np.empty((0, 0, 0, 3), np.uint8)
"""The frames of a video that cannot be decoded."""


def stored_side(size: int) -> int:
    """Short side, in pixels, at which frames are kept for clips of `size` x `size`.

    A quarter larger than the clip, as 280 is for 224: a random crop then has room, and frames of ordinary
    videos do not fill the disk.
    """
    return -(-size * 5 // 4)


class Frames:
    """Frames of the videos of one source, at most `short_side` pixels on the short side.

    Pickles as its settings: a worker process maps the file again.
    """

    def __init__(
        self,
        source: Source,
        *,
        short_side: int,
        budget_gb: float,
        cache: Path | None = None,
        backend: Backend = "auto",
        limits: Limits = DEFAULT_LIMITS,
        workers: int = 0,
        start_method: StartMethod = "forkserver",
        deadline: float | None = None,
        bad: BadSamples | None = None,
        number: int = 0,
    ) -> None:
        """Find or make the decoded copy.

        Args:
            source: the videos.
            short_side: larger frames are scaled down to it; smaller ones stay as they are.
            budget_gb: largest decoded copy, in gigabytes (10^9 bytes); 0 for none.
            cache: folder of the copy; by default $JEPA_CACHE or ~/.cache/jepa.
            backend: the decoder.
            limits: what a video may ask for.
            workers: processes that decode while the copy is made; 0 for none beside this one, which then is not
                protected from a decoder that crashes or hangs.
            start_method: how these start.
            deadline: seconds that decoding one video may take while the copy is made.
            bad: where videos that cannot be decoded are written down; without it they are an error.
            number: of the source, where there are several.

        Raises:
            ConfigError: a negative budget.
            DataError: a video cannot be decoded; with `bad`, too many of them.
        """
        if budget_gb < 0:
            raise ConfigError(f"loader.cache_gb is {budget_gb}, expected 0 (no cache) or more")
        self.source = source
        self.short_side = short_side
        self.backend = backend
        self.limits = limits
        self.workers = workers
        self.start_method = start_method
        self.deadline = deadline
        self.bad = bad
        self.number = number
        self.path = (cache or default_cache()) / _file_name(source, short_side)
        self._file = self._find_or_make(int(budget_gb * GIGABYTE))
        self.cached = self._file is not None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}

    def window(self, index: int, frame_ids: Sequence[int]) -> np.ndarray:
        """The frames `frame_ids` of video `index`: uint8 (T, H, W, 3), possibly a read-only view.

        Raises:
            SampleError: the video cannot be decoded.
            DataError: the data set cannot be read.
        """
        if self.bad is not None and index in self.bad:
            raise self.bad.error(index)
        if not self.cached:
            return self._decode(index, frame_ids)
        if self._file is None:
            self._file = _open_again(self.path, len(self.source))
        video = self._file.video(index)
        if len(video):
            return _select(video, frame_ids)
        if self.bad is None:  # nothing says whether a decoder hangs on it
            raise SampleError(f"{self.source.info(index).key} could not be decoded when {self.path} was made")
        return self._decode(index, frame_ids)  # what is damaged somewhere may well have these frames

    def _decode(self, index: int, frame_ids: Sequence[int]) -> np.ndarray:
        info = self.source.info(index)
        self.limits.check_pixels(info.height, info.width, info.key)
        self.limits.check_seconds(info.frames / info.fps if info.fps > 0 else 0.0, info.key)
        video = self.source.read(index)
        with watched(self.number, index):
            return decode(
                video, frame_ids, backend=self.backend, short_side=self.short_side, name=info.key, exact=info.exact,
                size=(info.height, info.width), limits=self.limits,
            )  # fmt: skip

    def _decode_all(self, index: int) -> np.ndarray | str:
        """All frames of a video, or why there are none."""
        if self.bad is not None and index in self.bad:
            return NOTHING
        try:
            return self._decode(index, range(self.source.info(index).frames))
        except SampleError as error:
            if self.bad is None:
                raise
            return str(error)

    def _lost(self, index: int, loss: Loss) -> str:
        if self.bad is None or loss.token is None:
            refuse({self.number: self.source}, index, loss)
        self.bad.add(index, loss.reason)
        return loss.reason

    def _find_or_make(self, budget: int) -> FrameFile | None:
        """The decoded copy, or None if frames are to be decoded on demand; the log says which, and why."""
        if not budget:
            return None  # as asked
        name, size = self.source.name, decoded_bytes(self.source, self.short_side, budget)
        if size is None:
            _log().info("%s: decoding on demand, its frames exceed loader.cache_gb %g", name, budget / GIGABYTE)
            return None
        try:
            return self._open() or self._make(size)
        except OSError as error:
            reason = error.strerror or error
            _log().warning("%s: decoding on demand, cannot use the frame cache %s: %s", name, self.path, reason)
            return None

    def _open(self) -> FrameFile | None:
        try:
            file = FrameFile(self.path, len(self.source))
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            _log().warning("%s: making the frame cache %s again, %s", self.source.name, self.path, error)
            return None
        if self.bad is not None and not all(self.bad.knows(index) for index in file.missing):
            _log().info("%s: making %s again, what it lacks is no longer in quarantine", self.source.name, self.path)
            return None
        _log().info("%s: frames from %s (%.2f GB)", self.source.name, self.path, file.bytes / GIGABYTE)
        return file

    def _make(self, size: int) -> FrameFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self.path.parent).free < size:
            raise OSError(f"{size / GIGABYTE:.2f} GB needed, disk full")
        count = len(self.source)
        videos = progress(self._decode_source(size), f"decoding {self.source.name}", count)
        write_frame_file(self.path, videos, count)
        _log().info("%s: %d videos decoded to %s (%.2f GB)", self.source.name, count, self.path, size / GIGABYTE)
        return FrameFile(self.path, count)

    def _decode_source(self, size: int) -> Iterator[np.ndarray]:
        count = len(self.source)
        videos = Loader(
            self._decode_all,
            range(count),
            workers=min(self.workers, max(1, size // DECODED_BYTES_PER_WORKER)),
            start_method=self.start_method,
            deadline=self.deadline,
            on_loss=self._lost,
        )
        for index, video in enumerate(videos):
            if isinstance(video, str):
                assert self.bad is not None
                if index not in self.bad:
                    self.bad.add(index, video, None)
                self.bad.report(consumed=count)
            yield NOTHING if isinstance(video, str) else video


def decoded_bytes(source: Source, short_side: int, limit: int) -> int | None:
    """Bytes of all frames of a source, or None as soon as they exceed `limit`."""
    total = 0
    for index in range(len(source)):
        total += _video_bytes(source.info(index), short_side)
        if total > limit:
            return None
    return total


def _video_bytes(info: SampleInfo, short_side: int) -> int:
    height, width = scaled_size(info.height, info.width, short_side)
    return info.frames * height * width * 3


def _select(video: np.ndarray, frame_ids: Sequence[int]) -> np.ndarray:
    """Evenly spaced frames as a view, others as a copy."""
    first, last = frame_ids[0], frame_ids[-1]
    step = frame_ids[1] - first if len(frame_ids) > 1 else 1
    if step > 0 and tuple(frame_ids) == tuple(range(first, last + 1, step)) and last < len(video):
        return video[first : last + 1 : step]
    return video[list(frame_ids)]


def _open_again(path: Path, count: int) -> FrameFile:
    """In a worker process, the copy that the main process found."""
    try:
        return FrameFile(path, count)
    except (OSError, DamagedFileError) as error:
        raise DataError(f"the frame cache {path} changed during the run ({error}): start the run again") from error


def _file_name(source: Source, short_side: int) -> str:
    return f"{cache_name(source)}-{short_side}.frames"


def _log() -> logging.Logger:
    return get_logger(__name__)
