"""How far the visible tokens are from what is hidden.

V-JEPA 2.1 (arXiv 2603.14482) asks the more of a visible token the nearer it is to a masked one. Distances are
Euclidean and counted in tokens along time, rows and columns. Comparing all pairs would take K x M steps for a clip (50
million for 64 frames at 384 pixels); instead the squared distance is spread over the grid one axis after the other,

    d(i) <- min over j of d(j) + (i - j)^2,

which is exact, as the three squares add up (Felzenszwalb and Huttenlocher, 2012), and needs the memory of a few grids.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from jepa.tokens import Mask, TokenGrid


def nearest_target(mask: Mask, grid: TokenGrid) -> Float[Tensor, "B K"]:
    """Distance in tokens from each context token to the nearest target token of its clip, float32.

    Args:
        mask: of a batch of clips; a token that is both seen and predicted is at distance 0.
        grid: token layout of the clips.
    """
    squared = torch.full((len(mask.target), grid.count), torch.inf, device=mask.target.device)
    squared = squared.scatter_(1, mask.target, 0.0).reshape(-1, *grid.shape)
    for axis in (1, 2, 3):
        squared = _spread(squared, axis)
    return squared.flatten(1).gather(1, mask.context).sqrt()


def _spread(squared: Tensor, axis: int) -> Tensor:
    """Least of `squared` plus the squared distance along `axis`, at each place."""
    length = squared.shape[axis]
    places = torch.arange(length, dtype=squared.dtype, device=squared.device)
    best = squared
    for place in range(length):
        far = (places - place).square().reshape(-1, *[1] * (squared.ndim - 1 - axis))
        best = torch.minimum(best, squared.narrow(axis, place, 1) + far)
    return best
