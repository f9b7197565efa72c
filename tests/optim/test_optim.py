"""Schedules against their closed forms, parameter groups."""

import math

import pytest
from torch import nn

from jepa.errors import ConfigError
from jepa.models.build import ModelConfig, build_jepa
from jepa.optim.groups import build_optimizer, parameter_groups
from jepa.optim.schedules import OptimConfig, learning_rate, momentum, weight_decay

CONFIG = OptimConfig(
    steps=100, warmup_steps=20, start_learning_rate=1.0, learning_rate=3.0, final_learning_rate=0.5,
    weight_decay=0.04, final_weight_decay=0.4, momentum=0.9, final_momentum=1.0,
)  # fmt: skip


def test_learning_rate_warms_up_and_falls() -> None:
    assert learning_rate(CONFIG, 0) == 1.0
    assert learning_rate(CONFIG, 10) == 2.0
    assert learning_rate(CONFIG, 20) == 3.0
    assert learning_rate(CONFIG, 60) == pytest.approx(0.5 + 2.5 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert learning_rate(CONFIG, 100) == pytest.approx(0.5)
    assert learning_rate(CONFIG, 500) == pytest.approx(0.5)


def test_other_decays() -> None:
    constant = OptimConfig(steps=10, warmup_steps=0, learning_rate=2.0, decay="constant")
    linear = OptimConfig(steps=10, warmup_steps=0, learning_rate=2.0, final_learning_rate=0.0, decay="linear")
    assert learning_rate(constant, 9) == 2.0
    assert learning_rate(linear, 5) == 1.0


def test_weight_decay_and_momentum_reach_their_ends() -> None:
    assert weight_decay(CONFIG, 0) == pytest.approx(0.04)
    assert weight_decay(CONFIG, 50) == pytest.approx(0.22)
    assert weight_decay(CONFIG, 100) == pytest.approx(0.4)
    assert momentum(CONFIG, 0) == 0.9
    assert momentum(CONFIG, 50) == pytest.approx(0.95)
    assert momentum(CONFIG, 100) == 1.0


def test_stretch_cuts_the_schedules() -> None:
    stretched = OptimConfig(steps=100, warmup_steps=0, momentum=0.0, final_momentum=1.0, stretch=1.25)
    assert momentum(stretched, 100) == pytest.approx(0.8)
    assert learning_rate(stretched, 100) > stretched.final_learning_rate


def test_only_matrices_decay() -> None:
    jepa = build_jepa(ModelConfig(size="nano", patch=8), frames=4, size=16)
    decayed, free = parameter_groups([jepa.encoder, jepa.predictor])
    names = {id(parameter): name for name, parameter in jepa.named_parameters()}
    assert {names[id(p)].rsplit(".", 1)[-1] for p in decayed["params"]} == {"weight"}
    assert any("mask_tokens" in names[id(p)] for p in free["params"])
    assert all("norm" not in names[id(p)] for p in decayed["params"])
    trained = [p for p in jepa.parameters() if p.requires_grad]
    assert len(decayed["params"]) + len(free["params"]) == len(trained)
    assert not any(names[id(p)].startswith("target_encoder") for p in decayed["params"] + free["params"])


def test_optimizer_keeps_the_groups_apart() -> None:
    optimizer = build_optimizer([nn.Linear(3, 3)], OptimConfig())
    assert [group["decays"] for group in optimizer.param_groups] == [True, False]
    assert optimizer.param_groups[1]["weight_decay"] == 0.0


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="steps"):
        OptimConfig(steps=0)
    with pytest.raises(ConfigError, match="momentum"):
        OptimConfig(momentum=1.5)
