"""Alarms of collapse: made-up rows for each of them, and real training, healthy and collapsing."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa.masks.build import MaskSampler
from jepa.models.jepa import JEPA
from jepa.objectives.latent import LatentPrediction
from jepa.optim.ema import update_ema
from jepa.optim.groups import build_optimizer
from jepa.tokens import Mask, TokenGrid
from jepa.training.collapse import CHANCE, KNN, Alarm, CollapseWatch
from jepa.training.config import PretrainConfig
from jepa.training.health import HealthConfig
from jepa.training.start import build_model
from jepa.types import ClipBatch

Configure = Callable[..., PretrainConfig]
Row = dict[str, float]

HEALTHY = {
    "loss": 0.4,
    "feature_std": 0.8,
    "clip_std": 0.8,
    "effective_rank": 30.0,
    "prediction_std": 0.6,
}


def rows_of(count: int = 40, **changed: Sequence[float] | Callable[[int], float]) -> list[Row]:
    """Healthy rows, with other values from the first row or, of a sequence, in the last rows."""
    rows = [{"step": 20.0 * number, **HEALTHY} for number in range(1, count + 1)]
    for name, values in changed.items():
        if callable(values):
            for number, row in enumerate(rows):
                row[name] = values(number)
        else:
            for row, value in zip(rows[-len(values) :], values, strict=True):
                row[name] = value
    return rows


def alarms(rows: Sequence[Row], config: HealthConfig | None = None) -> list[Alarm]:
    watch = CollapseWatch(config or HealthConfig(), width=96)
    return [alarm for row in rows for alarm in watch.feed(row)]


@pytest.mark.parametrize(
    ("name", "changed", "value", "threshold"),
    [
        ("features", {"feature_std": [0.04] * 3}, 0.04, 0.05),
        ("clips", {"clip_std": [0.09, 0.05, 0.02], "prediction_std": [0.02] * 3}, 0.02, 0.1),
        ("rank", {"effective_rank": [7.4, 7.4, 7.3]}, 7.3, 7.5),
        ("rank", {"effective_rank": [9.5] * 3, "feature_std": lambda _: 0.8}, None, None),
        ("prediction", {"prediction_std": [0.02] * 3}, 0.025, 0.1),
        ("drop", {"loss": [0.19, 0.15, 0.19]}, 0.19, 0.2),
    ],
)
def test_each_sign_is_told_in_the_third_row(
    name: str, changed: dict[str, Any], value: float | None, threshold: float | None
) -> None:
    rows = rows_of(**changed)
    assert not alarms(rows[:-1])
    found = alarms(rows)
    if value is None:
        assert not found
        return
    assert [alarm.name for alarm in found] == [name]
    assert found[0].value == pytest.approx(value)
    assert found[0].threshold == pytest.approx(threshold)
    assert found[0].message.startswith(f"collapse ({name}) at step 800: ")
    assert "\n" not in found[0].message


@pytest.mark.parametrize(
    "changed",
    [
        {"loss": lambda number: 0.2 + 0.03 * number},  # rising: healthy
        {"loss": lambda number: max(0.9 * 0.93**number, 0.1)},  # falling, but not suddenly
        {"loss": lambda number: 0.4 if number < 20 else 0.21},
        {"loss": lambda number: 0.9 if number < 7 else 0.2},  # the fast start of a run
        {"effective_rank": lambda number: 40.0 - 30 * math.exp(-(((number - 15) / 8) ** 2))},  # to a tenth, and back
        {"effective_rank": lambda number: 4.0},  # low, but it was never higher
        {"clip_std": lambda number: 0.05, "prediction_std": lambda number: 0.04},
        {
            "prediction_std": lambda number: 0.5 if number < 2 else min(0.01 + 0.008 * number, 0.6)
        },  # learns the mean first
        {"effective_rank": [3.0, 3.0]},  # not in enough rows
        {"feature_std": [0.01, 0.01, 0.8, 0.01, 0.01]},
        {name: lambda number: math.nan for name in HEALTHY},
    ],
)
def test_what_healthy_runs_do_is_no_alarm(changed: dict[str, Any]) -> None:
    assert not alarms(rows_of(**changed))


def test_an_episode_is_told_once() -> None:
    low, high, flicker = [3.0] * 5, [30.0] * 3, [30.0, 3.0, 30.0, 3.0]
    once = alarms(rows_of(effective_rank=[*low, *flicker, *low]))
    assert len(once) == 1
    twice = alarms(rows_of(effective_rank=[*low, *high, *low]))
    assert [alarm.name for alarm in twice] == ["rank", "rank"]
    watch = CollapseWatch(HealthConfig(), width=96)
    states = []
    for row in rows_of(effective_rank=[*low, *high]):
        watch.feed(row)
        states.append(len(watch.active))
    assert states[-8:] == [0, 0, 1, 1, 1, 1, 1, 0]


def test_after_a_drop_the_new_level_is_the_measure() -> None:
    losses = [0.4] * 10 + [0.1] * 15 + [0.04] * 5
    assert [alarm.threshold for alarm in alarms(rows_of(30, loss=losses))] == pytest.approx([0.2, 0.05])


def test_images_and_videos_are_held_against_their_own_kind() -> None:
    rows = rows_of(60)
    for number, row in enumerate(rows):
        row["of_image"] = float(number % 2)
        row["effective_rank"] = 5.0 if number % 2 else 30.0
    assert not alarms(rows)
    for row in rows[-8:]:
        row["effective_rank"] = 1.2
    assert {alarm.name for alarm in alarms(rows)} == {"rank", "rank images"}


def test_probes_are_watched_above_chance() -> None:
    def run(accuracies: Sequence[float], chance: float = 0.1) -> list[Alarm]:
        rows = [{"step": 100.0 * (number + 1)} for number in range(len(accuracies))]
        return alarms(
            [row | {f"{KNN}motion": a, f"{CHANCE}motion": chance} for row, a in zip(rows, accuracies, strict=True)]
        )

    found = run([0.2, 0.5, 0.4, 0.29, 0.28, 0.27])  # half of what was gained above 0.1 is 0.3
    assert [alarm.name for alarm in found] == ["knn motion"]
    assert (found[0].value, found[0].threshold) == pytest.approx((0.27, 0.3))
    assert not run([0.2, 0.5, 0.4, 0.31, 0.31, 0.31])
    assert not run([0.12, 0.18, 0.1, 0.1, 0.1]), "it never was clearly above chance"


@pytest.mark.parametrize("stopped", [1, 6, 30, 33, 35])
def test_a_resumed_watch_is_one_that_was_never_stopped(stopped: int) -> None:
    rows = rows_of(effective_rank=[3.0] * 8 + [30.0] * 3 + [2.0] * 4, loss=[0.1] * 5, clip_std=[0.01] * 9)
    first, second = (CollapseWatch(HealthConfig(), width=96) for _ in range(2))
    before = [alarm for row in rows[:stopped] for alarm in first.feed(row)]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + [alarm for row in rows[stopped:] for alarm in second.feed(row)] == alarms(rows)
    assert len(alarms(rows)) >= 4


def test_thresholds_are_settings() -> None:
    rows = rows_of(effective_rank=[3.0] * 3)
    assert len(alarms(rows, HealthConfig(alarm_rows=2))) == 1
    assert not alarms(rows, HealthConfig(alarm_rows=4))
    assert not alarms(rows, HealthConfig(least_rank=0.0))
    assert not alarms(rows, HealthConfig(fall=11.0))


def train(config: PretrainConfig, steps: int, forward: Callable[..., Tensor] | None, momentum: float) -> list[Row]:
    """Rows of a run on moving bars of random colour, direction and place, without a trainer; a row every five steps."""
    torch.manual_seed(0)
    jepa = build_model(config)
    if forward is not None:
        jepa.predict = forward.__get__(jepa)  # type: ignore[method-assign]
    optimizer, objective = build_optimizer([jepa.encoder, jepa.predictor], config.optim), LatentPrediction()
    masks, draws, rows = MaskSampler(config.masks, config.grid, 0), np.random.default_rng(0), []
    for group in optimizer.param_groups:
        group["lr"] = 2e-3
    for step in range(steps):
        batch = ClipBatch(bars(draws, 8), masks(step, 8), config.grid, torch.arange(8), step=step)
        output = objective(jepa, batch, diagnose=step == 0 or step % 5 == 4)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        update_ema(jepa.target_encoder, jepa.encoder, momentum)
        if output.diagnostics:
            measures = {name: float(value) for name, value in output.diagnostics.items()}
            rows.append({"step": step + 1.0, "loss": float(output.loss.detach()), **measures})
    return rows


def bars(draws: np.random.Generator, count: int) -> Tensor:
    clips = torch.zeros(count, 3, 4, 32, 32)
    for clip in clips:
        place, speed, axis = draws.integers(32), draws.integers(-4, 5), draws.integers(2)
        colour = torch.from_numpy(draws.normal(size=3)).float()
        for time in range(4):
            at = (torch.arange(6) + int(place + speed * time)) % 32
            clip[:, time].transpose(1, 2 - int(axis))[:, at] = colour[:, None, None] * 2
    return clips


def mean_of_the_context(self: JEPA, context: Tensor, mask: Mask, grid: TokenGrid, *_: object) -> Tensor:
    """No predictor: what is hidden is said to be the mean of what is seen."""
    unused = sum(parameter.sum() for parameter in self.predictor.parameters()) * 0.0
    return context.mean(1, keepdim=True).expand(-1, mask.target.shape[1], -1) + unused


def test_collapse_is_told_and_learning_is_not(micro: Configure) -> None:
    config = micro(model={"drop_path": 0.0, "init": "fan_in"})
    assert "rank" in {alarm.name for alarm in alarms(train(config, 50, mean_of_the_context, momentum=0.0))}
    assert not alarms(train(config, 70, None, momentum=0.99))
