"""The loader of this package, as training uses it: decode on demand, shrink, crop, resize, stack, masks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jepa.bench.laps import Lap, timed, timed_steps
from jepa.data.decode import Backend
from jepa.data.draws import Draw
from jepa.data.loader_config import LoaderConfig
from jepa.data.mixture import mixture_of
from jepa.data.plan import make_plan
from jepa.data.source import Source
from jepa.data.stream import train_loader
from jepa.data.transforms import AugmentConfig
from jepa.data.windows import WindowConfig
from jepa.data.workers import Loader
from jepa.masks.build import MaskSampler, MasksConfig
from jepa.tokens import TokenGrid
from jepa.types import ClipBatch

TUBELET, PATCH = 2, 16
PREFETCH = 2
"""Batches that each worker prepares ahead: torch's default, which the official loader leaves as it is."""


@dataclass(frozen=True)
class Work:
    """What a lap reads: the clips of `steps` steps, after `skip` steps during which processes start."""

    window: WindowConfig
    size: int
    batch: int
    skip: int
    steps: int
    seed: int

    @property
    def clips(self) -> int:
        """Clips of a lap."""
        return self.steps * self.batch

    def ahead(self, workers: int) -> int:
        """Steps that worker processes have begun when a lap ends, so that none of them runs out of work in it."""
        return PREFETCH * workers

    @property
    def grid(self) -> TokenGrid:
        """Token layout, for the masks. Raises ConfigError where clip and tokens do not fit."""
        return TokenGrid.of_clip(self.window.frames, self.size, self.size, tubelet=TUBELET, patch=PATCH)


def drawn_clips(source: Source, work: Work) -> list[Draw]:
    """What the loader reads in a lap, so that others can read the same."""
    loader = LoaderConfig(batch_size=work.batch)
    plan = make_plan(mixture_of(source), work.window, loader, work.seed, rank=0, world_size=1)
    return [draw for step in range(work.skip, work.skip + work.steps) for draw in plan(step).draws]


def batches(source: Source, work: Work, backend: Backend, workers: int) -> Loader[ClipBatch]:
    """The steps of a lap; with workers also the steps before, and some behind, so that no worker runs out of work."""
    return train_loader(
        source,
        window=work.window,
        augment=AugmentConfig(size=work.size),
        loader=LoaderConfig(batch_size=work.batch, workers=workers, prefetch=PREFETCH, cache_gb=0, backend=backend),
        seed=work.seed,
        first_step=0 if workers else work.skip,
        last_step=work.skip + work.steps + work.ahead(workers),
        grid=work.grid,
        draw_masks=MaskSampler(MasksConfig(), work.grid, work.seed),
    )


def loader_lap(source: Source, work: Work, backend: Backend, workers: int) -> Lap:
    """Read the clips of a lap."""
    iterator = iter(batches(source, work, backend, workers))
    try:
        return timed_steps(iterator, work.skip if workers else 0, work.steps, work.batch)
    finally:
        iterator.close()  # type: ignore[attr-defined]  # a generator: its worker processes end


def reading_lap(source: Source, clips: Sequence[Draw]) -> Lap:
    """Read the files of the clips, and check them, without decoding."""
    return timed(lambda: [len(source.read(clip.index)) for clip in clips], len(clips))


def decoding_lap(reads: Sequence[Callable[[], object]]) -> Lap:
    """Decode clips, one after the other."""

    def work() -> None:
        for read in reads:
            read()

    return timed(work, len(reads))
