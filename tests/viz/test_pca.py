import numpy as np
import pytest
import torch

from jepa.viz.pca import beside_frames, feature_maps, principal_axes


def test_axes_and_shares_agree_with_a_singular_value_decomposition() -> None:
    points = np.random.default_rng(0).normal(size=(200, 7)) * np.array([9, 5, 3, 1, 1, 1, 1])
    points -= points.mean(0)
    axes, shares = principal_axes(points)
    _, singular, vectors = torch.linalg.svd(torch.from_numpy(points), full_matrices=False)
    np.testing.assert_allclose(np.abs(axes @ vectors[:3].numpy().T), np.eye(3), atol=1e-9)
    np.testing.assert_allclose(shares, (singular**2 / (singular**2).sum())[:3].numpy(), atol=1e-9)


def test_one_feature_becomes_one_colour_wherever_it_is() -> None:
    kinds = np.random.default_rng(1).normal(size=(3, 16))
    which = np.random.default_rng(2).integers(3, size=(2, 12))
    maps = feature_maps(kinds[which], (3, 2, 2))
    assert maps.colours.shape == (2, 3, 2, 2, 3)
    assert not maps.place_removed
    colours = maps.colours.reshape(-1, 3)
    assert len({tuple(colour) for colour in colours}) == 3
    for kind in range(3):
        assert len(np.unique(colours[which.reshape(-1) == kind], axis=0)) == 1


def test_place_is_taken_away_with_enough_clips() -> None:
    rng = np.random.default_rng(3)
    place, content = 100 * rng.normal(size=(1, 4, 8)), rng.normal(size=(20, 4, 8))
    with_place, without = feature_maps(place + content, (1, 2, 2)), feature_maps(content, (1, 2, 2))
    assert with_place.place_removed
    np.testing.assert_array_equal(with_place.colours, without.colours)


@pytest.mark.parametrize("width", [1, 2])
def test_constant_and_narrow_features_are_drawn_all_the_same(width: int) -> None:
    maps = feature_maps(np.ones((2, 4, width)), (1, 2, 2))
    assert maps.colours.shape == (2, 1, 2, 2, 3)
    assert maps.explained == (0, 0, 0)


def test_wrong_grid_is_named() -> None:
    with pytest.raises(ValueError, match="expected 6"):
        feature_maps(np.zeros((1, 4, 3)), (1, 2, 3))


def test_steps_stand_for_the_middle_of_their_frames() -> None:
    assert beside_frames(np.zeros((4, 2, 2)), 8) == [1, 3, 5, 7]
    assert beside_frames(np.zeros((2, 2, 2)), 16) == [4, 12]
