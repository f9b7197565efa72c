"""Distances between predictions and targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

LossKind = Literal["power", "smooth_l1"]


@dataclass(frozen=True)
class Loss:
    """Which distance is minimised."""

    kind: LossKind = "power"
    """`power`: of the absolute error (V-JEPA, VideoMAE). `smooth_l1`: half its square up to 1, linear beyond
    (I-JEPA)."""
    exponent: float = 1.0
    """p of `power`."""

    def __call__(
        self,
        prediction: Float[Tensor, "B M E"],
        target: Float[Tensor, "B M E"],
        weight: Float[Tensor, "B M"] | None = None,
    ) -> Tensor:
        """Mean over all values, those of a token times its `weight` if there is one."""
        if self.kind == "smooth_l1":
            return smooth_l1(prediction, target, weight)
        return power_error(prediction, target, self.exponent, weight)


def power_error(
    prediction: Float[Tensor, "B M E"],
    target: Float[Tensor, "B M E"],
    exponent: float = 1.0,
    weight: Float[Tensor, "B M"] | None = None,
) -> Tensor:
    """mean(|prediction - target|^p) / p, the loss of V-JEPA; p = 1 is L1, p = 2 half the squared error."""
    error = (prediction - target).abs()
    return _mean(error, weight) if exponent == 1.0 else _mean(error.pow(exponent), weight) / exponent


def smooth_l1(
    prediction: Float[Tensor, "B M E"], target: Float[Tensor, "B M E"], weight: Float[Tensor, "B M"] | None = None
) -> Tensor:
    """The loss of I-JEPA: e^2 / 2 where the error e is below 1, |e| - 1/2 elsewhere."""
    return _mean(F.smooth_l1_loss(prediction.to(target.dtype), target, reduction="none"), weight)


def mean(errors: Sequence[Tensor]) -> Tensor:
    """Mean of scalars."""
    return torch.stack(list(errors)).mean()


def _mean(error_BME: Tensor, weight_BM: Tensor | None) -> Tensor:
    return error_BME.mean() if weight_BM is None else (error_BME.mean(dim=-1) * weight_BM).mean()
