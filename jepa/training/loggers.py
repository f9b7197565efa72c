"""Where the rows of metrics go beside metrics.csv: TensorBoard, W&B, MLflow. Only rank 0 has them.

    tensorboard   RUN/tensorboard/, always there; also gets the pictures
    wandb         RUN/wandb/; WANDB_MODE=offline writes without a network, WANDB_PROJECT names the project
    mlflow        the server that MLFLOW_TRACKING_URI names, else a database in RUN/mlflow/

A run that is resumed goes on in the same W&B and MLflow run: `loggers.json` in the run folder keeps their names. What
was logged after the last checkpoint is logged again, with the same values, because the run repeats those steps:
TensorBoard drops the first ones, W&B the second ones, MLflow shows both, on top of each other.

A logger that cannot start is an error, before training does. One that fails later (a server is down, the disk is full)
is a warning, once; metrics.csv has all rows anyway.
"""

import contextlib
import importlib.util
import json
import logging
import os
import time
import uuid
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers.logger import Logger
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from jepa.checkpoints.io import atomic_write
from jepa.config import to_dict
from jepa.errors import ConfigError
from jepa.logs import get_logger
from jepa.training.config import PretrainConfig
from jepa.training.run_config import LoggerName

log = get_logger(__name__)

NAMES_FILE = "loggers.json"
"""In the run folder: under which names W&B and MLflow know the run."""
MLFLOW_LENGTH = 500
"""Letters of a value that every version of MLflow takes."""

Settings = dict[str, bool | int | float | str]


def require_loggers(names: Sequence[LoggerName]) -> None:
    """Raise ConfigError if the package of a logger is not installed."""
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # without an origin: a folder of that name, as W&B makes it
            raise ConfigError(
                f"run.loggers names {name}, which is not installed: pip install 'jepa-video[{name}]', or leave it out"
            )


def make_loggers(config: PretrainConfig, folder: Path, step: int, name: str | None = None) -> list["RunLogger"]:
    """The loggers of a run; to be called on rank 0 alone.

    Args:
        config: of the run.
        folder: of the run.
        step: from which it starts; later rows of an earlier start are done again.
        name: of the run, for people; that of its folder when none.

    Raises:
        ConfigError: a package is not installed, or W&B or MLflow cannot start.
    """
    require_loggers(config.run.loggers)
    settings, name = flat(to_dict(config)), name or folder.name
    loggers: list[RunLogger] = []
    for kind in dict.fromkeys(config.run.loggers):
        match kind:
            case "tensorboard":
                loggers.append(TensorBoard(folder, settings, step))
            case "wandb":
                loggers.append(WandB(folder, settings, name))
            case "mlflow":
                loggers.append(MLflow(folder, settings, name))
    return loggers


class RunLogger(Logger):
    """What Lightning and the metrics ask of a logger. No failure of it ends the training."""

    kind: LoggerName

    def __init__(self) -> None:
        super().__init__()
        self._complained = False

    @property
    def name(self) -> str:
        return self.kind

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Nothing: the configuration is logged once, when the run starts."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self._forgiving():
            self._write(metrics, step or 0)

    def save(self) -> None:
        with self._forgiving():
            self._flush()

    def finalize(self, status: str) -> None:
        with self._forgiving():
            self._close(good=status == "success")

    @abstractmethod
    def _write(self, metrics: Mapping[str, float], step: int) -> None: ...

    def _flush(self) -> None:  # most have nothing to flush
        pass

    @abstractmethod
    def _close(self, *, good: bool) -> None: ...

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of packages that have their own kinds of them, and a network behind
            if not self._complained:
                log.warning("logging to %s fails (%s); training goes on without it", self.kind, first_line(error))
            self._complained = True


class TensorBoard(RunLogger):
    """Event files, one for each start. TensorBoard shows none of the rows that a later start does again."""

    kind = "tensorboard"

    def __init__(self, folder: Path, settings: Settings, step: int) -> None:
        super().__init__()
        try:
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        except OSError as error:
            raise ConfigError(f"cannot write to {folder / 'tensorboard'}: {error.strerror}") from error
        if step == 0:
            with self._forgiving():
                for summary in hparams(settings, {}):
                    self._writer._get_file_writer().add_summary(summary)  # `add_hparams` would make another file

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Show a picture, uint8 (H, W, 3|4), under a name."""
        with self._forgiving():
            self._writer.add_image(name, picture, step, dataformats="HWC")

    def _write(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def _flush(self) -> None:
        self._writer.flush()

    def _close(self, *, good: bool) -> None:
        self._writer.close()


class WandB(RunLogger):
    """A run of Weights & Biases."""

    kind = "wandb"

    def __init__(self, folder: Path, settings: Settings, name: str) -> None:
        super().__init__()
        import wandb

        known = _known_name(folder, "wandb", f"{folder.name}-{uuid.uuid4().hex[:8]}")
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "jepa"),
                name=name,
                id=known,
                resume="allow",
                dir=folder,
                config=settings,
                # Its copy of stderr would turn our progress bar into lines; the log of the job is elsewhere.
                settings=wandb.Settings(console="off", silent=True),
            )
        except Exception as error:
            raise ConfigError(
                f"W&B does not start: {first_line(error)}; log in by `wandb login`, set WANDB_MODE=offline, or leave "
                "wandb out of run.loggers"
            ) from error

    @property
    def version(self) -> str:
        return str(self._run.id)

    def _write(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step, commit=True)

    def _close(self, *, good: bool) -> None:
        self._run.finish(exit_code=0 if good else 1)


class MLflow(RunLogger):
    """A run of MLflow."""

    kind = "mlflow"

    def __init__(self, folder: Path, settings: Settings, name: str) -> None:
        super().__init__()
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table that it makes
        address, store = os.environ.get("MLFLOW_TRACKING_URI"), folder / "mlflow"
        try:
            if not address:
                store.mkdir(parents=True, exist_ok=True)
            self._client = MlflowClient(address or f"sqlite:///{store / 'mlflow.db'}")
            self._id = self._start(folder, name, settings, None if address else str(store / "artifacts"))
        except Exception as error:
            raise ConfigError(
                f"MLflow does not start at {address or store}: {first_line(error)}; set MLFLOW_TRACKING_URI, or leave "
                "mlflow out of run.loggers"
            ) from error

    @property
    def version(self) -> str:
        return self._id

    def _start(self, folder: Path, name: str, settings: Settings, artifacts: str | None) -> str:
        """The run that the folder knows, or a new one with the settings."""
        if known := _names(folder).get("mlflow"):
            self._client.update_run(known, status="RUNNING")
            return known
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", "jepa")
        found = self._client.get_experiment_by_name(title)
        number = found.experiment_id if found else self._client.create_experiment(title, artifact_location=artifacts)
        made = str(self._client.create_run(number, run_name=name).info.run_id)
        from mlflow.entities import Param

        values = [Param(key, str(value)[:MLFLOW_LENGTH]) for key, value in settings.items()]
        for first in range(0, len(values), 100):  # as many as it takes at once
            self._client.log_batch(made, params=values[first : first + 100])
        return _known_name(folder, "mlflow", made)

    def _write(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(key, value, now, step) for key, value in metrics.items()])

    def _close(self, *, good: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if good else "KILLED")


def flat(tree: Mapping[str, Any], prefix: str = "") -> Settings:
    """A configuration as dotted keys with values that every logger takes: what is no number is text."""
    values: Settings = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            values |= flat(value, f"{prefix}{key}.")
        else:
            simple = isinstance(value, bool | int | float | str)
            values[f"{prefix}{key}"] = value if simple else json.dumps(value, default=str)
    return values


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _names(folder: Path) -> dict[str, str]:
    try:
        names = json.loads((folder / NAMES_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return names if isinstance(names, dict) else {}


def _known_name(folder: Path, kind: LoggerName, new: str) -> str:
    """The name under which a logger knows the run: the kept one, or a new one, to be kept. Raises ConfigError."""
    names = _names(folder)
    if kind not in names:
        with atomic_write(folder / NAMES_FILE) as file:
            file.write(json.dumps({**names, kind: new}, indent=1).encode() + b"\n")
    return names.get(kind, new)
