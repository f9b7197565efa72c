"""What the n-th clip of a run is, before anything is decoded: its source, its sample, its frames.

Position n belongs to video n // clips_per_video of the run. The mixture says which source that video comes from and
its how-manieth it is (`interleave.py`), the order of that source which of its samples it is (`order.py`); the frames
are drawn by a generator made from the seed and n (`windows.py`). A sample that cannot be used (`quarantine.py`) is
replaced by a spare of the same source, by rule.

Training makes its clips from these draws and `jepa order` prints them, so what is printed is what is consumed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jepa.data.bad_samples import BadSamples
from jepa.data.interleave import Interleave
from jepa.data.mixture import Mixture
from jepa.data.order import Order
from jepa.data.windows import WindowConfig, random_window
from jepa.errors import DataError
from jepa.rng import derive, generator

SPARES = 1000
"""Samples that are tried in place of one that cannot be used."""


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
        bad: Sequence[BadSamples] = (),
    ) -> None:
        """
        Args:
            mixture: the data sets.
            window: frames of a clip.
            seed: of the run.
            shards: how many are shuffled into one another (`Order.window`).
            clips_per_video: clips in a row that are cut from the same video.
            bad: the samples of each source that cannot be used; none if all can.
        """
        self.mixture = mixture
        self.window = window
        self.seed = seed
        self.clips_per_video = clips_per_video
        self.bad = tuple(bad)
        self.interleave = Interleave(mixture.weights)
        alone = len(mixture.sources) == 1
        self.orders = tuple(
            Order(len(source), seed if alone else derive(seed, number, "source"), source.runs, shards)
            for number, source in enumerate(mixture.sources)
        )

    def __call__(self, position: int) -> Draw:
        """The clip at this position: that of the order, or the first spare that is not left out.

        Raises:
            DataError: its video is too short, or hardly any sample of the source can be used.
        """
        source, own = self.interleave.draw(position // self.clips_per_video)
        order = self.orders[source]
        index = order.sample(own)[1]
        for attempt in range(SPARES):
            draw = self._draw(position, source, index)
            if not self.bad or not self.bad[source].leaves_out(index, draw.window):
                return draw
            index = order.spare(own, attempt)
        raise DataError(f"{self.mixture.names[source]}: {SPARES} samples in a row cannot be used")

    def _draw(self, position: int, source: int, index: int) -> Draw:
        """The clip at this position, if it is cut from this sample."""
        info = self.mixture.sources[source].info(index)
        window = random_window(info, self.window, generator(self.seed, position, "window"))
        return Draw(position, source, index, info.key, window)
