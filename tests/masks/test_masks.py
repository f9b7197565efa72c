"""Masks: invariants over many grids, the published shares, both collations."""

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa.errors import ConfigError
from jepa.masks.build import MaskSampler, MasksConfig
from jepa.masks.collate import fixed, official
from jepa.masks.config import LONG_RANGE, SHORT_RANGE, MaskConfig
from jepa.masks.multiblock import block_size, draw_targets
from jepa.rng import generator
from jepa.tokens import TokenGrid

grids = st.builds(TokenGrid, st.integers(1, 6), st.integers(1, 8), st.integers(1, 8)).filter(lambda g: g.count > 1)


@settings(max_examples=40, deadline=None)
@given(
    grid=grids, batch=st.integers(1, 5), step=st.integers(0, 10**6), collation=st.sampled_from(["fixed", "official"])
)
def test_context_and_target_are_disjoint_sorted_and_inside(
    grid: TokenGrid, batch: int, step: int, collation: str
) -> None:
    sampler = MaskSampler(MasksConfig(collation=collation), grid, seed=3)  # type: ignore[arg-type]
    for mask in sampler(step, batch):
        assert mask.context.shape[0] == mask.target.shape[0] == batch
        assert mask.context.shape[1] >= 1
        assert mask.target.shape[1] >= 1
        for context, target in zip(mask.context.tolist(), mask.target.tolist(), strict=True):
            assert context == sorted(set(context))
            assert target == sorted(set(target))
            assert not set(context) & set(target)
            assert min(context + target) >= 0
            assert max(context + target) < grid.count


def test_masks_are_a_function_of_seed_and_step() -> None:
    grid = TokenGrid(4, 8, 8)
    first, again = MaskSampler(MasksConfig(), grid, 1)(7, 4), MaskSampler(MasksConfig(), grid, 1)(7, 4)
    assert all(torch.equal(a.target, b.target) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].target, MaskSampler(MasksConfig(), grid, 2)(7, 4)[0].target)
    assert not torch.equal(first[0].target, MaskSampler(MasksConfig(), grid, 1)(8, 4)[0].target)


@pytest.mark.parametrize("collation", ["fixed", "official"])
def test_equal_kinds_are_drawn_apart(collation: str) -> None:
    config = MasksConfig(kinds=(SHORT_RANGE, SHORT_RANGE), collation=collation)  # type: ignore[arg-type]
    first, second = MaskSampler(config, TokenGrid(4, 8, 8), seed=0)(0, 8)
    same = [set(a) == set(b) for a, b in zip(first.target.tolist(), second.target.tolist(), strict=True)]
    assert not any(same)


def test_fixed_counts_never_change() -> None:
    sampler = MaskSampler(MasksConfig(), TokenGrid(4, 8, 8), seed=0)
    shapes = {tuple((m.context.shape, m.target.shape) for m in sampler(step, 6)) for step in range(30)}
    assert len(shapes) == 1


def test_shares_can_be_given() -> None:
    config = MasksConfig(kinds=(SHORT_RANGE,), context_share=0.25, target_share=0.5)
    (mask,) = MaskSampler(config, TokenGrid(4, 8, 8), seed=0)(0, 3)
    assert (mask.context.shape[1], mask.target.shape[1]) == (64, 128)


@pytest.mark.parametrize(
    ("kind", "batch", "before", "context", "target"),
    [(SHORT_RANGE, 24, 0.38, 0.24, 0.48), (LONG_RANGE, 24, 0.19, 0.064, 0.70), (SHORT_RANGE, 4, 0.38, 0.30, 0.55)],
)
def test_official_shares_on_a_16_by_16_grid(
    kind: MaskConfig, batch: int, before: float, context: float, target: float
) -> None:
    """Shares measured independently on the released algorithm (300 batches)."""
    grid = TokenGrid(8, 16, 16)
    sampler = MaskSampler(MasksConfig(kinds=(kind,), collation="official"), grid, seed=0)
    masks = [sampler(step, batch)[0] for step in range(120)]
    drawn = np.mean([1 - draw_targets(kind, grid, 8, generator(0, n, "t")).mean() for n in range(120)])
    assert drawn == pytest.approx(before, abs=0.02)
    assert np.mean([m.context.shape[1] for m in masks]) / grid.count == pytest.approx(context, abs=0.02)
    assert np.mean([m.target.shape[1] for m in masks]) / grid.count == pytest.approx(target, abs=0.02)


def test_block_sizes_follow_the_formula() -> None:
    config = MaskConfig(blocks=1, spatial=(0.25, 0.25), temporal=(0.5, 0.5), aspect=(1.0, 1.0))
    assert block_size(config, TokenGrid(8, 16, 16), generator(0, 0, "x")) == (4, 8, 8)


def test_one_block_is_a_box() -> None:
    config = MaskConfig(blocks=1, spatial=(0.25, 0.25), temporal=(0.5, 0.5), aspect=(1.0, 1.0))
    covered = draw_targets(config, TokenGrid(8, 16, 16), 5, generator(0, 0, "x")).reshape(5, 8, 16, 16)
    for clip in covered:
        steps, rows, columns = np.nonzero(clip)
        extent = [int(axis.max() - axis.min()) + 1 for axis in (steps, rows, columns)]
        assert extent == [4, 8, 8]
        assert clip.sum() == 4 * 8 * 8


def test_tiny_grids_end() -> None:
    covered = draw_targets(LONG_RANGE, TokenGrid(4, 1, 2), 100, generator(0, 0, "x"))
    assert not covered.all(axis=1).any()


def test_clips_without_context_are_drawn_again() -> None:
    # Blocks of 3 rows of 4: both at the top or both at the bottom leave one row, else (half of the clips) nothing.
    config = MaskConfig(blocks=2, spatial=(0.75, 0.75), aspect=(0.75, 0.75))
    covered = draw_targets(config, TokenGrid(1, 4, 4), 300, generator(0, 0, "x"))
    # A clip that was not drawn again, but given a single token back, has 1 token of context.
    assert set((~covered).sum(axis=1).tolist()) == {4}


def test_official_keeps_the_first_in_time_order() -> None:
    covered = np.array([[True, False, True, False], [True, True, True, False]])
    mask = official(~covered, covered)
    assert mask.context.tolist() == [[1], [3]]
    assert mask.target.tolist() == [[0, 2], [0, 1]]


def test_fixed_borrows_when_a_clip_has_too_few() -> None:
    covered = np.array([[True] * 7 + [False], [False] * 8])
    mask = fixed(covered, keep=3, predict=4, rng=generator(0, 0, "x"))
    assert 7 in mask.context[0].tolist()
    assert mask.target.shape == (2, 4)
    assert not set(mask.context[1].tolist()) & set(mask.target[1].tolist())


@pytest.mark.parametrize(
    "arguments", [{"blocks": 0}, {"spatial": (0.5, 0.2)}, {"temporal": (0.0, 1.0)}, {"spatial": (0.5, 1.5)}]
)
def test_wrong_blocks_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        MaskConfig(**arguments)  # type: ignore[arg-type]


def test_wrong_mask_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="above 1"):
        MasksConfig(context_share=0.6, target_share=0.6)
    with pytest.raises(ConfigError, match="empty"):
        MasksConfig(kinds=())
    with pytest.raises(ConfigError, match="cannot be masked"):
        MaskSampler(MasksConfig(), TokenGrid(1, 1, 1), seed=0)


@pytest.mark.parametrize("collation", ["fixed", "official"])
@given(step=st.integers(0, 1000), rows=st.tuples(st.integers(0, 12), st.integers(0, 12)).filter(lambda r: r[0] < r[1]))
def test_rows_of_a_batch_are_those_of_the_whole(
    collation: Literal["fixed", "official"], step: int, rows: tuple[int, int]
) -> None:
    sampler = MaskSampler(MasksConfig(collation=collation), TokenGrid(2, 4, 4), seed=5)
    for whole, part in zip(sampler(step, 12), sampler(step, 12, slice(*rows)), strict=True):
        assert torch.equal(part.context, whole.context[slice(*rows)])
        assert torch.equal(part.target, whole.target[slice(*rows)])
