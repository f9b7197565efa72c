"""Multi-block masks of images (I-JEPA, arXiv 2301.08243, section 3).

Four target blocks, each of which is predicted by itself, and one square context block of nearly the whole frame, from
which the targets are taken away. Target blocks may overlap: they are not united, and their ids stand side by side in
the mask. One size of target and of context block is drawn per batch, one place per clip and block. As in the released
code, a single random number sets both area and aspect ratio of the target blocks (large ones are tall), and a target
block is smaller than the frame in height and width. On the grid of a clip a block covers all steps.

The collations differ in more than the cut:

- `official` also keeps the blocks off the last row and the last column of the grid, which the released code never
  reaches (the end of its range of places is one too small). Context is cut to the batch's shortest in raster order.
- `fixed` uses the whole frame. Sizes are drawn all the same, and the whole blocks are kept from the context, so a
  task is as hard as its blocks are large; but of each block only as many tokens are predicted as the smallest size
  has, at random, which makes shapes constant without giving up the range of sizes. Of the context as many tokens are
  kept as nine draws in ten have; the tenth is drawn again. No token of a context is in any target block.

A clip with too little context is drawn again, a bounded number of times. On tiny grids it may still have too little:
then the context is no longer kept inside its block, and then the target blocks are laid upon the first, one after the
other, until it is enough. The first block alone always leaves some. The released code, in the same place, first lets
contexts overlap targets, and on grids of a few tokens never ends.
"""

from functools import lru_cache

import numpy as np

from jepa.errors import ConfigError
from jepa.masks.boxes import TRIES, Size, boxes, clipped
from jepa.masks.collate import EVERY, Counts, Shares, official, subset
from jepa.masks.config import MaskConfig
from jepa.rng import generator
from jepa.tokens import Mask, TokenGrid

BLOCKS = 4
SPATIAL = (0.15, 0.2)

_SIZES = 1024
"""Sizes are drawn from so many, evenly spaced in the range, so that the smallest is known."""
_DRAWS, _CLIPS = 64, 16
_SCARCE = 0.1
"""Share of the draws that may have less context than `fixed` keeps."""


class IJEPA:
    """Draws the masks of one configuration on one grid."""

    def __init__(self, config: MaskConfig, grid: TokenGrid, shares: Shares | None) -> None:
        """Count what is kept.

        Args:
            shares: what `fixed` collation shall keep; none for the collation of the released code.

        Raises:
            ConfigError: more is asked for than every draw can have, or a frame is a single patch.
        """
        if grid.rows * grid.columns < 2:
            raise ConfigError("an ijepa mask needs at least 2 patches in a frame, the grid has 1: use a larger size")
        self.config, self.grid = config, grid
        self.counts = None if shares is None else _counts(config, grid, shares)

    def draw(self, batch: int, rng: np.random.Generator, rows: slice = EVERY) -> Mask:
        """Mask of these rows of a batch."""
        if self.counts is None:
            context, targets = draw_blocks(self.config, self.grid, batch, rng, _floor(self.config, self.grid), border=1)
            return official(context, targets, rows)
        context, targets = draw_blocks(self.config, self.grid, batch, rng, self.counts.context)
        kept = subset(context, self.counts.context, rng, rows)
        return Mask(kept, subset(targets, self.counts.target, rng, rows), targets.shape[1])


def draw_blocks(
    config: MaskConfig, grid: TokenGrid, batch: int, rng: np.random.Generator, enough: int, border: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Context bool (batch, N) of at least `enough` tokens, and target blocks bool (batch, blocks, N).

    Args:
        enough: at most as many as remain of the grid without one target block.
        border: rows and columns at the end of the grid that no block touches.
    """
    reach = (grid.steps, max(grid.rows - border, 1), max(grid.columns - border, 1))
    size = _pick(target_sizes(config, grid), rng)
    around = _pick(_block_sizes(grid, config.context_block, (1.0, 1.0), (reach[1], reach[2])), rng)
    blocks = config.blocks or BLOCKS
    targets = boxes(size, grid, batch, blocks, rng, reach)
    context = boxes(around, grid, batch, 1, rng, reach)[:, 0] & ~targets.any(axis=1)
    for _ in range(TRIES):
        few = np.flatnonzero(context.sum(axis=1) < enough)
        if not len(few):
            return context, targets
        targets[few] = boxes(size, grid, len(few), blocks, rng, reach)
        context[few] = boxes(around, grid, len(few), 1, rng, reach)[:, 0] & ~targets[few].any(axis=1)
    few = np.flatnonzero(context.sum(axis=1) < enough)
    context[few] = ~targets[few].any(axis=1)
    for last in range(targets.shape[1] - 1, 0, -1):
        few = few[context[few].sum(axis=1) < enough]
        targets[few, last] = targets[few, 0]
        context[few] = ~targets[few].any(axis=1)
    return context, targets


def target_sizes(config: MaskConfig, grid: TokenGrid) -> tuple[Size, ...]:
    """Every size that target blocks may have: one less than the frame in rows and columns, at most."""
    most = max(grid.rows - 1, 1), max(grid.columns - 1, 1)
    return _block_sizes(grid, config.spatial or SPATIAL, config.aspect, most)


@lru_cache(maxsize=64)
def _block_sizes(
    grid: TokenGrid, spatial: tuple[float, float], aspect: tuple[float, float], most: tuple[int, int]
) -> tuple[Size, ...]:
    sizes = []
    for part in np.linspace(0, 1, _SIZES).tolist():
        area = int(grid.rows * grid.columns * (spatial[0] + part * (spatial[1] - spatial[0])))
        ratio = aspect[0] + part * (aspect[1] - aspect[0])
        rows, columns = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        sizes.append((grid.steps, clipped(rows, most[0]), clipped(columns, most[1])))
    return tuple(sizes)


def _pick(sizes: tuple[Size, ...], rng: np.random.Generator) -> Size:
    return sizes[int(rng.integers(len(sizes)))]


def _areas(config: MaskConfig, grid: TokenGrid) -> list[int]:
    return [steps * rows * columns for steps, rows, columns in target_sizes(config, grid)]


def _sure_context(config: MaskConfig, grid: TokenGrid) -> int:
    """Tokens that remain of the grid when all target blocks lie on one place; at least 1."""
    return grid.count - max(_areas(config, grid))


def _floor(config: MaskConfig, grid: TokenGrid) -> int:
    """Tokens that a context must have. On grids of a few tokens not more than half of what is sure."""
    return min(config.min_keep + 1, -(-_sure_context(config, grid) // 2))


def _counts(config: MaskConfig, grid: TokenGrid, shares: Shares) -> Counts:
    """What `fixed` keeps, see above, unless shares are asked for."""
    sure = Counts(_sure_context(config, grid), min(_areas(config, grid)))
    usual = Counts(min(_usual_context(config, grid), sure.context), sure.target)
    return shares.counts(grid, sure, usual, blocks=config.blocks or BLOCKS)


@lru_cache(maxsize=64)
def _usual_context(config: MaskConfig, grid: TokenGrid) -> int:
    """Context tokens that nine clips in ten have at least, estimated by a fixed simulation."""
    floor, sizes = _floor(config, grid), []
    for number in range(_DRAWS):
        context, _ = draw_blocks(config, grid, _CLIPS, generator(0, number, "mask/share"), floor)
        sizes += context.sum(axis=1).tolist()
    return int(sorted(sizes)[int(_SCARCE * len(sizes))])
