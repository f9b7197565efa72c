"""Parity with the mask generator that the authors of V-JEPA 2 published (package `cc-vjepa2`), and measured shares."""

from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from vjepa2.masks.multiseq_multiblock3d import _MaskGenerator

from jepa.masks.build import MaskSampler, MasksConfig
from jepa.masks.config import IMAGE, LONG_RANGE, SHORT_RANGE, MaskConfig
from jepa.masks.multiblock import Multiblock, block_size, draw_targets
from jepa.rng import generator
from jepa.tokens import Mask, TokenGrid

RANGES = MaskConfig(blocks=3, spatial=(0.1, 0.6), temporal=(0.25, 1.0), aspect=(0.5, 2.0))
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "max_keep": {"max_keep": 20},
    "context_time": {"context_time": (0.6, 0.6)},
    "full complement": {"complement": "target"},
    "full complement, max_keep": {"complement": "target", "max_keep": 20},
    "pred full complement": {"complement": "context"},
    "inverse": {"inverse": True},
    "all": {"inverse": True, "complement": "target", "max_keep": 20, "context_time": (0.6, 0.6)},
}


def theirs(config: MaskConfig, grid: TokenGrid) -> Any:
    """Their generator of such masks."""
    assert config.blocks is not None
    return _MaskGenerator(
        crop_size=(grid.rows * 16, grid.columns * 16),
        num_frames=grid.steps * 2,
        spatial_pred_mask_scale=config.spatial,
        temporal_pred_mask_scale=config.temporal,
        aspect_ratio=config.aspect,
        npred=config.blocks,
        max_context_frames_ratio=(config.context_time or (1.0, 1.0))[0],
        max_keep=config.max_keep,
        inv_block=config.inverse,
        full_complement=config.complement == "target",
        pred_full_complement=config.complement == "context",
    )


def with_options(config: MaskConfig, name: str) -> MaskConfig:
    return MaskConfig(
        blocks=config.blocks, spatial=config.spatial, temporal=config.temporal, aspect=config.aspect, **OPTIONS[name]
    )


class Replayed(np.random.Generator):
    """The numbers that their generator draws for the size of a block."""

    def __init__(self, seed: int) -> None:
        super().__init__(np.random.PCG64(0))
        self.source = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:  # type: ignore[override]
        return low + torch.rand(1, generator=self.source).item() * (high - low)


@pytest.mark.parametrize("grid", [TokenGrid(8, 16, 16), TokenGrid(8, 14, 14), TokenGrid(1, 16, 16), TokenGrid(5, 9, 4)])
@pytest.mark.parametrize("config", [SHORT_RANGE, LONG_RANGE, IMAGE, RANGES])
def test_the_same_numbers_make_the_same_blocks(config: MaskConfig, grid: TokenGrid) -> None:
    official = theirs(config, grid)
    for seed in range(60):
        source = torch.Generator().manual_seed(seed)
        expected = official._sample_block_size(source, config.temporal, config.spatial, config.aspect)
        assert block_size(config, grid, Replayed(seed)) == expected


@pytest.mark.parametrize("share", [0.01, 0.2, 0.34, 0.5, 0.57, 0.99, 1.0])
@pytest.mark.parametrize("steps", [1, 5, 8, 100])
def test_the_context_has_as_much_time(share: float, steps: int) -> None:
    config, grid = MaskConfig(blocks=1, spatial=(0.2, 0.2), context_time=(share, share)), TokenGrid(steps, 4, 4)
    (last,) = {int(np.flatnonzero(~clip)[-1]) for clip in draw_targets(config, grid, 6, generator(0, 0, "x"))}
    assert last // 16 + 1 == theirs(config, grid).max_context_duration


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("config", [SHORT_RANGE, LONG_RANGE, RANGES])
def test_the_same_blocks_are_collated_to_the_same_bits(config: MaskConfig, options: str) -> None:
    grid, config = TokenGrid(4, 8, 8), with_options(config, options)
    official = theirs(config, grid)
    official.npred = 1  # the union of all blocks is put into its hands as one
    for step in range(8):
        covered = draw_targets(config, grid, 6, generator(1, step, "m"))
        unions = [torch.from_numpy(1 - clip.reshape(grid.shape).astype(np.int32)) for clip in covered]
        official._sample_block_mask = MagicMock(side_effect=unions)
        context, target = official(6)
        mask = Multiblock(config, grid, None).draw(6, generator(1, step, "m"))
        assert torch.equal(mask.context, context)
        assert torch.equal(mask.target, target)


def statistics(mask: Mask, grid: TokenGrid) -> np.ndarray:
    """Of a batch: share of context and target, and that in the first half of the clip, the upper, the left half."""
    found = []
    for ids in (mask.context, mask.target):
        steps, rows, columns = (axis.double() for axis in grid.coordinates(ids))
        share = ids.shape[1] / grid.count
        halves = [
            (axis < extent / 2).double().mean().item() * share
            for axis, extent in zip((steps, rows, columns), grid.shape, strict=True)
        ]
        found += [share, *halves]
    return np.array(found)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("config", [SHORT_RANGE, LONG_RANGE, RANGES])
def test_masks_are_distributed_alike(config: MaskConfig, options: str) -> None:
    """Means over 150 batches of 4 differ by less than 4.5 standard errors: chance exceeds that 7 times in a million."""
    grid, config, batches = TokenGrid(4, 8, 8), with_options(config, options), 150
    official, drawer = theirs(config, grid), Multiblock(config, grid, None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = np.stack([statistics(Mask(*official(4)), grid) for _ in range(batches)])
    found = np.stack([statistics(drawer.draw(4, generator(0, step, "m")), grid) for step in range(batches)])
    error = np.sqrt((expected.var(axis=0) + found.var(axis=0)) / batches)
    assert (np.abs(expected.mean(axis=0) - found.mean(axis=0)) <= 4.5 * error + 1e-9).all()


@pytest.mark.parametrize(
    ("config", "shape", "batch", "context", "target"),
    [
        # share of all tokens: mean before the cut, and kept
        (SHORT_RANGE, (8, 16, 16), 4, (0.38, 0.30), (0.62, 0.55)),
        (SHORT_RANGE, (8, 16, 16), 24, (0.38, 0.24), (0.62, 0.48)),
        (LONG_RANGE, (8, 16, 16), 4, (0.19, 0.12), (0.81, 0.74)),
        (LONG_RANGE, (8, 16, 16), 24, (0.19, 0.064), (0.81, 0.70)),
        (LONG_RANGE, (2, 24, 24), 24, (0.19, 0.072), (0.81, 0.71)),  # the blocks cover all steps, of any number
        (IMAGE, (1, 16, 16), 72, (0.32, 0.16), (0.68, 0.50)),
    ],
)
def test_shares_before_and_after_the_cut(
    config: MaskConfig,
    shape: tuple[int, int, int],
    batch: int,
    context: tuple[float, float],
    target: tuple[float, float],
) -> None:
    """Of an independent simulation of the released algorithm over 300 batches, rounded to two digits.

    Tolerance: 4 standard errors of the difference of its mean and ours, and half a digit.
    """
    grid, batches = TokenGrid(*shape), 150
    draw = MaskSampler(MasksConfig(kinds=(config,), collation="official"), grid, seed=0)
    kept, drawn = [], []
    for step in range(batches):
        (mask,) = draw(step, batch)
        kept.append((mask.context.shape[1] / grid.count, mask.target.shape[1] / grid.count))
        covered = draw_targets(config, grid, batch, generator(0, step, "mask/0")).mean()
        drawn.append((1 - covered, covered))
    for number, (before, after) in enumerate((context, target)):
        for expected, found in ((before, np.array(drawn)[:, number]), (after, np.array(kept)[:, number])):
            tolerance = 4 * found.std() * (1 / batches + 1 / 300) ** 0.5 + 0.005
            assert tolerance < 0.03
            assert found.mean() == pytest.approx(expected, abs=tolerance)
