"""Multi-block masks over space and time (V-JEPA, arXiv 2404.08471, section 3.2).

The target is the union of a few blocks, the context is what they leave. Following the released code, one block size
is drawn per batch (temporal length floor(T s_t), area floor(H W s_s), aspect ratio uniform) and one position per clip
and block. Vectorised over clips; every draw ends after a bounded number of tries, also on grids of a few tokens,
where the released code may draw for ever.

Its options keep their meaning under other names: `context_time` (max_temporal_keep), `max_keep`, `complement: target`
(full_complement), `complement: context` (pred_full_complement), `inverse` (inv_block). On a grid with one step these
are the masks of images of V-JEPA 2.1.
"""

from functools import lru_cache

import numpy as np

from jepa.errors import ConfigError
from jepa.masks.boxes import TRIES, Size, boxes, clipped
from jepa.masks.collate import EVERY, Counts, Shares, fixed, official, others
from jepa.masks.config import MaskConfig
from jepa.rng import generator
from jepa.tokens import Mask, TokenGrid

BLOCKS = 8
SPATIAL = (0.15, 0.15)

_DRAWS = 256


class Multiblock:
    """Draws the masks of one configuration on one grid."""

    def __init__(self, config: MaskConfig, grid: TokenGrid, shares: Shares | None) -> None:
        """Count what is kept.

        Args:
            shares: what `fixed` collation shall keep; none for the collation of the released code.

        Raises:
            ConfigError: a share is asked for that the options do not leave.
        """
        self.config, self.grid = config, grid
        self.counts = None if shares is None else _counts(config, grid, shares)

    def draw(self, batch: int, rng: np.random.Generator, rows: slice = EVERY) -> Mask:
        """Mask of these rows of a batch."""
        levels = draw_levels(self.config, self.grid, batch, rng)
        if self.counts is None:
            mask = _with_options(official(levels == 0, levels > 0, rows), self.config, self.grid.count)
        else:
            mask = fixed(levels, self.counts.context, self.counts.target, rng, rows)
        return Mask(mask.target, mask.context) if self.config.inverse else mask


def block_size(config: MaskConfig, grid: TokenGrid, rng: np.random.Generator) -> Size:
    """Steps, rows and columns of one block, each at least 1 and clipped to the grid."""
    steps = int(grid.steps * rng.uniform(*config.temporal))
    area = int(grid.rows * grid.columns * rng.uniform(*config.spatial or SPATIAL))
    aspect = rng.uniform(*config.aspect)
    rows, columns = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
    return clipped(steps, grid.steps), clipped(rows, grid.rows), clipped(columns, grid.columns)


def draw_targets(config: MaskConfig, grid: TokenGrid, batch: int, rng: np.random.Generator) -> np.ndarray:
    """Target of each clip: bool (batch, N), never covering all tokens."""
    return draw_levels(config, grid, batch, rng) > 0


def draw_levels(config: MaskConfig, grid: TokenGrid, batch: int, rng: np.random.Generator) -> np.ndarray:
    """The tokens of each clip, int8 (batch, N): 0 context, 1 covered by a block, 2 later than `context_time`.

    Clips whose blocks leave no context are drawn again; after a bounded number of tries (tiny grids) one random
    token of such a clip is given back to the context.
    """
    size = block_size(config, grid, rng)
    first = grid.count
    if config.context_time is not None:
        first = _context_steps(config, grid, rng.random()) * grid.rows * grid.columns
    blocks = config.blocks or BLOCKS
    covered = np.asarray(boxes(size, grid, batch, blocks, rng).any(axis=1))
    covered[:, first:] = True
    for _ in range(TRIES):
        full = covered.all(axis=1)
        if not full.any():
            break
        covered[full] = boxes(size, grid, int(full.sum()), blocks, rng).any(axis=1)
        covered[:, first:] = True
    stuck = np.flatnonzero(covered.all(axis=1))
    if len(stuck):
        covered[stuck, rng.integers(first, size=len(stuck))] = False
    levels = covered.astype(np.int8)
    levels[:, first:] = 2
    return levels


def _context_steps(config: MaskConfig, grid: TokenGrid, drawn: float) -> int:
    """Steps in which context may lie, for a number drawn between 0 and 1."""
    low, high = config.context_time or (1.0, 1.0)
    return max(1, int(grid.steps * (low + drawn * (high - low))))


def _with_options(mask: Mask, config: MaskConfig, count: int) -> Mask:
    """Options that the released code applies behind the cut."""
    context = mask.context[:, : config.max_keep]
    match config.complement:
        case "target":
            return Mask(context, others(context, count))
        case "context":
            return Mask(others(mask.target, count), mask.target)
        case None:
            return Mask(context, mask.target)


def _counts(config: MaskConfig, grid: TokenGrid, shares: Shares) -> Counts:
    """What `fixed` keeps, before an `inverse` mask is turned round: the shares, or what is drawn on average."""
    covered = _mean_cover(config, grid)
    seen, predicted = (shares.target, shares.context) if config.inverse else (shares.context, shares.target)
    most = _context_steps(config, grid, 0.0) * grid.rows * grid.columns
    keep = round(grid.count * (seen or min(1 - covered, 1 - (predicted or 0))))
    if seen and keep > most:
        name = "target_share" if config.inverse else "context_share"
        raise ConfigError(f"masks.{name} is {seen}, but context_time leaves {most / grid.count:.3g}: lower it")
    keep = clipped(keep, min(most, config.max_keep or most, grid.count - 1))
    predict = round(grid.count * (predicted or covered))
    match config.complement:
        case "target":
            return Counts(keep, grid.count - keep)
        case "context":
            predict = clipped(predict, grid.count - 1)
            return Counts(grid.count - predict, predict)
        case None:
            return Counts(keep, clipped(predict, grid.count - keep))


@lru_cache(maxsize=64)
def _mean_cover(config: MaskConfig, grid: TokenGrid) -> float:
    """Mean share of the tokens that is target before any cut, estimated by a fixed simulation."""
    shares = [draw_targets(config, grid, 1, generator(0, number, "mask/share")).mean() for number in range(_DRAWS)]
    return float(sum(shares)) / _DRAWS
