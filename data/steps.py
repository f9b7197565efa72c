"""Which steps of a run are of videos and which of images: a pure function of the step.

Without images, step s of a run with global batch B holds the positions s * B .. (s + 1) * B - 1. With images, every
step is a batch of one kind; which kind step s is, and the how-manieth of it, is the interleaving of two sequences
(`interleave.py`), so the shares are exact on any number of ranks, also on one. The two kinds count their own
positions: the videos of a run are the same with and without images between them.
"""

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from jepa.data.interleave import Interleave


@dataclass(frozen=True)
class Steps:
    """The kinds of the steps and the sizes of their batches, over all ranks."""

    videos: int
    """Clips of a step of videos."""
    images: int = 0
    """Clips of a step of images."""
    share: Fraction = Fraction(0)
    """Of the steps: those of images."""

    @cached_property
    def _kinds(self) -> Interleave:
        return Interleave((self.share.numerator, self.share.denominator - self.share.numerator))

    def at(self, step: int) -> tuple[bool, int]:
        """Whether a step is one of images, and how many of its kind came before it."""
        kind, own = self._kinds.draw(step)
        return kind == 0, own

    def consumed(self, step: int) -> int:
        """Clips of both kinds in the first `step` steps."""
        images = step * self.share.numerator // self.share.denominator
        return images * self.images + (step - images) * self.videos

    def of_clip(self, number: int) -> int:
        """The step that consumes clip `number` of the run, both kinds counted together."""
        most = number // min(self.videos, self.images or self.videos) + 1
        return bisect_right(range(most + 1), number, key=self.consumed) - 1
