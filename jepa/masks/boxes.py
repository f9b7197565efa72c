"""Blocks of tokens at random places, for all clips of a batch at once."""

import numpy as np

from jepa.tokens import TokenGrid

TRIES = 20
"""How often clips whose blocks leave too little context are drawn again before something is given up."""

Size = tuple[int, int, int]
"""Steps, rows and columns."""


def boxes(
    size: Size, grid: TokenGrid, batch: int, blocks: int, rng: np.random.Generator, reach: Size | None = None
) -> np.ndarray:
    """bool (batch, blocks, N): true inside blocks of one size at uniform places.

    Args:
        size: of a block, at least 1 and at most `reach`.
        reach: steps, rows and columns, from the first, in which blocks lie; none for all of the grid.
    """
    inside = np.ones((batch, blocks, *grid.shape), dtype=bool)
    for axis, (length, extent) in enumerate(zip(size, grid.shape, strict=True)):
        start = rng.integers((reach or grid.shape)[axis] - length + 1, size=(batch, blocks, 1))
        place = np.arange(extent)
        within = (place >= start) & (place < start + length)
        shape = [batch, blocks, 1, 1, 1]
        shape[2 + axis] = extent
        inside &= within.reshape(shape)
    return inside.reshape(batch, blocks, grid.count)


def clipped(length: int, most: int) -> int:
    """`length`, but at least 1 and at most `most`."""
    return min(max(length, 1), most)
