"""What happens after each step beside the training itself: metrics, the order of the clips, progress.

The order matters and is the order of `Trainer(callbacks=...)`: metrics first, so that their state is in the
checkpoint; the checkpoint last (`checkpointing.py`), which is also where a stop request ends the run.

All processes run them, as they gather what each of them knows; rank 0 writes.
"""

import math
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import distributed

from jepa.data.steps import Steps
from jepa.logs import Progress, progress
from jepa.objectives.diagnostics import ema_distance, squared_lengths
from jepa.optim.schedules import learning_rate, momentum, weight_decay
from jepa.training.datamodule import Clips
from jepa.training.health import Verdict
from jepa.training.metrics import MetricsFile
from jepa.training.module import Pretraining
from jepa.training.order_file import OrderFile, shown
from jepa.training.state import is_sharded
from jepa.training.timings import columns
from jepa.types import StepOutput


class MetricsLog(Callback):
    """Rows for metrics.csv and TensorBoard.

    The loss of a row is the mean since the last regular row, and so is each of its terms if there are several
    (`loss/NAME`). Their running sums are part of the checkpoint, so a resumed run writes the same rows as one that was
    never stopped.

    With images between the videos, `loss` is the mean over steps of both kinds, and further columns part them:
    `images`, the share of the steps that were of images; `loss/images` and `loss/videos`; and `of_image`, 1 if the
    latest step, which gradient norm and diagnostics are of, was one of images, else 0.
    """

    def __init__(self, file: MetricsFile, clips: Clips) -> None:
        self.file = file
        self.clips = clips
        self.row: dict[str, float] | None = None
        """Of the latest step, if it is a logged one."""
        self.timings: list[dict[str, float]] = []
        """Seconds of the parts of the steps of that row, by rank."""
        self._sums: dict[str, float] = {}
        self._count = 0
        self._since = (0, math.nan, 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self._sums), "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sums = dict(state_dict["sums"])
        self._count = state_dict["count"]

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, Pretraining)
        assert module.output is not None
        step, self.row = module.step, None
        # A skipped step is in no mean: its loss may be no number.
        if module.verdict is Verdict.APPLY:
            latest = _losses(module.output) | _losses_by_kind(module.output, module.config.steps, step - 1)
            self._sums = {name: self._sums.get(name, 0.0) + now for name, now in latest.items()}
            self._count += 1
        if module.is_logged(step):
            self.timings = module.team.gather(module.timings.take() | {"data": self.clips.waited - self._since[2]})
            self.row = self._row(module, step)
            if module.team.leads:
                self.file.append(self.row)
                for logger in trainer.loggers:
                    logger.log_metrics({key: self.row[key] for key in self.row if key != "step"}, step=step)
        if math.isnan(self._since[1]) or module.is_logged(step):
            # Starts after the first step: it waits for worker processes.
            self._since = (step, time.perf_counter(), self.clips.waited)
        if step % module.config.run.log_every == 0:
            self._sums, self._count = {}, 0

    def _row(self, module: Pretraining, step: int) -> dict[str, float]:
        assert module.output is not None
        config, done = module.config, step - 1
        steps, seconds = config.steps, time.perf_counter() - self._since[1]
        clips = steps.consumed(step) - steps.consumed(self._since[0])
        means = {name: value / self._count for name, value in self._sums.items()} or {"loss": math.nan}
        if steps.share and self._count:
            share = means["images"]
            means["loss/images"] = means["loss/images"] / share if share else math.nan
            means["loss/videos"] = means["loss/videos"] / (1 - share) if share < 1 else math.nan
            means["of_image"] = float(steps.at(done)[0])
        watched = {name: float(value) for name, value in module.output.diagnostics.items()}
        return {
            "step": step,
            "position": steps.consumed(step),
            "loss": means.pop("loss"),
            "lr": learning_rate(config.optim, done),
            "weight_decay": weight_decay(config.optim, done),
            "momentum": momentum(config.optim, done),
            "grad_norm": module.grad_norm,
            "feature_std": watched.pop("feature_std", math.nan),
            "effective_rank": watched.pop("effective_rank", math.nan),
            "clips_per_second": clips / seconds,
            "data_wait": self.timings[0]["data"] / seconds,
            **means,
            **watched,
            "ema_distance": _ema_distance(module),
            **columns(self.timings, seconds),
        }


def _ema_distance(module: Pretraining) -> float:
    """Of the target encoder to the context encoder; of divided ones all processes must ask for it."""
    squared = squared_lengths(module.jepa.target_encoder, module.jepa.encoder)
    if is_sharded(module):
        distributed.all_reduce(squared)
    return float(ema_distance(squared))


def _losses(output: StepOutput) -> dict[str, float]:
    """The loss and, if it has several terms, each of them, by column."""
    terms = output.terms if len(output.terms) > 1 else {}
    return {"loss": float(output.loss)} | {f"loss/{name}": float(term) for name, term in terms.items()}


def _losses_by_kind(output: StepOutput, steps: Steps, step: int) -> dict[str, float]:
    """Summed over steps: how many were of images, and the losses of either kind; nothing if there is one kind."""
    if not steps.share:
        return {}
    image, loss = float(steps.at(step)[0]), float(output.loss)
    return {"images": image, "loss/images": loss if image else 0.0, "loss/videos": 0.0 if image else loss}


class RecordOrder(Callback):
    """Lines for order.jsonl."""

    def __init__(self, file: OrderFile) -> None:
        self.file = file

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, Pretraining)
        done = module.step - 1
        shares = module.team.gather(shown(batch))
        if module.team.leads:
            self.file.append(done, [clip for share in shares for clip in share], images=module.config.steps.at(done)[0])


class ShowProgress(Callback):
    """A bar on a terminal, a line now and then elsewhere, with the loss."""

    def __init__(self, last_step: int) -> None:
        self.last_step = last_step
        self._progress: Progress[Any] | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._progress = progress(None, "pretraining", self.last_step)
        self._progress.__enter__()
        assert isinstance(module, Pretraining)
        self._progress.advance(module.step)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, Pretraining)
        assert self._progress is not None
        note = f"loss {float(module.output.loss):.4f}" if module.output and module.step % 10 == 1 else None
        self._progress.advance(note=note)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._close(None)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._close(exception)

    def _close(self, exception: BaseException | None) -> None:
        if self._progress is not None:
            self._progress.__exit__(type(exception) if exception else None, exception, None)
            self._progress = None
