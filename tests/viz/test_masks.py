import numpy as np
import pytest

from jepa.viz.masks import STRIPE_LEVEL, draw_mask, token_map


def test_token_ids_are_step_then_row_then_column() -> None:
    seen = token_map(np.array([0, 5, 11]), (2, 2, 3))
    assert np.argwhere(seen).tolist() == [[0, 0, 0], [0, 1, 2], [1, 1, 2]]


def test_context_keeps_its_pixels_target_is_covered_and_the_rest_is_dimmed() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 12, 3), dtype=np.uint8)
    context, target = token_map(np.array([0, 7]), (2, 2, 3)), token_map(np.array([1, 6]), (2, 2, 3))
    drawn = draw_mask(frames, context, target)
    for frame in (0, 1):  # the first step: token 0 seen, token 1 predicted
        np.testing.assert_array_equal(drawn[frame, :4, :4], frames[frame, :4, :4])
        covered = drawn[frame, 1:3, 5:7].astype(int)
        assert (covered[..., 2] > covered[..., 0]).all()
    np.testing.assert_array_equal(drawn[2, :4, 4:8], frames[2, :4, 4:8])  # the second step: token 7 seen
    dimmed = drawn[0, 5:, 1:].astype(int)
    assert (dimmed.max(-1) == dimmed.min(-1)).all()  # neither: grey, of little contrast between stripes
    striped = dimmed[..., 0] == STRIPE_LEVEL
    assert np.ptp(dimmed[~striped]) < 70


def test_what_is_neither_seen_nor_predicted_is_told_from_any_grey_ground() -> None:
    nothing = np.zeros((1, 2, 2), bool)
    for ground in (0, 96, 128, 216, 255):
        drawn = draw_mask(np.full((2, 16, 16, 3), ground, np.uint8), nothing, nothing).astype(int)
        assert np.ptp(drawn, axis=(1, 2)).min() > 70
        assert (drawn == STRIPE_LEVEL).mean() == 0.25


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        draw_mask(np.zeros((2, 4, 4, 3), np.uint8), np.zeros((1, 2, 2), bool), np.zeros((1, 2, 4), bool))
