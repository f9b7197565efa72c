"""The masks of a step, as a pure function of (seed, step, batch size)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from jepa.errors import ConfigError
from jepa.masks.collate import EVERY, fixed, official
from jepa.masks.multiblock import LONG_RANGE, SHORT_RANGE, BlockConfig, draw_targets
from jepa.rng import generator
from jepa.tokens import Mask, TokenGrid

_DRAWS = 256


@dataclass(frozen=True)
class MasksConfig:
    """Mask configurations; the encoder and the predictor run once for each."""

    kinds: tuple[BlockConfig, ...] = (SHORT_RANGE, LONG_RANGE)
    """Short range (many small blocks) and long range (few large ones), as in V-JEPA."""
    collation: Literal["fixed", "official"] = "fixed"
    """`fixed`: the same number of tokens in every batch, a random subset. `official`: cut to the batch's shortest in
    time order, as the released code does."""
    context_share: float | None = None
    """With `fixed`: share of the tokens kept as context; none for what the blocks leave on average."""
    target_share: float | None = None
    """With `fixed`: share of the tokens predicted; none for what the blocks cover on average."""

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


class MaskSampler:
    """Draws the masks of a step; picklable, stateless."""

    def __init__(self, config: MasksConfig, grid: TokenGrid, seed: int) -> None:
        if grid.count < 2:
            raise ConfigError(f"a grid of {grid.count} token cannot be masked: use more frames or a larger size")
        self.config, self.grid, self.seed = config, grid, seed
        self._counts = tuple(_counts(config, kind, grid) for kind in config.kinds)

    def __call__(self, step: int, batch: int, rows: slice = EVERY) -> tuple[Mask, ...]:
        """Masks of these rows of the (global) batch of `batch` clips at `step`, one per configuration."""
        return tuple(self._draw(number, step, batch, rows) for number in range(len(self.config.kinds)))

    def _draw(self, number: int, step: int, batch: int, rows: slice) -> Mask:
        rng = generator(self.seed, step, f"mask/{number}")
        covered = draw_targets(self.config.kinds[number], self.grid, batch, rng)
        if self.config.collation == "official":
            return official(covered, rows)
        keep, predict = self._counts[number]
        return fixed(covered, keep, predict, rng, rows)


@lru_cache(maxsize=64)
def _counts(config: MasksConfig, kind: BlockConfig, grid: TokenGrid) -> tuple[int, int]:
    """Context and target tokens per clip; the mean target share is estimated by a fixed simulation."""
    shares = [draw_targets(kind, grid, 1, generator(0, draw, "mask/share")).mean() for draw in range(_DRAWS)]
    covered = float(sum(shares)) / _DRAWS
    keep = round(grid.count * (config.context_share or min(1 - covered, 1 - (config.target_share or 0))))
    keep = min(max(keep, 1), grid.count - 1)
    predict = round(grid.count * (config.target_share or covered))
    return keep, min(max(predict, 1), grid.count - keep)
