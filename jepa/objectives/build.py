"""From a configuration to an objective."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jepa.models.encoder import EncoderConfig
from jepa.models.jepa import JEPA
from jepa.objectives.latent import LatentPrediction
from jepa.objectives.pixels import PixelNorm, PixelPrediction
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
    exponent: float = 1.0
    """p of the loss mean(|error|^p) / p: 1 is L1 (V-JEPA), 2 half the squared error."""
    pixel_norm: PixelNorm = "patch"
    """With `pixels`: normalise each patch by itself (VideoMAE), or the whole clip."""


def build_objective(config: ObjectiveConfig, encoder: EncoderConfig) -> Objective:
    """The objective for clips of this encoder."""
    match config.target:
        case "pixels":
            return PixelPrediction(
                tubelet=encoder.tubelet, patch=encoder.patch, norm=config.pixel_norm, exponent=config.exponent
            )
        case "ema" | "frozen":
            return LatentPrediction(exponent=config.exponent, uses_ema=config.target == "ema")


def target_width(config: ObjectiveConfig, encoder: EncoderConfig) -> int:
    """Values to predict per token: D, or the P pixels of a tubelet."""
    if config.target == "pixels":
        return encoder.channels * encoder.tubelet * encoder.patch**2
    return encoder.width
