"""Multi-block masks over space and time (V-JEPA, arXiv 2404.08471, section 3.2).

The target is the union of a few blocks, the context is what they leave. Following the released code, one block size
is drawn per batch (temporal length floor(T s_t), area floor(H W s_s), aspect ratio uniform) and one position per clip
and block. Vectorised over clips; every draw ends after a bounded number of tries, also on grids of a few tokens.
"""

from dataclasses import dataclass

import numpy as np

from jepa.errors import ConfigError
from jepa.tokens import TokenGrid

_TRIES = 20


@dataclass(frozen=True)
class BlockConfig:
    """One mask configuration."""

    blocks: int = 8
    """Blocks whose union is the target."""
    spatial: tuple[float, float] = (0.15, 0.15)
    """Share of a frame's tokens that a block covers, drawn uniformly in this range."""
    temporal: tuple[float, float] = (1.0, 1.0)
    """Share of the steps that a block covers, drawn uniformly in this range."""
    aspect: tuple[float, float] = (0.75, 1.5)
    """Height over width of a block, drawn uniformly in this range."""

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ConfigError(f"a mask needs at least one block, got {self.blocks}")
        for name, (low, high) in (("spatial", self.spatial), ("temporal", self.temporal), ("aspect", self.aspect)):
            if not 0 < low <= high or (name != "aspect" and high > 1):
                raise ConfigError(f"mask {name} range is ({low}, {high}), expected 0 < low <= high <= 1")


SHORT_RANGE = BlockConfig(blocks=8, spatial=(0.15, 0.15))
LONG_RANGE = BlockConfig(blocks=2, spatial=(0.7, 0.7))


def block_size(config: BlockConfig, grid: TokenGrid, rng: np.random.Generator) -> tuple[int, int, int]:
    """Steps, rows and columns of one block, each at least 1 and clipped to the grid."""
    steps = int(grid.steps * rng.uniform(*config.temporal))
    area = int(grid.rows * grid.columns * rng.uniform(*config.spatial))
    aspect = rng.uniform(*config.aspect)
    rows, columns = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
    return (
        min(max(steps, 1), grid.steps),
        min(max(rows, 1), grid.rows),
        min(max(columns, 1), grid.columns),
    )


def draw_targets(config: BlockConfig, grid: TokenGrid, batch: int, rng: np.random.Generator) -> np.ndarray:
    """Union of the blocks of each clip: bool (batch, N), never covering all tokens.

    Clips whose blocks leave no context are drawn again; after a bounded number of tries (tiny grids) one random
    token of such a clip is given back to the context.
    """
    size = block_size(config, grid, rng)
    covered = _unions(config.blocks, size, grid, batch, rng)
    for _ in range(_TRIES):
        full = covered.all(axis=1)
        if not full.any():
            return covered
        covered[full] = _unions(config.blocks, size, grid, int(full.sum()), rng)
    stuck = np.flatnonzero(covered.all(axis=1))
    covered[stuck, rng.integers(grid.count, size=len(stuck))] = False
    return covered


def _unions(
    blocks: int, size: tuple[int, int, int], grid: TokenGrid, batch: int, rng: np.random.Generator
) -> np.ndarray:
    inside = np.ones((batch, blocks, *grid.shape), dtype=bool)
    for axis, (length, extent) in enumerate(zip(size, grid.shape, strict=True)):
        start = rng.integers(extent - length + 1, size=(batch, blocks, 1))
        place = np.arange(extent)
        within = (place >= start) & (place < start + length)
        shape = [batch, blocks, 1, 1, 1]
        shape[2 + axis] = extent
        inside &= within.reshape(shape)
    return inside.any(axis=1).reshape(batch, grid.count)
