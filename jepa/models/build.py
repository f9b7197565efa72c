"""From a configuration to a JEPA."""

from dataclasses import dataclass, replace
from typing import Literal

from jepa.models.blocks import Init
from jepa.models.encoder import Encoder, EncoderConfig
from jepa.models.jepa import JEPA
from jepa.models.place import PositionKind
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.models.presets import SIZES, SizeName
from jepa.models.rope import Variant


@dataclass(frozen=True)
class ModelConfig:
    """A size from the table, and what differs from it."""

    size: SizeName = "large"
    """Row of the size table: width, depth, heads, MLP ratio, predictor."""
    patch: int = 16
    """Patch size in pixels."""
    tubelet: int = 2
    """Frames in a tubelet."""
    heads: int | None = None
    """Attention heads of the encoder, if not the table's (I-JEPA's giant has 16)."""
    positions: PositionKind = "rope"
    """Rotary (V-JEPA 2) or fixed sine-cosine positions over three axes (V-JEPA 1) or over two (`sincos2d`, I-JEPA)."""
    position_scale: float = 1.0
    """Factor on sine-cosine positions."""
    rope: Variant = "interleaved"
    """Pairing of the rotary frequencies."""
    interpolate_from: int | None = None
    """Height and width in pixels between whose positions those of other sizes are interpolated; none to count on."""
    levels: tuple[int, ...] = ()
    """0-based numbers of the supervised blocks of the encoder (V-JEPA 2.1); none for the last one alone."""
    fused_levels: int | None = None
    """How many of them, from the last, the predictor takes and predicts; none for all."""
    image_tokenizer: bool = False
    """A tokenizer of its own for images, and learned vectors that tell images and videos apart (V-JEPA 2.1)."""
    init: Init = "fixed"
    """Initial weights: std 0.02 with residual outputs divided by depth (`fixed`) or not (`flat`), both as published,
    or std by `fan_in`, for narrow networks."""
    drop_path: float = 0.0
    """Stochastic depth rate of the encoder's last block."""
    layer_scale: float | None = None
    """Initial value of LayerScale in the encoder, none for no LayerScale."""
    predictor_width: int | None = None
    """Width of the predictor, if not the table's."""
    predictor_depth: int | None = None
    """Depth of the predictor, if not the table's."""
    predictor_heads: int | None = None
    """Heads of the predictor, if not the table's."""
    mask_tokens: int = 2
    """Learned mask tokens of the predictor, one per mask configuration."""
    mask_token_init: Literal["zero", "normal"] = "zero"
    """Initial mask tokens: zero (V-JEPA), or truncated normal of std 0.02 (I-JEPA)."""
    context_head: bool = False
    """A second output of the predictor, for the context tokens (V-JEPA 2.1)."""

    @property
    def predicted_levels(self) -> int:
        """L, the levels that the predictor takes and predicts."""
        return self.fused_levels or max(len(self.levels), 1)


def encoder_config(config: ModelConfig, *, frames: int, size: int) -> EncoderConfig:
    """Encoder of this model, for clips of `frames` frames and `size` x `size` pixels."""
    row = SIZES[config.size]
    return EncoderConfig(
        width=row.width,
        depth=row.depth,
        heads=row.heads if config.heads is None else config.heads,
        mlp_ratio=row.mlp_ratio,
        patch=config.patch,
        tubelet=config.tubelet,
        frames=frames,
        size=size,
        positions=config.positions,
        position_scale=config.position_scale,
        rope=config.rope,
        interpolate_from=config.interpolate_from,
        levels=config.levels,
        image_tokenizer=config.image_tokenizer,
        init=config.init,
        drop_path=config.drop_path,
        layer_scale=config.layer_scale,
    )


def predictor_config(config: ModelConfig) -> PredictorConfig:
    """Predictor of this model."""
    row = SIZES[config.size].predictor
    return replace(
        row,
        width=row.width if config.predictor_width is None else config.predictor_width,
        depth=row.depth if config.predictor_depth is None else config.predictor_depth,
        heads=row.heads if config.predictor_heads is None else config.predictor_heads,
        mask_tokens=config.mask_tokens,
        mask_token_init=config.mask_token_init,
        fused_levels=config.predicted_levels,
        context_head=config.context_head,
        modality=config.image_tokenizer,
        init=config.init,
    )


def build_jepa(config: ModelConfig, *, frames: int = 16, size: int = 224, target_width: int | None = None) -> JEPA:
    """A freshly initialised JEPA.

    Args:
        config: the model.
        frames: frames of a clip.
        size: height and width of a clip in pixels.
        target_width: values to predict per token; the encoder's width times the levels when none.
    """
    encoder = Encoder(encoder_config(config, frames=frames, size=size))
    predictor = Predictor(
        predictor_config(config),
        context_width=encoder.config.width,
        target_width=target_width or encoder.config.width * config.predicted_levels,
        places=encoder.config.places,
    )
    return JEPA(encoder, predictor)
