"""A run with phases that was interrupted, in a phase or between two, ends bit by bit like one that was not."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jepa import config as configuration
from jepa.checkpoints.io import load_state
from jepa.checkpoints.load import load_encoder
from jepa.errors import ConfigError, DataError, InterruptedRun
from jepa.training import phases as phases_module
from jepa.training import trainer
from jepa.training.config import PretrainConfig
from jepa.training.metrics import CLOCKED, MetricsFile
from jepa.training.trainer import pretrain

DuringStep = Callable[..., None]
Configure = Callable[..., PretrainConfig]
PHASES = [
    {"name": "pretrain", "changes": {"optim.steps": 5}},
    {"name": "cooldown", "changes": {"clip": {"frames": 8, "size": 24}, "optim": {"steps": 5, "warmup_steps": 0}}},
]
NAMES = ("1-pretrain", "2-cooldown")


def outcome(out: Path) -> dict[str, torch.Tensor]:
    """Every tensor that training has touched, of both phases, and those of the result."""
    tensors: dict[str, torch.Tensor] = dict(load_file(out / "model.safetensors"))
    for name in NAMES:
        state = load_state(out / name / "checkpoints" / "last.ckpt")
        tensors |= {f"{name}/{key}": tensor for key, tensor in state["state_dict"].items()}
        for parameter, moments in state["optimizer"]["state"].items():
            tensors |= {f"{name}/{parameter}/{key}": value for key, value in moments.items()}
    return tensors


def rows(out: Path) -> list[dict[str, float]]:
    found = [row for name in NAMES for row in MetricsFile(out / name / "metrics.csv").read()]
    return [{name: value for name, value in row.items() if name not in CLOCKED} for row in found]


def assert_same(one: Path, other: Path) -> None:
    expected, found = outcome(one), outcome(other)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert rows(one) == rows(other)


@pytest.fixture
def two(micro: Configure) -> PretrainConfig:
    return micro(phases=PHASES)


@pytest.fixture(scope="module")
def whole(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    base = configuration.read_layer(PretrainConfig, Path(__file__).parents[1] / "micro.yaml")
    out = tmp_path_factory.mktemp("whole") / "run"
    given = {"data": str(tiny_shards), "out": str(out), "phases": PHASES}
    pretrain(configuration.resolve(PretrainConfig, [base, configuration.make_layer(PretrainConfig, given, "")]).build())
    return out


class PowerCut(Exception):
    pass


def cut(*_: object, **__: object) -> Any:
    raise PowerCut


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (2, "after step 2 of 5, state saved"),
        (5, "after the phase pretrain"),  # in its last step: the next one does not start
        (8, "after step 3 of 5, state saved"),
    ],
)
def test_stopped_by_a_signal(
    two: PretrainConfig,
    whole: Path,
    forward: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    during_step: DuringStep,
) -> None:
    with monkeypatch.context() as patch:
        during_step(patch, forward, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(InterruptedRun, match=message) as caught:
            pretrain(two)
    assert caught.value.exit_code == 75
    # Exactly what the message says, in whichever phase it was.
    assert str(caught.value).endswith(f"jepa pretrain --config {two.out}/config.yaml --resume")
    assert not (two.out / "model.safetensors").exists()
    assert (two.out / NAMES[1]).exists() == (forward == 8)
    pretrain(replace(configuration.load(PretrainConfig, two.out / "config.yaml"), resume=True))
    assert_same(whole, two.out)


def test_a_signal_in_the_very_last_step_changes_nothing(
    two: PretrainConfig, whole: Path, monkeypatch: pytest.MonkeyPatch, during_step: DuringStep
) -> None:
    during_step(monkeypatch, 10, lambda: os.kill(os.getpid(), signal.SIGINT))
    pretrain(two)
    assert_same(whole, two.out)


@pytest.mark.parametrize("forward", [2, 6, 7])
def test_cut_off_in_a_step(
    two: PretrainConfig, whole: Path, forward: int, monkeypatch: pytest.MonkeyPatch, during_step: DuringStep
) -> None:
    with monkeypatch.context() as patch:
        during_step(patch, forward, cut)
        with pytest.raises(PowerCut):
            pretrain(two)
    pretrain(replace(two, resume=True))
    assert_same(whole, two.out)


@pytest.mark.parametrize(
    ("place", "name", "number"),
    [
        (trainer, "save_folder", 1),  # behind the last checkpoint of the first phase, before its model
        (trainer, "build_module", 2),  # between the phases
        (trainer, "record_start", 2),  # when the second is about to write its first file
        (phases_module, "put_beside", 2),  # while the result comes into the folder of the whole
    ],
)
def test_cut_off_between_two_steps(
    two: PretrainConfig, whole: Path, place: Any, name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = getattr(place, name), 0

    def cut_at_call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return cut() if calls == number else original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, cut_at_call)
        with pytest.raises(PowerCut):
            pretrain(two)
    pretrain(replace(two, resume=True))
    assert_same(whole, two.out)


def test_a_finished_run_says_so_and_is_left_alone(two: PretrainConfig, caplog: pytest.LogCaptureFixture) -> None:
    first = pretrain(two)
    before = {path: path.stat().st_mtime_ns for path in two.out.rglob("*")}
    with caplog.at_level("INFO", "jepa"):
        assert pretrain(replace(two, resume=True)) == first
    assert "is finished: 10 steps in the phases pretrain, cooldown" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in two.out.rglob("*")} == before


def interrupted_in_cooldown(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch, during_step: DuringStep) -> None:
    with monkeypatch.context() as patch:
        during_step(patch, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(InterruptedRun):
            pretrain(config)


def test_the_checkpoint_of_an_earlier_phase_may_be_deleted_but_not_changed(
    two: PretrainConfig, whole: Path, monkeypatch: pytest.MonkeyPatch, during_step: DuringStep
) -> None:
    interrupted_in_cooldown(two, monkeypatch, during_step)
    first = (two.out / NAMES[0] / "checkpoints" / "last.ckpt").resolve()
    content = first.read_bytes()
    torch.save(load_state(first) | {"more": 1}, first)
    with pytest.raises(ConfigError, match=r"2-cooldown: the weights .*last\.ckpt, have changed since"):
        pretrain(replace(two, resume=True))
    first.unlink()
    pretrain(replace(two, resume=True))
    first.write_bytes(content)
    assert_same(whole, two.out)


def test_a_folder_may_be_moved(
    two: PretrainConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during_step: DuringStep
) -> None:
    interrupted_in_cooldown(two, monkeypatch, during_step)
    two.out.rename(tmp_path / "elsewhere")
    pretrain(replace(two, out=tmp_path / "elsewhere", resume=True))
    assert_same(whole, tmp_path / "elsewhere")


def cut_before_cooldown(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch, during_step: DuringStep) -> Path:
    """The checkpoints of the first phase, which has ended; the second has saved nothing."""
    with monkeypatch.context() as patch:
        during_step(patch, 6, cut)
        with pytest.raises(PowerCut):
            pretrain(config)
    return config.out / NAMES[0] / "checkpoints"


@pytest.mark.parametrize("left", ["nothing", "an older one"])
def test_a_start_that_is_gone_before_it_was_used_is_not_made_again(
    two: PretrainConfig, left: str, monkeypatch: pytest.MonkeyPatch, during_step: DuringStep
) -> None:
    saved = cut_before_cooldown(two, monkeypatch, during_step)
    (saved / "last.ckpt").unlink()
    if left == "nothing":
        shutil.rmtree(saved)
    else:
        (saved / "step-000000005.ckpt").unlink()
        assert (saved / "step-000000003.ckpt").exists()
    with pytest.raises(DataError, match=r"the phase pretrain has ended, but .*last\.ckpt, from which the next starts"):
        pretrain(replace(two, resume=True))


def test_the_next_phase_starts_without_the_link_to_the_newest(
    two: PretrainConfig, whole: Path, monkeypatch: pytest.MonkeyPatch, during_step: DuringStep
) -> None:
    """A kill came between the two, or the file system has no links."""
    link = cut_before_cooldown(two, monkeypatch, during_step) / "last.ckpt"
    link.unlink()
    pretrain(replace(two, resume=True))
    assert not link.exists(), "the checkpoints of a phase that has ended are left alone"
    link.symlink_to("step-000000005.ckpt")
    assert_same(whole, two.out)


def test_a_finished_run_needs_no_checkpoints(two: PretrainConfig) -> None:
    first = pretrain(two)
    for name in NAMES:
        shutil.rmtree(two.out / name / "checkpoints")
    assert pretrain(replace(two, resume=True)) == first


def test_what_may_and_may_not_change_on_resume(
    two: PretrainConfig, micro: Configure, monkeypatch: pytest.MonkeyPatch, during_step: DuringStep
) -> None:
    interrupted_in_cooldown(two, monkeypatch, during_step)
    with pytest.raises(ConfigError, match="already holds a run: pass --resume"):
        pretrain(two)
    longer = {"name": "cooldown", "changes": {**PHASES[1]["changes"], "optim.steps": 6}}  # type: ignore[dict-item]
    for changes, message in (
        ({"phases": [PHASES[0], {**longer, "name": "other"}]}, "were pretrain, cooldown, now pretrain, other"),
        ({"phases": [*PHASES, {"name": "third"}]}, "were pretrain, cooldown, now pretrain, cooldown, third"),
        ({"phases": [PHASES[0], longer]}, r"config\.yaml, phase cooldown: optim\.steps \(was 5, now 6\)"),
        ({"phases": PHASES, "seed": 1}, r"config\.yaml, phase pretrain: seed \(was 0, now 1\)"),
        ({"phases": []}, "holds a run with phases .* and this configuration has none: continue it by jepa pretrain"),
    ):
        for resume in (True, False) if changes["phases"] == [] else (True,):
            with pytest.raises(ConfigError, match=message):
                pretrain(micro(resume=resume, **changes))
    workers = {"workers": 1, "batch_size": 4}
    assert pretrain(micro(resume=True, phases=PHASES, loader=workers)).steps == 10


def test_a_run_without_phases_is_not_taken_for_one_with(micro: Configure) -> None:
    pretrain(micro(max_steps=1))
    for resume in (False, True):
        with pytest.raises(ConfigError, match="holds a run without phases, this configuration has some"):
            pretrain(micro(phases=PHASES, resume=resume))


def test_a_run_of_before_phases_existed_goes_on(micro: Configure) -> None:
    config = micro(max_steps=2)
    pretrain(config)
    file = config.out / "config.yaml"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith("phases:")))
    assert "phases:" not in file.read_text()
    assert pretrain(replace(config, max_steps=3, resume=True)).steps == 3


@pytest.mark.slow
def test_killed_at_random_moments(two: PretrainConfig) -> None:
    """SIGKILL, some five times on the way through both phases."""
    changes = {name: {**one.changes, "optim.steps": 100} for name, one in zip(NAMES, two.phases, strict=True)}
    long = [replace(one, changes=changes[name]) for name, one in zip(NAMES, two.phases, strict=True)]
    config = replace(two, phases=tuple(long), run=replace(two.run, checkpoint_every=5))
    pretrain(replace(config, out=config.out.parent / "whole"))
    file = config.out.parent / "start.yaml"
    file.write_text(configuration.to_yaml(config))
    command = [sys.executable, "-m", "jepa", "pretrain", "--config", str(file), "--resume"]
    stopped_in = set()
    for number in range(20):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        begun = len(rows(config.out))
        while process.poll() is None and len(rows(config.out)) < begun + 9 + 11 * (number % 3):
            time.sleep(0.005 * (1 + number % 4))
        process.kill()
        _, err = process.communicate(timeout=30)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, err
        stopped_in.add((config.out / NAMES[1] / "metrics.csv").exists())
    assert stopped_in == {False, True}, "both phases were interrupted"
    pretrain(replace(config, resume=True))
    assert_same(config.out.parent / "whole", config.out)


def test_an_unfinished_run_is_as_far_as_its_latest_phase(
    two: PretrainConfig, monkeypatch: pytest.MonkeyPatch, during_step: DuringStep
) -> None:
    interrupted_in_cooldown(two, monkeypatch, during_step)
    encoder = load_encoder(two.out)
    saved = load_state(two.out / NAMES[1] / "checkpoints" / "last.ckpt")
    assert encoder.facts["step"] == saved["jepa"]["step"]
    assert torch.equal(encoder.encoder.norm.weight, saved["state_dict"]["jepa.target_encoder.norm.weight"])
    assert load_encoder(two.out / NAMES[0]).facts["step"] == two.phase_run(0).last_step
