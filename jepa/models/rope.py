"""Rotary positions over time, rows and columns (V-JEPA 2).

The channels of a head are split into three equal, even shares (the rest is not rotated); each share is rotated in
neighbouring pairs by the angles coordinate * 10000^(-i / (d / 2)). Two variants exist in released weights:
`interleaved` gives both members of a pair the same angle (V-JEPA 2.1, the textbook form); `tiled` repeats the whole
block of frequencies, so the members of a pair get different angles (V-JEPA 2; facebookresearch/vjepa2 PR #15).
Weights of the two are not interchangeable. V-JEPA 2.1 also stretches rows and columns of every resolution over those
of the resolution it was first trained on. Angles are computed in fp32 whatever the activations are.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from jepa.tokens import TokenGrid

Variant = Literal["interleaved", "tiled"]


class Rotation(NamedTuple):
    """Cosines and sines per token and head channel, each (1 or B, 1, N, head width)."""

    cos: Tensor
    sin: Tensor

    def take(self, ids_BK: Tensor) -> "Rotation":
        """The rotation of the tokens with the given ids, clip by clip."""
        return Rotation(self.cos[0, 0][ids_BK].unsqueeze(1), self.sin[0, 0][ids_BK].unsqueeze(1))

    def to(self, device: torch.device) -> "Rotation":
        return Rotation(self.cos.to(device), self.sin.to(device))


def grid_rotation(grid: TokenGrid, head_width: int, variant: Variant, base: int | None = None) -> Rotation:
    """Rotation of every token of the grid.

    Args:
        grid: token layout.
        head_width: channels of a head.
        variant: pairing of the frequencies.
        base: rows and columns over which those of this grid are stretched, the first on the first and the last on the
            last; none to count positions on.
    """
    step, row, column = (axis.to(torch.float64) for axis in grid.coordinates(torch.arange(grid.count)))
    if base is not None:
        row, column = row * _stretch(base, grid.rows), column * _stretch(base, grid.columns)
    return rotation(step, row, column, head_width, variant)


def rotation(
    step: Float[Tensor, " N"],
    row: Float[Tensor, " N"],
    column: Float[Tensor, " N"],
    head_width: int,
    variant: Variant,
) -> Rotation:
    """Rotation of tokens at these coordinates; channels beyond three equal shares keep the identity."""
    share = 2 * (head_width // 3 // 2)
    angles = torch.cat([_angles(axis, share, variant) for axis in (step, row, column)], dim=1)
    rest = torch.zeros(len(step), head_width - 3 * share, dtype=angles.dtype)
    angles_ND = torch.cat([angles, rest], dim=1)
    return Rotation(angles_ND.cos().float()[None, None], angles_ND.sin().float()[None, None])


def _stretch(base: int, count: int) -> float:
    return (base - 1) / (count - 1) if count > 1 else 1.0


def _angles(coordinate_N: Tensor, share: int, variant: Variant) -> Tensor:
    half = share // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / max(half, 1))
    angles = coordinate_N.to(torch.float64).unsqueeze(1) * frequencies
    return angles.repeat_interleave(2, dim=1) if variant == "interleaved" else angles.repeat(1, 2)


def rotate(x: Float[Tensor, "B heads N d"], rotation: Rotation) -> Float[Tensor, "B heads N d"]:
    """Rotate neighbouring channel pairs: (a, b) -> (a cos - b sin, b cos + a sin)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    return (x * rotation.cos + turned * rotation.sin).to(x.dtype)
