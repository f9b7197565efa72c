"""k nearest neighbours: what the features say with nothing trained on top.

Cosine similarity on standardised features; the k nearest training clips vote for their class with weight
exp(similarity / temperature), as in instance discrimination (Wu et al., arXiv 1805.01978) and DINO. Nothing is
chosen, so no validation part is needed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa.errors import ConfigError

_ROWS = 512  # test clips compared at a time


@dataclass(frozen=True)
class KnnConfig:
    """Nearest-neighbour probe."""

    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """Softness of the vote; small lets the nearest decide."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"knn.k is {self.k}, expected 1 or more")
        if not self.temperature > 0:
            raise ConfigError(f"knn.temperature is {self.temperature}, expected a number above 0")


def nearest(train_BF: Tensor, test_BF: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosine similarities (test clips, k) of the nearest training clips, nearest first, and their rows."""
    k = min(k, train_BF.shape[0])
    train_FB = F.normalize(train_BF, dim=1).T
    found = [torch.topk(F.normalize(part, dim=1) @ train_FB, k, dim=1) for part in test_BF.split(_ROWS)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def vote(similarity_Bk: Tensor, targets_Bk: Tensor, classes: int, temperature: float) -> Tensor:
    """The class with the largest sum of weights, int64 (test clips,).

    Args:
        similarity_Bk: similarities of the neighbours.
        targets_Bk: their class numbers.
        classes: number of classes.
        temperature: of the weights.
    """
    # The softmax shares the exponential's ratios and cannot overflow.
    weight_Bk = torch.softmax(similarity_Bk / temperature, dim=1)
    votes_BY = weight_Bk.new_zeros(len(weight_Bk), classes).scatter_add_(1, targets_Bk, weight_Bk)
    return votes_BY.argmax(1)
