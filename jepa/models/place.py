"""Gives tokens their positions: adds fixed sine-cosine vectors, or hands out the rotation for the attention.

The tables depend on the grid alone; they are made once per grid and device and then only indexed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepa.models.positions import SinCos, sincos_positions
from jepa.models.rope import Rotation, Variant, grid_rotation
from jepa.tokens import TokenGrid

_TABLES = 16
"""Tables kept, of as many grids; a run sees one or two, an extraction of many sizes more."""

PositionKind = Literal["rope", SinCos]


@dataclass(frozen=True)
class PlaceConfig:
    """How an encoder and its predictor tell where a token is."""

    kind: PositionKind = "rope"
    """Rotary, or fixed sine-cosine vectors over three axes or two."""
    rope: Variant = "interleaved"
    """Pairing of the rotary frequencies."""
    scale: float = 1.0
    """Factor on sine-cosine vectors."""
    base: TokenGrid | None = None
    """Grid between whose positions those of others are interpolated; none to count positions on."""


class Places(nn.Module):
    """Positions for tokens of one width; holds no parameters."""

    def __init__(self, width: int, heads: int, config: PlaceConfig) -> None:
        super().__init__()
        self.width, self.head_width, self.config = width, width // heads, config
        self._rotations: dict[tuple[TokenGrid, torch.device], Rotation] = {}
        self._vectors: dict[tuple[TokenGrid, torch.device], Tensor] = {}

    def place(
        self, tokens: Float[Tensor, "B K D"], grid: TokenGrid, ids: Int[Tensor, "B K"] | None
    ) -> tuple[Float[Tensor, "B K D"], Rotation | None]:
        """Tokens with sine-cosine vectors added, or unchanged tokens and their rotation."""
        if self.config.kind != "rope":
            vectors_ND = self._sincos(grid, tokens.device, self.config.kind)
            return tokens + (vectors_ND if ids is None else vectors_ND[ids]).to(tokens.dtype), None
        rotation = self._rotation(grid, tokens.device)
        return tokens, rotation if ids is None else rotation.take(ids)

    def _sincos(self, grid: TokenGrid, device: torch.device, kind: SinCos) -> Tensor:
        key = (grid, device)
        if key not in self._vectors:
            with kept(self._vectors):
                vectors = sincos_positions(grid, self.width, kind, self.config.base)
                self._vectors[key] = (vectors * self.config.scale).to(device)
        return self._vectors[key]

    def _rotation(self, grid: TokenGrid, device: torch.device) -> Rotation:
        key = (grid, device)
        if key not in self._rotations:
            base = None if self.config.base is None else self.config.base.rows
            with kept(self._rotations):
                self._rotations[key] = grid_rotation(grid, self.head_width, self.config.rope, base).to(device)
        return self._rotations[key]


@contextmanager
def kept(tables: dict[Any, Any]) -> Iterator[None]:
    """Make a table that serves training too, also inside `torch.inference_mode()`, and let the oldest of many go."""
    if len(tables) >= _TABLES:
        del tables[next(iter(tables))]
    with torch.inference_mode(False):
        yield
