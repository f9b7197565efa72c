"""A run with phases: what each is, what it starts from, what is refused."""

import copy
import json
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
from jepa.config import options
from jepa.errors import ConfigError, DataError
from jepa.masks.build import MaskSampler
from jepa.objectives.latent import LatentPrediction
from jepa.training.config import WHOLE, PhaseConfig, PretrainConfig
from jepa.training.metrics import MetricsFile
from jepa.training.order_file import OrderFile
from jepa.training.run_folder import RunFolder, record_start
from jepa.training.trainer import pretrain

Configure = Callable[..., PretrainConfig]
COOLDOWN = {
    "clip": {"frames": 8, "size": 24},
    "loader.batch_size": 6,
    "optim": {"steps": 3, "warmup_steps": 0, "learning_rate": 5e-4, "betas": [0.8, 0.99]},
}
PHASES = [{"name": "pretrain", "changes": {"optim": {"steps": 4}}}, {"name": "cooldown", "changes": COOLDOWN}]


@pytest.fixture
def two(micro: Configure) -> Configure:
    """`two(...)`: tests/micro.yaml in two phases, of 4 and 3 steps."""
    return lambda **changes: micro(**{"phases": PHASES, **changes})


def weights(out: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_state(out / "checkpoints" / "last.ckpt")["state_dict"]
    return state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_phase_is_the_run_with_its_changes_and_not_the_phase_before(two: Configure) -> None:
    config = two(seed=3)
    first, second = config.phase_run(0), config.phase_run(1)
    assert first == replace(config, phases=(), out=config.out / "1-pretrain", optim=replace(config.optim, steps=4))
    assert (second.clip.frames, second.clip.size, second.clip.stride) == (8, 24, config.clip.stride)
    assert (second.loader.batch_size, second.optim.steps, second.optim.betas) == (6, 3, (0.8, 0.99))
    assert second.optim.momentum == config.optim.momentum
    assert (second.out, second.init) == (
        config.out / "2-cooldown", str(config.out / "1-pretrain" / "checkpoints" / "last.ckpt"),
    )  # fmt: skip
    assert len({config.phase_run(1).seed, two(seed=4).phase_run(1).seed, 3, 4}) == 4


def test_every_phase_is_a_run_folder_and_the_whole_has_the_model_of_the_last(two: Configure) -> None:
    config = two()
    result = pretrain(config)
    out = config.out
    assert (result.run, result.steps, result.model) == (out, 7, out / "model.safetensors")
    assert {path.name for path in out.iterdir()} == {
        "1-pretrain", "2-cooldown", "config.yaml", "environment.json", "config.json", "model.safetensors",
    }  # fmt: skip
    assert configuration.load(PretrainConfig, out / "config.yaml") == config
    for number, steps in ((0, 4), (1, 3)):
        run = config.phase_run(number)
        assert configuration.load(PretrainConfig, run.out / "config.yaml") == run
        rows = MetricsFile(run.out / "metrics.csv").read()
        assert (rows[-1]["step"], rows[-1]["position"]) == (steps, steps * run.loader.batch_size)
        command = f"# jepa pretrain --config {out}/config.yaml --resume"
        assert (run.out / "config.yaml").read_text().splitlines()[0] == command
    assert rows[-1]["loss"] == result.loss
    encoder = load_encoder(out)
    assert (encoder.config.frames, encoder.config.size) == (8, 24)
    assert encoder.checkpoint_hash == load_encoder(out / "2-cooldown").checkpoint_hash
    assert json.loads((out / "config.json").read_text())["clip"]["size"] == 24


def test_the_first_phase_is_the_run_that_it_would_be_alone(two: Configure, micro: Configure, tmp_path: Path) -> None:
    config = two()
    pretrain(config)
    alone = micro(out=str(tmp_path / "alone"), optim={"steps": 4})
    pretrain(alone)
    assert same(weights(alone.out), weights(config.out / "1-pretrain"))


def test_the_next_phase_starts_from_each_network_and_from_the_moments(
    two: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, step = LatentPrediction.__call__, torch.optim.AdamW.step
    networks: list[dict[str, torch.Tensor]] = []
    optimizers: list[dict[str, Any]] = []

    def watched_forward(self: LatentPrediction, jepa: Any, *arguments: Any, **options: Any) -> Any:
        networks.append({f"jepa.{name}": tensor.clone() for name, tensor in jepa.state_dict().items()})
        return forward(self, jepa, *arguments, **options)

    def watched_step(self: torch.optim.AdamW, *arguments: Any, **options: Any) -> Any:
        optimizers.append(copy.deepcopy(self.state_dict()))
        return step(self, *arguments, **options)

    monkeypatch.setattr(LatentPrediction, "__call__", watched_forward)
    monkeypatch.setattr(torch.optim.AdamW, "step", watched_step)
    config = two()
    pretrain(config)
    assert len(networks) == len(optimizers) == 7
    before = load_state(config.out / "1-pretrain" / "checkpoints" / "last.ckpt")
    assert same(networks[4], before["state_dict"])
    assert not torch.equal(networks[4]["jepa.encoder.norm.bias"], networks[4]["jepa.target_encoder.norm.bias"])
    started, saved = optimizers[4], before["optimizer"]["state"]
    assert len(started["state"]) == len(saved) > 10
    # torch numbers the parameters of the optimizer group by group; ours are by name.
    order = [name for vectors in (False, True) for name in saved if is_vector(before["state_dict"][name]) == vectors]
    assert all(same(started["state"][number], saved[name]) for number, name in enumerate(order))
    assert {float(moments["step"]) for moments in started["state"].values()} == {4.0}
    assert [(group["betas"], group["lr"]) for group in started["param_groups"]] == [((0.8, 0.99), 5e-4)] * 2
    assert len(weights(config.out / "2-cooldown")) == len(before["state_dict"])


def is_vector(weight: torch.Tensor) -> bool:
    return weight.numel() == max(weight.shape)


def test_a_checkpoint_of_any_run_can_be_started_from(micro: Configure, tmp_path: Path) -> None:
    first = micro(out=str(tmp_path / "first"), max_steps=3)
    pretrain(first)
    still = {"steps": 1, "learning_rate": 0.0, "start_learning_rate": 0.0, "momentum": 1.0}
    second = micro(init=str(first.out / "checkpoints" / "last.ckpt"), optim=still)
    pretrain(second)
    assert same(weights(first.out), weights(second.out))
    moments = load_state(second.out / "checkpoints" / "last.ckpt")["optimizer"]["state"]
    assert {float(one["step"]) for one in moments.values()} == {4.0}
    with pytest.raises(DataError, match=r"last\.ckpt does not fit the model: \d+ tensors differ in name or shape"):
        pretrain(micro(out=str(tmp_path / "other"), init=second.init, model={"size": "nano", "patch": 4}))
    with pytest.raises(DataError, match=r"no checkpoint at .*gone\.ckpt"):
        pretrain(micro(out=str(tmp_path / "other"), init="gone.ckpt"))
    assert not (tmp_path / "other").exists()


def test_two_phases_of_the_same_settings_see_other_clips_in_another_order(micro: Configure) -> None:
    run = {"device": "cpu", "threads": 1, "record_order": True}
    config = micro(optim={"steps": 4}, run=run, phases=[{"name": "a"}, {"name": "b"}])
    pretrain(config)
    clips = [
        [(row["key"], tuple(row["frames"])) for row in OrderFile(config.out / name / "order.jsonl").read()]
        for name in ("1-a", "2-b")
    ]
    assert [len(one) for one in clips] == [16, 16]
    assert clips[0] != clips[1]
    assert set(clips[0]) != set(clips[1])
    masks = [MaskSampler(run.masks, run.grid, run.seed)(0, 4)[0].target for run in map(config.phase_run, (0, 1))]
    assert not torch.equal(masks[0], masks[1])


def test_max_steps_cuts_each_phase(two: Configure) -> None:
    config = two(max_steps=2)
    assert pretrain(config).steps == 4
    # The last one may be continued, but not one that another has started from.
    message = r"run: the phase pretrain ended after 2 steps and the next started from it.*keep --max-steps, or choose"
    with pytest.raises(ConfigError, match=message):
        pretrain(replace(config, max_steps=3, resume=True))
    assert pretrain(replace(config, max_steps=1, resume=True)).steps == 4


def test_the_only_phase_can_be_made_longer(micro: Configure) -> None:
    config = micro(phases=[{"name": "pretrain"}], max_steps=2)
    pretrain(config)
    assert pretrain(replace(config, max_steps=4, resume=True)).steps == 4
    assert load_encoder(config.out).facts["step"] == 4
    assert same(load_file(config.out / "model.safetensors"), load_file(config.out / "1-pretrain/model.safetensors"))


def test_a_teacher_teaches_in_every_phase(two: Configure, micro: Configure, tmp_path: Path) -> None:
    pretrain(micro(out=str(tmp_path / "teacher"), max_steps=1))
    config = two(objective={"target": "teacher", "teacher": str(tmp_path / "teacher")})
    pretrain(config)
    phases = [json.loads((config.out / name / "config.json").read_text()) for name in ("1-pretrain", "2-cooldown")]
    assert {facts["teacher"] for facts in phases} == {load_encoder(tmp_path / "teacher").checkpoint_hash}
    assert load_encoder(config.out).facts["evaluate"] == "target"


def test_the_teacher_of_a_phase_is_recorded_absolute(
    two: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    objective = {"target": "teacher", "teacher": "runs/a"}
    changes = {"objective": {"teacher": "runs/b"}}
    config = two(objective=objective, phases=[{"name": "a"}, {"name": "b", "changes": changes}])
    record_start(RunFolder(tmp_path / "run"), config, 0, 1)
    back = configuration.load(PretrainConfig, tmp_path / "run" / "config.yaml")
    assert back.phases[1].changes["objective.teacher"] == str(tmp_path / "runs" / "b")


def test_keys_of_the_whole_run_exist() -> None:
    assert set(WHOLE) <= set(options(PretrainConfig))


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{"name": "a"}, {"name": "a"}], "the name 'a' is given twice"),
        ([{"name": "a b"}], r"phases\.0: name: 'a b' is no name of a phase: use letters, digits and single dashes"),
        ([{"name": ""}], "'' is no name"),
        ([{"changes": {}}], r"phases\.0: missing name"),
        ([{"name": "a", "changes": {"optim": {"step": 3}}}], "unknown key 'optim.step'; did you mean 'optim.steps'"),
        ([{"name": "a", "changes": {"optim.steps": "many"}}], 'optim.steps: expected int, got "many"'),
        ([{"name": "a", "changes": [1]}], "changes: expected a mapping"),
        ([{"name": "a", "changes": {"seed": 1}}], "changes: seed: said for the whole run"),
        ([{"name": "a", "changes": {"objective": {"target": "pixels"}}}], "objective.target: said for the whole run"),
        ([{"name": "a", "changes": {"phases": []}}], "phases: said for the whole run"),
        ([{"name": "a"}, {"name": "b", "changes": {"optim.steps": 0}}], "phase b: optim.steps is 0, expected at least"),
        ([{"name": "b", "changes": {"clip.size": 30}}], "phase b: .*multiple of 8"),
        ([{"name": "b", "change": {}}], "unknown key 'change'; did you mean 'changes'"),
    ],
)
def test_a_mistake_is_told_when_the_configuration_is_read(micro: Configure, phases: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        micro(phases=phases)


def test_phases_made_in_python_are_checked_alike() -> None:
    assert PhaseConfig("a", {"clip": {"frames": 8}}) == PhaseConfig("a", {"clip.frames": 8})
    with pytest.raises(ConfigError, match=r"unknown key 'clip\.frame'"):
        PhaseConfig("a", {"clip": {"frame": 8}})


def test_no_phases_is_a_run_in_one_piece(micro: Configure) -> None:
    config = micro(phases=[], max_steps=1)
    pretrain(config)
    assert (config.out / "metrics.csv").exists()


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"model.predictor_depth": 2},
            ConfigError,
            "phase late has another model than early.*undo what changes it",
        ),
        ({"model.rope": "tiled"}, ConfigError, "phase late .*: rope tiled, not interleaved; undo what changes it"),
        ({"model.heads": 6}, ConfigError, "phase late .*: heads 6, not 3"),
        ({"model.predictor_heads": 4}, ConfigError, "phase late .*: predictor heads 4, not 2"),
        ({"model.mask_tokens": 3}, ConfigError, r"phase late .*: 1 tensors differ in name or shape"),
        ({"loader.batch_size": 500}, ConfigError, "phase late: batch_size 500 is larger than the data set"),
        ({"clip.frames": 32}, DataError, "phase late: "),
        ({"data": "/nowhere"}, DataError, "phase late: .*/nowhere"),
    ],
)
def test_what_a_later_phase_cannot_do_is_told_before_anything_is_written(
    micro: Configure, changes: dict[str, object], kind: type[Exception], message: str
) -> None:
    config = micro(phases=[{"name": "early"}, {"name": "late", "changes": changes}])
    with pytest.raises(kind, match=message):
        pretrain(config)
    assert not config.out.exists()


def test_sine_cosine_positions_grow_without_a_parameter(two: Configure) -> None:
    model = {"size": "nano", "patch": 8, "predictor_depth": 1, "positions": "sincos"}
    assert pretrain(two(model=model, max_steps=1)).steps == 2
