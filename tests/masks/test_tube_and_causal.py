"""Random tubes against a naive loop; causal masks: nothing seen is later than anything predicted."""

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa.errors import ConfigError
from jepa.masks.build import MaskSampler, MasksConfig
from jepa.masks.config import MaskConfig
from jepa.tokens import Mask, TokenGrid

Collation = Literal["fixed", "official"]
COLLATIONS: tuple[Collation, ...] = ("fixed", "official")


def sampler(config: MaskConfig, grid: TokenGrid, collation: Collation) -> MaskSampler:
    return MaskSampler(MasksConfig(kinds=(config,), collation=collation), grid, seed=0)


def naive_tube(grid: TokenGrid, ratio: float, rng: np.random.Generator) -> list[int]:
    """Context ids as the released code draws them: a shuffled frame of zeros and ones, repeated over time."""
    face = grid.rows * grid.columns
    kept = int(face * (1.0 - ratio))
    frame = np.array([False] * (face - kept) + [True] * kept)
    rng.shuffle(frame)
    return [step * face + patch for step in range(grid.steps) for patch in range(face) if frame[patch]]


@pytest.mark.parametrize("collation", COLLATIONS)
@pytest.mark.parametrize("ratio", [0.9, 0.75, 0.5])
@pytest.mark.parametrize("grid", [TokenGrid(8, 14, 14), TokenGrid(3, 5, 8), TokenGrid(1, 10, 10)])
def test_a_tube_is_what_a_loop_draws(grid: TokenGrid, ratio: float, collation: Collation) -> None:
    (mask,) = sampler(MaskConfig(kind="tube", ratio=ratio), grid, collation)(0, 5)
    face, naive = grid.rows * grid.columns, naive_tube(grid, ratio, np.random.default_rng(0))
    for context, target in zip(mask.context.tolist(), mask.target.tolist(), strict=True):
        assert len(context) == len(naive)
        assert sorted(context + target) == list(range(grid.count))
        patches = {token for token in context if token < face}
        assert context == sorted(step * face + patch for step in range(grid.steps) for patch in patches)


def test_every_patch_is_as_likely_to_be_seen() -> None:
    grid, clips = TokenGrid(2, 4, 5), 4000
    (mask,) = sampler(MaskConfig(kind="tube", ratio=0.7), grid, "fixed")(0, clips)
    seen = torch.bincount(mask.context.flatten(), minlength=grid.count) / clips
    rng = np.random.default_rng(1)
    naive = np.bincount([token for _ in range(clips) for token in naive_tube(grid, 0.7, rng)], minlength=40) / clips
    tolerance = 4.5 * (0.3 * 0.7 / clips) ** 0.5  # standard errors of a share
    np.testing.assert_allclose(seen.numpy(), 0.3, atol=tolerance)
    np.testing.assert_allclose(naive, 0.3, atol=tolerance)


def test_a_tube_on_few_patches_still_has_a_context_and_a_target() -> None:
    for ratio in (0.01, 0.99):
        (mask,) = sampler(MaskConfig(kind="tube", ratio=ratio), TokenGrid(3, 1, 2), "official")(0, 4)
        assert mask.context.shape == mask.target.shape == (4, 3)


def steps_of(mask: Mask, grid: TokenGrid) -> tuple[torch.Tensor, torch.Tensor]:
    return grid.coordinates(mask.context)[0], grid.coordinates(mask.target)[0]


shares = st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(lambda pair: (min(pair), max(pair)))


@settings(max_examples=60)
@given(
    context_time=shares,
    target_time=shares.filter(lambda pair: pair[0] < pair[1]),
    shape=st.tuples(st.integers(2, 9), st.integers(1, 3), st.integers(1, 3)),
    collation=st.sampled_from(COLLATIONS),
)
def test_nothing_seen_is_later_than_anything_predicted(
    context_time: tuple[float, float],
    target_time: tuple[float, float],
    shape: tuple[int, int, int],
    collation: Collation,
) -> None:
    grid = TokenGrid(*shape)
    config = MaskConfig(kind="causal", context_time=context_time, target_time=target_time)
    (mask,) = sampler(config, grid, collation)(1, 6)
    assert 0 not in (*mask.context.shape, *mask.target.shape)
    seen, predicted = steps_of(mask, grid)
    assert (seen.amax(dim=1) < predicted.amin(dim=1)).all()
    assert predicted.max() < max(2, target_time[1] * grid.steps + 1e-6)
    assert seen.max() < max(1, context_time[1] * grid.steps + 1e-6)


@pytest.mark.parametrize("collation", COLLATIONS)
@pytest.mark.parametrize("steps", [2, 8, 22, 23])
def test_every_number_of_steps_can_be_named(steps: int, collation: Collation) -> None:
    grid = TokenGrid(steps, 2, 3)
    for first in range(1, steps):
        config = MaskConfig(kind="causal", context_time=(first / steps, first / steps))
        (mask,) = sampler(config, grid, collation)(0, 2)
        assert mask.context.tolist() == [list(range(6 * first))] * 2
        assert mask.target.tolist() == [list(range(6 * first, grid.count))] * 2


@pytest.mark.parametrize("collation", COLLATIONS)
def test_a_gap_is_neither_seen_nor_predicted(collation: Collation) -> None:
    grid = TokenGrid(8, 2, 2)
    config = MaskConfig(kind="causal", context_time=(0.25, 0.25), target_time=(0.5, 0.75))
    (mask,) = sampler(config, grid, collation)(0, 3)
    seen, predicted = steps_of(mask, grid)
    assert seen.unique().tolist() == [0, 1]
    assert predicted.unique().tolist() == [4, 5]


def test_contexts_of_all_lengths_are_drawn_and_fixed_keeps_a_random_part() -> None:
    grid, clips = TokenGrid(8, 4, 4), 3000
    config = MaskConfig(kind="causal", context_time=(0.25, 0.75))
    (mask,) = sampler(config, grid, "fixed")(0, clips)
    assert (mask.context.shape[1], mask.target.shape[1]) == (2 * 16, 2 * 16)
    seen, predicted = steps_of(mask, grid)
    lengths = seen.amax(dim=1) + 1
    # Drawn are 2 to 6 steps, a fifth of the clips each (32 of 96 tokens: the last step is hardly ever missed).
    counts = torch.bincount(lengths, minlength=9)
    assert counts.nonzero().flatten().tolist() == [2, 3, 4, 5, 6]
    assert (counts[2:7] / clips - 0.2).abs().max() < 4.5 * (0.2 * 0.8 / clips) ** 0.5
    assert (predicted.amin(dim=1) >= lengths).all()
    longest = seen[lengths == 6]
    shares_of_steps = torch.bincount(longest.flatten()) / longest.numel()
    assert (shares_of_steps - 1 / 6).abs().max() < 4.5 * (1 / 6 * 5 / 6 / longest.numel()) ** 0.5


def test_where_there_is_no_such_mask_it_is_said_in_one_line() -> None:
    with pytest.raises(ConfigError, match="causal mask needs at least 2 steps, the grid has 1: use more frames"):
        sampler(MaskConfig(kind="causal"), TokenGrid(1, 4, 4), "fixed")
    for kind in ("tube", "ijepa"):
        with pytest.raises(ConfigError, match="at least 2 patches in a frame, the grid has 1: use a larger size"):
            sampler(MaskConfig(kind=kind), TokenGrid(4, 1, 1), "official")  # type: ignore[arg-type]
