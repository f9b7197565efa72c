"""What the n-th clip of a run is, before anything is decoded: its source, its sample, its frames.

Position n belongs to video n // clips_per_video of the run. The mixture says which source that video comes from and
its how-manieth it is (`interleave.py`), the order of that source which of its samples it is (`order.py`); the frames
are drawn by a generator made from the seed and n (`windows.py`). A sample that cannot be used (`quarantine.py`) is
replaced by a spare of the same source, by rule.

Training makes its clips from these draws and `jepa order` prints them, so what is printed is what is consumed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from jepa.data.interleave import Interleave
from jepa.data.mixture import Mixture
from jepa.data.order import Order
from jepa.data.windows import WindowConfig, random_window
from jepa.rng import derive, generator


@dataclass(frozen=True)
class Draw:
    """One clip of a run, not yet decoded."""

    position: int
    """n: this is the n-th clip of the run (of its kind, where images and videos are trained on)."""
    source: int
    """Number of the data set in the mixture."""
    index: int
    """Number of the sample in its data set."""
    key: str
    """Name of the sample in its data set."""
    window: tuple[int, ...]
    """Its frames of the video."""


class Bad(Protocol):
    """Samples that cannot be used, by number, such as a `Quarantine`."""

    def __contains__(self, index: int, /) -> bool: ...


class Draws:
    """Position -> draw. Pickles, and depends on nothing but its settings and what is in quarantine."""

    def __init__(
        self,
        mixture: Mixture,
        window: WindowConfig,
        *,
        seed: int,
        shards: int = 0,
        clips_per_video: int = 1,
        quarantines: Sequence[Bad] = (),
    ) -> None:
        """
        Args:
            mixture: the data sets.
            window: frames of a clip.
            seed: of the run.
            shards: how many are shuffled into one another (`Order.window`).
            clips_per_video: clips in a row that are cut from the same video.
            quarantines: the bad samples of each source; none if none is known.
        """
        self.mixture = mixture
        self.window = window
        self.seed = seed
        self.clips_per_video = clips_per_video
        self.quarantines = tuple(quarantines)
        self.interleave = Interleave(mixture.weights)
        alone = len(mixture.sources) == 1
        self.orders = tuple(
            Order(len(source), seed if alone else derive(seed, number, "source"), source.runs, shards)
            for number, source in enumerate(mixture.sources)
        )

    def sample(self, position: int) -> tuple[int, int]:
        """Number of the source, and of the sample in it, that the clip at this position is cut from."""
        source, own = self.interleave.draw(position // self.clips_per_video)
        order = self.orders[source]
        index, attempts = order.sample(own)[1], count()
        while self.quarantines and index in self.quarantines[source]:
            index = order.spare(own, next(attempts))
        return source, index

    def __call__(self, position: int) -> Draw:
        """The clip at this position.

        Raises:
            DataError: its video is too short.
        """
        source, index = self.sample(position)
        info = self.mixture.sources[source].info(index)
        window = random_window(info, self.window, generator(self.seed, position, "window"))
        return Draw(position, source, index, info.key, window)
