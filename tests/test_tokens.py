"""Token geometry against loops and a convolution."""

import pytest
import torch

from jepa.errors import ConfigError
from jepa.tokens import Mask, TokenGrid, gather, tubelets, untubelets


def test_grid_of_clip() -> None:
    grid = TokenGrid.of_clip(8, 32, 48, tubelet=2, patch=16)
    assert grid.shape == (4, 2, 3)
    assert grid.count == 24


@pytest.mark.parametrize(("frames", "height", "width"), [(7, 32, 32), (8, 30, 32), (8, 32, 8), (0, 32, 32)])
def test_grid_refuses_sizes_that_do_not_divide(frames: int, height: int, width: int) -> None:
    with pytest.raises(ConfigError, match="positive multiple"):
        TokenGrid.of_clip(frames, height, width, tubelet=2, patch=16)


def test_coordinates_count_time_then_row_then_column() -> None:
    grid = TokenGrid(2, 3, 4)
    steps, rows, columns = grid.coordinates(torch.arange(grid.count))
    expected = [(t, r, c) for t in range(2) for r in range(3) for c in range(4)]
    assert list(zip(steps.tolist(), rows.tolist(), columns.tolist(), strict=True)) == expected


def test_tubelets_cut_what_a_loop_cuts_and_come_back() -> None:
    clips = torch.randn(2, 3, 4, 8, 12)
    found = tubelets(clips, tubelet=2, patch=4)
    token = 1 * 6 + 1 * 3 + 2
    torch.testing.assert_close(found[1, token], clips[1, :, 2:4, 4:8, 8:12].reshape(-1))
    grid = TokenGrid.of_clip(4, 8, 12, tubelet=2, patch=4)
    assert torch.equal(untubelets(found, grid, tubelet=2, patch=4), clips)


def test_gather_picks_per_clip() -> None:
    tokens = torch.arange(24.0).reshape(2, 4, 3)
    ids = torch.tensor([[3, 0], [1, 1]])
    assert torch.equal(gather(tokens, ids), torch.stack([tokens[0, [3, 0]], tokens[1, [1, 1]]]))


def test_a_mask_keeps_its_blocks_on_another_device() -> None:
    mask = Mask(torch.tensor([[0, 3]]), torch.tensor([[1, 2, 2, 4]]), blocks=2)
    moved = mask.to("meta")
    assert (moved.blocks, moved.context.shape, moved.target.shape) == (2, (1, 2), (1, 4))
    assert moved.target.device.type == "meta"


@pytest.mark.parametrize("blocks", [0, 3, 8])
def test_a_target_that_is_not_made_of_equal_blocks_is_refused(blocks: int) -> None:
    with pytest.raises(ValueError, match=f"got 4 target ids for {blocks} blocks"):
        Mask(torch.tensor([[0, 3]]), torch.tensor([[1, 2, 2, 4]]), blocks=blocks)


def test_tubelets_of_some_tokens() -> None:
    clips, ids = torch.randn(2, 3, 4, 16, 24), torch.tensor([[5, 0, 11], [3, 3, 7]])
    whole = tubelets(clips, tubelet=2, patch=8)
    assert torch.equal(tubelets(clips, tubelet=2, patch=8, ids=ids), gather(whole, ids))
