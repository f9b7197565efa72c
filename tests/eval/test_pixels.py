"""Pixel features by hand."""

import torch

from jepa.eval.pixels import pixel_features


def test_pixels_then_signed_differences() -> None:
    clips = torch.randint(256, (2, 3, 4, 8, 8), dtype=torch.uint8)
    features = pixel_features(clips, 4)
    small = torch.empty(2, 4, 3, 4, 4)
    for row in range(4):
        for column in range(4):
            block = clips[:, :, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].float() / 255
            small[:, :, :, row, column] = block.mean((-1, -2)).transpose(1, 2)
    pixels, differences = features.split([4 * 3 * 16, 3 * 3 * 16], dim=1)
    torch.testing.assert_close(pixels, small.flatten(1))
    torch.testing.assert_close(differences, (small[:, 1:] - small[:, :-1]).flatten(1))
    assert differences.min() < 0 < differences.max()


def test_small_clips_are_not_blown_up() -> None:
    assert pixel_features(torch.zeros(1, 3, 2, 8, 8, dtype=torch.uint8), 16).shape == (1, 3 * 3 * 64)
