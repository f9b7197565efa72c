"""One optimizer step of pretraining, in the order in which it happens.

    draw nothing: clips, masks and dropout are functions of (seed, step)
    for each part of the rank's clips:
        loss = objective(jepa, clips)               the forward belongs to the objective
        gradients, added up; averaged over the processes with the last part
    agree over the processes: mean loss, whether all is finite, whether to stop
    judge: apply, or change nothing at all
    clip the gradient; learning rate and weight decay of this step; AdamW
    target encoder <- EMA of the context encoder    the line after the optimizer step

The loss is a mean over equal parts of the batch, so neither it nor what is learned depends on how many processes and
parts there are, up to rounding. Lightning's optimization is manual: it calls `training_step` once per step of the data
and does nothing else of interest.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from jepa.errors import DivergedError
from jepa.models.catalog import IMAGENET_MEAN, IMAGENET_STD
from jepa.models.jepa import JEPA
from jepa.models.sharding import shard
from jepa.models.stack import set_rows
from jepa.objectives.build import Objective
from jepa.optim.ema import update_ema
from jepa.optim.gradients import clip_gradients, gradient_norm
from jepa.optim.groups import build_optimizer
from jepa.optim.schedules import learning_rate, momentum, weight_decay
from jepa.optim.state import load_optimizer_state
from jepa.rng import derive
from jepa.training.agreement import Agreed, Agreement
from jepa.training.config import PretrainConfig
from jepa.training.health import StepHealth, Verdict
from jepa.training.launch import Ranks
from jepa.training.strategy import gradient_exchange
from jepa.training.team import OthersTell, Team, ranks_text
from jepa.training.timings import Timings
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
        self.automatic_optimization = False
        self.jepa = jepa
        self.objective = objective
        self.config = config
        self.fingerprint = fingerprint
        self.init_digest = init_digest
        """Of the weights that the run started from, if there were any."""
        self.teacher_digest = teacher_digest
        """Of the weights of the teacher, if there is one. The objective holds it: it is no part of this module."""
        self.moments: dict[str, Any] | None = None
        """State of the optimizer, to start with; taken once."""
        self.step = 0
        """Steps of the data that are done, applied or skipped: the next one has this number."""
        self.health = StepHealth(config.health)
        self.verdict = Verdict.APPLY
        """What was done with the latest step."""
        self.agreed: Agreed | None = None
        """What all processes know of the latest step."""
        self.output: StepOutput | None = None
        """Loss and terms of the latest step, of all processes; its diagnostics, of this one's first clips."""
        self._losses: list[Tensor] = []
        self.grad_norm = math.nan
        """Gradient norm of the latest step, before clipping."""
        self.team = Team(Ranks(), torch.device("cpu"), 0.0)
        """The processes that train this module; set by who starts several."""
        self.wish: Callable[[], str | None] = lambda: None
        """Why this process wants to stop, one of `agreement.WISHES`, if it does."""
        self._mean: Tensor
        self._std: Tensor
        self.register_buffer("_mean", 255 * torch.tensor(IMAGENET_MEAN).reshape(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("_std", 255 * torch.tensor(IMAGENET_STD).reshape(1, -1, 1, 1, 1), persistent=False)

    def configure_model(self) -> None:
        """Divide the model among the processes, if the strategy is one that does so."""
        if self.device_mesh is not None:
            shard(self.jepa, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> torch.optim.AdamW:
        optimizer = build_optimizer([self.jepa.encoder, self.jepa.predictor], self.config.optim)
        if self.moments is not None:
            # With the groups of this run: betas and the like are those of its own configuration.
            load_optimizer_state(self, optimizer, self.moments)
            self.moments = None
        return optimizer

    def on_train_start(self) -> None:
        self._agree = Agreement(self.team.ranks.world_size, self.device)
        self.timings = Timings(self.device)

    def is_logged(self, step: int) -> bool:
        """Whether a row of metrics is written after `step` optimizer steps."""
        return step == 1 or step % self.config.run.log_every == 0 or step == self.config.last_step

    def training_step(self, batch: ClipBatch, batch_index: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        parts, outputs = batch.parts(self.config.parts(len(batch.clips), images=self._is_of_images)), []
        for number, part in enumerate(parts):
            with gradient_exchange(self.trainer.strategy, on=part is parts[-1]):
                with self.timings.part("forward"):
                    outputs.append(self._forward(part, number, len(parts)))
                with self.timings.part("backward"):
                    self.manual_backward(outputs[-1].loss / len(parts))
        norm = gradient_norm(self._trained(optimizer))
        with self.timings.part("agreement"):
            agreed = self._share(outputs, norm)
        self.verdict = self._judge(agreed)
        if self.verdict is Verdict.APPLY:
            with self.timings.part("optimizer"):
                self._change(optimizer, norm)
        self.step += 1
        if self.verdict is Verdict.STOP:
            raise self._diverged(batch, agreed)

    def _forward(self, part: ClipBatch, number: int, parts: int) -> StepOutput:
        """The objective of one part of this process' clips."""
        rows, rank, size = len(part.clips), self.team.ranks.rank, self.team.ranks.world_size
        torch.manual_seed(derive(self.config.seed, self.step, "step"))
        set_rows(self.jepa, (rank * parts + number) * rows, rows, rows * parts * size)
        clips_BCTHW = (part.clips.float() - self._mean) / self._std
        bf16 = self.config.run.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            inputs = replace(part, clips=clips_BCTHW, step=self.step)
            return self.objective(self.jepa, inputs, diagnose=number == 0 and self.is_logged(self.step + 1))

    def _share(self, outputs: Sequence[StepOutput], norm: Tensor) -> Agreed:
        """Join what this process knows of the step with what the others do."""
        losses = [output.loss.detach() for output in outputs]
        self._losses = losses
        values = {"loss": torch.stack(losses).mean()}
        for name in outputs[0].terms:
            values[f"loss/{name}"] = torch.stack([output.terms[name].detach() for output in outputs]).mean()
        agreed = self._agree(values, losses, norm, self.wish())
        terms = {name: torch.tensor(agreed.values[f"loss/{name}"]) for name in outputs[0].terms}
        self.output = StepOutput(torch.tensor(agreed.values["loss"]), terms, outputs[0].diagnostics)
        self.grad_norm, self.agreed = agreed.grad_norm, agreed
        return agreed

    def _judge(self, agreed: Agreed) -> Verdict:
        finite = not agreed.bad_losses and math.isfinite(agreed.grad_norm)
        kind = "images" if self._is_of_images else "videos"
        return self.health.judge(self.step, agreed.values["loss"], finite, kind)

    @property
    def _is_of_images(self) -> bool:
        """Whether the next step is one of images; without a tokenizer of their own they fill a tubelet as videos do."""
        return self.config.steps.at(self.step)[0]

    def _change(self, optimizer: Any, norm: Tensor) -> None:
        """Change the weights. Nothing before this has changed anything."""
        config, step = self.config.optim, self.step
        if config.clip is not None:
            clip_gradients(self._trained(optimizer), config.clip, norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
            group["weight_decay"] = weight_decay(config, step) if group["decays"] else 0.0
        optimizer.step()
        update_ema(self.jepa.target_encoder, self.jepa.encoder, momentum(config, step))

    @staticmethod
    def _trained(optimizer: Any) -> list[Tensor]:
        return [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def _diverged(self, batch: ClipBatch, agreed: Agreed) -> BaseException:
        """What ends the run, with the clips of the processes that are to blame, as far as that can be told."""
        bad_here = not torch.stack(self._losses).isfinite().all().item()
        tables = self.team.gather((bad_here, batch.keys))
        if not self.team.leads:
            return OthersTell(DivergedError.exit_code)
        # A gradient has been averaged before it was looked at: then it may be any of them.
        bad = [rank for rank, (is_bad, _) in enumerate(tables) if is_bad] or list(range(len(tables)))
        keys = [key for rank in bad for key in tables[rank][1]]
        shown = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
        loss = agreed.values["loss"]
        what = f"gradient norm is {agreed.grad_norm}" if math.isfinite(loss) else f"loss is {loss}"
        where = f" on {ranks_text(bad)}" if len(tables) > 1 else ""
        times = self.health.bad_in_a_row
        return DivergedError(
            f"{what} at step {self.step}{where} (clips {shown}), in {times} step{'s' * (times > 1)} in a row: lower "
            "optim.learning_rate or set optim.clip, and look at these clips; none of these steps was applied"
        )
