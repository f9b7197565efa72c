"""From per-clip target sets of different sizes to rectangular index tensors.

`fixed` (our default) keeps the same number of context and target tokens in every batch, a random subset of what was
drawn: the difficulty does not depend on the batch size, no part of the clip is favoured, and shapes never change.
`official` cuts all clips of a batch to its shortest, keeping the first tokens in time-major order, as the released
V-JEPA code does; it exists for parity.
"""

import numpy as np
import torch

from jepa.tokens import Mask

EVERY = slice(None)


def official(covered: np.ndarray, rows: slice = EVERY) -> Mask:
    """Cut to the shortest context and the shortest target of the batch, in raster order; `rows` of the batch."""
    targets = covered.sum(axis=1)
    context = _first(~covered[rows], int((covered.shape[1] - targets).min()))
    return Mask(context, _first(covered[rows], int(targets.min())))


def fixed(covered: np.ndarray, keep: int, predict: int, rng: np.random.Generator, rows: slice = EVERY) -> Mask:
    """Exactly `keep` context and `predict` target tokens per clip; needs keep + predict <= N.

    Each clip ranks its tokens: random within the drawn context first, random within the drawn target last. The first
    `keep` are the context, the last `predict` the target, so a clip that drew too few of one kind borrows from the
    other, and no token is both. Ranks are drawn for the whole batch, as they come from one stream of random numbers,
    but only those of `rows` are sorted, which is most of the work.
    """
    rank = (rng.random(covered.shape) + covered)[rows]
    order = np.argsort(rank, axis=1)
    context, target = order[:, :keep], order[:, covered.shape[1] - predict :]
    return Mask(_sorted(context), _sorted(target))


def _first(member: np.ndarray, count: int) -> torch.Tensor:
    order = np.argsort(~member, axis=1, kind="stable")[:, :count]
    return torch.from_numpy(np.ascontiguousarray(order))


def _sorted(ids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.sort(ids, axis=1))
