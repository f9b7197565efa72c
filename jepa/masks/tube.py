"""Random tubes: the same random patches of the frame are predicted at every step (V-JEPA, arXiv 2404.08471, section 5;
VideoMAE, arXiv 2203.12602).

Of the H W patches of a frame floor(H W (1 - ratio)) are seen, as in the released code; but at least one is seen and
one predicted, where that code would have an empty context. All clips have the same number, so both collations give
all that is drawn.
"""

import numpy as np

from jepa.errors import ConfigError
from jepa.masks.boxes import clipped
from jepa.masks.collate import EVERY, Counts, Shares, official, subset
from jepa.masks.config import MaskConfig
from jepa.tokens import Mask, TokenGrid


class Tube:
    """Draws the masks of one configuration on one grid."""

    def __init__(self, config: MaskConfig, grid: TokenGrid, shares: Shares | None) -> None:
        """Count what is kept.

        Args:
            shares: what `fixed` collation shall keep; none for the collation of the released code.

        Raises:
            ConfigError: more is asked for than there is, or a frame is a single patch.
        """
        if grid.rows * grid.columns < 2:
            raise ConfigError("a tube mask needs at least 2 patches in a frame, the grid has 1: use a larger size")
        self.config, self.grid = config, grid
        self.counts = None if shares is None else _counts(config, grid, shares)

    def draw(self, batch: int, rng: np.random.Generator, rows: slice = EVERY) -> Mask:
        """Mask of these rows of a batch."""
        face = self.grid.rows * self.grid.columns
        place = np.argsort(rng.random((batch, face)), axis=1)
        seen = np.tile(place < _seen(self.config, self.grid), self.grid.steps)
        if self.counts is None:
            return official(seen, ~seen, rows)
        return Mask(subset(seen, self.counts.context, rng, rows), subset(~seen, self.counts.target, rng, rows))


def _seen(config: MaskConfig, grid: TokenGrid) -> int:
    """Patches of a frame that are seen."""
    face = grid.rows * grid.columns
    return clipped(int(face * (1 - config.ratio)), face - 1)


def _counts(config: MaskConfig, grid: TokenGrid, shares: Shares) -> Counts:
    """What `fixed` keeps: all, unless shares are asked for."""
    context = _seen(config, grid) * grid.steps
    drawn = Counts(context, grid.count - context)
    return shares.counts(grid, drawn, drawn)
