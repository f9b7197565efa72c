"""From a configuration to a finished run folder.

Lightning runs the loop and moves the data to the device; everything that decides what is learned is in the module,
everything that decides what is kept is in the callbacks and the run folder. This file puts them together, on as many
processes as there are: what reads the run folder rank 0 does for all, what a process needs itself each does, and a
mistake of any is that of all.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from jepa.checkpoints.folder import save_folder
from jepa.checkpoints.load import load_weights
from jepa.checkpoints.read import checkpoint_exists, read_facts
from jepa.checkpoints.store import CheckpointStore
from jepa.data.mixture import Mixture
from jepa.data.source import Source
from jepa.logs import get_logger
from jepa.models.compilation import compile_blocks
from jepa.models.jepa import JEPA
from jepa.models.stack import checkpoint_activations
from jepa.objectives.build import build_objective
from jepa.objectives.idle import idle_parameters
from jepa.training.config import PretrainConfig
from jepa.training.data import facts_of, joint_fingerprint, open_data
from jepa.training.datamodule import Clips
from jepa.training.fitting import fit
from jepa.training.loggers import require_loggers
from jepa.training.metrics import MetricsFile
from jepa.training.module import Pretraining
from jepa.training.phases import Phases
from jepa.training.ranks_alike import require_same
from jepa.training.run_folder import RunFolder, is_checkpoint, open_run, record_start, require_same_start
from jepa.training.session import Session, session
from jepa.training.start import build_model, continue_from
from jepa.training.state import whole_weights
from jepa.training.surroundings import quiet_lightning, torch_settings
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


Watchers = Callable[[PretrainConfig], Sequence[Callback]]
"""Makes callbacks of Lightning that look on while a run trains; one that has `columns` adds to what alarms go by."""


def _none(config: PretrainConfig) -> Sequence[Callback]:
    return ()


def pretrain(config: PretrainConfig, watchers: Watchers = _none) -> PretrainResult:
    """Train, or continue to train, the model of `config` and write it to its run folder; phase by phase, if it has any.

    Started by `torchrun` or `srun`, every process calls this and has the same result.

    Args:
        config: of the run.
        watchers: makes what looks on, in every process.

    Raises:
        ConfigError: the run folder cannot be used, the configuration does not fit the data, or the environment of the
            processes is incomplete.
        DataError: data or initial weights that cannot be used.
        DivergedError: loss or gradient is no longer finite.
        InterruptedRun: a signal or a time limit asked the run to stop; its state is saved.
        JepaError: another process is gone.
    """
    with session(config.run) as current:
        looking = current.team.together(lambda: watchers(config))
        if not config.phases:
            return _train(config, current, watchers=looking)
        phases = Phases(config, current)
        phases.run(lambda phase: _train(phase, current, phases.folder.path, looking))
        last = current.team.alone(lambda: _result(phases.folders[-1], phases.steps_done()))
        return replace(last, run=phases.folder.path, model=phases.folder.model)


def _train(
    config: PretrainConfig, current: Session, whole: Path | None = None, watchers: Sequence[Callback] = ()
) -> PretrainResult:
    """Train one run or, with the folder of the `whole` one, one phase of it."""
    team = current.team
    team.together(lambda: require_loggers(config.run.loggers))
    videos, images = team.together(lambda: open_data(config))
    require_same(team, config, joint_fingerprint(videos, images))
    folder = team.alone(lambda: open_run(config, whole))
    if team.alone(lambda: folder.is_finished(config)):
        team.alone(lambda: _require_same_start(config, folder, joint_fingerprint(videos, images)))
        step = team.alone(folder.model_step) or 0
        log.info("%s is finished: %d of %d steps are done", config.out, step, config.last_step)
        if step < config.optim.steps and team.alone(folder.saved_step):  # its checkpoints may be gone
            log.info("its schedule has %d steps: a larger --max-steps continues it", config.optim.steps)
        return team.alone(lambda: _result(folder, step))
    current.claim(folder.path if whole is None else whole)
    team.alone(lambda: open_run(config, whole))  # until it was claimed, another run may have been here
    with torch_settings(config.run), quiet_lightning():
        store = CheckpointStore(
            folder.checkpoints, keep_last=config.run.keep_last, keep_every=config.run.keep_every, timeout=team.wait
        )
        saved = team.alone(store.newest)
        step = saved.step if saved else 0
        if saved:
            team.alone(lambda: require_same_start(config, saved.facts, joint_fingerprint(videos, images)))
        module = team.together(lambda: build_module(config, videos, fresh=saved is None, images=images))
        clips = Clips(videos, config, first_step=step, images=images)
        if saved:
            team.together(lambda: store.tidy(saved) if team.leads else None)
        team.alone(lambda: record_start(folder, config, step, team.ranks.world_size))
        if team.leads:
            _announce(config, videos, images, module.jepa, step)
            _announce_processes(config, current)
        done = max(step, config.last_step)
        facts = _facts(module, done, videos, images)
        fit(
            module, clips, folder, store, saved, current, watchers, finish=lambda: _save_model(module, folder, facts)
        )  # fmt: skip
    return team.alone(lambda: _result(folder, done))


def _require_same_start(config: PretrainConfig, folder: RunFolder, fingerprint: str) -> None:
    """As `require_same_start`, of a finished run; without its checkpoints nothing is known of that."""
    if checkpoint_exists(folder.checkpoint):
        require_same_start(config, read_facts(folder.checkpoint), fingerprint)


def _save_model(module: Pretraining, folder: RunFolder, facts: dict[str, Any]) -> None:
    """The result, by rank 0; of a divided model it is put together first, by all."""
    team, weights = module.team, whole_weights(module)
    team.together(lambda: save_folder(folder.path, module.jepa, facts=facts, weights=weights) if team.leads else None)


def _announce_processes(config: PretrainConfig, current: Session) -> None:
    """How the work is divided, where it can be: by processes and parts."""
    ranks, run = current.team.ranks, config.run
    share = config.loader.batch_size // ranks.world_size
    parts = config.parts(share)
    if run.strategy == "fsdp" and not ranks.several:
        log.warning("run.strategy is fsdp, but there is one process: nothing is divided")
    how = "fsdp" if run.strategy == "fsdp" else "ddp"
    log.info(
        "%s on %s, precision %s: %d clips a step in each, %s",
        f"{ranks.world_size} processes ({how})" if ranks.several else "one process",
        current.device, run.precision, share, f"in {parts} parts of {share // parts}" if parts > 1 else "at once",
    )  # fmt: skip
    if share // parts < 2:
        log.warning(
            "each device computes one clip at once: measures between clips are not taken, and not watched for collapse"
        )
    if run.compile:
        log.info("blocks are compiled in the first steps, which takes minutes")


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
    checkpoint_activations(jepa, config.run.checkpoint_activations)
    if config.run.compile:
        compile_blocks(jepa)
    return module


def _some(names: Sequence[str]) -> str:
    """A few of the names."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}" if names else "none"


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
