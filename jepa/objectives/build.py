"""From a configuration to an objective."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jepa.errors import ConfigError
from jepa.models.encoder import EncoderConfig
from jepa.models.jepa import JEPA
from jepa.objectives.latent import LatentPrediction
from jepa.objectives.pixels import PixelNorm, PixelPrediction
from jepa.tokens import tubelet_pixels
from jepa.types import ClipBatch, StepOutput


@runtime_checkable
class Objective(Protocol):
    """The forward of one training step."""

    @property
    def uses_ema(self) -> bool:
        """Whether the target encoder follows the context encoder after each step."""

    def __call__(self, jepa: JEPA, batch: ClipBatch, *, diagnose: bool = False) -> StepOutput:
        """Loss, terms and diagnostics of one batch of normalised clips."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is predicted."""

    target: Literal["ema", "frozen", "pixels"] = "ema"
    """`ema`: features of the EMA target encoder (V-JEPA). `frozen`: features of a teacher that does not change: the
    weights given by `--init`, while the trained encoder starts afresh. `pixels`: normalised pixels."""
    exponent: float | None = None
    """p of the loss mean(|error|^p) / p; none for 1 (L1, V-JEPA) with features and 2 (VideoMAE) with pixels."""
    pixel_norm: PixelNorm = "patch"
    """With `pixels`: normalise each patch by itself (VideoMAE), or the whole clip."""

    def __post_init__(self) -> None:
        if self.exponent is not None and self.exponent <= 0:
            raise ConfigError(f"objective.exponent is {self.exponent}, expected a number above 0")


def build_objective(config: ObjectiveConfig, encoder: EncoderConfig) -> Objective:
    """The objective for clips of this encoder."""
    match config.target:
        case "pixels":
            exponent = 2.0 if config.exponent is None else config.exponent
            return PixelPrediction(
                tubelet=encoder.tubelet, patch=encoder.patch, norm=config.pixel_norm, exponent=exponent
            )
        case "ema" | "frozen":
            exponent = 1.0 if config.exponent is None else config.exponent
            return LatentPrediction(exponent=exponent, uses_ema=config.target == "ema")


def target_width(config: ObjectiveConfig, encoder: EncoderConfig, levels: int = 1) -> int:
    """Values to predict per token: D for each of its levels, or the P pixels of a tubelet."""
    if config.target == "pixels":
        return tubelet_pixels(encoder.channels, tubelet=encoder.tubelet, patch=encoder.patch)
    return encoder.width * levels
