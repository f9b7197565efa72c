"""Standardised features have the moments they promise, and other sets get the same map."""

import torch

from jepa.eval.standardiser import Standardiser


def test_standardised_features_have_mean_0_and_deviation_1() -> None:
    features = torch.randn(50, 3) * torch.tensor([1.0, 100.0, 0.0]) + 7
    scaled = Standardiser.of(features)(features)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-4, rtol=0)


def test_tokens_are_standardised_by_channel_and_others_get_the_same_map() -> None:
    tokens = 5 + 3 * torch.randn(20, 6, 4)
    standardise = Standardiser.of(tokens)
    torch.testing.assert_close(standardise(tokens).mean((0, 1)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(standardise(tokens + 3), standardise(tokens) + 3 * standardise.scale)
