"""What tells learning from collapse: the spread and the effective rank of the target encoder's tokens.

A JEPA loss that falls and then rises is normal; a feature deviation near zero or an effective rank near one is
collapse, whatever the loss. Effective rank is RankMe (arXiv 2210.02885): exp of the entropy of the normalised
singular values of a feature matrix.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_ROWS = 4096


@torch.no_grad()
def feature_std(tokens: Float[Tensor, "B N D"]) -> Tensor:
    """Standard deviation of each channel over all tokens, averaged over channels."""
    return tokens.float().flatten(0, 1).std(dim=0).mean()


@torch.no_grad()
def effective_rank(tokens: Float[Tensor, "B N D"]) -> Tensor:
    """RankMe of the tokens, between 1 and D, from at most 4096 evenly spaced rows.

    Rows are centred, so that a common offset of all tokens does not hide as a large first direction. NaN when a token
    is not finite.
    """
    rows = tokens.float().flatten(0, 1)
    if len(rows) > _ROWS:  # from the first to the last, in whole numbers: float32 counts exactly only to 2**24
        rows = rows[torch.arange(_ROWS, device=rows.device) * (len(rows) - 1) // (_ROWS - 1)]
    if not rows.isfinite().all():
        return rows.new_tensor(float("nan"))
    values = torch.linalg.svdvals(rows - rows.mean(dim=0))
    shares = values / values.sum().clamp_min(1e-12) + 1e-7
    return torch.exp(-(shares * shares.log()).sum())


def watch(target: Float[Tensor, "B N D"]) -> dict[str, Tensor]:
    """The diagnostics of one batch of target tokens."""
    return {"feature_std": feature_std(target), "effective_rank": effective_rank(target)}
