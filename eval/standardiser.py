"""Features to mean 0 and standard deviation 1, with the statistics of the training set.

Frozen features come at any scale, and a small encoder's tokens share a large constant part (their positions). A
penalty or a learning rate then means something else for each encoder; standardised, they can be compared.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Standardiser:
    """Shift and scale of the last axis."""

    mean: Tensor
    scale: Tensor
    """(features,) each."""

    @classmethod
    def of(cls, features: Tensor) -> "Standardiser":
        """From the training features (..., features)."""
        axes = tuple(range(features.ndim - 1))
        deviation, mean = torch.std_mean(features, axes, correction=0)
        # A feature that never changes says nothing; dividing by its deviation would raise rounding errors to signals.
        constant = deviation <= 1e-6 * (1 + mean.abs())
        return cls(mean, torch.where(constant, torch.zeros_like(deviation), 1 / deviation.clamp_min(1e-30)))

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) * self.scale

    def to(self, device: torch.device) -> "Standardiser":
        return Standardiser(self.mean.to(device), self.scale.to(device))
