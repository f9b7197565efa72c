"""Sizes of the published encoders and predictors as one table, and a nano size for CPUs.

Widths, depths, heads and MLP ratios of tiny to gigantic are those of V-JEPA 2 (arXiv 2506.09985, Table 12, and its
released code).
"""

from typing import Literal, NamedTuple

from jepa.models.predictor import PredictorConfig

SizeName = Literal["nano", "tiny", "small", "base", "large", "huge", "giant", "gigantic"]


class Size(NamedTuple):
    """Encoder dimensions and the predictor that goes with them."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float
    predictor: PredictorConfig


PREDICTOR = PredictorConfig(width=384, depth=12, heads=12)
"""Of the published models, whatever the encoder."""

SIZES: dict[SizeName, Size] = {
    "nano": Size(96, 4, 3, 4.0, PredictorConfig(width=64, depth=1, heads=2)),
    "tiny": Size(192, 12, 3, 4.0, PredictorConfig(width=96, depth=6, heads=3)),
    "small": Size(384, 12, 6, 4.0, PredictorConfig(width=192, depth=6, heads=6)),
    "base": Size(768, 12, 12, 4.0, PREDICTOR),
    "large": Size(1024, 24, 16, 4.0, PREDICTOR),
    "huge": Size(1280, 32, 16, 4.0, PREDICTOR),
    "giant": Size(1408, 40, 22, 48 / 11, PREDICTOR),
    "gigantic": Size(1664, 48, 26, 64 / 13, PREDICTOR),
}
