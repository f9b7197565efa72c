"""Latent prediction, the objective of V-JEPA (arXiv 2404.08471, 2506.09985) and I-JEPA (arXiv 2301.08243).

The target encoder sees the whole clip, once; its tokens, LayerNormed without scale and shift, are the targets. The
context encoder sees the kept tokens of each mask; the predictor fills in the rest. Loss: the distance at the masked
positions (L1; smooth L1 in I-JEPA), averaged over the mask configurations. With a teacher in place of the target
encoder this is latent distillation.
"""

from jepa.models.jepa import JEPA
from jepa.objectives.losses import Loss, mean
from jepa.objectives.targets import Teacher, encode_targets
from jepa.objectives.watch import View, watch_step
from jepa.tokens import gather
from jepa.types import ClipBatch, StepOutput


class LatentPrediction:
    """Predict the target encoder's tokens, or a teacher's, at masked positions from the visible ones."""

    def __init__(self, loss: Loss | None = None, teacher: Teacher | None = None) -> None:
        self.loss = loss or Loss()
        self.teacher = teacher

    def __call__(self, jepa: JEPA, batch: ClipBatch, *, diagnose: bool = False) -> StepOutput:
        """Loss of one batch of normalised clips. `diagnose` adds those of `watch_step`."""
        target_BNE = encode_targets(jepa, batch.clips, self.teacher)
        errors, views = [], []
        for number, mask in enumerate(batch.masks):
            context_BKD = jepa.encode_context(batch.clips, mask.context)
            predicted_BME = jepa.predict(context_BKD, mask, batch.grid, number, batch.single_frame)
            errors.append(self.loss(predicted_BME, gather(target_BNE, mask.target)))
            views.append(View(mask, context_BKD, predicted_BME))
        own = target_BNE if self.teacher is None else None
        return StepOutput.of(watch_step(jepa, batch.clips, views, own) if diagnose else None, prediction=mean(errors))
