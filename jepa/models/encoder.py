"""Vision transformer over the tokens of a clip: the context encoder and, as its EMA copy, the target encoder.

No class token; pre-norm blocks; a final LayerNorm. With `context` ids only those tokens enter the network
(V-JEPA drops masked tokens instead of replacing them). Positions are rotary (V-JEPA 2) or fixed sine-cosine
(V-JEPA 1); both are functions of the token grid, so other clip lengths and resolutions need no interpolation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from jepa.errors import ConfigError
from jepa.models.blocks import Init, initialise, make_blocks, require_shape, rescale
from jepa.models.patch_embed import PatchEmbed
from jepa.models.place import Places
from jepa.tokens import TokenGrid


@dataclass(frozen=True)
class EncoderConfig:
    """Architecture of an encoder."""

    width: int = 96
    """Token width D."""
    depth: int = 4
    """Number of transformer blocks."""
    heads: int = 3
    """Attention heads; must divide the width."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over D."""
    patch: int = 16
    """Patch size in pixels."""
    tubelet: int = 2
    """Frames in a tubelet."""
    channels: int = 3
    """Colour channels of a frame."""
    frames: int = 16
    """Frames of the clips it is trained on; other multiples of `tubelet` work too."""
    size: int = 224
    """Height and width of the clips it is trained on; other multiples of `patch` work too."""
    positions: Literal["rope", "sincos"] = "rope"
    """Rotary (V-JEPA 2) or fixed sine-cosine positions (V-JEPA 1)."""
    position_scale: float = 1.0
    """Factor on sine-cosine positions."""
    rope: Literal["interleaved", "tiled"] = "interleaved"
    """Pairing of the rotary frequencies; `tiled` reads released V-JEPA 2 weights."""
    init: Init = "fixed"
    """Initial weights: `fixed` std 0.02 as published, or std by `fan_in`, for narrow networks."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block."""
    layer_scale: float | None = None
    """Initial value of LayerScale, none for no LayerScale."""

    def __post_init__(self) -> None:
        require_shape("encoder", self.width, self.depth, self.heads)


class Encoder(nn.Module):
    """Clips (B, C, T, H, W) to tokens (B, N, D)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.channels, config.width, config.tubelet, config.patch)
        self.blocks = make_blocks(
            config.depth, config.width, config.heads, config.mlp_ratio, config.drop_path, config.layer_scale
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.places = Places(config.width, config.heads, config.positions, config.rope, config.position_scale)
        initialise(self, config.init)
        rescale(self.blocks)

    def grid_of(self, clips: Float[Tensor, "B C T H W"]) -> TokenGrid:
        """Token grid of these clips. Raises ConfigError when their sizes do not divide."""
        frames, height, width = clips.shape[2:]
        return TokenGrid.of_clip(frames, height, width, tubelet=self.config.tubelet, patch=self.config.patch)

    def forward(
        self, clips: Float[Tensor, "B C T H W"], context: Int[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B K D"]:
        """Normalised output tokens of all tokens, or of the `context` ids only."""
        return self.levels(clips, [self.config.depth - 1], context)[0]

    def levels(
        self,
        clips: Float[Tensor, "B C T H W"],
        levels: Sequence[int],
        context: Int[Tensor, "B K"] | None = None,
    ) -> list[Float[Tensor, "B K D"]]:
        """Tokens after the blocks with these 0-based numbers (negative: from the end), through the final LayerNorm.

        Raises:
            ConfigError: a level outside the depth.
        """
        depth = self.config.depth
        if not all(-depth <= level < depth for level in levels):
            raise ConfigError(f"levels {list(levels)} reach outside an encoder of depth {depth}")
        wanted = [level % depth for level in levels]
        tokens, rotation = self.places.place(self.patch_embed(clips, context), self.grid_of(clips), context)
        found: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks):
            tokens = block(tokens, rotation)
            if number in wanted:
                found[number] = self.norm(tokens)
        return [found[level] for level in wanted]
