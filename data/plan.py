"""Which clips one rank consumes in each step of a run, before anything is decoded.

The steps say which positions a step holds (`steps.py`), the draws what these are (`draws.py`); rank r of W takes the
r-th of W equal slices. Rank and number of ranks are arguments, never looked for in the surroundings: a process that
asks there may be one that a worker forked, and then every rank would read the same.
"""

from dataclasses import dataclass

from jepa.data.draws import Draw, Draws
from jepa.data.loader_config import LoaderConfig
from jepa.data.mixture import Mixture
from jepa.data.steps import Steps
from jepa.data.windows import WindowConfig
from jepa.errors import ConfigError
from jepa.rng import derive

IMAGE = WindowConfig(frames=1, stride=1)
"""The window of an image: any one frame."""


@dataclass(frozen=True)
class RankStep:
    """What one rank consumes in one step."""

    images: bool
    """Whether it is a step of images."""
    number: int
    """Steps of this kind before it."""
    batch: int
    """Clips of the step, over all ranks."""
    rows: slice
    """Those of this rank."""
    draws: tuple[Draw, ...]
    """The clips of this rank, in order."""


@dataclass(frozen=True)
class Plan:
    """Step -> what one rank consumes in it.

    Raises:
        ConfigError: a batch does not divide among the ranks, or not into whole videos.
    """

    steps: Steps
    videos: Draws
    images: Draws | None = None
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank {self.rank} of {self.world_size} processes: ranks count from 0")
        self._require_whole("loader.batch_size", self.steps.videos, self.videos.clips_per_video)
        if self.images is not None:
            self._require_whole("images.batch_size", self.steps.images, self.images.clips_per_video)

    def __call__(self, step: int) -> RankStep:
        """Raises DataError: a video is too short for its clip."""
        images, number = self.steps.at(step)
        batch, draws = (self.steps.images, self.images) if images else (self.steps.videos, self.videos)
        assert draws is not None, "a share of images without images"
        share = batch // self.world_size
        first = self.rank * share
        positions = range(number * batch + first, number * batch + first + share)
        return RankStep(images, number, batch, slice(first, first + share), tuple(map(draws, positions)))

    def _require_whole(self, name: str, batch: int, clips: int) -> None:
        if batch % self.world_size:
            raise ConfigError(f"{name} {batch} does not divide among {self.world_size} processes: use a multiple")
        if batch // self.world_size % clips:
            raise ConfigError(
                f"{name} {batch} gives each process {batch // self.world_size} clips, not whole videos of "
                f"loader.clips_per_video {clips}: use a multiple"
            )


def make_plan(
    videos: Mixture,
    window: WindowConfig,
    loader: LoaderConfig,
    seed: int,
    *,
    rank: int,
    world_size: int,
    images: tuple[Mixture, Steps] | None = None,
) -> Plan:
    """What one rank consumes in each step. Reads no video.

    Args:
        videos: the data.
        window: frames of a clip.
        loader: batch size, order, and where the lists of bad samples lie.
        seed: of the run.
        rank: this process, of `world_size`.
        world_size: processes that share the global batch.
        images: the data of the steps of images, and which steps these are; none: no step is.

    Raises:
        ConfigError: a batch is larger than its source, does not divide among the ranks, or parts clips of a video.
    """
    if images is None:
        steps, pictures = Steps(loader.batch_size), None
    else:
        mixture, steps = images
        _require_enough("images", steps.images, mixture, 1)
        pictures = _draws(mixture, IMAGE, loader, derive(seed, 0, "images"), 1)
    _require_enough("loader", steps.videos, videos, loader.clips_per_video)
    return Plan(steps, _draws(videos, window, loader, seed, loader.clips_per_video), pictures, rank, world_size)


def _draws(mixture: Mixture, window: WindowConfig, loader: LoaderConfig, seed: int, clips: int) -> Draws:
    bad = [loader.bad_samples(source) for source in mixture.sources]
    return Draws(mixture, window, seed=seed, shards=loader.window_shards, clips_per_video=clips, bad=bad)


def _require_enough(group: str, batch: int, mixture: Mixture, clips: int) -> None:
    if batch > len(mixture) * clips:
        raise ConfigError(
            f"batch_size {batch} is larger than the data set ({len(mixture)} clips in {mixture.name}): "
            f"lower {group}.batch_size or add data"
        )
