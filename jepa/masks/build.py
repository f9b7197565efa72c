"""The masks of a step, as a pure function of (seed, step, batch size)."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch

from jepa.errors import ConfigError
from jepa.masks.causal import Causal
from jepa.masks.collate import EVERY, Shares
from jepa.masks.config import LONG_RANGE, SHORT_RANGE, MaskConfig
from jepa.masks.ijepa import IJEPA
from jepa.masks.multiblock import Multiblock
from jepa.masks.tube import Tube
from jepa.rng import generator
from jepa.tokens import Mask, TokenGrid


@dataclass(frozen=True)
class MasksConfig:
    """Mask configurations; the encoder and the predictor run once for each."""

    kinds: tuple[MaskConfig, ...] = (SHORT_RANGE, LONG_RANGE)
    """The masks of a step, each of its own kind; by default short range (many small blocks) and long range (few large
    ones), as in V-JEPA."""
    collation: Literal["fixed", "official"] = "fixed"
    """`fixed`: the same number of tokens in every batch, a random subset. `official`: cut to the batch's shortest in
    time order, as the released code does, for which every process draws the masks of the whole batch."""
    context_share: float | None = None
    """With `fixed`: share of the tokens kept as context; none for what the blocks leave on average, or what other kinds
    leave at least."""
    target_share: float | None = None
    """With `fixed`: share of the tokens predicted; none for what the blocks cover on average, or other kinds at least.
    Of ijepa: all blocks together."""

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ConfigError("masks.kinds is empty: name at least one mask configuration")
        for name, share in (("context_share", self.context_share), ("target_share", self.target_share)):
            if share is not None and not 0 < share < 1:
                raise ConfigError(f"masks.{name} is {share}, expected a number between 0 and 1")
        if (self.context_share or 0) + (self.target_share or 0) > 1:
            raise ConfigError(
                "masks.context_share + masks.target_share is above 1: a token is seen or predicted, not both"
            )
        for kind in self.kinds:
            if kind.complement is None:
                continue
            # What is the target before the mask is turned round is the context behind it.
            to_target = (kind.complement == "target") != kind.inverse
            name, share = ("target", self.target_share) if to_target else ("context", self.context_share)
            if share is not None:
                raise ConfigError(f"masks.{name}_share is given, but complement: {kind.complement} sets that number")


CHUNK = 64
"""Clips that `fixed` collation draws together; they share the size of their blocks."""


class MaskSampler:
    """Draws the masks of a step; picklable, stateless."""

    def __init__(self, config: MasksConfig, grid: TokenGrid, seed: int) -> None:
        """Count what is kept.

        Raises:
            ConfigError: a configuration is not for such a grid, or asks for larger shares than it can have.
        """
        if grid.count < 2:
            raise ConfigError(f"a grid of {grid.count} token cannot be masked: use more frames or a larger size")
        self.config, self.grid, self.seed = config, grid, seed
        shares = Shares(config.context_share, config.target_share) if config.collation == "fixed" else None
        self._kinds = tuple(_build(kind, grid, shares) for kind in config.kinds)

    def __call__(self, step: int, batch: int, rows: slice = EVERY) -> tuple[Mask, ...]:
        """Masks of these rows of the (global) batch of `batch` clips at `step`, one per configuration.

        With `fixed` collation clips have nothing in common but the size of their blocks, so the batch is drawn in
        chunks of 64 clips, each from random numbers of its own, and only those that the rows touch: the work of a
        process does not grow with the number of the others. `official` collation cuts all clips to the shortest of the
        batch, so all of it is drawn in one piece.
        """
        return tuple(self._draw(kind, f"mask/{number}", step, batch, rows) for number, kind in enumerate(self._kinds))

    def _draw(self, kind: "_Drawer", purpose: str, step: int, batch: int, rows: slice) -> Mask:
        if self.config.collation == "official" or batch <= CHUNK:
            return kind.draw(batch, generator(self.seed, step, purpose), rows)
        wanted = range(*rows.indices(batch))
        parts = []
        for start in range(0, batch, CHUNK):
            inside = _between(wanted, start, start + CHUNK)
            if inside:
                rng = generator(self.seed, step, f"{purpose}/{start // CHUNK}" if start else purpose)
                own = slice(inside[0] - start, inside[-1] + 1 - start, inside.step)
                parts.append(kind.draw(min(batch - start, CHUNK), rng, own))
        return _joined(parts)


@runtime_checkable
class _Drawer(Protocol):
    """Draws the masks of one configuration on one grid."""

    def draw(self, batch: int, rng: np.random.Generator, rows: slice = EVERY) -> Mask:
        """Mask of these rows of a batch."""


def _build(config: MaskConfig, grid: TokenGrid, shares: Shares | None) -> _Drawer:
    match config.kind:
        case "multiblock":
            return Multiblock(config, grid, shares)
        case "tube":
            return Tube(config, grid, shares)
        case "causal":
            return Causal(config, grid, shares)
        case "ijepa":
            return IJEPA(config, grid, shares)


def _between(numbers: range, low: int, high: int) -> range:
    """Those of rising numbers that are at least `low` and below `high`."""
    skipped = max(-(-(low - numbers.start) // numbers.step), 0)
    return range(numbers.start + skipped * numbers.step, min(numbers.stop, high), numbers.step)


def _joined(parts: list[Mask]) -> Mask:
    """One batch after the other."""
    context, target = (torch.cat([getattr(part, side) for part in parts]) for side in ("context", "target"))
    return Mask(context, target, parts[0].blocks)
