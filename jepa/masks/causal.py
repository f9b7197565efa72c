"""Causal masks: the first steps of a clip are seen, later ones are predicted.

What the surprise of a frozen model on the rest of a clip (arXiv 2502.11831) and anticipation ask of a predictor. The
number of steps of the context is drawn for each clip, all numbers that `context_time` spans alike; the target is what
lies behind it, in the part of the clip that `target_time` names: `[0.75, 1.0]` predicts the last quarter from the
beginning and leaves out what is between. Shares are rounded down to steps, at least one step is seen and one predicted.

No token of the context is ever later than one of the target. Therefore `fixed` does not borrow here: it keeps as many
tokens as the shortest context of the range has, and as many as the shortest target, as a random subset of what is
drawn. With one number for `context_time`, as in `[0.5, 0.5]`, that is everything.
"""

import numpy as np

from jepa.errors import ConfigError
from jepa.masks.boxes import clipped
from jepa.masks.collate import EVERY, Counts, Shares, official, subset
from jepa.masks.config import MaskConfig
from jepa.tokens import Mask, TokenGrid

CONTEXT_TIME = (0.5, 0.5)


class Causal:
    """Draws the masks of one configuration on one grid."""

    def __init__(self, config: MaskConfig, grid: TokenGrid, shares: Shares | None) -> None:
        """Count what is kept.

        Args:
            shares: what `fixed` collation shall keep; none for the collation of the released code.

        Raises:
            ConfigError: more is asked for than every draw has, or there is no later step.
        """
        if grid.steps < 2:
            raise ConfigError("a causal mask needs at least 2 steps, the grid has 1: use more frames")
        self.config, self.grid = config, grid
        self.counts = None if shares is None else _counts(config, grid, shares)

    def draw(self, batch: int, rng: np.random.Generator, rows: slice = EVERY) -> Mask:
        """Mask of these rows of a batch."""
        start, stop = _target_steps(self.config, self.grid)
        shortest, longest = _context_steps(self.config, self.grid)
        ends = rng.integers(shortest, longest + 1, size=(batch, 1))
        step = np.arange(self.grid.count) // (self.grid.rows * self.grid.columns)
        context = step < ends
        target = (step >= np.maximum(ends, start)) & (step < stop)
        if self.counts is None:
            return official(context, target, rows)
        return Mask(subset(context, self.counts.context, rng, rows), subset(target, self.counts.target, rng, rows))


def _context_steps(config: MaskConfig, grid: TokenGrid) -> tuple[int, int]:
    """The fewest and the most steps that are seen."""
    most = _target_steps(config, grid)[1] - 1
    low, high = (clipped(_steps(grid, share), most) for share in config.context_time or CONTEXT_TIME)
    return low, high


def _target_steps(config: MaskConfig, grid: TokenGrid) -> tuple[int, int]:
    """First step of the part that is predicted, and the one behind its last."""
    low, high = config.target_time
    stop = max(_steps(grid, high), 2)
    return min(_steps(grid, low), stop - 1), stop


def _steps(grid: TokenGrid, share: float) -> int:
    # The small number: 15 / 22 of 22 steps are 15, though their product is a hair less.
    return int(grid.steps * share + 1e-9)


def _counts(config: MaskConfig, grid: TokenGrid, shares: Shares) -> Counts:
    """What `fixed` keeps: the shortest context and the shortest target there is, unless shares ask for less."""
    face, (start, stop) = grid.rows * grid.columns, _target_steps(config, grid)
    shortest, longest = _context_steps(config, grid)
    drawn = Counts(shortest * face, (stop - max(longest, start)) * face)
    return shares.counts(grid, drawn, drawn)
