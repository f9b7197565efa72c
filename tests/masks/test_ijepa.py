"""I-JEPA masks against a naive loop over clips and blocks, as the released code draws them."""

import math
from collections import Counter
from typing import Literal

import numpy as np
import pytest
import torch

from jepa.masks.build import MaskSampler, MasksConfig
from jepa.masks.config import MaskConfig
from jepa.masks.ijepa import draw_blocks, target_sizes
from jepa.rng import generator
from jepa.tokens import Mask, TokenGrid

PUBLISHED = MaskConfig(kind="ijepa")
Block = set[tuple[int, int]]


def naive_size(
    grid: TokenGrid, scale: tuple[float, float], aspect: tuple[float, float], part: float
) -> tuple[int, int]:
    """One random number, `part`, sets area and aspect ratio; a block is smaller than the frame."""
    area = int(grid.rows * grid.columns * (scale[0] + part * (scale[1] - scale[0])))
    ratio = aspect[0] + part * (aspect[1] - aspect[0])
    rows, columns = int(round(math.sqrt(area * ratio))), int(round(math.sqrt(area / ratio)))  # noqa: RUF046
    while rows >= grid.rows:
        rows -= 1
    while columns >= grid.columns:
        columns -= 1
    return rows, columns


def naive_block(grid: TokenGrid, size: tuple[int, int], rng: np.random.Generator) -> Block:
    """The place is drawn with an end one too small, so that the last row and column are never reached."""
    top, left = rng.integers(0, grid.rows - size[0]), rng.integers(0, grid.columns - size[1])
    return {(top + row, left + column) for row in range(size[0]) for column in range(size[1])}


def naive_clip(grid: TokenGrid, rng: np.random.Generator) -> tuple[Block, list[Block]]:
    """Context and targets of a batch of one; the context has more than 10 tokens, else it is drawn again."""
    size = naive_size(grid, (0.15, 0.2), (0.75, 1.5), rng.random())
    around = naive_size(grid, (0.85, 1.0), (1.0, 1.0), rng.random())
    targets = [naive_block(grid, size, rng) for _ in range(4)]
    while True:
        context = naive_block(grid, around, rng).difference(*targets)
        if len(context) > 10:
            return context, targets


def frequency(blocks: list[Block], grid: TokenGrid) -> np.ndarray:
    """How often each token is in one of the sets."""
    found = np.zeros((grid.rows, grid.columns))
    for block in blocks:
        for place in block:
            found[place] += 1
    return found / len(blocks)


@pytest.mark.parametrize(
    "grid", [TokenGrid(1, 16, 16), TokenGrid(1, 14, 14), TokenGrid(1, 28, 28), TokenGrid(2, 9, 12)]
)
def test_the_sizes_of_target_blocks_are_those_of_the_loop(grid: TokenGrid) -> None:
    loop = {(grid.steps, *naive_size(grid, (0.15, 0.2), (0.75, 1.5), part)) for part in np.linspace(0, 1, 1024)}
    assert set(target_sizes(PUBLISHED, grid)) == loop
    shares = Counter(target_sizes(PUBLISHED, grid))
    drawn = Counter(
        (grid.steps, *naive_size(grid, (0.15, 0.2), (0.75, 1.5), part))
        for part in np.random.default_rng(0).random(4000)
    )
    for size, count in drawn.items():
        share = shares[size] / 1024
        assert abs(count / 4000 - share) < 4.5 * (share * (1 - share) / 4000) ** 0.5 + 2 / 1024


def test_context_and_targets_are_distributed_as_in_the_loop() -> None:
    """Means over 500 clips, each with sizes of its own, differ by less than 4.5 standard errors."""
    grid, clips = TokenGrid(1, 10, 10), 500
    rng = np.random.default_rng(0)
    naive = [naive_clip(grid, rng) for _ in range(clips)]
    ours = [draw_blocks(PUBLISHED, grid, 1, generator(0, n, "m"), enough=11, border=1) for n in range(clips)]
    numbers = (
        ([len(context) for context, _ in naive], [int(context.sum()) for context, _ in ours]),
        ([len(set().union(*targets)) for _, targets in naive], [int(t[0].any(axis=0).sum()) for _, t in ours]),
    )
    for theirs, own in numbers:
        error = ((np.var(theirs) + np.var(own)) / clips) ** 0.5
        assert abs(np.mean(theirs) - np.mean(own)) < 4.5 * error
    maps = (
        ([context for context, _ in naive], np.mean([context[0] for context, _ in ours], axis=0)),
        ([targets[2] for _, targets in naive], np.mean([targets[0, 2] for _, targets in ours], axis=0)),
    )
    for sets, own_map in maps:
        expected = frequency(sets, grid)
        error_map = np.sqrt(2 * expected * (1 - expected) / clips)
        assert (np.abs(expected - own_map.reshape(10, 10)) <= 4.5 * error_map + 1e-9).all()


def draw(
    grid: TokenGrid, collation: Literal["fixed", "official"], batch: int, step: int = 0, config: MaskConfig = PUBLISHED
) -> Mask:
    (mask,) = MaskSampler(MasksConfig(kinds=(config,), collation=collation), grid, seed=0)(step, batch)
    return mask


def places(ids: torch.Tensor, grid: TokenGrid) -> tuple[torch.Tensor, torch.Tensor]:
    _, rows, columns = grid.coordinates(ids)
    return rows, columns


def test_official_blocks_are_whole_rectangles_of_one_size() -> None:
    grid = TokenGrid(1, 16, 16)
    for step in range(20):
        mask = draw(grid, "official", 6, step)
        blocks = mask.target.view(6, 4, -1)
        rows, columns = places(blocks, grid)
        extent = [(axis.amax(-1) - axis.amin(-1) + 1).unique().tolist() for axis in (rows, columns)]
        assert [len(sizes) for sizes in extent] == [1, 1]
        assert extent[0][0] * extent[1][0] == blocks.shape[-1]
        assert max(rows.max(), columns.max()) <= 14


def test_official_context_is_cut_to_the_shortest_in_raster_order() -> None:
    grid = TokenGrid(1, 16, 16)
    rng = generator(0, 3, "mask/0")
    context, targets = draw_blocks(PUBLISHED, grid, 12, rng, enough=11, border=1)
    mask = draw(grid, "official", 12, step=3)
    shortest = min(int(clip.sum()) for clip in context)
    assert mask.context.tolist() == [np.flatnonzero(clip)[:shortest].tolist() for clip in context]
    assert mask.target.tolist() == [[token for block in clip for token in np.flatnonzero(block)] for clip in targets]


def test_fixed_reaches_every_token_and_keeps_whole_blocks_from_the_context() -> None:
    grid = TokenGrid(1, 16, 16)
    masks = [draw(grid, "fixed", 24, step) for step in range(30)]
    for ids in (torch.cat([m.context for m in masks]), torch.cat([m.target for m in masks])):
        assert len(ids.unique()) == grid.count
    for mask in masks:
        blocks = mask.target.view(24, 4, -1)
        rows, columns = places(blocks, grid)
        for clip in range(24):
            seen_rows, seen_columns = places(mask.context[clip], grid)
            for block in range(4):
                inside = (seen_rows >= rows[clip, block].min()) & (seen_rows <= rows[clip, block].max())
                inside &= (seen_columns >= columns[clip, block].min()) & (seen_columns <= columns[clip, block].max())
                assert not inside.any()


def test_fixed_keeps_what_nine_draws_in_ten_have_and_the_smallest_block() -> None:
    grid = TokenGrid(1, 16, 16)
    mask = draw(grid, "fixed", 2)
    assert mask.target.shape[1] == 4 * min(rows * columns for _, rows, columns in target_sizes(PUBLISHED, grid))
    drawn = [draw_blocks(PUBLISHED, grid, 16, generator(1, n, "m"), enough=11)[0].sum(axis=1) for n in range(64)]
    share = np.mean(np.array(drawn) >= mask.context.shape[1])
    # 64 batches here and in the estimate; the clips of a batch share a size, so they are worth 64 draws at least.
    assert share == pytest.approx(0.9, abs=3 * (2 * 0.09 / 64) ** 0.5)


def test_fixed_still_has_blocks_of_all_sizes() -> None:
    grid = TokenGrid(1, 16, 16)
    heights = set()
    for step in range(60):
        rows, _ = places(draw(grid, "fixed", 8, step).target.view(8, 4, -1), grid)
        heights.add(int((rows.amax(-1) - rows.amin(-1) + 1).max()))
    assert heights == {rows for _, rows, _ in target_sizes(PUBLISHED, grid)}


def test_on_the_grid_of_a_clip_a_block_covers_all_steps() -> None:
    grid = TokenGrid(3, 8, 8)
    mask = draw(grid, "official", 4)
    steps = grid.coordinates(mask.target.view(16, -1))[0]
    assert all(torch.bincount(row, minlength=3).unique().numel() == 1 for row in steps)


def test_where_four_places_leave_too_little_the_blocks_are_laid_on_one() -> None:
    """A pair of tokens: blocks of one token. Two places would leave no context."""
    for collation in ("fixed", "official"):
        mask = draw(TokenGrid(1, 1, 2), collation, 40)  # type: ignore[arg-type]
        assert mask.context.shape == (40, 1)
        assert (mask.target == 1 - mask.context).all()
