"""What happens after each optimizer step beside the training itself: metrics, checkpoints, progress.

The order matters and is the order of `Trainer(callbacks=...)`: metrics first, so that their state is in the
checkpoint; then the checkpoint, which is also where a stop request ends the run; progress in between.
"""

import math
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import CheckpointIO

from jepa.checkpoints.io import load_state, save_state
from jepa.data.steps import Steps
from jepa.errors import InterruptedRun
from jepa.logs import Progress, get_logger, progress
from jepa.optim.schedules import learning_rate, momentum, weight_decay
from jepa.training.datamodule import Clips
from jepa.training.metrics import MetricsFile
from jepa.training.module import Pretraining
from jepa.training.order_file import OrderFile
from jepa.training.preemption import StopRequest
from jepa.training.run_folder import RunFolder
from jepa.types import StepOutput

log = get_logger(__name__)


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's checkpoints through our files: atomic, synced, and never unpickled."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_state(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return load_state(path, map_location=map_location)

    def remove_checkpoint(self, path: Any) -> None:
        path.unlink(missing_ok=True)


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
        self._sums: dict[str, torch.Tensor] = {}
        self._count = 0
        self._since = (0, math.nan, 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"sums": {name: float(value) for name, value in self._sums.items()}, "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sums = {name: torch.tensor(value) for name, value in state_dict["sums"].items()}
        self._count = state_dict["count"]

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, Pretraining)
        assert module.output is not None
        step = trainer.global_step
        latest = _losses(module.output) | _losses_by_kind(module.output, module.config.steps, step - 1)
        # The old sum moves to the device of the new value: after a resume it lies on the CPU.
        self._sums = {name: self._sums.get(name, torch.zeros(())).to(now.device) + now for name, now in latest.items()}
        self._count += 1
        if module.is_logged(step):
            row = self._row(module, step)
            self.file.append(row)
            for logger in trainer.loggers:
                logger.log_metrics({key: row[key] for key in row if key != "step"}, step=step)
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
        means = {name: float(value) / self._count for name, value in self._sums.items()}
        if steps.share:
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
            "data_wait": (self.clips.waited - self._since[2]) / seconds,
            **means,
            **watched,
        }


def _losses(output: StepOutput) -> dict[str, torch.Tensor]:
    """The loss and, if it has several terms, each of them, by column."""
    terms = output.terms if len(output.terms) > 1 else {}
    return {"loss": output.loss} | {f"loss/{name}": term for name, term in terms.items()}


def _losses_by_kind(output: StepOutput, steps: Steps, step: int) -> dict[str, torch.Tensor]:
    """Summed over steps: how many were of images, and the losses of either kind; nothing if there is one kind."""
    if not steps.share:
        return {}
    image = torch.tensor(float(steps.at(step)[0]), device=output.loss.device)
    return {"images": image, "loss/images": output.loss * image, "loss/videos": output.loss * (1 - image)}


class RecordOrder(Callback):
    """Lines for order.jsonl."""

    def __init__(self, file: OrderFile) -> None:
        self.file = file

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, Pretraining)
        done = trainer.global_step - 1
        self.file.append(done, batch, images=module.config.steps.at(done)[0])


class ShowProgress(Callback):
    """A bar on a terminal, a line now and then elsewhere, with the loss."""

    def __init__(self, last_step: int) -> None:
        self.last_step = last_step
        self._progress: Progress[Any] | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._progress = progress(None, "pretraining", self.last_step)
        self._progress.__enter__()
        self._progress.advance(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, Pretraining)
        assert self._progress is not None
        note = f"loss {float(module.output.loss):.4f}" if module.output and trainer.global_step % 10 == 1 else None
        self._progress.advance(note=note)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._close(None)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._close(exception)

    def _close(self, exception: BaseException | None) -> None:
        if self._progress is not None:
            self._progress.__exit__(type(exception) if exception else None, exception, None)
            self._progress = None


class SaveState(Callback):
    """Saves checkpoints/last.ckpt at step boundaries, and ends the run there if a signal has asked for it."""

    def __init__(self, folder: RunFolder, stop: StopRequest, *, every: int, last_step: int) -> None:
        self.folder = folder
        self.stop = stop
        self.every = every
        self.last_step = last_step

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        # Not earlier: while data is being prepared there is nothing to save, and Ctrl-C ends the process at once.
        self.stop.listen()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.stop.release()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self.stop.release()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        stopping = trainer.strategy.reduce_boolean_decision(bool(self.stop), all=False)
        if step % self.every == 0 or step >= self.last_step or stopping:
            trainer.save_checkpoint(self.folder.checkpoint)
        if stopping and step < self.last_step:
            name = self.stop.signal.name if self.stop.signal else "a signal"
            raise InterruptedRun(
                f"stopped by {name} after step {step} of {self.last_step}, state saved; continue with: "
                f"{self.folder.resume_command()}",
                self.stop.exit_code,
            )
