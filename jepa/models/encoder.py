"""Vision transformer over the tokens of a clip: the context encoder and, as its EMA copy, the target encoder.

No class token; pre-norm blocks; a final LayerNorm. With `context` ids only those tokens enter the network
(V-JEPA drops masked tokens instead of replacing them). Positions are rotary (V-JEPA 2) or fixed sine-cosine
(V-JEPA 1, I-JEPA); both are functions of the token grid, so other clip lengths and resolutions need no new weights.

V-JEPA 2.1 (arXiv 2603.14482) adds supervised levels, blocks whose outputs are targets too, each behind a LayerNorm of
its own (`norms_block`) instead of the one at the end, and a tokenizer of its own for images, with a learned vector that
tells the blocks which of the two a token came from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepa.errors import ConfigError
from jepa.models.blocks import Init, initialise, require_shape, rescale
from jepa.models.patch_embed import PatchEmbed
from jepa.models.place import PlaceConfig, Places, PositionKind
from jepa.models.rope import Rotation, Variant
from jepa.models.stack import make_blocks
from jepa.tokens import TokenGrid

MODALITY_STD = 1e-6
"""Of the initial modality vectors."""


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
    positions: PositionKind = "rope"
    """Rotary (V-JEPA 2) or fixed sine-cosine positions over three axes (V-JEPA 1) or over two (`sincos2d`, I-JEPA)."""
    position_scale: float = 1.0
    """Factor on sine-cosine positions."""
    rope: Variant = "interleaved"
    """Pairing of the rotary frequencies; `tiled` reads released V-JEPA 2 weights."""
    interpolate_from: int | None = None
    """Height and width in pixels between whose positions those of other sizes are interpolated (V-JEPA 2.1: 256;
    V-JEPA 1 and I-JEPA: `size`); none to count positions on."""
    levels: tuple[int, ...] = ()
    """0-based numbers of the supervised blocks, the last one among them, each with a LayerNorm of its own (V-JEPA
    2.1); none for one LayerNorm at the end."""
    image_tokenizer: bool = False
    """A tubelet of one frame for images, and learned vectors that tell images and videos apart (V-JEPA 2.1)."""
    init: Init = "fixed"
    """Initial weights: std 0.02 with residual outputs divided by depth (`fixed`) or not (`flat`), both as published,
    or std by `fan_in`, for narrow networks."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block."""
    layer_scale: float | None = None
    """Initial value of LayerScale, none for no LayerScale."""

    def __post_init__(self) -> None:
        require_shape("encoder", self.width, self.depth, self.heads)
        for name in ("patch", "tubelet", "channels", "frames", "size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"encoder has {name} {getattr(self, name)}, expected 1 or more")
        rising = all(low < high for low, high in zip(self.levels, self.levels[1:], strict=False))
        if self.levels and not (rising and self.levels[0] >= 0 and self.levels[-1] == self.depth - 1):
            raise ConfigError(
                f"levels {list(self.levels)} (model.levels) of an encoder of depth {self.depth}: give rising numbers "
                f"from 0, the last of them {self.depth - 1}"
            )
        _ = self.places  # raises where `interpolate_from` does not divide

    @property
    def places(self) -> PlaceConfig:
        """How tokens get their positions, here and in the predictor."""
        base = None
        if self.interpolate_from is not None:
            side = self.interpolate_from
            base = TokenGrid.of_clip(self.frames, side, side, tubelet=self.tubelet, patch=self.patch)
        return PlaceConfig(self.positions, self.rope, self.position_scale, base)


def differences(one: EncoderConfig, other: EncoderConfig) -> list[str]:
    """Where two encoders compute something else from the same weights: "rope tiled, not interleaved", for each field.

    Not counted: initial values, and the length and size of training clips where positions are counted on.
    """
    values = [
        {field.name: getattr(config, field.name) for field in fields(config)} for config in map(_computed, (one, other))
    ]
    return [f"{name} {value}, not {values[1][name]}" for name, value in values[0].items() if value != values[1][name]]


def _computed(config: EncoderConfig) -> EncoderConfig:
    """With what is no part of the computation set to the same values for all."""
    rotary, interpolated = config.positions == "rope", config.interpolate_from is not None
    return replace(
        config,
        mlp_ratio=round(config.width * config.mlp_ratio) / config.width,
        frames=config.tubelet if rotary or not interpolated or config.positions == "sincos2d" else config.frames,
        size=1,
        rope=config.rope if rotary else "interleaved",
        position_scale=1.0 if rotary else config.position_scale,
        init="fixed",
        drop_path=0.0,
        layer_scale=None if config.layer_scale is None else 1.0,
    )


class Encoder(nn.Module):
    """Clips (B, C, T, H, W) to tokens (B, N, D)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.channels, config.width, config.tubelet, config.patch)
        if config.image_tokenizer:
            self.patch_embed_img = PatchEmbed(config.channels, config.width, 1, config.patch)
            self.img_mod_embed = nn.Parameter(torch.zeros(1, 1, config.width))
            self.video_mod_embed = nn.Parameter(torch.zeros(1, 1, config.width))
        self.blocks = make_blocks(
            config.depth, config.width, config.heads, config.mlp_ratio, config.drop_path, config.layer_scale
        )
        if config.levels:
            self.norms_block = nn.ModuleList(nn.LayerNorm(config.width, eps=1e-6) for _ in config.levels)
        else:
            self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.places = Places(config.width, config.heads, config.places)
        initialise(self, config.init)
        rescale(self.blocks, config.init)
        if config.image_tokenizer:
            nn.init.normal_(self.img_mod_embed, std=MODALITY_STD)
            nn.init.normal_(self.video_mod_embed, std=MODALITY_STD)

    def grid_of(self, clips: Float[Tensor, "B C T H W"]) -> TokenGrid:
        """Token grid of these clips; a single frame is an image. Raises ConfigError when their sizes do not divide."""
        frames, height, width = clips.shape[2:]
        if frames == 1:
            return TokenGrid.of_image(height, width, patch=self.config.patch)
        return TokenGrid.of_clip(frames, height, width, tubelet=self.config.tubelet, patch=self.config.patch)

    def forward(
        self, clips: Float[Tensor, "B C T H W"], context: Int[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B K D"]:
        """Normalised output tokens of all tokens, or of the `context` ids only."""
        return self._levels(clips, [self.config.depth - 1], context)[0]

    def hierarchy(
        self, clips: Float[Tensor, "B C T H W"], count: int, context: Int[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B K E"]:
        """The last `count` supervised levels of each token side by side, E = count * D; the output if `count` is 1.

        Raises:
            ConfigError: there are fewer supervised levels.
        """
        if count == 1:
            return self._levels(clips, [self.config.depth - 1], context)[0]
        if count > len(self.config.levels):
            raise ConfigError(f"{count} levels wanted of an encoder with {len(self.config.levels)} supervised ones")
        return torch.cat(self._levels(clips, self.config.levels[-count:], context), dim=-1)

    def levels(
        self,
        clips: Float[Tensor, "B C T H W"],
        levels: Sequence[int],
        context: Int[Tensor, "B K"] | None = None,
    ) -> list[Float[Tensor, "B K D"]]:
        """Tokens after the blocks with these 0-based numbers (negative: from the end), each through the LayerNorm of
        its own if it is a supervised level, else through the final one.

        Raises:
            ConfigError: a level outside the depth.
        """
        return self._levels(clips, levels, context)

    def _levels(self, clips: Tensor, levels: Sequence[int], context: Tensor | None) -> list[Tensor]:
        """What the ways in above have in common; none of them goes through another, as a sharded encoder gathers its
        parameters when one is entered and lets them go when it is left."""
        depth = self.config.depth
        if not all(-depth <= level < depth for level in levels):
            raise ConfigError(f"levels {list(levels)} reach outside an encoder of depth {depth}")
        wanted = [level % depth for level in levels]
        tokens, rotation = self.begin(clips, context)
        found: dict[int, Tensor] = {}
        numbers = range(max(wanted, default=-1) + 1)
        for number, after in zip(numbers, self.blocks.after_each(tokens, rotation), strict=False):
            if number in wanted:
                found[number] = self.normalise(after, number)
        return [found[level] for level in wanted]

    def begin(
        self, clips: Float[Tensor, "B C T H W"], context: Int[Tensor, "B K"] | None = None
    ) -> tuple[Float[Tensor, "B K D"], Rotation | None]:
        """What the first block takes: embedded tokens with their positions, or the rotation that tells these."""
        return self.places.place(self._embed(clips, context), self.grid_of(clips), context)

    def normalise(self, tokens: Float[Tensor, "B K D"], level: int) -> Float[Tensor, "B K D"]:
        """Tokens after block `level` (0-based) through its own LayerNorm if it is a supervised level, else through the
        final one."""
        supervised = self.config.levels
        if not supervised:
            final: Tensor = self.norm(tokens)
            return final
        own = supervised.index(level) if level in supervised else -1
        normed: Tensor = self.norms_block[own](tokens)
        return normed

    def _embed(self, clips_BCTHW: Tensor, context_BK: Tensor | None) -> Tensor:
        image = clips_BCTHW.shape[2] == 1
        if not self.config.image_tokenizer:
            if image:  # fills a tubelet, as in the released evaluations
                clips_BCTHW = clips_BCTHW.expand(-1, -1, self.config.tubelet, -1, -1)
            plain: Tensor = self.patch_embed(clips_BCTHW, context_BK)
            return plain
        embed = self.patch_embed_img if image else self.patch_embed
        tokens: Tensor = embed(clips_BCTHW, context_BK)
        # The cast keeps the blocks in the activations' type under autocast, as the released code does.
        return tokens + (self.img_mod_embed if image else self.video_mod_embed).to(tokens.dtype)
