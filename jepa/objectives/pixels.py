"""Masked reconstruction: predict normalised pixels at masked positions (VideoMAE, arXiv 2203.12602).

The baseline next to latent prediction, and the first stage that gives a small run targets worth predicting. Same
encoder, masks and predictor; only the targets differ. Per patch, pixels are normalised by their own mean and
deviation (VideoMAE); per clip, by the mean and deviation of the clip, which keeps flat patches flat: better where
small bodies move over an even ground, because nothing is spent on the ground's noise.
"""

from typing import Literal

from torch import Tensor

from jepa.models.jepa import JEPA
from jepa.objectives.losses import Loss, mean
from jepa.objectives.watch import View, watch_step
from jepa.tokens import gather, tubelets
from jepa.types import ClipBatch, StepOutput

PixelNorm = Literal["patch", "clip"]


class PixelPrediction:
    """Predict the pixels of masked tubelets; the target encoder follows as an average but gives no targets."""

    def __init__(self, *, tubelet: int, patch: int, norm: PixelNorm, loss: Loss) -> None:
        self.tubelet, self.patch, self.norm, self.loss = tubelet, patch, norm, loss

    def targets(self, clips_BCTHW: Tensor) -> Tensor:
        """Normalised pixels of every token, (B, N, P)."""
        if self.norm == "clip":
            centred = clips_BCTHW - clips_BCTHW.mean(dim=(2, 3, 4), keepdim=True)
            deviation = centred.pow(2).mean(dim=(1, 2, 3, 4), keepdim=True).sqrt()
            return tubelets(centred / (deviation + 1e-3), tubelet=self.tubelet, patch=self.patch)
        pixels_BNP = tubelets(clips_BCTHW, tubelet=self.tubelet, patch=self.patch)
        deviation, average = pixels_BNP.var(dim=-1, keepdim=True), pixels_BNP.mean(dim=-1, keepdim=True)
        return (pixels_BNP - average) / (deviation + 1e-6).sqrt()

    def __call__(self, jepa: JEPA, batch: ClipBatch, *, diagnose: bool = False) -> StepOutput:
        """Loss of one batch of normalised clips. `diagnose` adds those of `watch_step`."""
        target_BNP = self.targets(batch.clips)
        errors, views = [], []
        for number, mask in enumerate(batch.masks):
            context_BKD = jepa.encode_context(batch.clips, mask.context)
            predicted_BMP = jepa.predict(context_BKD, mask, batch.grid, number, batch.single_frame)
            errors.append(self.loss(predicted_BMP, gather(target_BNP, mask.target)))
            views.append(View(mask, context_BKD, predicted_BMP))
        return StepOutput.of(watch_step(jepa, batch.clips, views) if diagnose else None, reconstruction=mean(errors))
