"""Predictor: from the encoded context to the features of the target tokens.

A narrow transformer sees the mapped context tokens and, for each target position, a learned mask token; both carry
their positions. Its outputs at the target positions, mapped to the target width, are the prediction. One mask token
per mask configuration (V-JEPA 1). Attention with positions does not depend on the order of tokens, so the official
sorting by position is not needed.

In V-JEPA 2.1 the context comes with several levels side by side, fused by a small MLP, and a second output map predicts
the features of the context tokens themselves. In I-JEPA the target is a few blocks, each predicted by itself.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from timm.layers import trunc_normal_
from torch import Tensor, nn

from jepa.errors import ConfigError
from jepa.models.blocks import Init, initialise, require_shape, rescale
from jepa.models.encoder import MODALITY_STD
from jepa.models.place import PlaceConfig, Places
from jepa.models.stack import make_blocks
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
    mask_token_init: Literal["zero", "normal"] = "zero"
    """Initial mask tokens: zero (V-JEPA), or truncated normal of std 0.02 (I-JEPA)."""
    fused_levels: int = 1
    """Levels of the encoder that it takes, side by side; more than one are fused by a two-layer MLP (V-JEPA 2.1)."""
    context_head: bool = False
    """A second output map, for the features of the context tokens (V-JEPA 2.1)."""
    modality: bool = False
    """Learned vectors that tell images and videos apart (V-JEPA 2.1)."""
    init: Init = "fixed"
    """Initial weights, as of the encoder."""

    def __post_init__(self) -> None:
        require_shape("predictor", self.width, self.depth, self.heads)
        for name in ("mask_tokens", "fused_levels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"predictor has {getattr(self, name)} {name.replace('_', ' ')}, expected at least 1")


class Predictor(nn.Module):
    """Context tokens and a mask to predictions of the target tokens, and of the context tokens."""

    def __init__(
        self, config: PredictorConfig, *, context_width: int, target_width: int, places: PlaceConfig | None = None
    ) -> None:
        """
        Args:
            config: the architecture.
            context_width: D, width of a token of one level.
            target_width: E, values to predict per token.
            places: as of the encoder.
        """
        super().__init__()
        self.config = config
        self.predictor_embed = _embedding(config.fused_levels, context_width, config.width)
        tokens = [nn.Parameter(torch.zeros(1, 1, config.width)) for _ in range(config.mask_tokens)]
        self.mask_tokens = nn.ParameterList(tokens)
        if config.modality:
            self.img_mod_embed = nn.Parameter(torch.zeros(1, 1, config.width))
            self.video_mod_embed = nn.Parameter(torch.zeros(1, 1, config.width))
        self.predictor_blocks = make_blocks(config.depth, config.width, config.heads, config.mlp_ratio, 0.0)
        self.predictor_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.predictor_proj = nn.Linear(config.width, target_width)
        if config.context_head:
            self.predictor_proj_context = nn.Linear(config.width, target_width)
        self.places = Places(config.width, config.heads, places or PlaceConfig())
        self._initialise()

    def _initialise(self) -> None:
        config = self.config
        initialise(self, config.init)
        rescale(self.predictor_blocks, config.init)
        if config.mask_token_init == "normal":
            for token in self.mask_tokens:
                trunc_normal_(token, std=0.02)
        if config.modality:
            nn.init.normal_(self.img_mod_embed, std=MODALITY_STD)
            nn.init.normal_(self.video_mod_embed, std=MODALITY_STD)

    @property
    def context_width(self) -> int:
        """D, the width of a token of one level."""
        embed = self.predictor_embed
        first = embed[0] if isinstance(embed, nn.Sequential) else embed
        assert isinstance(first, nn.Linear)
        return first.in_features // self.config.fused_levels

    @property
    def target_width(self) -> int:
        """E, the values predicted per token."""
        return self.predictor_proj.out_features

    def forward(
        self, context: Float[Tensor, "B K D"], mask: Mask, grid: TokenGrid, number: int = 0, image: bool = False
    ) -> Float[Tensor, "B M E"]:
        """Predictions at `mask.target` from tokens at `mask.context`.

        Args:
            context: tokens at `mask.context`, D times the levels wide.
            mask: where they are, and where to predict.
            grid: token layout of the clips.
            number: of the mask token.
            image: whether these are images; only a predictor with `modality` makes a difference.

        Raises:
            ConfigError: there is no such mask token, or the mask names other context tokens than there are.
        """
        kept, targets = mask.context.shape[1], mask.target.shape[1]
        out: Tensor = self.predictor_proj(self._attend(context, mask, grid, number, image)[:, kept:])
        return out.reshape(len(context), targets, -1)

    def both(
        self, context: Float[Tensor, "B K D"], mask: Mask, grid: TokenGrid, number: int = 0, image: bool = False
    ) -> tuple[Float[Tensor, "B M E"], Float[Tensor, "B K E"]]:
        """As `forward`, and predictions at `mask.context` by the second map; for targets of one block.

        Raises:
            ConfigError: there is no second map, or the target has several blocks.
        """
        if not self.config.context_head:
            raise ConfigError("this predictor has no output for context tokens: set model.context_head")
        if mask.blocks > 1:
            raise ConfigError("context tokens are predicted beside a target of one block: use other masks.kinds")
        kept = mask.context.shape[1]
        tokens = self._attend(context, mask, grid, number, image)
        return self.predictor_proj(tokens[:, kept:]), self.predictor_proj_context(tokens[:, :kept])

    def _attend(self, context_BKD: Tensor, mask: Mask, grid: TokenGrid, number: int, image: bool) -> Tensor:
        """Output tokens of context and targets, in that order; a clip's target blocks stand one after the other in the
        batch, each behind the same context."""
        if not 0 <= number < len(self.mask_tokens):
            raise ConfigError(f"mask token {number} wanted of a predictor that has {len(self.mask_tokens)}, from 0")
        if mask.context.shape != context_BKD.shape[:2]:
            given, named = list(context_BKD.shape[:2]), list(mask.context.shape)
            raise ConfigError(f"context of {given} clips and tokens, but the mask names {named}")
        seen = self.predictor_embed(context_BKD)
        target = mask.target.reshape(len(seen) * mask.blocks, -1)
        seen, where = (x.repeat_interleave(mask.blocks, 0) if mask.blocks > 1 else x for x in (seen, mask.context))
        token = self.mask_tokens[number].to(seen.dtype)
        asked = token.expand(*target.shape, -1)
        tokens, rotation = self.places.place(torch.cat([seen, asked], dim=1), grid, torch.cat([where, target], dim=1))
        if self.config.modality:
            tokens = tokens + (self.img_mod_embed if image else self.video_mod_embed).to(tokens.dtype)
        out: Tensor = self.predictor_norm(self.predictor_blocks(tokens, rotation))
        return out


def _embedding(levels: int, context_width: int, width: int) -> nn.Linear | nn.Sequential:
    if levels == 1:
        return nn.Linear(context_width, width)
    return nn.Sequential(nn.Linear(levels * context_width, context_width), nn.GELU(), nn.Linear(context_width, width))
