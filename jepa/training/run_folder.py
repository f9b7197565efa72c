"""The folder of a run: what lies where, and whether a run may start in it.

    config.yaml            the resolved configuration; `jepa pretrain --config RUN/config.yaml --resume` continues
    environment.json       command lines, code and package versions, machine
    metrics.csv            one row per log interval
    events.jsonl           what happened to the run: starts, saves, skipped steps, alarms, how it ended
    status.json            how it stands; `jepa status` reads it
    checkpoints/           weights, optimizer and position, to continue; last.ckpt is the newest
    loggers.json           names of the run at W&B and MLflow
    stacks/                where processes hung, if any did
    run.lock               while a run is going on here
    tensorboard/           the same numbers for TensorBoard
    probes.jsonl           what the online probe found; with online.data
    order.jsonl            every clip that was consumed; with run.record_order
    model.safetensors      the result, with config.json; written at the end

A run with phases (`phases.py`) has a folder like this for each of them inside its own, which then holds config.yaml,
environment.json and, at the end, the result of the last phase.

A folder belongs to one run. Starting another one in it, or continuing it with a configuration that would train
something else, is refused and the message says why.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jepa import config as configuration
from jepa.checkpoints.io import atomic_write
from jepa.checkpoints.load import encoder_digest, weights_digest
from jepa.checkpoints.read import checkpoint_digest, checkpoint_exists
from jepa.checkpoints.shelf import Shelf
from jepa.checkpoints.source import is_name
from jepa.checkpoints.store import CheckpointStore
from jepa.data.storage import absolute
from jepa.errors import ConfigError, DataError
from jepa.logs import get_logger
from jepa.training.config import CHECKPOINT, PretrainConfig
from jepa.training.environment import describe
from jepa.training.events import EventsFile
from jepa.training.launch import Ranks
from jepa.training.lines import read_object
from jepa.training.metrics import MetricsFile

log = get_logger(__name__)

# May differ on resume: where things lie, how fast they are read, how the run is executed. `data` is compared by what
# it holds (its fingerprint is in the checkpoint), so that a data set may move; and so is a teacher.
_FREE_KEYS = ("data", "images.data", "objective.teacher", "out", "max_steps", "resume", "json")
_FREE_GROUPS = (
    "run.", "health.", "online.", "loader.workers", "loader.prefetch", "loader.start_method", "loader.cache",
    "loader.remote", "loader.deadline", "loader.max_bad",
)  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run folder."""

    path: Path
    whole: Path | None = None
    """Folder of the run that this one is a phase of."""

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def order(self) -> Path:
        return self.path / "order.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    @property
    def checkpoints(self) -> Path:
        return self.checkpoint.parent

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def stacks(self) -> Path:
        return self.path / "stacks"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def model_facts(self) -> Path:
        return self.path / "config.json"

    def holds_run(self) -> bool:
        """Whether a run has done a step here. One that ended before (a mistake in its data, say) left nothing."""
        return (
            bool(self.saved_step())
            or self.checkpoint.exists()
            or self.model.exists()
            or bool(MetricsFile(self.metrics).read())
        )

    def phases(self) -> list[str]:
        """Names of the folders inside that are called like those of phases and hold a run."""
        if not self.path.is_dir():
            return []
        names = sorted(entry.name for entry in self.path.iterdir() if re.match(r"\d+-", entry.name))
        return [name for name in names if RunFolder(self.path / name).holds_run()]

    def saved_step(self) -> int:
        """Step of the newest checkpoint, also if a kill came before it was linked; 0 without any. Raises DataError."""
        return max(CheckpointStore(self.checkpoints).steps(), default=0)

    def has_start(self) -> bool:
        """Whether the checkpoint is there from which the next phase starts: the one of the last step. Raises DataError.

        A kill in the last save can have left it without the link, which `continue_from` does without.
        """
        if os.path.lexists(self.checkpoint):
            return checkpoint_exists(self.checkpoint)
        return self.saved_step() > 0 and self.saved_step() == (self.model_step() or self.saved_step())

    def model_step(self) -> int | None:
        """Step at which the model was written, if it was, and if its facts say so."""
        if not (self.model.exists() and self.model_facts.exists()):
            return None
        step = (_object(self.model_facts) or {}).get("step")
        return step if type(step) is int and step >= 0 else None

    def is_finished(self, config: PretrainConfig) -> bool:
        """Whether all steps of `config` are done, and the model is written. Its checkpoints may be gone by then."""
        step = self.model_step()
        return step is not None and step >= max(config.last_step, self.saved_step())

    def resume_command(self, ranks: Ranks | None = None) -> str:
        """What to type to continue this run, on as many processes."""
        return (ranks or Ranks()).command(f"pretrain --config {RunFolder(self.whole or self.path).config} --resume")


def open_run(config: PretrainConfig, whole: Path | None = None) -> RunFolder:
    """The folder `config.out`, in which a run may start or go on, or is finished. Changes nothing.

    Args:
        config: of the run.
        whole: folder of the run that this one is a phase of.

    Raises:
        ConfigError: the folder holds an unfinished run and `resume` is off, or it holds a run with another
            configuration, or one with phases, or one whose checkpoints are gone.
    """
    folder = RunFolder(config.out.absolute(), whole)
    _require_no_phases(config, folder)
    if folder.holds_run() and not config.resume and not folder.is_finished(config):
        raise ConfigError(f"{config.out} already holds a run: pass --resume to continue it, or another --out")
    if folder.holds_run() and folder.config.exists():
        before = configuration.load(PretrainConfig, folder.config)
        if whole is not None:  # the phase before lies beside it, wherever the whole has been moved to
            before = replace(before, init=config.init)
        require_same_run(before, config, folder.config)
    if config.resume and not folder.is_finished(config):
        _require_checkpoint(config, folder)
        if folder.model.exists() and folder.model_facts.exists() and folder.model_step() is None:
            log.warning("%s does not tell of which step the model is: it is written again", folder.model_facts)
    if config.resume and not folder.saved_step() and folder.model_step() is None:
        log.info("nothing to resume in %s yet: starting at step 0", config.out)
    return folder


def _require_checkpoint(config: PretrainConfig, folder: RunFolder) -> None:
    """Raise ConfigError if the run has saved, and what it has saved is gone: it would begin anew over what is left."""
    place = folder.checkpoints
    if Shelf(place).steps() or folder.checkpoint.exists():
        return  # whether they can be used is for the store to say
    if place.is_symlink() and not place.exists():
        problem = f"{place} points to {place.readlink()}, which is gone"
    elif os.path.lexists(place) and not place.is_dir():
        problem = f"{place} is no folder"
    elif folder.model.exists() or _has_saved(folder):
        problem = f"{place} {'holds none' if place.exists() else 'is gone'}"
    else:
        return  # it ended before its first checkpoint
    if folder.holds_run():
        raise ConfigError(
            f"{config.out} holds a run whose checkpoints are missing: {problem}; restore them, or choose another --out"
        )


def _has_saved(folder: RunFolder) -> bool:
    """Whether the history of a run tells of a checkpoint."""
    try:
        return any(event["kind"] == "checkpoint" for event in EventsFile(folder.events).read())
    except OSError:
        return False


def _require_no_phases(config: PretrainConfig, folder: RunFolder) -> None:
    phases = folder.phases()
    if phases and folder.config.exists() and configuration.load(PretrainConfig, folder.config).phases:
        raise ConfigError(
            f"{config.out} holds a run with phases ({', '.join(phases)}) and this configuration has none: "
            f"continue it by {folder.resume_command()}, or choose another --out"
        )


def require_same_run(before: PretrainConfig, now: PretrainConfig, where: Path | str) -> None:
    """Raise ConfigError, naming the keys, if the two configurations would train something else."""
    old, new = (configuration.flat(configuration.to_dict(with_absolute_paths(config))) for config in (before, now))
    changed = [key for key in new if old.get(key) != new[key] and not _is_free(key)]
    if changed:
        shown = ", ".join(f"{key} (was {old.get(key)}, now {new[key]})" for key in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ConfigError(f"cannot resume with another configuration than {where}: {shown}{more}; use another --out")


def require_same_start(config: PretrainConfig, facts: Mapping[str, Any], fingerprint: str) -> None:
    """Check that a saved run goes on from what it began with. Initial weights that are gone are no obstacle.

    Args:
        config: of the run.
        facts: of its checkpoint.
        fingerprint: of the data to go on with.

    Raises:
        ConfigError: the data is another one, or `config.init` or the teacher holds other weights by now.
        DataError: the facts are not those of a checkpoint of this package.
    """
    if not facts.get("fingerprint"):
        raise DataError(
            f"the checkpoint in {config.out} does not say which data it was trained on: restore it or start another "
            "--out"
        )
    if facts["fingerprint"] != fingerprint:
        raise ConfigError(
            f"cannot resume on other data: {config.data} has fingerprint {fingerprint}, the run was trained on "
            f"{facts['fingerprint']}; give the same data, or start another --out with --init"
        )
    before = facts.get("init")
    now = start_digest(config.init) if config.init is not None else None
    if before is not None and now is not None and before != now:
        raise start_moved(config)
    teacher = config.objective.teacher
    if teacher is not None and encoder_digest(teacher) not in (None, facts.get("teacher")):
        raise ConfigError(
            f"cannot continue {config.out}: the teacher {teacher} holds other weights than the run started with; give "
            "the same by objective.teacher, or choose another --out"
        )


def is_checkpoint(init: str) -> bool:
    """Whether initial weights are named by the checkpoint of a run, and not by its model."""
    return Path(init).suffix == ".ckpt"


def start_digest(init: str) -> str | None:
    """Digest of what a run starts from; none if it is not there (any more)."""
    if not is_checkpoint(init):
        return weights_digest(init)
    try:
        return checkpoint_digest(Path(init))
    except DataError:
        return None


def start_moved(config: PretrainConfig) -> ConfigError:
    """What to say when the weights named by `config.init` are not those that the run started from."""
    return ConfigError(
        f"cannot continue {config.out}: the weights it started from, {config.init}, have changed since; delete the "
        f"folder {config.out} or choose another --out"
    )


def record_start(folder: RunFolder, config: PretrainConfig, step: int, ranks: int) -> None:
    """Write config.yaml and environment.json, and add this start, on so many processes, to the latter's list.

    Raises:
        ConfigError: the folder cannot be written.
    """
    kept = replace(with_absolute_paths(config), resume=False, json=False)  # `resume` is said anew each time
    with atomic_write(folder.config) as file:
        file.write(f"# {folder.resume_command()}\n{configuration.to_yaml(kept)}".encode())
    now = describe()
    starts: Any = []
    if step and folder.environment.exists():
        starts = (_object(folder.environment) or {}).get("starts")
        if not (isinstance(starts, list) and all(isinstance(start, dict) for start in starts)):
            log.warning("%s is damaged: its list of starts begins anew", folder.environment)
            starts = []
    starts.append({"time": now["time"], "command": now["command"], "step": step, "ranks": ranks})
    with atomic_write(folder.environment) as file:
        file.write(json.dumps(now | {"starts": starts}, indent=2).encode() + b"\n")


def with_absolute_paths(config: PretrainConfig) -> PretrainConfig:
    """With absolute paths: they mean the same from any working directory. Names of shipped weights stay."""
    init, teacher = _absolute_weights(config.init), _absolute_weights(config.objective.teacher)
    cache = config.loader.cache and config.loader.cache.absolute()
    loader = replace(config.loader, cache=cache)
    images = replace(config.images, data=config.images.data and absolute(config.images.data))
    online = replace(config.online, data=config.online.data and absolute(config.online.data))
    data, out = absolute(config.data), config.out.absolute()
    objective = replace(config.objective, teacher=teacher)
    phases = tuple(replace(phase, changes=_absolute_paths(phase.changes)) for phase in config.phases)
    return replace(
        config,
        data=data,
        out=out,
        init=init,
        images=images,
        loader=loader,
        objective=objective,
        online=online,
        phases=phases,
    )


def _absolute_weights(name: str | None) -> str | None:
    return name if name is None or is_name(name) else str(Path(name).absolute())


def _absolute_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    teacher = {key: _absolute_weights(value) for key, value in values.items() if key == "objective.teacher"}
    return {key: absolute(value) if isinstance(value, Path) else value for key, value in values.items()} | teacher


def _object(path: Path) -> dict[str, Any] | None:
    """A JSON object; none if it is not there or cannot be read."""
    try:
        return read_object(path)
    except OSError:
        return None


def _is_free(key: str) -> bool:
    return key in _FREE_KEYS or key.startswith(_FREE_GROUPS)
