"""The options of multi-block masks with `fixed` collation (with `official`: tests/masks/test_official.py)."""

import pytest
import torch

from jepa.errors import ConfigError
from jepa.masks.build import MaskSampler, MasksConfig
from jepa.masks.config import LONG_RANGE, SHORT_RANGE, MaskConfig
from jepa.tokens import Mask, TokenGrid

GRID = TokenGrid(6, 6, 6)


def drawn(config: MaskConfig, *, batch: int = 8, context: float | None = None, target: float | None = None) -> Mask:
    masks = MasksConfig(kinds=(config,), context_share=context, target_share=target)
    (mask,) = MaskSampler(masks, GRID, seed=0)(0, batch)
    return mask


@pytest.mark.parametrize("share", [1 / 6, 0.5, 5 / 6])
def test_context_lies_in_the_first_share_of_the_time_whatever_it_borrows(share: float) -> None:
    for blocks in (2, 8):
        mask = drawn(MaskConfig(blocks=blocks, spatial=(0.3, 0.3), context_time=(share, share)), batch=40)
        assert GRID.coordinates(mask.context)[0].max() < 6 * share
        assert GRID.coordinates(mask.target)[0].max() == 5
    # More than the blocks leave: half of the tokens below come from the blocks, and still none from later.
    most = round(share * GRID.count)
    mask = drawn(MaskConfig(context_time=(share, share)), context=most / GRID.count, batch=40)
    assert mask.context.tolist() == [list(range(most))] * 40
    with pytest.raises(ConfigError, match=f"context_share is .*context_time leaves {share:.3g}"):
        drawn(MaskConfig(context_time=(share, share)), context=share + 0.02)


def test_a_drawn_time_keeps_what_the_shortest_has() -> None:
    config = MaskConfig(blocks=1, spatial=(0.1, 0.1), context_time=(0.34, 1.0))
    draw = MaskSampler(MasksConfig(kinds=(config,)), GRID, seed=0)
    masks = [draw(step, 4)[0] for step in range(40)]
    assert {mask.context.shape[1] for mask in masks} == {2 * 36}
    assert {int(GRID.coordinates(mask.context)[0].max()) for mask in masks} == {
        1,
        2,
        3,
        4,
    }  # 2 to 5 steps: shares are rounded down


def test_a_cap_holds_and_leaves_the_target_alone() -> None:
    mask, free = drawn(MaskConfig(blocks=8, spatial=(0.15, 0.15), max_keep=7)), drawn(SHORT_RANGE)
    assert mask.context.shape[1] == 7
    assert mask.target.shape == free.target.shape


@pytest.mark.parametrize("max_keep", [None, 7])
def test_all_that_is_not_kept_is_predicted(max_keep: int | None) -> None:
    mask = drawn(MaskConfig(blocks=2, spatial=(0.7, 0.7), max_keep=max_keep, complement="target"))
    assert mask.context.shape[1] == (max_keep or drawn(LONG_RANGE).context.shape[1])
    both = torch.cat([mask.context, mask.target], dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(GRID.count).expand(8, -1))


def test_all_that_is_not_predicted_is_seen() -> None:
    mask = drawn(MaskConfig(complement="context"), target=0.25)
    assert mask.target.shape[1] == 54
    both = torch.cat([mask.context, mask.target], dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(GRID.count).expand(8, -1))


def test_an_inverse_mask_is_the_other_turned_round() -> None:
    plain = drawn(LONG_RANGE, context=0.1, target=0.6)
    turned = drawn(MaskConfig(blocks=2, spatial=(0.7, 0.7), inverse=True), context=0.6, target=0.1)
    assert torch.equal(turned.context, plain.target)
    assert torch.equal(turned.target, plain.context)
