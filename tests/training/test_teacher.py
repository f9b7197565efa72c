"""Runs that learn from a teacher: what is taught, what is kept, what a resumed run asks of it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jepa.checkpoints.folder import save_folder
from jepa.checkpoints.io import load_state
from jepa.checkpoints.load import load_encoder, weights_digest
from jepa.commands.order import Config as OrderConfig
from jepa.commands.order import rows as order_rows
from jepa.data.source import open_source
from jepa.errors import ConfigError, DataError
from jepa.models.encoder import Encoder, EncoderConfig
from jepa.models.jepa import JEPA
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.objectives.latent import LatentPrediction
from jepa.report.page import write_report
from jepa.training.config import PretrainConfig
from jepa.training.run_folder import RunFolder
from jepa.training.teacher import open_teacher
from jepa.training.trainer import build_module, pretrain

Configure = Callable[..., PretrainConfig]


def save_teacher(folder: Path, seed: int = 0, facts: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Weights in a folder, by default of an encoder that is twice as wide as the micro run's."""
    torch.manual_seed(seed)
    shape = {"width": 192, "depth": 2, "heads": 3, "patch": 8, "frames": 4, "size": 32} | changes
    encoder = Encoder(EncoderConfig(**shape))
    predictor = Predictor(PredictorConfig(width=48, depth=1, heads=1), context_width=shape["width"], target_width=8)
    return save_folder(folder, JEPA(encoder, predictor), facts={"evaluate": "target"} | (facts or {}))


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return save_teacher(tmp_path / "teacher")


@pytest.fixture
def taught(micro: Configure, teacher: Path) -> Configure:
    """`taught(max_steps=2)`: the micro run with that teacher."""
    return lambda **changes: micro(**({"objective": {"target": "teacher", "teacher": str(teacher)}} | changes))


def test_a_run_with_a_larger_teacher(taught: Configure, teacher: Path) -> None:
    config, before = taught(), (teacher / "model.safetensors").read_bytes()
    pretrain(config)
    saved = load_file(config.out / "model.safetensors")
    assert saved["predictor.predictor_proj.weight"].shape == (192, 64), "it predicts the teacher's width"
    state = load_state(config.out / "checkpoints" / "last.ckpt")
    assert {f"jepa.{name}" for name in saved} == set(state["state_dict"]), "the teacher is in neither"
    assert {tensor.shape[-1] for name, tensor in saved.items() if name.endswith("norm.weight")} == {96, 64}
    assert state["jepa"]["teacher"] == weights_digest(teacher)
    assert (teacher / "model.safetensors").read_bytes() == before
    released = load_encoder(config.out)
    assert (released.facts["evaluate"], released.width) == ("target", 96)
    assert released.facts["teacher"] == weights_digest(teacher)


def test_the_student_s_average_follows_and_the_teacher_stays(taught: Configure) -> None:
    config = taught(optim={"steps": 8, "learning_rate": 1e-2, "start_learning_rate": 1e-2})
    module = build_module(config, open_source(config.data, "train"))
    first = module.jepa.target_encoder.norm.bias.clone()
    assert isinstance(module.objective, LatentPrediction)
    assert module.objective.teacher is not None
    known = load_encoder(config.objective.teacher or "").encoder.state_dict()
    own = module.objective.teacher.encoder.state_dict()
    assert all(torch.equal(known[name], own[name]) for name in known)
    pretrain(config)
    saved = load_file(config.out / "model.safetensors")
    average, student = saved["target_encoder.norm.bias"], saved["encoder.norm.bias"]
    assert not torch.equal(average, first)
    assert (average - first).norm() < (student - first).norm(), "it follows, behind"


def test_the_teacher_does_not_decide_the_student_s_first_weights(
    taught: Configure, micro: Configure, teacher: Path
) -> None:
    config = taught()
    source = open_source(config.data, "train")
    module, plain = build_module(config, source), build_module(micro(), source)
    pairs = zip(module.jepa.encoder.parameters(), plain.jepa.encoder.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    started = build_module(taught(init=str(save_teacher(teacher.parent / "start", width=96, depth=4))), source)
    assert started.init_digest == weights_digest(teacher.parent / "start")
    assert not torch.equal(started.jepa.encoder.patch_embed.proj.weight, plain.jepa.encoder.patch_embed.proj.weight)


def test_a_run_with_a_teacher_resumes_exactly(taught: Configure, tmp_path: Path) -> None:
    whole, parts = taught(out=f"{tmp_path}/whole"), taught(out=f"{tmp_path}/parts")
    pretrain(whole)
    pretrain(replace(parts, max_steps=5))
    pretrain(replace(parts, resume=True))
    expected, found = (load_file(run.out / "model.safetensors") for run in (whole, parts))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_teacher_may_move_but_not_change(taught: Configure, teacher: Path, tmp_path: Path) -> None:
    config = taught(max_steps=2)
    pretrain(config)
    resumed = replace(config, resume=True, max_steps=4)
    moved = Path(shutil.move(teacher, tmp_path / "elsewhere"))
    with pytest.raises(DataError, match=r"no encoder at .*/teacher"):
        pretrain(resumed)
    elsewhere = replace(resumed, objective=replace(config.objective, teacher=str(moved)))
    assert pretrain(elsewhere).steps == 4
    assert f"teacher: {moved}" in RunFolder(config.out).config.read_text()
    save_teacher(teacher, seed=1)
    with pytest.raises(ConfigError, match=r"run: the teacher .*/teacher holds other weights than the run started with"):
        pretrain(replace(resumed, max_steps=6))


@pytest.mark.parametrize(
    ("changes", "facts", "error", "message"),
    [
        ({"patch": 4}, {}, ConfigError, "patches of 4 pixels and tubelets of 2 frames, the model 8 and 2"),
        ({"tubelet": 1}, {}, ConfigError, "tubelets of 1 frames, the model 8 and 2"),
        ({}, {"normalisation": {"mean": [0.5] * 3, "std": [0.5] * 3}}, DataError, r"normalised by \[0.5, 0.5, 0.5\]"),
    ],
)
def test_a_teacher_that_does_not_fit_is_one_line(
    taught: Configure, tmp_path: Path, changes: dict[str, Any], facts: dict[str, Any], error: type, message: str
) -> None:
    other = save_teacher(tmp_path / "other", facts=facts, **changes)
    config = taught(objective={"target": "teacher", "teacher": str(other)})
    with pytest.raises(error, match=message) as caught:
        pretrain(config)
    assert "\n" not in str(caught.value)
    assert str(other) in str(caught.value)
    assert not config.out.exists()


def test_more_levels_than_the_teacher_has_are_refused(taught: Configure) -> None:
    model = {"size": "nano", "patch": 8, "levels": [1, 3]}
    with pytest.raises(ConfigError, match=r"2 levels wanted of a teacher with 0 .* set model\.fused_levels"):
        pretrain(taught(model=model))
    assert open_teacher(taught(model=model | {"fused_levels": 1})) is not None


def test_opening_a_teacher_leaves_the_global_generator_alone(taught: Configure) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert open_teacher(taught()) is not None
    assert torch.equal(before, torch.get_rng_state())


def test_order_and_report_need_no_teacher(taught: Configure, teacher: Path, tmp_path: Path) -> None:
    config = taught(max_steps=2)
    pretrain(config)
    shutil.rmtree(teacher)
    shared = {name: value for name, value in vars(config).items() if name in OrderConfig.__dataclass_fields__}
    assert len(list(order_rows(OrderConfig(**shared, count=8)))) == 8
    page = tmp_path / "page.html"
    write_report([config.out], out=page)
    assert "frozen teacher" in page.read_text()


def test_a_shipped_name_is_a_teacher(micro: Configure) -> None:
    config = micro(objective={"target": "teacher", "teacher": "jepa-nano"}, max_steps=1)
    pretrain(config)
    assert json.loads((config.out / "config.json").read_text())["teacher"] == weights_digest("jepa-nano")
