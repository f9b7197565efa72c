"""Where metrics go: event files as TensorBoard reads them; W&B and MLflow as themselves where they are installed, and
as stand-ins that take down what they are told where they are not."""

import json
import struct
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jepa.errors import ConfigError
from jepa.training import loggers as module
from jepa.training.config import PretrainConfig
from jepa.training.loggers import LoggerName, MLflow, RunLogger, TensorBoard, WandB, flat, make_loggers, require_loggers
from jepa.training.trainer import pretrain

Configure = Callable[..., PretrainConfig]
RUN = {"device": "cpu", "threads": 1, "log_every": 2, "checkpoint_every": 4}


def scalars(out: Path, name: str) -> dict[int, float]:
    events = EventAccumulator(str(out / "tensorboard")).Reload().Scalars(name)
    assert len(events) == len({one.step for one in events}), "a step is shown twice"
    return {one.step: one.value for one in events}


def installed(name: str, monkeypatch: pytest.MonkeyPatch, **content: Any) -> None:
    """A module of that name that can be imported."""
    found = types.ModuleType(name)
    found.__spec__ = importlib_spec(name)
    for key, value in content.items():
        setattr(found, key, value)
    monkeypatch.setitem(sys.modules, name, found)


def importlib_spec(name: str) -> Any:
    from importlib.machinery import ModuleSpec

    return ModuleSpec(name, None, origin="here")


# What all loggers share


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_not_installed_is_said_before_anything_starts(
    micro: Configure, monkeypatch: pytest.MonkeyPatch, name: LoggerName
) -> None:
    found = module.importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda one: None if one == name else found(one))
    config = micro(run=RUN | {"loggers": ["tensorboard", name]})
    with pytest.raises(ConfigError, match=rf"pip install 'jepa-video\[{name}\]'"):
        make_loggers(config, config.out, 0)
    assert not config.out.exists()


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B makes a folder `wandb` where it runs, and Python takes any folder for a package."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    (tmp_path / "wandb").mkdir()
    with pytest.raises(ConfigError, match="not installed"):
        require_loggers(["wandb"])


def test_the_configuration_is_flat_and_of_plain_values() -> None:
    tree = {"a": {"b": 1, "c": {"d": True}}, "e": [1, {"f": 2}], "g": None, "h": {}, "i": "text", "j": 0.5}
    assert flat(tree) == {
        "a.b": 1, "a.c.d": True, "e": '[1, {"f": 2}]', "g": "null", "h": "{}", "i": "text", "j": 0.5,
    }  # fmt: skip


class Failing(RunLogger):
    kind: LoggerName = "wandb"

    def _write(self, *_: Any) -> None:
        raise ConnectionError("no route\nto host")

    def _close(self, *, good: bool) -> None:
        raise ConnectionError


def test_a_logger_that_fails_later_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    logger = Failing()
    logger.log_metrics({"loss": 1.0}, 1)
    logger.log_metrics({"loss": 1.0}, 2)
    logger.save()
    logger.finalize("success")
    (record,) = caplog.records
    assert record.getMessage() == "logging to wandb fails (no route); training goes on without it"


# TensorBoard


def test_tensorboard_has_the_rows_and_the_configuration_once(micro: Configure) -> None:
    config = micro(run=RUN)
    pretrain(replace(config, max_steps=4))
    pretrain(replace(config, resume=True))
    assert list(scalars(config.out, "loss")) == [1, 2, 4, 6, 8]
    events = EventAccumulator(str(config.out / "tensorboard")).Reload()
    plugin = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"optim.learning_rate" in plugin
    assert struct.pack("<d", 1e-3) in plugin
    files = sorted((config.out / "tensorboard").iterdir())
    assert len(files) == 2, "one for each start"
    assert b"optim.learning_rate" not in files[1].read_bytes()


def test_rows_that_are_done_again_replace_the_first_ones(tmp_path: Path) -> None:
    """The first process was killed after step 6, with its checkpoint at step 4."""
    first = TensorBoard(tmp_path, {}, 0)
    for step in (2, 4, 6):
        first.log_metrics({"loss": float(step)}, step)
    first.save()
    second = TensorBoard(tmp_path, {}, 4)
    for step in (6, 8):
        second.log_metrics({"loss": 10.0 * step}, step)
    second.finalize("success")
    first.finalize("failed")
    assert scalars(tmp_path, "loss") == {2: 2.0, 4: 4.0, 6: 60.0, 8: 80.0}


def test_a_full_disk_does_not_end_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    board = TensorBoard(tmp_path, {}, 0)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    board._writer.add_scalar = board._writer.flush = board._writer.add_image = full  # type: ignore[method-assign]
    board.log_metrics({"loss": 1.0}, 1)
    board.picture("masks", np.zeros((2, 2, 3), np.uint8), 1)
    board.save()
    (record,) = caplog.records
    assert "logging to tensorboard fails" in record.getMessage()


def test_a_folder_that_cannot_be_written_is_an_error_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(ConfigError, match="tensorboard"):
        TensorBoard(tmp_path, {}, 0)


# W&B: a stand-in


class Wandb:
    """Takes down what it is told."""

    def __init__(self) -> None:
        self.inits: list[dict[str, Any]] = []
        self.rows: list[tuple[dict[str, float], int]] = []
        self.codes: list[int] = []

    def init(self, **options: Any) -> "Wandb":
        self.inits.append(options)
        self.id = options["id"]
        return self

    def log(self, row: dict[str, float], *, step: int, commit: bool) -> None:
        assert commit
        self.rows.append((row, step))

    def finish(self, exit_code: int) -> None:
        self.codes.append(exit_code)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    stand_in = Wandb()
    installed("wandb", monkeypatch, init=stand_in.init, Settings=lambda **options: options)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return stand_in


def test_a_resumed_run_goes_on_in_the_same_run_of_wandb(micro: Configure, wandb: Wandb) -> None:
    config = micro(run=RUN | {"loggers": ["wandb"]})
    pretrain(replace(config, max_steps=4))
    pretrain(replace(config, resume=True))
    first, second = wandb.inits
    assert first["id"] == second["id"]
    assert first["id"].startswith("run-")
    assert json.loads((config.out / "loggers.json").read_text()) == {"wandb": first["id"]}
    assert (first["project"], first["name"], first["resume"]) == ("jepa", "run", "allow")
    assert first["config"]["optim.learning_rate"] == 1e-3
    assert [step for _, step in wandb.rows] == [1, 2, 4, 6, 8]
    assert wandb.rows[0][0].keys() >= {"loss", "lr", "grad_norm"}
    assert wandb.codes == [0, 0]


def test_two_folders_are_two_runs(wandb: Wandb, tmp_path: Path) -> None:
    names = {WandB(tmp_path / str(number), {}, "run").version for number in range(3)}
    assert len(names) == 3


def test_wandb_that_does_not_start_says_what_to_do(wandb: Wandb, tmp_path: Path) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("api_key not configured (no-tty)\nmore")

    sys.modules["wandb"].init = fail  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"does not start: api_key not configured \(no-tty\); .*WANDB_MODE=offline"):
        WandB(tmp_path, {}, "run")


def test_a_run_that_fails_is_marked(wandb: Wandb, tmp_path: Path) -> None:
    WandB(tmp_path, {}, "run").finalize("failed")
    assert wandb.codes == [1]


# MLflow: a stand-in


class Client:
    """Keeps runs; shared by all clients of one test."""

    runs: dict[str, dict[str, Any]]
    address: str

    def __init__(self, address: str) -> None:
        type(self).address = address

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        return "1"

    def create_run(self, experiment: str, run_name: str) -> Any:
        name = f"made-{len(self.runs)}"
        self.runs[name] = {"name": run_name, "metrics": [], "params": {}, "status": "RUNNING"}
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=name))

    def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(params) <= 100
        self.runs[run]["metrics"] += metrics
        self.runs[run]["params"] |= dict(params)

    def update_run(self, run: str, status: str) -> None:
        self.runs[run]["status"] = status

    set_terminated = update_run


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    class Fresh(Client):
        runs: dict[str, dict[str, Any]] = {}  # noqa: RUF012

    installed("mlflow", monkeypatch)
    installed("mlflow.tracking", monkeypatch, MlflowClient=Fresh)
    installed("mlflow.entities", monkeypatch, Metric=lambda *values: values, Param=lambda *values: values)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Fresh


def test_a_resumed_run_goes_on_in_the_same_run_of_mlflow(micro: Configure, client: type[Client]) -> None:
    config = micro(run=RUN | {"loggers": ["mlflow"]})
    pretrain(replace(config, max_steps=4))
    assert client.address == f"sqlite:///{config.out}/mlflow/mlflow.db"
    (run,) = client.runs.values()
    assert run["status"] == "FINISHED"
    params = dict(run["params"])
    pretrain(replace(config, resume=True))
    (run,) = client.runs.values()
    assert run["params"] == params, "of the first start"
    assert params["optim.learning_rate"] == "0.001"
    assert [step for name, _, _, step in run["metrics"] if name == "loss"] == [1, 2, 4, 6, 8]


def test_a_server_is_asked_where_one_is_named(
    client: type[Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    MLflow(tmp_path, {"long": "x" * 2000}, "run")
    assert client.address == "http://server:5000"
    assert not (tmp_path / "mlflow").exists()
    assert [len(value) for run in client.runs.values() for value in run["params"].values()] == [module.MLFLOW_LENGTH]


# The real ones


@pytest.mark.filterwarnings("ignore")
def test_the_real_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    known = set()
    for steps in ((1, 2), (2, 3)):
        logger = WandB(tmp_path, {"optim.steps": 8}, "run")
        known.add(logger.version)
        for step in steps:
            logger.log_metrics({"loss": 1 / step, "nothing": float("nan")}, step)
        logger.finalize("success")
    assert len(known) == 1
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*/run-{known.pop()}.wandb"))
    assert len(files) == 2
    assert wandb.run is None


@pytest.mark.filterwarnings("ignore")
def test_the_real_mlflow_in_a_database_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    known = set()
    for steps in ((1, 2), (3,)):
        logger = MLflow(tmp_path / "run", {f"key.{number}": number for number in range(150)}, "run")
        known.add(logger.version)
        for step in steps:
            logger.log_metrics({"loss": 1 / step, "loss/videos": float("nan")}, step)
        logger.finalize("success")
    (name,) = known
    client = tracking.MlflowClient(f"sqlite:///{tmp_path}/run/mlflow/mlflow.db")
    run = client.get_run(name)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert len(run.data.params) == 150
    assert [(one.step, one.value) for one in client.get_metric_history(name, "loss")] == [
        (1, 1.0),
        (2, 0.5),
        (3, 1 / 3),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"run"}, "nothing is left where it was started"
