"""From a configuration to a finished run folder.

Lightning runs the loop and moves the data to the device; everything that decides what is learned is in the module,
everything that decides what is kept is in the callbacks and the run folder. This file puts them together.
"""

import contextlib
import logging
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from jepa.checkpoints.folder import save_folder
from jepa.checkpoints.load import load_weights
from jepa.data.mixture import Mixture
from jepa.data.source import Source
from jepa.devices import choose_device
from jepa.errors import WorkerLost
from jepa.logs import get_logger
from jepa.models.jepa import JEPA
from jepa.objectives.build import build_objective
from jepa.objectives.idle import idle_parameters
from jepa.training.callbacks import AtomicCheckpointIO, MetricsLog, RecordOrder, SaveState, ShowProgress
from jepa.training.config import PretrainConfig
from jepa.training.data import facts_of, joint_fingerprint, open_data
from jepa.training.datamodule import Clips
from jepa.training.environment import require_single_process
from jepa.training.metrics import MetricsFile
from jepa.training.module import Pretraining
from jepa.training.order_file import OrderFile
from jepa.training.phases import Phases
from jepa.training.preemption import StopRequest
from jepa.training.run_config import RunConfig
from jepa.training.run_folder import RunFolder, is_checkpoint, open_run, record_start, require_same_start
from jepa.training.start import build_model, continue_from
from jepa.training.teacher import open_teacher

log = get_logger(__name__)


@dataclass(frozen=True)
class PretrainResult:
    """A finished run."""

    run: Path
    """Run folder."""
    steps: int
    """Optimizer steps done, over all starts."""
    loss: float
    """Mean loss of the last row of metrics.csv; nan if there is none."""
    model: Path
    """The weights."""


def pretrain(config: PretrainConfig) -> PretrainResult:
    """Train, or continue to train, the model of `config` and write it to its run folder; phase by phase, if it has any.

    Raises:
        ConfigError: the run folder cannot be used, or the configuration does not fit the data.
        DataError: data or initial weights that cannot be used.
        DivergedError: loss or gradient is no longer finite.
        InterruptedRun: a signal asked the run to stop; its state is saved.
    """
    require_single_process()
    stop = StopRequest()
    if not config.phases:
        return _train(config, stop)
    phases = Phases(config)
    phases.run(lambda phase: _train(phase, stop, phases.folder.path), stop)
    last = _result(phases.folders[-1], phases.steps_done())
    return replace(last, run=phases.folder.path, model=phases.folder.model)


def _train(config: PretrainConfig, stop: StopRequest, whole: Path | None = None) -> PretrainResult:
    """Train one run or, with the folder of the `whole` one, one phase of it."""
    accelerator = choose_device(config.run.device, "run.device").type
    videos, images = open_data(config)
    folder, step = open_run(config, whole)
    if step:
        require_same_start(config, folder, joint_fingerprint(videos, images))
    if step >= config.last_step and folder.model_step() == step:
        log.info("%s is finished: %d of %d steps are done", config.out, step, config.last_step)
        if step < config.optim.steps:
            log.info("its schedule has %d steps: a larger --max-steps continues it", config.optim.steps)
        return _result(folder, step)
    with _settings(config.run), quiet_lightning():
        module = build_module(config, videos, fresh=step == 0, images=images)
        record_start(folder, config, step)
        _announce(config, videos, images, module.jepa, step)
        _fit(module, Clips(videos, config, first_step=step, images=images), folder, step, accelerator, stop)
    step = max(step, config.last_step)
    save_folder(folder.path, module.jepa, facts=_facts(module, step, videos, images))
    return _result(folder, step)


def build_module(
    config: PretrainConfig, source: Source | Mixture, *, fresh: bool = True, images: Mixture | None = None
) -> Pretraining:
    """The module with its initial weights: seeded random ones, or those named by `config.init` if `fresh`.

    Raises:
        ConfigError, DataError: initial weights or a teacher that cannot be used.
    """
    opened = open_teacher(config)
    teacher = opened.teacher if opened else None
    jepa = build_model(config, teacher)
    digest, continued = None, config.init is not None and is_checkpoint(config.init)
    if config.init is not None and fresh and not continued:
        report = load_weights(jepa, config.init)
        digest = report.digest
        log.info(
            "%d tensors from %s; start afresh: %s; not used: %s", len(report.loaded), config.init,
            _some(report.fresh), _some(report.unused),
        )  # fmt: skip
    jepa.train()  # Lightning leaves modes alone; this also puts the target encoder in evaluation mode
    module = Pretraining(
        jepa,
        build_objective(config.objective, jepa.encoder.config, teacher),
        config,
        fingerprint=joint_fingerprint(source, images),
        init_digest=digest,
        teacher_digest=opened.digest if opened else None,
    )
    if config.init is not None and fresh and continued:
        continue_from(module, Path(config.init))
    return module


def _some(names: Sequence[str]) -> str:
    """A few of the names."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}" if names else "none"


def _fit(module: Pretraining, clips: Clips, folder: RunFolder, step: int, accelerator: str, stop: StopRequest) -> None:
    """Run the loop from `step` to the last step."""
    config = module.config
    metrics = MetricsFile(folder.metrics)
    metrics.start(step)
    order = OrderFile(folder.order)
    if config.run.record_order:
        order.start(step)
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        max_steps=config.last_step,
        max_epochs=-1,
        callbacks=[
            MetricsLog(metrics, clips),
            *([RecordOrder(order)] if config.run.record_order else []),
            ShowProgress(config.last_step),
            SaveState(folder, stop, every=config.run.checkpoint_every, last_step=config.last_step),
        ],
        logger=_Events(folder.path, name="tensorboard", version="", purge_step=step + 1),
        # One process, whatever the surroundings: Lightning would look for Slurm's ranks and requeue by itself.
        plugins=[AtomicCheckpointIO(), LightningEnvironment()],
        default_root_dir=folder.path,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        enable_autolog_hparams=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    with _exit_codes(stop, folder):
        trainer.fit(module, datamodule=clips, ckpt_path=folder.checkpoint if step else None)


class _Events(TensorBoardLogger):
    """TensorBoard's event file alone: the configuration is in config.yaml, not in a second file of Lightning's."""

    def save(self) -> None:
        self.experiment.flush()


@contextlib.contextmanager
def _exit_codes(stop: StopRequest, folder: RunFolder) -> Iterator[None]:
    """Undo what Lightning makes of an interrupt, so that the command line sees what happened."""
    try:
        yield
    except SystemExit as error:
        # Lightning turns KeyboardInterrupt into sys.exit(1), which would read as a failure.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    except WorkerLost as error:
        # Workers ignore what a scheduler sends to every process of a job, but not before they have started, and not
        # SIGKILL; then the state is that of the last checkpoint.
        if stop:
            log.warning("%s: continue with %s", error, folder.resume_command())
            raise SystemExit(stop.exit_code) from None
        raise


@contextlib.contextmanager
def _settings(config: RunConfig) -> Iterator[None]:
    """Threads and determinism of torch inside the block."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling every fresh tensor finds reads of uninitialised memory, and costs time in each operation.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's tips and advice: it comments on loaders and devices that we chose on purpose."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _announce(config: PretrainConfig, videos: Mixture, images: Mixture | None, jepa: JEPA, step: int) -> None:
    if config.max_steps is not None and config.max_steps > config.last_step:
        log.info("optim.steps is %d: ending there, before max_steps %d", config.optim.steps, config.max_steps)
    trained = sum(parameter.numel() for parameter in jepa.parameters() if parameter.requires_grad)
    log.info(
        "%s: %d videos; %s model, %.1f million trained parameters, %d tokens a clip; steps %d to %d of %d",
        videos.name, len(videos), config.model.size, trained / 1e6, config.grid.count, step, config.last_step,
        config.optim.steps,
    )  # fmt: skip
    kinds = [config.masks.kinds, *([] if images is None else [config.images.masks.kinds])]
    idle = idle_parameters(
        config.model, masks=max(map(len, kinds)), images=images is not None or config.clip.frames == 1
    )
    for reason in dict.fromkeys(idle.values()):
        names = ", ".join(name.strip(".") for name, why in idle.items() if why == reason)
        log.warning("not trained: %s: %s", names, reason)
    if len(videos.sources) > 1:
        log.info("mixture: %s", videos.shares())
    if images is not None:
        log.info(
            "%g of the steps are of images, of %d tokens: %s",
            config.images.share,
            config.image_grid.count,
            images.shares(),
        )


def _facts(module: Pretraining, step: int, videos: Mixture, images: Mixture | None) -> dict[str, Any]:
    """What a user of the encoder needs to know, for config.json."""
    config, teacher = module.config, module.teacher_digest
    return {
        "evaluate": "target",  # the average of the trained encoder is better than its last state
        "clip": asdict(config.clip),
        "objective": asdict(config.objective),
        "step": step,
        "seed": config.seed,
        "data": facts_of(videos),
        **({} if images is None else {"images": facts_of(images)}),
        **({} if teacher is None else {"teacher": teacher}),
    }


def _result(folder: RunFolder, step: int) -> PretrainResult:
    rows = MetricsFile(folder.metrics).read()
    return PretrainResult(folder.path, step, rows[-1]["loss"] if rows else math.nan, folder.model)
