"""The dense objective: distances and loss against naive loops, the ramp of its weight, its configuration."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from jepa.errors import ConfigError
from jepa.models.build import ModelConfig
from jepa.objectives.build import ObjectiveConfig, require_outputs
from jepa.objectives.dense import ContextTerm
from jepa.objectives.distance import nearest_target
from jepa.tokens import Mask, TokenGrid

Make = Callable[..., Any]
DENSE = ModelConfig(
    size="nano", patch=8, levels=(1, 2, 3), image_tokenizer=True, interpolate_from=32, context_head=True
)
PLAIN = ModelConfig(size="nano", patch=8)


def naive_distance(token: int, targets: list[int], grid: TokenGrid) -> float:
    """By comparing all pairs."""

    def place(one: int) -> tuple[int, int, int]:
        row = one // grid.columns
        return row // grid.rows, row % grid.rows, one % grid.columns

    return min(math.dist(place(token), place(target)) for target in targets)


@given(st.tuples(*[st.integers(1, 5)] * 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_distances_equal_a_double_loop(shape: tuple[int, int, int], clips: int, seed: int) -> None:
    grid, rng = TokenGrid(*shape), torch.Generator().manual_seed(seed)
    split = int(torch.randint(grid.count + 1, (), generator=rng)) if grid.count > 1 else 0
    order = torch.stack([torch.randperm(grid.count, generator=rng) for _ in range(clips)])
    mask = Mask(order[:, : max(split - 1, 0)], order[:, max(split - 1, 0) :])
    expected = [
        [naive_distance(token, mask.target[clip].tolist(), grid) for token in mask.context[clip].tolist()]
        for clip in range(clips)
    ]
    found = nearest_target(mask, grid)
    assert found.shape == mask.context.shape
    assert torch.equal(found, torch.tensor(expected).reshape(found.shape))


def test_distances_of_a_long_clip_at_high_resolution() -> None:
    grid = TokenGrid(32, 24, 24)  # 64 frames at 384 pixels
    hidden = torch.zeros(grid.shape, dtype=torch.bool)
    hidden[:, 4:20, 6:18] = True  # a tube: the distance is that in its plane
    ids = torch.arange(grid.count)
    mask = Mask(ids[~hidden.flatten()][None], ids[hidden.flatten()][None])
    _, row, column = grid.coordinates(mask.context)
    down = torch.maximum(4 - row, row - 19).clamp_min(0)
    across = torch.maximum(6 - column, column - 17).clamp_min(0)
    torch.testing.assert_close(nearest_target(mask, grid), (down**2 + across**2).float().sqrt(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize(("by_distance", "loss"), [(True, "power"), (False, "power"), (True, "smooth_l1")])
def test_loss_equals_a_naive_loop(image: bool, by_distance: bool, loss: Any, batch_of: Make, family: Make) -> None:
    config = ObjectiveConfig(
        context_weight=0.5, image_context_weight=0.7, context_warmup=(10, 30), distance_weighting=by_distance, loss=loss
    )
    jepa, objective = family(DENSE, config)
    batch = batch_of(image, step=25)
    output = objective(jepa, batch)
    levels = jepa.target_encoder.levels(batch.clips, [1, 2, 3])
    target = torch.cat([F.layer_norm(level, (96,)) for level in levels], dim=-1)
    masked, visible = [], []
    for number, mask in enumerate(batch.masks):
        context = torch.cat(jepa.encoder.levels(batch.clips, [1, 2, 3], mask.context), dim=-1)
        heads = jepa.predictor.both(context, mask, batch.grid, number, image)
        for errors, prediction, ids in zip((masked, visible), heads, (mask.target, mask.context), strict=True):
            terms = []
            for clip in range(len(ids)):
                for place, token in enumerate(ids[clip].tolist()):
                    error = (prediction[clip, place] - target[clip, token]).abs()
                    if loss == "smooth_l1":
                        error = torch.where(error < 1, error**2 / 2, error - 0.5)
                    if errors is visible and by_distance:
                        error = error / naive_distance(token, mask.target[clip].tolist(), batch.grid) ** 0.5
                    terms.append(error.mean())
            errors.append(torch.stack(terms).mean())
    factor = (0.7 if image else 0.5) * 0.75
    expected = torch.stack(masked).mean() + factor * torch.stack(visible).mean()
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(output.terms["context"], factor * torch.stack(visible).mean(), rtol=1e-5, atol=0)


def test_the_weight_of_visible_tokens_grows_between_two_steps() -> None:
    term = ContextTerm(0.5, 0.7, warmup=(15_000, 30_000))
    steps = (0, 15_000, 18_000, 22_500, 29_999, 30_000, 10**6)
    assert [term.at(step, image=False) for step in steps] == pytest.approx(
        [0, 0, 0.1, 0.25, 0.49997, 0.5, 0.5], rel=1e-4
    )
    assert [term.at(step, image=True) for step in (0, 22_500, 30_000)] == pytest.approx([0, 0.35, 0.7])
    assert [ContextTerm(0.5, 0.7).at(step, image=False) for step in (0, 1)] == [0.5, 0.5]
    assert [ContextTerm(0.5, 0.7, warmup=(2, 2)).at(step, image=False) for step in (1, 2)] == [0.0, 0.5]


def test_before_its_ramp_the_second_output_gets_gradients_of_zero(batch_of: Make, family: Make) -> None:
    jepa, objective = family(DENSE, ObjectiveConfig(context_weight=0.5, context_warmup=(5, 10)))
    output = objective(jepa, batch_of(step=5))
    output.loss.backward()
    assert output.terms["context"] == 0
    assert output.loss == output.terms["prediction"]
    gradient = jepa.predictor.predictor_proj_context.weight.grad
    assert gradient is not None
    assert not gradient.any()


def test_images_weigh_as_clips_unless_told(batch_of: Make, family: Make) -> None:
    images = batch_of(image=True)
    terms = []
    for config in (ObjectiveConfig(context_weight=0.5), ObjectiveConfig(context_weight=0.1, image_context_weight=0.5)):
        jepa, objective = family(DENSE, config)
        terms.append(objective(jepa, images).terms["context"])
    assert torch.equal(*terms)


def test_diagnostics_are_those_of_the_output_level(batch_of: Make, family: Make) -> None:
    jepa, objective = family(DENSE, ObjectiveConfig(context_weight=0.5))
    batch = batch_of()
    assert not objective(jepa, batch).diagnostics
    found = objective(jepa, batch, diagnose=True)
    assert set(found.diagnostics) >= {"feature_std", "effective_rank", "context_error"}
    output = F.layer_norm(jepa.target_encoder(batch.clips), (96,))
    torch.testing.assert_close(found.diagnostics["feature_std"], output.flatten(0, 1).std(0).mean())
    assert found.diagnostics["context_error"] * 0.5 == found.terms["context"]


def test_target_blocks_are_refused_beside_visible_tokens(batch_of: Make, family: Make, target_blocks: Make) -> None:
    jepa, objective = family(DENSE, ObjectiveConfig(context_weight=0.5))
    with pytest.raises(ConfigError, match=r"masks\.kinds"):
        objective(jepa, target_blocks(batch_of(image=True)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context_weight": -0.5}, "context_weight is -0.5, expected 0 or more"),
        ({"image_context_weight": -1.0}, "image_context_weight is -1.0"),
        ({"context_weight": 0.5, "context_warmup": (30, 10)}, r"context_warmup is \(30, 10\), expected two steps"),
        ({"context_warmup": (10, 30)}, "context_warmup is not used: objective.context_weight is 0"),
        ({"context_weight": 0.5, "target": "pixels"}, "objective.target is pixels"),
        ({"loss": "smooth_l1", "exponent": 1.0}, "objective.loss is smooth_l1"),
        ({"exponent": 0.0}, "exponent is 0.0"),
        ({"target": "teacher"}, "name its weights by objective.teacher"),
        ({"teacher": "jepa-nano"}, "objective.target is ema, expected teacher"),
    ],
)
def test_a_wrong_objective_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ObjectiveConfig(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "model", "message"),
    [
        (ObjectiveConfig(context_weight=0.5), PLAIN, "set model.context_head"),
        (ObjectiveConfig(), DENSE, "nothing would train model.context_head"),
        (
            ObjectiveConfig(image_context_weight=0.7),
            replace(DENSE, image_tokenizer=False),
            "set model.image_tokenizer",
        ),
    ],
)
def test_objective_and_outputs_belong_together(config: ObjectiveConfig, model: ModelConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_outputs(config, model)
    require_outputs(ObjectiveConfig(context_weight=0.5, image_context_weight=0.7), DENSE)
