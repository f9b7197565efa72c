"""Probes while an encoder is trained: what can be read from the target encoder so far, as the loss does not tell.

Every `online.every` steps a fixed, small set of labelled clips goes through the target encoder as it is, and a
nearest-neighbour and a linear probe learn from one part of it and answer the other, as `jepa probe` does it. Few clips
make the numbers coarse (500 answers: +- 4 points); they are for watching one run, not for comparing two.

The training is not touched: no gradient, no module changes its mode, and the random state is put back. Of several
copies of the model (ddp) that of rank 0 is probed, while the others wait for it in the next step; of a divided model
(fsdp) all ranks compute the same clips together. Batches have the shape of the training's own, the last one filled up,
so that compiled blocks are not compiled again.

Results are lines of probes.jsonl in the run folder, scalars of the loggers, and `columns` for the alarms of collapse
(`jepa.training.collapse`). A resumed run takes back the lines of the steps that it does again.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from jepa.checkpoints.frozen import FrozenEncoder
from jepa.data.evaluation_batches import EvaluationBatch, evaluation_batches
from jepa.data.frames import Frames
from jepa.data.windows import segment_windows
from jepa.errors import ConfigError, DataError, JepaError
from jepa.eval.clips import ClipSet, EvaluationData, Task, choose_tasks, open_evaluation_data
from jepa.eval.features import TokenTable, view_of
from jepa.eval.knn import KnnConfig
from jepa.eval.linear import LinearConfig
from jepa.eval.metrics import accuracy, chance
from jepa.eval.probes import Features, ProbesConfig, run_probe
from jepa.eval.probes_file import ProbesFile
from jepa.logs import get_logger
from jepa.training.collapse import CHANCE
from jepa.training.config import ClipConfig, PretrainConfig
from jepa.training.module import Pretraining
from jepa.training.state import is_sharded

log = get_logger(__name__)

PROBES = "probes.jsonl"
"""In the run folder: one line per step, task and probe."""
_STRENGTHS = (10.0, 1.0, 0.1, 0.01, 0.001)  # fewer than `jepa probe` tries: this is to be cheap


class OnlineProbe(Callback):
    """Probes the target encoder of a run now and then.

    `columns` has the latest results: accuracies `online/PROBE/TASK`, and `online/chance/TASK`, all from 0 to 1; empty
    unless the latest step was one of the probe.
    """

    def __init__(self, run: PretrainConfig) -> None:
        """
        Args:
            run: of all its phases, if it has any.

        Raises:
            DataError: there are no such clips, they are too short, or they have no labels, or no two classes.
            ConfigError: `run.online.data` is not set.
        """
        config, self.seed = run.online, run.seed
        if config.data is None:
            raise ConfigError("there are no clips for the online probe: set online.data")
        try:
            self.data = open_evaluation_data(config.data, seed=self.seed, limit=config.clips, remote=run.loader.remote)
            self.tasks = choose_tasks(self.data, config.tasks)
            for part in (run, *(run.phase_run(number) for number in range(len(run.phases)))):
                _require_length(self.data, part.clip)
        except DataError as error:
            raise DataError(f"online.data: {error}") from error
        self.config = config
        self.columns: dict[str, float] = {}
        self._probes = ProbesConfig(knn=KnnConfig(k=config.k), linear=LinearConfig(strengths=_STRENGTHS))
        self._frames: dict[int, tuple[Frames, Frames]] = {}
        self._first = True
        self._off = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._first = True  # of each phase

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, Pretraining)
        file, self.columns = ProbesFile(module.config.out / PROBES), {}
        if self._first and module.team.leads:
            file.start(module.step - 1)
        self._first = False
        if not (module.step % self.config.every == 0 or module.step == module.config.last_step) or self._off:
            return
        if not (module.team.leads or is_sharded(module)):
            return
        start = time.perf_counter()
        features = self._features(module)
        if features is None or not module.team.leads:
            return
        found = [self._measure(kind, task, features) for task in self.tasks for kind in self.config.probes]
        seconds = time.perf_counter() - start
        file.append([{"step": module.step, **line, "seconds": round(seconds, 3)} for line in found])
        self.columns = _columns(found)
        for logger in trainer.loggers:
            logger.log_metrics(self.columns, step=module.step)
        told = ", ".join(f"{line['task']} {line['probe']} {100 * line['accuracy']:.1f} %" for line in found)
        log.info("step %d: online probe: %s (%.1f s)", module.step, told, seconds)

    def _features(self, module: Pretraining) -> Features | None:
        """Of all clips; none where they could not be read and the training can do without."""
        try:
            with torch.random.fork_rng([module.device] if module.device.type == "cuda" else []):
                frames = self._open(module.config)
                train, test = encode(module, self.data.train, frames[0]), encode(module, self.data.test, frames[1])
        except JepaError as error:
            if is_sharded(module):
                raise
            log.warning("step %d: %s; the training goes on without the online probe", module.step, error)
            self._off = True
            return None
        return Features(train, test)

    def _open(self, config: PretrainConfig) -> tuple[Frames, Frames]:
        """The frames of both parts; once for each size of clips, as they may be decoded for it."""
        size, loader = config.clip.size, config.loader
        if size not in self._frames:
            train, test = self.data.train.source, self.data.test.source
            self._frames[size] = loader.open_frames(train, size), loader.open_frames(test, size)
        return self._frames[size]

    def _measure(self, kind: Literal["knn", "linear"], task: Task, features: Features) -> dict[str, Any]:
        answers = run_probe(kind, features, task, self._probes, seed=self.seed)
        share = accuracy(answers.predicted, task.test_targets, len(task.classes))
        guessed = chance(task.test_targets, task.train_targets, task.learnable)
        line = {"task": task.name, "probe": kind, "accuracy": share.value, "low": share.low, "high": share.high}
        return line | {"count": share.count, "chance": guessed}


@torch.no_grad()
def encode(module: Pretraining, clips: ClipSet, frames: Frames) -> Tensor:
    """Mean token of each time step by the target encoder, float32 (clips, steps * D), on the CPU.

    Of a divided model all processes must ask for it together.

    Args:
        module: in training.
        clips: what to encode.
        frames: of their source, at the size of the clips.

    Raises:
        DataError: clips that cannot be read, or tokens that are not finite.
    """
    config, device, team = module.config, module.device, module.team
    encoder = FrozenEncoder(module.jepa.target_encoder, {"clip": asdict(config.clip)}, "")
    encoder.mean, encoder.std = encoder.mean.to(device), encoder.std.to(device)
    view, rows = view_of(encoder), rows_of(config, team.ranks.world_size)
    batches = evaluation_batches(
        clips.source,
        window=view.window,
        size=view.size,
        batch_size=rows,
        loader=config.loader,
        indices=clips.indices,
        frames=frames,
    )
    found = []
    for _ in range(-(-len(clips) // rows)):
        batch: EvaluationBatch = team.together(lambda: next(batches)) if is_sharded(module) else next(batches)
        count = len(batch.clips)
        filled = torch.cat([batch.clips, batch.clips[:1].expand(rows - count, -1, -1, -1, -1)])
        pixels = encoder.preprocess(filled.to(device))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.run.precision == "bf16"):
            tokens = encoder(pixels)
        found.append(TokenTable(tokens[:count].float().cpu(), encoder.grid_of(pixels)).step_means())
    features = torch.cat(found)
    if not features.isfinite().all():
        raise DataError("the target encoder gives tokens that are not finite")
    return features


def _columns(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found = {f"online/{line['probe']}/{line['task']}": line["accuracy"] for line in lines}
    return found | {f"{CHANCE}{line['task']}": line["chance"] for line in lines}


def _require_length(data: EvaluationData, clip: ClipConfig) -> None:
    """Raises DataError if a video is too short for a clip, before a run has started rather than in the middle of it."""
    for part in (data.train, data.test):
        for info in part.infos:
            segment_windows(info, clip.window, 1)


def rows_of(config: PretrainConfig, processes: int) -> int:
    """Clips that a process computes at once in a step of the training."""
    share = max(config.loader.batch_size // processes, 1)
    return share // config.parts(share)
