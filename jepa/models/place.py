"""Gives tokens their positions: adds fixed sine-cosine vectors, or hands out the rotation for the attention.

The tables depend on the grid alone; they are made once per grid and device and then only indexed.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepa.models.positions import sincos_positions
from jepa.models.rope import Rotation, Variant, grid_rotation
from jepa.tokens import TokenGrid


class Places(nn.Module):
    """Positions for tokens of one width; holds no parameters."""

    def __init__(
        self, width: int, heads: int, kind: Literal["rope", "sincos"], variant: Variant, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.width, self.head_width, self.kind, self.variant, self.scale = width, width // heads, kind, variant, scale
        self._rotations: dict[tuple[TokenGrid, torch.device], Rotation] = {}
        self._vectors: dict[tuple[TokenGrid, torch.device], Tensor] = {}

    def place(
        self, tokens: Float[Tensor, "B K D"], grid: TokenGrid, ids: Int[Tensor, "B K"] | None
    ) -> tuple[Float[Tensor, "B K D"], Rotation | None]:
        """Tokens with sine-cosine vectors added, or unchanged tokens and their rotation."""
        if self.kind == "sincos":
            vectors_ND = self._sincos(grid, tokens.device)
            return tokens + (vectors_ND if ids is None else vectors_ND[ids]).to(tokens.dtype), None
        rotation = self._rotation(grid, tokens.device)
        return tokens, rotation if ids is None else rotation.take(ids)

    def _sincos(self, grid: TokenGrid, device: torch.device) -> Tensor:
        key = (grid, device)
        if key not in self._vectors:
            self._vectors[key] = (sincos_positions(grid, self.width) * self.scale).to(device)
        return self._vectors[key]

    def _rotation(self, grid: TokenGrid, device: torch.device) -> Rotation:
        key = (grid, device)
        if key not in self._rotations:
            self._rotations[key] = grid_rotation(grid, self.head_width, self.variant).to(device)
        return self._rotations[key]
