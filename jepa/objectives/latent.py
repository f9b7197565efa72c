"""Latent prediction, the objective of V-JEPA (arXiv 2404.08471, 2506.09985).

The target encoder sees the whole clip; its tokens, LayerNormed without scale and shift, are the targets. The context
encoder sees the kept tokens of each mask; the predictor fills in the rest. Loss: L1 at the masked positions, averaged
over the mask configurations. With the EMA target encoder this is V-JEPA; with a frozen one, latent distillation
from a teacher (arXiv 2509.24317).
"""

from jepa.models.jepa import JEPA
from jepa.objectives.diagnostics import watch
from jepa.objectives.losses import mean, power_error
from jepa.tokens import gather
from jepa.types import ClipBatch, StepOutput


class LatentPrediction:
    """Predict the target encoder's tokens at masked positions from the visible ones."""

    def __init__(self, *, exponent: float, uses_ema: bool) -> None:
        self.exponent = exponent
        self.uses_ema = uses_ema

    def __call__(self, jepa: JEPA, batch: ClipBatch, *, diagnose: bool = False) -> StepOutput:
        """Loss of one batch of normalised clips. `diagnose` adds feature std and effective rank."""
        target_BND = jepa.encode_target(batch.clips)
        errors = []
        for number, mask in enumerate(batch.masks):
            context_BKD = jepa.encode_context(batch.clips, mask.context)
            predicted_BMD = jepa.predict(context_BKD, mask, batch.grid, number, batch.is_image)
            errors.append(power_error(predicted_BMD, gather(target_BND, mask.target), self.exponent))
        return StepOutput.of(watch(target_BND) if diagnose else None, prediction=mean(errors))
