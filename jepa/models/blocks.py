"""Pre-norm transformer block with optional rotary positions.

Parameter names (`norm1, attn.qkv, attn.proj, norm2, mlp.fc1, mlp.fc2`) follow the official checkpoints.
"""

import math
from typing import Literal

from jaxtyping import Bool, Float
from timm.layers import LayerScale, Mlp, trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.errors import ConfigError
from jepa.models.rope import Rotation, rotate


class Attention(nn.Module):
    """Multi-head self-attention; queries and keys are rotated when a rotation is given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "B N D"], rotation: Rotation | None = None, seen: Bool[Tensor, "N N"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Args: seen: which tokens (columns) each token (rows) attends to; none for all."""
        batch, count, width = x.shape
        query, key, value = self.qkv(x).reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        out: Tensor = self.proj(attended.transpose(1, 2).reshape(batch, count, width))
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0, layer_scale: float | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, round(width * mlp_ratio))
        self.ls2 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()
        self.drop_path = drop_path
        """Rate at which `jepa.models.stack.Stack` leaves out a branch for a clip in training."""

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        rotation: Rotation | None = None,
        seen: Bool[Tensor, "N N"] | None = None,
        survival: Float[Tensor, "2 B 1 1"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Args:
        rotation: of the tokens.
        seen: which tokens (columns) each token (rows) attends to; none for all.
        survival: factors of both branches of each clip; none for 1.
        """
        branch = self.ls1(self.attn(self.norm1(x), rotation, seen))
        x = x + (branch if survival is None else branch * survival[0].to(branch.dtype))
        branch = self.ls2(self.mlp(self.norm2(x)))
        out: Tensor = x + (branch if survival is None else branch * survival[1].to(branch.dtype))
        return out


def require_shape(name: str, width: int, depth: int, heads: int) -> None:
    """Raises ConfigError unless there is a block, the heads divide the width, and channels pair up for rotation."""
    if depth < 1 or heads < 1 or width < 1:
        raise ConfigError(f"{name} has width {width}, depth {depth} and {heads} heads, expected at least 1 of each")
    if width % heads:
        raise ConfigError(f"{name} width {width} is not divisible by {heads} heads")
    if width // heads % 2:
        raise ConfigError(
            f"{name} heads are {width // heads} channels wide: width {width} / {heads} heads must be even"
        )


Init = Literal["fixed", "flat", "fan_in"]


def initialise(module: nn.Module, init: Init = "fixed") -> None:
    """Truncated normal for weights, zero for biases.

    `fixed` is the published std 0.02 whatever the width, and `flat` the same (it differs in `rescale`). `fan_in` is
    0.64 / sqrt(inputs), the same at 1024 inputs; a narrow network at 0.02 starts as almost the identity and takes long
    to leave it.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv3d):
            trunc_normal_(part.weight, std=0.64 / math.sqrt(part.weight[0].numel()) if init == "fan_in" else 0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def rescale(blocks: nn.ModuleList, init: Init = "fixed") -> None:
    """Divide each block's residual outputs by sqrt(2 * block number), counted from 1, as in the official models.

    Not with `flat`: V-JEPA 1 and I-JEPA drew all weights again after the division, which undid it.
    """
    if init == "flat":
        return
    for number, block in enumerate(blocks, start=1):
        assert isinstance(block, Block)
        for linear in (block.attn.proj, block.mlp.fc2):
            linear.weight.data.div_(math.sqrt(2.0 * number))
