"""Fixed sine-cosine positions of a token grid (V-JEPA 1, I-JEPA).

Each axis gets a share of the width; a coordinate p becomes sin(p w_i), cos(p w_i) with w_i = 10000^(-i / (d / 2))
for the d channels of that axis. The shares of V-JEPA 1 are equal ("uniform power"): 2 * ceil(D / 6) channels for
time, rows and columns, cut to the width D. Those of I-JEPA are half of the width for columns, half for rows, in
this order (its code names them the other way round).

Other lengths and resolutions: coordinates are counted on, or, given the grid of the training clips, its vectors are
interpolated as in the released code: a shorter clip of the same resolution takes the first steps, others are resampled
(trilinear for clips, bicubic for images).
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepa.tokens import TokenGrid

SinCos = Literal["sincos", "sincos2d"]


def sincos_positions(
    grid: TokenGrid, width: int, kind: SinCos = "sincos", base: TokenGrid | None = None
) -> Float[Tensor, "N D"]:
    """Position vectors of all tokens of the grid, in token order.

    Args:
        grid: token layout.
        width: D.
        kind: equal shares for time, rows and columns (`sincos`), or halves for columns and rows (`sincos2d`).
        base: interpolate the vectors of this grid; none to count positions on.
    """
    steps_only = base is not None and base.shape[1:] == grid.shape[1:] and grid.steps <= base.steps
    if base is None or base == grid or steps_only:
        return _table(grid, width, kind)
    vectors_1DTHW = _table(base, width, kind).T.reshape(1, width, *base.shape)
    if kind == "sincos2d":
        resampled = F.interpolate(vectors_1DTHW[:, :, 0], size=grid.shape[1:], mode="bicubic")
    else:
        resampled = F.interpolate(vectors_1DTHW, size=grid.shape, mode="trilinear")
    return resampled.flatten(2)[0].T.contiguous()


def _table(grid: TokenGrid, width: int, kind: SinCos) -> Float[Tensor, "N D"]:
    step, row, column = grid.coordinates(torch.arange(grid.count))
    if kind == "sincos2d":
        axes, share = [column, row], 2 * math.ceil(width / 4)
    else:
        axes, share = [step, row, column], 2 * math.ceil(width / 6)
    return torch.cat([_axis(axis, share) for axis in axes], dim=1)[:, :width].contiguous()


def _axis(coordinate_N: Tensor, channels: int) -> Tensor:
    half = channels // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = coordinate_N.to(torch.float64).unsqueeze(1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()
