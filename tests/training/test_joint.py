"""Images and videos in one run of one process, with the model and the objective of V-JEPA 2.1."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jepa.checkpoints.load import load_encoder
from jepa.data.source import open_source
from jepa.training.config import PretrainConfig
from jepa.training.data import open_data
from jepa.training.metrics import MetricsFile
from jepa.training.module import Pretraining
from jepa.training.trainer import build_module, pretrain

Configure = Callable[..., PretrainConfig]
MODEL = {
    "size": "nano", "patch": 8, "predictor_depth": 1, "levels": [0, 1, 2, 3], "image_tokenizer": True,
    "interpolate_from": 32, "context_head": True,
}  # fmt: skip
OBJECTIVE = {"context_weight": 0.5, "image_context_weight": 0.7, "context_warmup": [2, 6]}


@pytest.fixture
def joint(micro: Configure, tiny_shards: Path) -> Configure:
    """`joint(max_steps=2)`: the micro run as V-JEPA 2.1, every other step of images."""
    images = {"data": str(tiny_shards / "test"), "share": 0.5, "batch_size": 3, "size": 24}
    run = {"device": "cpu", "threads": 1, "log_every": 1, "checkpoint_every": 3}
    return lambda **changes: micro(**({"model": MODEL, "objective": OBJECTIVE, "images": images, "run": run} | changes))


def steps_with_gradients(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> dict[bool, set[str]]:
    """Train, and collect by kind of step (images or not) the parameters that got a gradient in one of them."""
    found: dict[bool, set[str]] = {False: set(), True: set()}
    change = Pretraining._change

    def collect(self: Pretraining, *arguments: Any, **options: Any) -> None:
        named = [(name, parameter) for name, parameter in self.jepa.named_parameters() if parameter.grad is not None]
        image = self.config.steps.at(self.step)[0]
        found[image] |= {name for name, parameter in named if parameter.grad is not None and parameter.grad.any()}
        change(self, *arguments, **options)

    monkeypatch.setattr(Pretraining, "_change", collect)
    pretrain(config)
    return found


def test_both_kinds_of_steps_together_train_every_parameter(joint: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    config = joint()
    found = steps_with_gradients(config, monkeypatch)
    module = build_module(config, open_source(config.data, "train"))
    trained = {name for name, parameter in module.jepa.named_parameters() if parameter.requires_grad}
    of_images = {"encoder.patch_embed_img.proj.weight", "encoder.patch_embed_img.proj.bias", "encoder.img_mod_embed",
                 "predictor.img_mod_embed"}  # fmt: skip
    of_videos = {"encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias", "encoder.video_mod_embed",
                 "predictor.video_mod_embed", "predictor.mask_tokens.1"}  # fmt: skip
    assert found[False] == trained - of_images
    assert found[True] == trained - of_videos  # an image has one mask, so one mask token
    heads = {f"predictor.{name}.weight" for name in ("predictor_proj", "predictor_proj_context")}
    assert heads | {f"encoder.norms_block.{level}.bias" for level in range(4)} <= found[False] & found[True]


def test_terms_are_logged_and_the_ramp_is_that_of_the_run_s_steps(joint: Configure) -> None:
    config = joint()
    pretrain(config)
    rows = MetricsFile(config.out / "metrics.csv").read()
    for row in rows:
        assert row["loss"] == pytest.approx(row["loss/prediction"] + row["loss/context"], rel=1e-6)
        ramp = min(max((row["step"] - 1 - 2) / 4, 0.0), 1.0)
        full = 0.7 if row["of_image"] else 0.5
        assert row["loss/context"] == pytest.approx(full * ramp * row["context_error"], rel=1e-5)
    assert {row["of_image"] for row in rows[6:]} == {0, 1}


def test_a_joint_run_resumes_exactly_on_its_ramp(joint: Configure, tmp_path: Path) -> None:
    whole, parts = joint(out=f"{tmp_path}/whole"), joint(out=f"{tmp_path}/parts")
    pretrain(whole)
    pretrain(replace(parts, max_steps=4))
    pretrain(replace(parts, resume=True))
    expected, found = (load_file(run.out / "model.safetensors") for run in (whole, parts))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    encoder = load_encoder(whole.out)
    assert encoder(torch.zeros(1, 3, 1, 24, 24)).shape == (1, 9, 96)
    assert encoder(torch.zeros(1, 3, 4, 32, 32)).shape == (1, 32, 96)


def test_a_student_with_images_learns_from_a_joint_teacher(
    joint: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = joint(out=f"{tmp_path}/teacher", max_steps=2)
    pretrain(teacher)
    student = joint(
        out=f"{tmp_path}/student",
        model=MODEL | {"levels": [3]},
        objective=OBJECTIVE | {"target": "teacher", "teacher": str(teacher.out)},
    )
    found = steps_with_gradients(student, monkeypatch)
    module = build_module(student, open_data(student)[0])
    trained = {name for name, parameter in module.jepa.named_parameters() if parameter.requires_grad}
    assert found[False] | found[True] == trained
