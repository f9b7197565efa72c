"""Batches of clips, each a pure function of the step: what pretraining reads.

Position n of a run names everything about a clip: its video (`order.py`), its frames (`windows.py`, a generator made
from the seed and n) and its crop (`transforms.py`, likewise). Step s of a run with global batch B holds the positions
s * B .. (s + 1) * B - 1; rank r of W takes the r-th of W equal slices. The masks of a step are drawn for the global
batch and sliced the same way. So the sequence that a run consumes does not depend on the number of ranks or workers,
nor on where it was interrupted, and a resumed run needs one number: its step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from jepa.data.collate import stack
from jepa.data.fit import require_fit
from jepa.data.frames import Frames
from jepa.data.loader_config import LoaderConfig
from jepa.data.order import Order
from jepa.data.source import Source
from jepa.data.transforms import AugmentConfig, augment
from jepa.data.windows import WindowConfig, random_window
from jepa.data.workers import Loader
from jepa.errors import ConfigError
from jepa.rng import generator
from jepa.tokens import Mask, TokenGrid
from jepa.types import Clip, ClipBatch

DrawMasks = Callable[[int, int], tuple[Mask, ...]]
"""(step, global batch size) -> the masks of the whole batch."""


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
        """The clip at position n of the run.

        Raises:
            DataError: its video is too short or cannot be decoded.
        """
        _, index = self.order.sample(position)
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
    require_fit(source, window)
    stream = ClipStream(loader.open_frames(source, augment.size), source, window, augment, seed)
    steps = range(first_step, last_step)
    return Loader(
        TrainBatches(stream, grid, draw_masks, batch, rank, world_size),
        steps,
        workers=min(loader.workers, len(steps)),
        prefetch=loader.prefetch,
        pin_memory=torch.cuda.is_available(),
        start_method=loader.start_method,
    )
