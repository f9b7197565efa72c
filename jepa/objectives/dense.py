"""Dense prediction, the objective of V-JEPA 2.1 (arXiv 2603.14482).

Latent prediction spends nothing on the visible tokens, and so the encoder may use them for whatever helps the rest:
its features of a place need not be about that place. Here a second output of the predictor is held to the targets at
the visible positions too:

    loss = mean |error| of the masked tokens + lambda(step) * mean of w |error| of the visible ones,
    w = 1 / sqrt(distance in tokens to the nearest masked token),

both averaged over the mask configurations. lambda is 0.5 for videos and 0.7 for images in the paper (0.5 for both in
the published configurations) and grows linearly from zero between two steps (15,000 and 30,000 there); in the cool-down
neither ramp nor w is used. By the paper's ablation the second term alone costs global features, and the levels of
`model.levels`, predicted side by side, bring most of them back.
"""

from dataclasses import dataclass

from torch import Tensor

from jepa.models.jepa import JEPA
from jepa.objectives.distance import nearest_target
from jepa.objectives.losses import Loss, mean
from jepa.objectives.targets import Teacher, encode_targets
from jepa.objectives.watch import View, watch_step
from jepa.tokens import Mask, TokenGrid, gather
from jepa.types import ClipBatch, StepOutput


@dataclass(frozen=True)
class ContextTerm:
    """How much the visible tokens count."""

    weight: float = 0.5
    """Lambda for clips."""
    image_weight: float = 0.7
    """Lambda for images."""
    warmup: tuple[int, int] = (0, 0)
    """Steps between which lambda grows from zero."""
    by_distance: bool = True
    """Whether visible tokens count the less the farther they are from a masked one."""

    def at(self, step: int, image: bool) -> float:
        """Lambda of optimizer step `step`, from 0."""
        (start, end), full = self.warmup, self.image_weight if image else self.weight
        if step >= end:
            return full
        return full * (step - start) / (end - start) if step > start else 0.0

    def weights(self, mask: Mask, grid: TokenGrid) -> Tensor | None:
        """Weight of each context token, (B, K); none for the same for all."""
        return nearest_target(mask, grid).rsqrt() if self.by_distance else None


class DensePrediction:
    """Predict the target encoder's tokens, or a teacher's, at masked and at visible positions."""

    def __init__(self, context: ContextTerm, loss: Loss | None = None, teacher: Teacher | None = None) -> None:
        self.context = context
        self.loss = loss or Loss()
        self.teacher = teacher

    def __call__(self, jepa: JEPA, batch: ClipBatch, *, diagnose: bool = False) -> StepOutput:
        """Loss of one batch of normalised clips, its terms `prediction` and `context` as they enter it. `diagnose` adds
        those of `watch_step` and `context_error`, the second term before its factor lambda.

        Raises:
            ConfigError: the predictor has no second output, or a target consists of several blocks.
        """
        target_BNE = encode_targets(jepa, batch.clips, self.teacher)
        masked, visible, views = [], [], []
        for number, mask in enumerate(batch.masks):
            context_BKD = jepa.encode_context(batch.clips, mask.context)
            predicted_BME, seen_BKE = jepa.predict_both(context_BKD, mask, batch.grid, number, batch.single_frame)
            masked.append(self.loss(predicted_BME, gather(target_BNE, mask.target)))
            views.append(View(mask, context_BKD, predicted_BME))
            weight_BK = self.context.weights(mask, batch.grid)
            visible.append(self.loss(seen_BKE, gather(target_BNE, mask.context), weight_BK))
        error = mean(visible)
        diagnostics = {}
        if diagnose:
            own = target_BNE if self.teacher is None else None
            diagnostics = watch_step(jepa, batch.clips, views, own) | {"context_error": error.detach()}
        # Also while lambda is zero: as in the published code, weight decay acts on the second output from the start.
        factor = self.context.at(batch.step, batch.single_frame)
        return StepOutput.of(diagnostics, prediction=mean(masked), context=factor * error)
