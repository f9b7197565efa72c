"""A run from configuration to run folder."""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jepa import config as configuration
from jepa.checkpoints.io import load_state
from jepa.checkpoints.load import load_encoder, weights_digest
from jepa.data.source import open_source
from jepa.errors import ConfigError, DivergedError
from jepa.models.jepa import JEPA
from jepa.optim.schedules import learning_rate, momentum, weight_decay
from jepa.training.config import PretrainConfig
from jepa.training.metrics import CLOCKED, COLUMNS, MetricsFile
from jepa.training.run_folder import RunFolder
from jepa.training.timings import PARTS
from jepa.training.trainer import build_module, pretrain
from jepa.types import ClipBatch, StepOutput

Configure = Callable[..., PretrainConfig]


def test_a_run_leaves_everything_in_its_folder(micro: Configure) -> None:
    config = micro()
    result = pretrain(config)
    folder = RunFolder(config.out)
    assert (result.run, result.steps, result.model) == (folder.path, 8, folder.model)
    files = {"config.yaml", "environment.json", "metrics.csv", "model.safetensors", "config.json"}
    files |= {"events.jsonl", "status.json"}
    assert {path.name for path in folder.path.iterdir()} == files | {"checkpoints", "tensorboard"}
    assert [path.name.split(".")[0] for path in (folder.path / "tensorboard").iterdir()] == ["events"]
    assert configuration.load(PretrainConfig, folder.config) == config
    facts = json.loads(folder.model_facts.read_text())
    assert (facts["step"], facts["clip"]["stride"], facts["evaluate"]) == (8, 2, "target")


def test_rows_hold_the_schedules_and_the_health(micro: Configure) -> None:
    config = micro()
    result = pretrain(config)
    rows = MetricsFile(config.out / "metrics.csv").read()
    assert [row["step"] for row in rows] == [1, 2, 4, 6, 8]
    assert rows[-1]["loss"] == result.loss
    for row in rows:
        done = int(row["step"]) - 1
        assert row["position"] == 4 * row["step"]
        assert row["lr"] == learning_rate(config.optim, done)
        assert row["weight_decay"] == weight_decay(config.optim, done)
        assert row["momentum"] == momentum(config.optim, done)
        assert 1 <= row["effective_rank"] <= 96
        assert row["feature_std"] > 0
        assert row["grad_norm"] > 0
    assert all(row["clips_per_second"] > 0 for row in rows[1:])
    assert all(0 < row["data_wait"] < 1 for row in rows[1:])


def test_the_saved_encoder_is_the_trained_one(micro: Configure) -> None:
    config = micro()
    pretrain(config)
    state = load_state(config.out / "checkpoints" / "last.ckpt")["state_dict"]
    saved = load_file(config.out / "model.safetensors")
    assert {f"jepa.{name}" for name in saved} == set(state)
    assert all(torch.equal(saved[name], state[f"jepa.{name}"]) for name in saved)
    encoder = load_encoder(config.out)
    assert encoder.window_stride == 2
    assert encoder(torch.zeros(1, 3, 4, 32, 32)).shape == (1, 32, 96)


def test_training_lowers_the_loss(micro: Configure) -> None:
    config = micro(optim={"steps": 30, "warmup_steps": 2, "learning_rate": 3e-3, "final_learning_rate": 3e-3})
    pretrain(replace(config, objective=replace(config.objective, target="pixels", exponent=2.0)))
    rows = MetricsFile(config.out / "metrics.csv").read()
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]


def curve(config: PretrainConfig) -> list[dict[str, float]]:
    """All columns but those that a clock decides."""
    pretrain(config)
    rows = MetricsFile(config.out / "metrics.csv").read()
    return [{name: row[name] for name in row if name not in CLOCKED} for row in rows]


def test_the_same_seed_is_the_same_run_bit_by_bit(micro: Configure, tmp_path: object) -> None:
    torch.manual_seed(1)
    first = curve(micro(out=f"{tmp_path}/a", seed=7))
    torch.manual_seed(2)
    assert curve(micro(out=f"{tmp_path}/b", seed=7)) == first
    assert curve(micro(out=f"{tmp_path}/c", seed=8)) != first
    weights = [load_file(micro(out=f"{tmp_path}/{name}").out / "model.safetensors") for name in "ab"]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_max_steps_cuts_the_run_and_not_its_schedules(micro: Configure, tmp_path: object) -> None:
    whole = curve(micro(out=f"{tmp_path}/whole"))
    cut = curve(micro(out=f"{tmp_path}/cut", max_steps=4))
    assert cut == whole[:3]
    assert load_encoder(f"{tmp_path}/cut").facts["step"] == 4


def test_max_steps_above_the_schedule_ends_with_the_schedule(micro: Configure) -> None:
    assert pretrain(micro(max_steps=1000)).steps == 8


def test_init_starts_from_saved_weights(micro: Configure, tmp_path: object) -> None:
    first = micro(out=f"{tmp_path}/first")
    pretrain(first)
    saved = load_file(f"{tmp_path}/first/model.safetensors")
    module = build_module(micro(init=f"{tmp_path}/first"), open_source(first.data, "train"))
    for name, tensor in module.jepa.state_dict().items():
        both = f"target_{name}" if name.startswith("encoder.") else name  # both encoders start from the average
        assert torch.equal(tensor, saved[both]), name


def test_a_resumed_run_goes_on_from_the_same_start(micro: Configure, tmp_path: Path) -> None:
    teacher = micro(out=f"{tmp_path}/teacher", max_steps=1)
    pretrain(teacher)
    student = micro(out=f"{tmp_path}/student", init=f"{tmp_path}/teacher", max_steps=2)
    pretrain(student)
    recorded = weights_digest(tmp_path / "teacher")
    assert recorded is not None
    resumed = replace(student, resume=True, max_steps=4)
    assert pretrain(resumed).steps == 4  # the same start
    shutil.move(tmp_path / "teacher", tmp_path / "elsewhere")
    assert pretrain(replace(resumed, max_steps=6)).steps == 6  # gone: nothing says it was another
    assert load_state(student.out / "checkpoints" / "last.ckpt")["jepa"]["init"] == recorded
    pretrain(replace(teacher, max_steps=3))
    assert weights_digest(tmp_path / "teacher") != recorded
    for last in (6, 8):  # finished or not
        with pytest.raises(ConfigError, match=r"student: the weights .*teacher, have changed since; delete the folder"):
            pretrain(replace(resumed, max_steps=last))


class TwoTerms:
    """Two terms, and a diagnostic that nobody knows."""

    def __call__(self, jepa: JEPA, batch: ClipBatch, *, diagnose: bool = False) -> StepOutput:
        tokens = jepa.encode_context(batch.clips, batch.masks[0].context)
        watched = {"largest": tokens.detach().abs().max()} if diagnose else {}
        return StepOutput.of(watched, size=tokens.square().mean(), offset=(tokens.mean() - 1).square())


def test_terms_and_diagnostics_are_logged_by_name(
    micro: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepa.training.trainer.build_objective", lambda *_: TwoTerms())
    whole = micro(out=f"{tmp_path}/whole")
    pretrain(whole)
    rows = MetricsFile(whole.out / "metrics.csv").read()
    assert tuple(rows[0]) == (*COLUMNS, "data_wait", "loss/size", "loss/offset", "largest", "ema_distance", *PARTS[1:])
    for row in rows:
        assert row["loss/size"] + row["loss/offset"] == pytest.approx(row["loss"])
        assert row["largest"] > 0
        assert math.isnan(row["feature_std"])
        assert math.isnan(row["effective_rank"])
    # A term too is a mean since the last regular row, also across an interruption in between.
    cut = micro(out=f"{tmp_path}/cut", max_steps=3)
    pretrain(cut)
    pretrain(replace(cut, max_steps=None, resume=True))
    again = {row["step"]: row for row in MetricsFile(cut.out / "metrics.csv").read()}
    assert [again[row["step"]]["loss/size"] for row in rows] == [row["loss/size"] for row in rows]


def test_a_diverging_run_ends_with_one_line(micro: Configure) -> None:
    config = micro(optim={"steps": 8, "warmup_steps": 0, "learning_rate": 1e38, "weight_decay": 1e3})
    with pytest.raises(DivergedError, match=r"at step [1-8] \(clips "):
        pretrain(config)
    assert not (config.out / "model.safetensors").exists()


def test_a_mistake_before_the_first_step_does_not_block_the_folder(micro: Configure) -> None:
    with pytest.raises(ConfigError, match="batch_size 1000 is larger than the data set"):
        pretrain(micro(loader={"batch_size": 1000}))
    assert pretrain(micro(max_steps=1)).steps == 1


@pytest.mark.parametrize(("variable", "launcher"), [("WORLD_SIZE", "torchrun"), ("SLURM_STEP_NUM_TASKS", "srun")])
def test_a_rank_that_is_only_half_told_is_refused(
    micro: Configure, variable: str, launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "4")
    with pytest.raises(ConfigError, match=rf"that of {launcher} \({variable}=4\), but lacks .*RANK|PROCID"):
        pretrain(micro())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line(micro: Configure) -> None:
    with pytest.raises(ConfigError, match="torch sees none"):
        pretrain(micro(run={"device": "gpu"}))


def test_settings_of_torch_come_back(micro: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool]] = []

    def watched(*_: object) -> None:
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))

    before = torch.get_num_threads()
    monkeypatch.setattr("jepa.training.trainer._announce", watched)
    torch.set_num_threads(2)
    try:
        pretrain(micro(max_steps=1))
        watched()
    finally:
        torch.set_num_threads(before)
    assert seen == [(1, True), (2, False)]


def test_lightning_keeps_quiet(micro: Configure, capfd: pytest.CaptureFixture[str]) -> None:
    pretrain(micro(max_steps=2))
    printed = capfd.readouterr()
    assert printed.out == ""
    assert not re.search("available|Tip|litlogger|stopped|checkpoint", printed.err)


def test_bf16_runs_and_keeps_weights_in_fp32(micro: Configure) -> None:
    config = micro(max_steps=2, run={"precision": "bf16", "device": "cpu"})
    pretrain(config)
    assert {tensor.dtype for tensor in load_file(config.out / "model.safetensors").values()} == {torch.float32}


@pytest.mark.gpu
def test_a_gpu_run(micro: Configure) -> None:
    config = micro(run={"device": "gpu", "precision": "bf16"})
    assert pretrain(config).steps == 8
