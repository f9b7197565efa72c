"""Batches of clips, each a pure function of the step: what pretraining reads and what evaluation reads.

Position n of a run names everything about a clip: its video (`order.py`), its frames (`windows.py`, a generator made
from the seed and n) and its crop (`transforms.py`, likewise). Step s of a run with global batch B holds the positions
s * B .. (s + 1) * B - 1; rank r of W takes the r-th of W equal slices. The masks of a step are drawn for the global
batch and sliced the same way. So the sequence that a run consumes does not depend on the number of ranks or workers,
nor on where it was interrupted, and a resumed run needs one number: its step.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from jepa.data.bad_samples import BadSamples, refuse, set_aside
from jepa.data.decode import Backend
from jepa.data.frames import Frames, stored_side
from jepa.data.order import Order
from jepa.data.source import Source
from jepa.data.storage import RemoteOptions, default_cache
from jepa.data.transforms import AugmentConfig, augment, centre_crop
from jepa.data.windows import WindowConfig, centre_window, random_window, require_fit, tile_windows
from jepa.data.workers import Loader, StartMethod
from jepa.errors import ConfigError, SampleError
from jepa.rng import generator
from jepa.tokens import Mask, TokenGrid
from jepa.types import Clip, ClipBatch

DrawMasks = Callable[[int, int], tuple[Mask, ...]]
"""(step, global batch size) -> the masks of the whole batch."""

BYTES_IN_PROCESS = 256 * 10**6
"""Evaluation clips from a decoded copy, up to this many bytes, are cut before a worker process has started."""


@dataclass(frozen=True)
class LoaderConfig:
    """How clips are read."""

    batch_size: int = 64
    """Clips per step, over all ranks."""
    workers: int = 2
    """Processes per rank that prepare batches; 0 prepares them in the training process."""
    prefetch: int = 2
    """Batches that each worker prepares ahead."""
    cache_gb: float = 2.0
    """Decode the data set once to a file if its frames fit this many gigabytes; 0 decodes on demand."""
    cache: Path | None = None
    """Folder of decoded frames and of what was read from URLs; by default $JEPA_CACHE or ~/.cache/jepa."""
    remote_gb: float = 10.0
    """Keep at most this many gigabytes of what was read from URLs; 0 keeps only the indices of the shards."""
    remote_timeout: float = 30.0
    """Seconds that one answer of a server may take; then, and after other faults, the read is tried again, six times in
    all."""
    backend: Backend = "auto"
    """Video decoder."""
    start_method: StartMethod = "forkserver"
    """How worker processes start."""
    deadline: float = 60.0
    """Seconds that a decoder may take for one clip; then its process is replaced, and the sample left out."""
    max_bad: float = 0.01
    """End the run if more than this part of the samples cannot be used; until then others take their places."""

    def __post_init__(self) -> None:
        for name, value, least in (
            ("batch_size", self.batch_size, 1),
            ("workers", self.workers, 0),
            ("prefetch", self.prefetch, 1),
            ("cache_gb", self.cache_gb, 0),
            ("remote_gb", self.remote_gb, 0),
            ("remote_timeout", self.remote_timeout, 0.1),
            ("deadline", self.deadline, 0.1),
        ):
            if value < least:
                raise ConfigError(f"loader.{name} is {value}, expected {least} or more")
        if not 0 <= self.max_bad < 1:
            raise ConfigError(f"loader.max_bad is {self.max_bad}, expected 0 (none) or more, and less than 1")

    @property
    def remote(self) -> RemoteOptions:
        """How a data set behind a URL is read."""
        return RemoteOptions(cache=self.cache, cache_gb=self.remote_gb, timeout=self.remote_timeout)


class ClipStream(Dataset[Clip]):
    """The clips of a run by position, without end."""

    def __init__(self, frames: Frames, source: Source, window: WindowConfig, augment: AugmentConfig, seed: int) -> None:
        self.frames = frames
        self.source = source
        self.window = window
        self.augment = augment
        self.seed = seed
        self.order = Order(len(source), seed)

    def __getitem__(self, position: int) -> Clip:
        """The clip at position n of the run. A bad sample is written down, and a spare takes its place.

        Raises:
            DataError: its video is too short, or too many samples are bad.
            SampleError: it cannot be used, and there is no quarantine.
        """
        _, index = self.order.sample(position)
        bad = self.frames.bad
        for attempt in count():
            if bad is None:
                return self._clip(position, index)
            if index not in bad:
                try:
                    return self._clip(position, index)
                except SampleError as error:
                    bad.add(index, str(error))
                    bad.require_few(position)
            index = self.order.spare(position, attempt)
        raise AssertionError("there is no last attempt")

    def _clip(self, position: int, index: int) -> Clip:
        info = self.source.info(index)
        window = random_window(info, self.window, generator(self.seed, position, "window"))
        video = self.frames.window(index, window)
        clip = augment(video, self.augment, generator(self.seed, position, "augment"))
        return Clip(clip, info.key, position, window)


@dataclass(frozen=True)
class TrainBatches:
    """Step -> the batch of one rank."""

    stream: ClipStream
    grid: TokenGrid
    draw_masks: DrawMasks
    batch_size: int
    """Clips per step, over all ranks."""
    rank: int
    world_size: int

    def __call__(self, step: int) -> ClipBatch:
        """Read, crop and stack the clips of a step, and draw its masks."""
        share = self.batch_size // self.world_size
        first = self.rank * share
        if self.stream.frames.bad is not None:
            self.stream.frames.bad.refresh()
        clips = [self.stream[step * self.batch_size + i] for i in range(first, first + share)]
        masks = self.draw_masks(step, self.batch_size)
        return ClipBatch(
            clips=stack([clip.frames for clip in clips]),
            masks=tuple(Mask(m.context[first : first + share], m.target[first : first + share]) for m in masks),
            grid=self.grid,
            positions=torch.tensor([clip.position for clip in clips]),
            keys=tuple(clip.key for clip in clips),
        )


def train_loader(
    source: Source,
    *,
    window: WindowConfig,
    augment: AugmentConfig,
    loader: LoaderConfig,
    seed: int,
    first_step: int,
    last_step: int,
    rank: int = 0,
    world_size: int = 1,
    grid: TokenGrid,
    draw_masks: DrawMasks,
) -> Loader[ClipBatch]:
    """The batches of steps first_step .. last_step - 1 for one rank; `len` is their number.

    Args:
        source: the videos.
        window: frames of a clip.
        augment: crop of a clip.
        loader: batch size, workers, cache.
        seed: seed of the run.
        first_step: where to start: the number of steps already done.
        last_step: where to end.
        rank: this process, of `world_size`.
        world_size: processes that share the global batch.
        grid: token layout of a clip.
        draw_masks: masks of a step for the global batch; must pickle, as it is called in the workers.

    Raises:
        ConfigError: the batch is larger than the source, or does not divide among the ranks.
        DataError: a video is too short, or (with the decoded copy) cannot be decoded.
    """
    batch = loader.batch_size
    if batch > len(source):
        raise ConfigError(
            f"batch_size {batch} is larger than the data set ({len(source)} clips in {source.name}): "
            "lower loader.batch_size or add data"
        )
    if batch % world_size:
        raise ConfigError(f"loader.batch_size {batch} does not divide among {world_size} processes: use a multiple")
    require_fit((source.info(index) for index in range(len(source))), window)
    frames = _frames(source, augment.size, loader)
    assert frames.bad is not None
    stream = ClipStream(frames, source, window, augment, seed)
    steps = range(first_step, last_step)
    return TrainLoader(
        frames.bad,
        batch,
        TrainBatches(stream, grid, draw_masks, batch, rank, world_size),
        steps,
        workers=min(loader.workers, len(steps)),
        prefetch=loader.prefetch,
        pin_memory=torch.cuda.is_available(),
        start_method=loader.start_method,
        deadline=loader.deadline,
        on_loss=partial(set_aside, {frames.number: frames.bad}),
    )


class TrainLoader(Loader[ClipBatch]):
    """A loader that reports bad samples between batches, and ends the run when they are too many."""

    def __init__(self, bad: BadSamples, batch_size: int, make: TrainBatches, steps: range, **options: Any) -> None:
        super().__init__(make, steps, **options)
        self.bad, self.batch_size = bad, batch_size

    def __iter__(self) -> Iterator[ClipBatch]:
        self.bad.report(self.numbers.start * self.batch_size)
        batches = super().__iter__()
        for step in self.numbers:
            batch = next(batches)
            self.bad.report((step + 1) * self.batch_size)
            yield batch
            del batch  # before waiting for the next one


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
) -> Iterator[EvaluationBatch]:
    """Every clip once, in order: the centre window of each video, or all that cover it; centre crop.

    Args:
        source: the videos.
        window: frames of a clip.
        size: height and width of a clip in pixels.
        batch_size: clips per batch (`loader.batch_size` is not used).
        loader: workers, cache.
        indices: videos to read, in this order; by default all.
        tiles: every window of `tile_windows` instead of the centre one.

    Raises:
        DataError: a video is too short, or (while iterating) cannot be decoded.
    """
    clips: list[tuple[int, tuple[int, ...]]] = []
    for index in range(len(source)) if indices is None else indices:
        info = source.info(index)
        windows = tile_windows(info, window) if tiles else [centre_window(info, window)]
        clips.extend((index, ids) for ids in windows)
    frames = _frames(source, size, loader)
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


def stack(clips: Sequence[np.ndarray]) -> Tensor:
    """Clips uint8 (T, H, W, C), possibly views, to one contiguous tensor (B, C, T, H, W), copying each pixel once."""
    frames, height, width, channels = clips[0].shape
    clips_BCTHW = np.empty((len(clips), channels, frames, height, width), np.uint8)
    for target_CTHW, clip_THWC in zip(clips_BCTHW, clips, strict=True):
        target_CTHW[:] = clip_THWC.transpose(3, 0, 1, 2)
    return torch.from_numpy(clips_BCTHW)


def _frames(source: Source, size: int, loader: LoaderConfig) -> Frames:
    return Frames(
        source,
        short_side=stored_side(size),
        budget_gb=loader.cache_gb,
        cache=loader.cache,
        backend=loader.backend,
        workers=loader.workers,
        start_method=loader.start_method,
        deadline=loader.deadline,
        bad=BadSamples(source, loader.cache or default_cache(), loader.max_bad),
    )
