"""Batches of clips, each a pure function of the step: what pretraining reads.

What a step consumes is said by `plan.py` and `draws.py`; here the frames are read, cropped (`transforms.py`, by a
generator made from the seed and the position) and stacked, and the masks of the step are drawn. So the sequence that a
run consumes does not depend on the number of ranks or workers, nor on where it was interrupted, and a resumed run
needs one number: its step.

An image is a clip of one frame: a picture, or any frame of a video. The frame is repeated to fill a tubelet, and the
token grid has one step.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch

from jepa.data.bad_samples import BadSamples, set_aside
from jepa.data.collate import stack
from jepa.data.draws import Draw, Draws
from jepa.data.fit import require_fit
from jepa.data.frames import Frames
from jepa.data.limits import LimitError
from jepa.data.loader_config import LoaderConfig
from jepa.data.mixture import Mixture, mixture_of
from jepa.data.plan import Plan, make_plan
from jepa.data.source import Source
from jepa.data.steps import Steps
from jepa.data.transforms import AugmentConfig, augment
from jepa.data.windows import WindowConfig
from jepa.data.workers import Loader
from jepa.errors import SampleError
from jepa.rng import generator
from jepa.tokens import Mask, TokenGrid
from jepa.types import Clip, ClipBatch

DrawMasks = Callable[[int, int, slice], tuple[Mask, ...]]
"""(step, global batch size, rows) -> the masks of these rows of the batch."""


@dataclass(frozen=True)
class Images:
    """Images between the videos."""

    mixture: Mixture
    steps: Steps
    """Their share of the steps, and the sizes of the batches."""
    augment: AugmentConfig
    """Crop."""
    grid: TokenGrid
    """Token layout, of one step."""
    draw_masks: DrawMasks
    """Masks of a step of images, by its number among these; must pickle."""
    repeat: int
    """Frames that an image fills: a tubelet."""


class ClipStream:
    """Draws -> clips."""

    def __init__(self, frames: Sequence[Frames], draws: Draws, augment: AugmentConfig) -> None:
        """
        Args:
            frames: of each source of the mixture.
            draws: what the clips are.
            augment: crop of a clip.
        """
        self.frames = tuple(frames)
        self.draws = draws
        self.augment = augment

    def clips(self, draws: Sequence[Draw]) -> list[Clip]:
        """The clips of these draws, in order. Neighbours from the same video are decoded together.

        Raises:
            DataError: the data set cannot be read, or too many of its samples cannot be used.
        """
        same_video = groupby(draws, key=lambda draw: (draw.source, draw.index))
        return [clip for _, group in same_video for clip in self._of_one_video(list(group))]

    def _of_one_video(self, draws: list[Draw]) -> list[Clip]:
        """The clips of a video; one that cannot be decoded is written down, and drawn again, from a spare."""
        while True:
            source, index = draws[0].source, draws[0].index
            try:
                videos = _windows(self.frames[source], index, [draw.window for draw in draws])
                return [self._clip(draw, video) for draw, video in zip(draws, videos, strict=True)]
            except SampleError as error:
                if len(draws) > 1:  # which of them, each has to tell by itself
                    return [clip for draw in draws for clip in self._of_one_video([draw])]
                keep = not isinstance(error, LimitError)
                self.draws.bad[source].add(index, str(error), draws[0].window, keep=keep)
                draws = [self.draws(draws[0].position)]

    def _clip(self, draw: Draw, video: np.ndarray) -> Clip:
        pixels = augment(video, self.augment, generator(self.draws.seed, draw.position, "augment"))
        return Clip(pixels, draw.key, draw.position, draw.window, self.draws.mixture.names[draw.source])


def _windows(frames: Frames, index: int, windows: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """The frames of each window of a video, decoded once."""
    if len(windows) == 1:
        return [frames.window(index, windows[0])]
    wanted = sorted({frame for window in windows for frame in window})
    video = frames.window(index, wanted)
    return [video[np.searchsorted(wanted, window)] for window in windows]


@dataclass(frozen=True)
class Kind:
    """How the batches of one kind of step are made of its draws."""

    stream: ClipStream
    grid: TokenGrid
    draw_masks: DrawMasks
    repeat: int = 1
    """How often each frame is shown."""


@dataclass(frozen=True)
class TrainBatches:
    """Step -> the batch of one rank."""

    plan: Plan
    videos: Kind
    images: Kind | None = None

    @property
    def bad(self) -> tuple[BadSamples, ...]:
        """Of each source; those of images come behind those of videos."""
        return self.videos.stream.draws.bad + (() if self.images is None else self.images.stream.draws.bad)

    def __call__(self, step: int) -> ClipBatch:
        """Read, crop and stack the clips of a step, and draw its masks."""
        for bad in self.bad:
            bad.refresh()
        planned = self.plan(step)
        kind = self.images if planned.images else self.videos
        assert kind is not None, "a step of images without images"
        clips = kind.stream.clips(planned.draws)
        return ClipBatch(
            clips=stack([clip.frames for clip in clips], kind.repeat),
            masks=kind.draw_masks(planned.number, planned.batch, planned.rows),
            grid=kind.grid,
            positions=torch.tensor([clip.position for clip in clips]),
            keys=tuple(clip.key for clip in clips),
            sources=tuple(clip.source for clip in clips),
            windows=tuple(clip.window for clip in clips),
        )


def train_loader(
    source: Source | Mixture,
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
    images: Images | None = None,
) -> "TrainLoader":
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
        draw_masks: masks of a step, by its number among those of videos; must pickle, as it is called in the workers.
        images: steps of images between those of videos.

    Raises:
        ConfigError: a batch is larger than its source, or does not divide among the ranks.
        DataError: a video is too short, or more than `loader.max_bad` of the samples cannot be used.
    """
    videos = mixture_of(source)
    mixed = None if images is None else (images.mixture, images.steps)
    plan = make_plan(videos, window, loader, seed, rank=rank, world_size=world_size, images=mixed)
    for one in videos.sources:
        require_fit(one, window)
    batches = TrainBatches(plan, Kind(_stream(plan.videos, loader, augment), grid, draw_masks))
    if images is not None and plan.images is not None:
        stream = _stream(plan.images, loader, images.augment, first=len(videos.sources))
        batches = replace(batches, images=Kind(stream, images.grid, images.draw_masks, images.repeat))
    return TrainLoader(
        batches,
        range(first_step, last_step),
        workers=loader.workers,
        prefetch=loader.prefetch,
        pin_memory=torch.cuda.is_available(),
        start_method=loader.start_method,
        deadline=loader.deadline,
    )


def _stream(draws: Draws, loader: LoaderConfig, crop: AugmentConfig, first: int = 0) -> ClipStream:
    """Args: first: number of the first source, among all of a run."""
    sources = zip(draws.mixture.sources, draws.bad, strict=True)
    frames = [loader.open_frames(source, crop.size, bad, number) for number, (source, bad) in enumerate(sources, first)]
    return ClipStream(frames, draws, crop)


class TrainLoader(Loader[ClipBatch]):
    """A loader that writes down and reports bad samples, and ends the run when they are too many."""

    def __init__(self, batches: TrainBatches, steps: range, **options: Any) -> None:
        """Args: options: of `Loader`."""
        self.bad, self.steps = batches.bad, batches.plan.steps
        super().__init__(batches, steps, on_loss=partial(set_aside, dict(enumerate(self.bad))), **options)

    def __iter__(self) -> Iterator[ClipBatch]:
        self._report(self.numbers.start)
        batches = super().__iter__()
        for step in self.numbers:
            batch = next(batches)
            self._report(step + 1)
            yield batch
            del batch  # before waiting for the next one

    def _report(self, done: int) -> None:
        for bad in self.bad:
            bad.report(self.steps.consumed(done))
