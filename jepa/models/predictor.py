"""Predictor: from the encoded context to the features of the target tokens.

A narrow transformer sees the mapped context tokens and, for each target position, a learned mask token; both carry
their positions. Its outputs at the target positions, mapped to the target width, are the prediction. One mask token
per mask configuration (V-JEPA 1). Attention with positions does not depend on the order of tokens, so the official
sorting by position is not needed.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa.errors import ConfigError
from jepa.models.blocks import Init, initialise, make_blocks, require_shape, rescale
from jepa.models.place import Places
from jepa.tokens import Mask, TokenGrid


@dataclass(frozen=True)
class PredictorConfig:
    """Architecture of a predictor."""

    width: int = 384
    """Width inside the predictor."""
    depth: int = 12
    """Number of transformer blocks."""
    heads: int = 12
    """Attention heads; must divide the width."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width."""
    mask_tokens: int = 2
    """Learned mask tokens, one per mask configuration."""
    init: Init = "fixed"
    """Initial weights: `fixed` std 0.02 as published, or std by `fan_in`, for narrow networks."""

    def __post_init__(self) -> None:
        require_shape("predictor", self.width, self.depth, self.heads)
        if self.mask_tokens < 1:
            raise ConfigError(f"predictor has {self.mask_tokens} mask tokens, expected at least 1")


class Predictor(nn.Module):
    """Context tokens and a mask to predictions of the target tokens."""

    def __init__(
        self,
        config: PredictorConfig,
        *,
        context_width: int,
        target_width: int,
        positions: Literal["rope", "sincos"],
        rope: Literal["interleaved", "tiled"],
        position_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.config = config
        self.predictor_embed = nn.Linear(context_width, config.width)
        tokens = [nn.Parameter(torch.zeros(1, 1, config.width)) for _ in range(config.mask_tokens)]
        self.mask_tokens = nn.ParameterList(tokens)
        self.predictor_blocks = make_blocks(config.depth, config.width, config.heads, config.mlp_ratio, 0.0)
        self.predictor_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.predictor_proj = nn.Linear(config.width, target_width)
        self.places = Places(config.width, config.heads, positions, rope, position_scale)
        initialise(self, config.init)
        rescale(self.predictor_blocks)

    def forward(
        self, context: Float[Tensor, "B K D"], mask: Mask, grid: TokenGrid, number: int = 0
    ) -> Float[Tensor, "B M E"]:
        """Predictions at `mask.target` from tokens at `mask.context`; `number` chooses the mask token."""
        batch, kept = mask.context.shape
        seen_BKD = self.predictor_embed(context)
        token = self.mask_tokens[number % len(self.mask_tokens)].to(seen_BKD.dtype)
        asked_BMD = token.expand(batch, mask.target.shape[1], -1)
        ids = torch.cat([mask.context, mask.target], dim=1)
        tokens, rotation = self.places.place(torch.cat([seen_BKD, asked_BMD], dim=1), grid, ids)
        for block in self.predictor_blocks:
            tokens = block(tokens, rotation)
        out: Tensor = self.predictor_proj(self.predictor_norm(tokens[:, kept:]))
        return out
