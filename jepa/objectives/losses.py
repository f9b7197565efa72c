"""Distances between predictions and targets."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def power_error(prediction: Float[Tensor, "B M E"], target: Float[Tensor, "B M E"], exponent: float = 1.0) -> Tensor:
    """mean(|prediction - target|^p) / p, the loss of V-JEPA; p = 1 is L1, p = 2 half the squared error."""
    error = (prediction - target).abs()
    return error.mean() if exponent == 1.0 else error.pow(exponent).mean() / exponent


def mean(errors: Sequence[Tensor]) -> Tensor:
    """Mean of scalars."""
    return torch.stack(list(errors)).mean()
