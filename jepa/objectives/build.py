"""From a configuration to an objective."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jepa.errors import ConfigError
from jepa.models.build import ModelConfig
from jepa.models.encoder import EncoderConfig
from jepa.models.jepa import JEPA
from jepa.objectives.dense import ContextTerm, DensePrediction
from jepa.objectives.latent import LatentPrediction
from jepa.objectives.losses import Loss, LossKind
from jepa.objectives.pixels import PixelNorm, PixelPrediction
from jepa.objectives.targets import Teacher
from jepa.tokens import tubelet_pixels
from jepa.types import ClipBatch, StepOutput


@runtime_checkable
class Objective(Protocol):
    """The forward of one training step."""

    def __call__(self, jepa: JEPA, batch: ClipBatch, *, diagnose: bool = False) -> StepOutput:
        """Loss, terms and diagnostics of one batch of normalised clips; schedules go by `batch.step`."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is predicted."""

    target: Literal["ema", "teacher", "pixels"] = "ema"
    """`ema`: features of the EMA target encoder (V-JEPA). `teacher`: features of another, frozen encoder. `pixels`:
    normalised pixels."""
    teacher: str | None = None
    """The frozen encoder of `teacher`, of any size: whatever `jepa.load_encoder` reads, of ours, official or
    HuggingFace's. It must have the patches and tubelets of the model; its last model.fused_levels levels are
    predicted."""
    loss: LossKind = "power"
    """`power`: mean(|error|^p) / p (V-JEPA). `smooth_l1`: squared below 1, linear beyond (I-JEPA)."""
    exponent: float | None = None
    """p of the loss `power`; none for 1 (L1, V-JEPA) with features and 2 (VideoMAE) with pixels."""
    context_weight: float = 0.0
    """Weight of the error at the visible tokens (V-JEPA 2.1: 0.5), which model.context_head predicts; 0 for masked
    tokens alone."""
    image_context_weight: float | None = None
    """The same for images, with model.image_tokenizer (V-JEPA 2.1: 0.7 in the paper); none for that of clips."""
    context_warmup: tuple[int, int] = (0, 0)
    """Steps between which the weight of visible tokens grows from zero (V-JEPA 2.1: 15000 and 30000)."""
    distance_weighting: bool = True
    """Weight each visible token by 1 / sqrt(its distance in tokens to the nearest masked one); off in the cool-down of
    V-JEPA 2.1."""
    pixel_norm: PixelNorm = "patch"
    """With `pixels`: normalise each patch by itself (VideoMAE), or the whole clip."""

    def __post_init__(self) -> None:
        if self.exponent is not None and self.exponent <= 0:
            raise ConfigError(f"objective.exponent is {self.exponent}, expected a number above 0")
        if self.exponent is not None and self.loss != "power":
            raise ConfigError(f"objective.exponent is of the loss power, but objective.loss is {self.loss}: drop one")
        if self.target == "teacher" and self.teacher is None:
            raise ConfigError("objective.target is teacher, but there is none: name its weights by objective.teacher")
        if self.target != "teacher" and self.teacher is not None:
            raise ConfigError(f"objective.teacher is not used: objective.target is {self.target}, expected teacher")
        self._check_context()

    def _check_context(self) -> None:
        for name in ("context_weight", "image_context_weight"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"objective.{name} is {getattr(self, name)}, expected 0 or more")
        start, end = self.context_warmup
        if not 0 <= start <= end:
            raise ConfigError(f"objective.context_warmup is ({start}, {end}), expected two steps, rising from 0")
        if self.dense and self.target == "pixels":
            raise ConfigError("objective.context_weight is for features: objective.target is pixels")
        if end and not self.dense:
            raise ConfigError("objective.context_warmup is not used: objective.context_weight is 0")

    @property
    def dense(self) -> bool:
        """Whether visible tokens are predicted too."""
        return self.context_weight > 0 or (self.image_context_weight or 0) > 0


def require_outputs(config: ObjectiveConfig, model: ModelConfig) -> None:
    """Check that the predictor has the outputs that the objective trains, and no other.

    Raises:
        ConfigError: it lacks one, or has one that would stay as it is.
    """
    if config.dense and not model.context_head:
        raise ConfigError("objective.context_weight needs predictions at visible tokens: set model.context_head")
    if model.context_head and not config.dense:
        raise ConfigError("nothing would train model.context_head: set objective.context_weight, or drop the head")
    if config.image_context_weight is not None and not model.image_tokenizer:
        raise ConfigError("objective.image_context_weight tells images by their tokenizer: set model.image_tokenizer")


def build_objective(config: ObjectiveConfig, encoder: EncoderConfig, teacher: Teacher | None = None) -> Objective:
    """The objective for clips of this encoder.

    Args:
        config: what is predicted.
        encoder: the one to be trained.
        teacher: what `config.teacher` names, with the target `teacher`.
    """
    if (teacher is not None) != (config.target == "teacher"):
        raise ValueError(f"objective.target is {config.target}, got {'a' if teacher else 'no'} teacher")
    default = 2.0 if config.target == "pixels" else 1.0
    loss = Loss(config.loss, default if config.exponent is None else config.exponent)
    if config.target == "pixels":
        return PixelPrediction(tubelet=encoder.tubelet, patch=encoder.patch, norm=config.pixel_norm, loss=loss)
    if not config.dense:
        return LatentPrediction(loss, teacher)
    image = config.context_weight if config.image_context_weight is None else config.image_context_weight
    term = ContextTerm(config.context_weight, image, config.context_warmup, config.distance_weighting)
    return DensePrediction(term, loss, teacher)


def target_width(
    config: ObjectiveConfig, encoder: EncoderConfig, levels: int = 1, teacher: Teacher | None = None
) -> int:
    """Values to predict per token: D for each of its levels, those of the teacher, or the P pixels of a tubelet."""
    if config.target == "pixels":
        return tubelet_pixels(encoder.channels, tubelet=encoder.tubelet, patch=encoder.patch)
    return encoder.width * levels if teacher is None else teacher.width
