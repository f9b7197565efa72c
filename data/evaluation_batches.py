"""Batches of clips for evaluation: known videos, in order, without chance."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from jepa.data.bad_samples import refuse
from jepa.data.collate import stack
from jepa.data.frames import Frames
from jepa.data.loader_config import LoaderConfig
from jepa.data.source import Source
from jepa.data.transforms import centre_crop
from jepa.data.windows import WindowConfig, segment_windows, tile_windows
from jepa.data.workers import Loader

BYTES_IN_PROCESS = 256 * 10**6
"""Evaluation clips from a decoded copy, up to this many bytes, are cut before a worker process has started."""


@dataclass(frozen=True)
class EvaluationBatch:
    """Clips of known videos, in order."""

    clips: Tensor
    """uint8 (B, C, T, H, W)."""
    indices: tuple[int, ...]
    """Index of each clip's video in the source."""
    windows: tuple[tuple[int, ...], ...]
    """Frame numbers of each clip in its video."""


@dataclass(frozen=True)
class EvaluationBatches:
    """Number of a batch -> the batch; the last one may be smaller."""

    frames: Frames
    clips: Sequence[tuple[int, tuple[int, ...]]]
    """(video, frame numbers) of every clip."""
    size: int
    batch_size: int

    def __call__(self, number: int) -> EvaluationBatch:
        """Read, crop and stack the clips of a batch."""
        clips = self.clips[number * self.batch_size : (number + 1) * self.batch_size]
        crops = [centre_crop(self.frames.window(index, window), self.size) for index, window in clips]
        return EvaluationBatch(stack(crops), tuple(index for index, _ in clips), tuple(window for _, window in clips))


def evaluation_batches(
    source: Source,
    *,
    window: WindowConfig,
    size: int,
    batch_size: int,
    loader: LoaderConfig,
    indices: Sequence[int] | None = None,
    tiles: bool = False,
    segments: int = 1,
    frames: Frames | None = None,
) -> Iterator[EvaluationBatch]:
    """Every clip once, in order: the centre window of each video, one from each of its parts, or all that cover it.

    Args:
        source: the videos.
        window: frames of a clip.
        size: height and width of a clip in pixels.
        batch_size: clips per batch (`loader.batch_size` is not used).
        loader: workers, cache.
        indices: videos to read, in this order; by default all.
        tiles: every window of `tile_windows` instead of the centre one.
        segments: clips of a video, if not `tiles`: one from each of so many equal parts. They stay in one batch.
        frames: of the source at this size (`loader.open_frames`), where they are open already.

    Raises:
        DataError: a video is too short.
        SampleError: (while iterating) one cannot be decoded.
    """
    clips: list[tuple[int, tuple[int, ...]]] = []
    for index in range(len(source)) if indices is None else indices:
        info = source.info(index)
        windows = tile_windows(info, window) if tiles else segment_windows(info, window, segments)
        clips.extend((index, ids) for ids in windows)
    batch_size = max(1, batch_size // segments) * segments
    frames = frames or loader.open_frames(source, size)
    numbers = range(-(-len(clips) // batch_size))
    few = frames.cached and len(clips) * window.frames * size * size * 3 < BYTES_IN_PROCESS
    return iter(
        Loader(
            EvaluationBatches(frames, clips, size, batch_size),
            numbers,
            workers=0 if few else min(loader.workers, len(numbers)),
            prefetch=loader.prefetch,
            start_method=loader.start_method,
            deadline=loader.deadline,
            on_loss=partial(refuse, {frames.number: source}),
        )
    )
