"""Fixed sine-cosine positions of a token grid (V-JEPA 1, I-JEPA).

Each axis gets a share of the width; a coordinate p becomes sin(p w_i), cos(p w_i) with w_i = 10000^(-i / (d / 2))
for the d channels of that axis. The shares of V-JEPA 1 are equal ("uniform power"): 2 * ceil(D / 6) channels for
time, rows and columns, cut to the width D.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from jepa.tokens import TokenGrid


def sincos_positions(grid: TokenGrid, width: int) -> Float[Tensor, "N D"]:
    """Position vectors of all tokens of the grid, in token order."""
    share = 2 * math.ceil(width / 6)
    axes = grid.coordinates(torch.arange(grid.count))
    return torch.cat([_axis(axis, share) for axis in axes], dim=1)[:, :width].contiguous()


def _axis(coordinate_N: Tensor, channels: int) -> Tensor:
    half = channels // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = coordinate_N.to(torch.float64).unsqueeze(1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()
