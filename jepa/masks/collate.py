"""From per-clip sets of different sizes to rectangular index tensors.

`fixed` (our default) keeps the same number of context and target tokens in every batch, a random subset of what was
drawn: the difficulty does not depend on the batch size, no part of the clip is favoured, and shapes never change.
`official` cuts all clips of a batch to its shortest, keeping the first tokens in time-major order, as the released
code of V-JEPA and I-JEPA does; it exists for parity.

`rows` everywhere: the part of the batch that is wanted. What is drawn and cut is that of the whole batch, so that
processes which each take a part see the same masks as one that takes all; only the sorting is saved.
"""

from dataclasses import dataclass

import numpy as np
import torch

from jepa.errors import ConfigError
from jepa.tokens import Mask, TokenGrid

EVERY = slice(None)


@dataclass(frozen=True)
class Counts:
    """What `fixed` keeps of every clip."""

    context: int
    """K, context tokens."""
    target: int
    """Target tokens; with several target blocks, those of one."""


@dataclass(frozen=True)
class Shares:
    """What the user asks `fixed` to keep, as shares of all tokens; none for what is drawn."""

    context: float | None = None
    target: float | None = None

    def counts(self, grid: TokenGrid, sure: Counts, usual: Counts, *, blocks: int = 1) -> Counts:
        """Tokens to keep of masks that every time draw at least `sure` tokens, and `usual` if nothing is asked.

        Raises:
            ConfigError: more is asked than some draw may have.
        """
        sides = (("context", self.context, 1), ("target", self.target, blocks))
        found = []
        for name, share, parts in sides:
            count, most = getattr(usual, name), getattr(sure, name)
            if share is not None:
                count = max(round(grid.count * share / parts), 1)
            if count > most:
                raise ConfigError(
                    f"masks.{name}_share is {share}, but some masks of this kind have only "
                    f"{most * parts / grid.count:.3g} of the tokens: lower it, or leave it out"
                )
            found.append(count)
        return Counts(*found)


def official(context: np.ndarray, target: np.ndarray, rows: slice = EVERY) -> Mask:
    """Cut context, bool (B, N), and target, bool (B, N) or (B, blocks, N), to the batch's shortest, in raster order."""
    shortest = [int(member.sum(axis=-1).min()) for member in (context, target)]
    blocks = target.shape[1] if target.ndim == 3 else 1
    return Mask(_first(context[rows], shortest[0]), _first(target[rows], shortest[1]), blocks)


def fixed(levels: np.ndarray, keep: int, predict: int, rng: np.random.Generator, rows: slice = EVERY) -> Mask:
    """Exactly `keep` context and `predict` target tokens per clip; needs keep + predict <= N.

    Each clip ranks its tokens: by level, those of level 0 (the drawn context) first, and at random within a level.
    The first `keep` are the context, the last `predict` the target, so a clip that drew too few of one kind borrows
    from the other, and no token is both. Ranks are drawn for the whole batch, as they come from one stream of random
    numbers, but only those of `rows` are sorted, which is most of the work.
    """
    rank = (rng.random(levels.shape) + levels)[rows]
    order = np.argsort(rank, axis=1)
    context, target = order[:, :keep], order[:, levels.shape[1] - predict :]
    return Mask(_sorted(context), _sorted(target))


def subset(member: np.ndarray, count: int, rng: np.random.Generator, rows: slice = EVERY) -> torch.Tensor:
    """Ids (B, count) of random members of each clip; or (B, blocks * count), block by block, of (B, blocks, N).

    Nothing is borrowed: every clip and block must have `count` members.
    """
    rank = (rng.random(member.shape) + ~member)[rows]
    order = np.argsort(rank, axis=-1)[..., :count]
    return _sorted(order).flatten(1)


def others(ids: torch.Tensor, count: int) -> torch.Tensor:
    """Ids (B, N - K) of the `count` = N tokens that are not among the ids (B, K)."""
    free = np.ones((len(ids), count), dtype=bool)
    np.put_along_axis(free, ids.numpy(), False, axis=1)
    return _first(free, count - ids.shape[1])


def _first(member: np.ndarray, count: int) -> torch.Tensor:
    order = np.argsort(~member, axis=-1, kind="stable")[..., :count]
    return torch.from_numpy(np.ascontiguousarray(order)).flatten(1)


def _sorted(ids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.sort(ids, axis=-1))
