"""One optimizer step of pretraining, in the order in which it happens.

    draw nothing: clips, masks and dropout are functions of (seed, step)
    loss = objective(jepa, clips)                   the forward belongs to the objective
    gradients; stop if loss or gradient is not finite, before anything is changed
    clip the gradient; learning rate and weight decay of this step; AdamW
    target encoder <- EMA of the context encoder    the line after the optimizer step

Lightning calls these methods in that order and does nothing else of interest.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from jepa.checkpoints.folder import IMAGENET_MEAN, IMAGENET_STD
from jepa.errors import DivergedError
from jepa.models.jepa import JEPA
from jepa.objectives.build import Objective
from jepa.optim.ema import update_ema
from jepa.optim.groups import build_optimizer
from jepa.optim.schedules import learning_rate, momentum, weight_decay
from jepa.rng import derive
from jepa.training.config import PretrainConfig
from jepa.training.run_folder import CHECKPOINT_VERSION
from jepa.types import ClipBatch, StepOutput


class Pretraining(LightningModule):
    """A JEPA, what it minimises, and how a step changes it."""

    def __init__(
        self,
        jepa: JEPA,
        objective: Objective,
        config: PretrainConfig,
        *,
        fingerprint: str = "",
        init_digest: str | None = None,
        teacher_digest: str | None = None,
    ) -> None:
        super().__init__()
        self.jepa = jepa
        self.objective = objective
        self.config = config
        self.fingerprint = fingerprint
        self.init_digest = init_digest
        """Of the weights that the run started from, if there were any."""
        self.teacher_digest = teacher_digest
        """Of the weights of the teacher, if there is one. The objective holds it: it is no part of this module."""
        self.output: StepOutput | None = None
        """Loss, terms and diagnostics of the latest step, detached."""
        self.grad_norm = math.nan
        """Gradient norm of the latest step, before clipping."""
        self._keys: tuple[str, ...] = ()
        self._mean: Tensor
        self._std: Tensor
        self.register_buffer("_mean", 255 * torch.tensor(IMAGENET_MEAN).reshape(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("_std", 255 * torch.tensor(IMAGENET_STD).reshape(1, -1, 1, 1, 1), persistent=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer([self.jepa.encoder, self.jepa.predictor], self.config.optim)

    def is_logged(self, step: int) -> bool:
        """Whether a row of metrics is written after `step` optimizer steps."""
        return step == 1 or step % self.config.run.log_every == 0 or step == self.config.last_step

    def training_step(self, batch: ClipBatch, batch_index: int) -> Tensor:
        step = self.global_step
        torch.manual_seed(derive(self.config.seed, step, "step"))
        self._keys = batch.keys
        clips_BCTHW = (batch.clips.float() - self._mean) / self._std
        bf16 = self.config.run.precision == "bf16"
        try:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
                inputs = replace(batch, clips=clips_BCTHW, step=step)
                output = self.objective(self.jepa, inputs, diagnose=self.is_logged(step + 1))
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # from the effective rank
            raise self._diverged("tokens are not finite") from error
        terms = {name: term.detach() for name, term in output.terms.items()}
        self.output = replace(output, loss=output.loss.detach(), terms=terms)
        return output.loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Between backward and optimizer: the place to stop before a bad gradient reaches the weights."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.grad_norm = float(norm)
        self._require_finite(float(self.output.loss) if self.output else math.nan)
        if self.config.optim.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.optim.clip, norm)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        config, step = self.config.optim, self.global_step
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
            group["weight_decay"] = weight_decay(config, step) if group["decays"] else 0.0
        optimizer.step(closure=optimizer_closure)
        update_ema(self.jepa.target_encoder, self.jepa.encoder, momentum(config, step))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        step = self.global_step
        checkpoint["jepa"] = {
            "format_version": CHECKPOINT_VERSION,
            "position": self.config.steps.consumed(step),
            "fingerprint": self.fingerprint,
            "init": self.init_digest,
            "teacher": self.teacher_digest,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.init_digest = checkpoint["jepa"].get("init")

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"loss is {loss}")
        if not math.isfinite(self.grad_norm):
            raise self._diverged(f"gradient norm is {self.grad_norm}")

    def _diverged(self, what: str) -> DivergedError:
        shown = ", ".join(self._keys[:4]) + (f" and {len(self._keys) - 4} more" if len(self._keys) > 4 else "")
        return DivergedError(
            f"{what} at step {self.global_step + 1} (clips {shown}): lower optim.learning_rate or set optim.clip, and "
            "look at these clips; the step was not applied"
        )
