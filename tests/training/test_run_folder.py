"""Whether a run may start in a folder."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jepa import config as configuration
from jepa.checkpoints.store import CheckpointStore
from jepa.errors import ConfigError, DataError
from jepa.training.config import PretrainConfig
from jepa.training.events import EventKind, EventsFile
from jepa.training.metrics import MetricsFile
from jepa.training.run_folder import (
    RunFolder,
    open_run,
    record_start,
    require_same_run,
    require_same_start,
)
from jepa.training.trainer import pretrain

Configure = Callable[..., PretrainConfig]
FACTS = {"position": 12, "fingerprint": "abc", "init": None}


def save(folder: RunFolder, step: int = 3) -> None:
    CheckpointStore(folder.checkpoints).save(step, {"state_dict": {}}, FACTS)


@pytest.fixture
def started(micro: Configure) -> tuple[PretrainConfig, RunFolder]:
    """A run that has saved after step 3."""
    config = micro()
    folder = RunFolder(config.out)
    record_start(folder, config, 0, 1)
    save(folder)
    return config, folder


def test_a_new_folder_starts_at_step_0_and_is_not_touched_yet(micro: Configure) -> None:
    folder = open_run(micro())
    assert folder.saved_step() == 0
    assert not folder.path.exists()


def test_the_recorded_configuration_is_the_run_s_own(micro: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    config = micro(resume=True, json=True, seed=5)
    folder = RunFolder(config.out)
    record_start(folder, config, 0, 1)
    assert configuration.load(PretrainConfig, folder.config) == replace(config, resume=False, json=False)


def test_paths_are_recorded_absolute(micro: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record_start(RunFolder(tmp_path / "run"), micro(out="run", data="clips"), 0, 1)
    back = configuration.load(PretrainConfig, tmp_path / "run" / "config.yaml")
    assert (back.out, back.data) == (tmp_path / "run", tmp_path / "clips")


def test_init_and_cache_are_recorded_absolute_and_names_stay(
    micro: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shipped" / "jepa-test").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr("jepa.checkpoints.source._SHIPPED", tmp_path / "shipped")
    names = ("jepa-test", "facebook/vjepa2-vitl-fpc64-256")
    for init, kept in (("runs/first", str(tmp_path / "runs" / "first")), *((name, name) for name in names)):
        record_start(RunFolder(tmp_path / "run"), micro(init=init, loader={"cache": "cache", "batch_size": 4}), 0, 1)
        back = configuration.load(PretrainConfig, tmp_path / "run" / "config.yaml")
        assert (back.init, back.loader.cache) == (kept, tmp_path / "cache")


def test_a_relative_and_an_absolute_path_are_the_same_run(
    micro: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(tmp_path / "run")
    record_start(folder, micro(out="run", init="first"), 0, 1)
    save(folder)
    for out, init in (("run", "first"), (str(tmp_path / "run"), str(tmp_path / "first"))):
        assert open_run(micro(out=out, init=init, resume=True)) == folder
    with pytest.raises(ConfigError, match="init"):
        open_run(micro(out="run", init="second", resume=True))


def test_every_start_is_listed(micro: Configure) -> None:
    config = micro()
    folder = RunFolder(config.out)
    for step, ranks in ((0, 1), (3, 2), (6, 4)):
        record_start(folder, config, step, ranks)
    environment = json.loads(folder.environment.read_text())
    assert [(start["step"], start["ranks"]) for start in environment["starts"]] == [(0, 1), (3, 2), (6, 4)]
    assert environment["packages"]["torch"]
    assert environment["command"]


def test_a_folder_with_a_run_is_refused(started: tuple[PretrainConfig, RunFolder]) -> None:
    with pytest.raises(ConfigError, match="already holds a run: pass --resume"):
        open_run(started[0])


def test_resume_starts_at_the_saved_step(started: tuple[PretrainConfig, RunFolder]) -> None:
    assert open_run(replace(started[0], resume=True)) == started[1]
    assert started[1].saved_step() == 3


def test_a_start_that_failed_before_its_first_step_blocks_nothing(micro: Configure) -> None:
    wrong = micro(loader={"batch_size": 10_000})
    record_start(RunFolder(wrong.out), wrong, 0, 1)
    assert open_run(micro()).saved_step() == 0


def test_a_finished_run_needs_no_resume(started: tuple[PretrainConfig, RunFolder]) -> None:
    config, folder = started
    done = replace(config, max_steps=3)
    assert not folder.is_finished(done)
    folder.model.write_bytes(b"weights")
    folder.model_facts.write_text('{"step": 3}')
    assert folder.is_finished(done)
    assert open_run(done) == folder
    with pytest.raises(ConfigError, match="already holds a run: pass --resume"):
        open_run(config)  # would go on to step 8
    with pytest.raises(ConfigError, match="another configuration"):
        open_run(replace(done, seed=7))


def finish(folder: RunFolder, step: int) -> None:
    folder.model.write_bytes(b"weights")
    folder.model_facts.write_text(json.dumps({"step": step}))


def lose(folder: RunFolder, how: str) -> None:
    """Take the checkpoints away, and leave nothing, or something else, in their place."""
    shutil.rmtree(folder.checkpoints)
    if how == "link":
        folder.checkpoints.symlink_to("/scratch/gone")
    elif how == "file":
        folder.checkpoints.touch()
    elif how == "empty":
        folder.checkpoints.mkdir()


@pytest.mark.parametrize("how", ["gone", "link", "file", "empty"])
def test_a_finished_run_needs_no_checkpoints(started: tuple[PretrainConfig, RunFolder], how: str) -> None:
    config, folder = started
    finish(folder, 3)
    lose(folder, how)
    done = replace(config, max_steps=3, resume=True)
    assert open_run(done).is_finished(done)
    assert open_run(replace(done, max_steps=2)).is_finished(replace(done, max_steps=2))
    with pytest.raises(ConfigError, match=r"whose checkpoints are missing: .*; restore them, or choose another --out"):
        open_run(replace(done, max_steps=4))


def test_a_checkpoint_beyond_the_model_is_gone_on_with(started: tuple[PretrainConfig, RunFolder]) -> None:
    config, folder = started
    finish(folder, 2)
    assert not folder.is_finished(replace(config, max_steps=2))


@pytest.mark.parametrize(
    ("how", "message"),
    [("gone", "checkpoints is gone"), ("link", "points to /scratch/gone, which is gone"), ("file", "is no folder"),
     ("empty", "checkpoints holds none")],
)  # fmt: skip
def test_what_is_left_of_a_run_without_its_checkpoints_is_not_trained_over(
    started: tuple[PretrainConfig, RunFolder], how: str, message: str
) -> None:
    config, folder = started
    MetricsFile(folder.metrics).append({"step": 3, "position": 12})
    EventsFile(folder.events).write("checkpoint", 3)
    assert open_run(replace(config, resume=True)) == folder
    lose(folder, how)
    with pytest.raises(ConfigError, match=message):
        open_run(replace(config, resume=True))


@pytest.mark.parametrize("events", [["start", "stop"], []])
@pytest.mark.parametrize("how", ["gone", "empty"])
def test_a_run_that_ended_before_its_first_checkpoint_begins_anew(
    started: tuple[PretrainConfig, RunFolder], events: list[EventKind], how: str
) -> None:
    config, folder = started
    lose(folder, how)
    MetricsFile(folder.metrics).append({"step": 2, "position": 8})
    for kind in events:
        EventsFile(folder.events).write(kind, 0)
    assert open_run(replace(config, resume=True)).saved_step() == 0


@pytest.mark.parametrize("content", [b"\xff", b'{"step": ', b"[]", b'{"step": "x"}', b'{"step": 1.5}'])
def test_a_damaged_account_of_the_model_is_told_and_written_again(
    started: tuple[PretrainConfig, RunFolder], content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    config, folder = started
    finish(folder, 3)
    folder.model_facts.write_bytes(content)
    again = replace(config, resume=True, max_steps=3)
    assert not open_run(again).is_finished(again)
    assert [record.message for record in caplog.records] == [
        f"{folder.model_facts} does not tell of which step the model is: it is written again"
    ]


@pytest.mark.parametrize("content", [b"\xff", b'{"starts": [', b"[]", b'{"starts": "abc"}', b'{"starts": [1]}', b"{}"])
def test_a_damaged_list_of_starts_begins_anew(
    started: tuple[PretrainConfig, RunFolder], content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    config, folder = started
    folder.environment.write_bytes(content)
    record_start(folder, config, 3, 1)
    assert [start["step"] for start in json.loads(folder.environment.read_text())["starts"]] == [3]
    assert [record.message for record in caplog.records] == [
        f"{folder.environment} is damaged: its list of starts begins anew"
    ]


def test_a_resubmitted_job_leaves_a_result_without_checkpoints_alone(micro: Configure) -> None:
    config = micro(max_steps=2, resume=True)
    first = pretrain(config)
    shutil.rmtree(first.run / "checkpoints")
    before = {path: path.stat().st_mtime_ns for path in first.run.rglob("*")}
    assert pretrain(config) == first
    assert {path: path.stat().st_mtime_ns for path in first.run.rglob("*")} == before
    with pytest.raises(ConfigError, match="whose checkpoints are missing"):
        pretrain(replace(config, max_steps=4))


def test_a_checkpoint_that_does_not_say_its_data_is_a_data_error(started: tuple[PretrainConfig, RunFolder]) -> None:
    with pytest.raises(DataError, match="does not say which data"):
        require_same_start(started[0], {"position": 12}, "abc")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 1}, "seed"),
        ({"optim": {"learning_rate": 2e-3}}, r"optim\.learning_rate"),
        ({"model": {"size": "tiny"}}, r"model\.size"),
        ({"loader": {"batch_size": 8}}, r"loader\.batch_size"),
        ({"clip": {"flip": False}}, r"clip\.flip"),
    ],
)
def test_another_configuration_is_refused_by_name(micro: Configure, changes: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        require_same_run(micro(), micro(**changes), Path("config.yaml"))


@pytest.mark.parametrize(
    "changes",
    [
        {"max_steps": 4},
        {"resume": True},
        {"loader": {"workers": 3}},
        {"run": {"log_every": 1}},
        {"data": "elsewhere"},
        {"loader": {"deadline": 5.0, "max_bad": 0.5}},
    ],
)
def test_what_does_not_change_the_training_may_differ(micro: Configure, changes: dict[str, object]) -> None:
    require_same_run(micro(), micro(**changes), Path("config.yaml"))


@pytest.mark.parametrize("obstacle", ["file", "file above"])
def test_a_folder_that_cannot_be_made_is_one_line(micro: Configure, tmp_path: Path, obstacle: str) -> None:
    (tmp_path / "taken").write_text("")
    config = micro(out=str(tmp_path / "taken" / ("run" if obstacle == "file above" else "")))
    folder = open_run(config)
    with pytest.raises(ConfigError, match="cannot write"):
        record_start(folder, config, 0, 1)
