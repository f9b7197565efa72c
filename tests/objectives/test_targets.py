"""Smooth L1 over target blocks, levels, and teachers of another architecture."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jepa.errors import ConfigError
from jepa.models.build import ModelConfig
from jepa.objectives.build import ObjectiveConfig, build_objective
from jepa.objectives.losses import power_error, smooth_l1

Make = Callable[..., Any]
DENSE = ModelConfig(
    size="nano", patch=8, levels=(1, 2, 3), image_tokenizer=True, interpolate_from=32, context_head=True
)
PLAIN = ModelConfig(size="nano", patch=8)

TAUGHT = ObjectiveConfig(target="teacher", teacher="wide")


def test_smooth_l1_is_squared_near_zero_and_linear_beyond() -> None:
    prediction, target = torch.tensor([[[0.5, -1.0, 3.0]]]), torch.zeros(1, 1, 3)
    assert smooth_l1(prediction, target).item() == pytest.approx((0.125 + 0.5 + 2.5) / 3)
    half = smooth_l1(prediction.bfloat16(), target)  # as under autocast: predictions in bfloat16, targets not
    assert half.dtype == torch.float32


def test_weights_are_of_tokens() -> None:
    prediction, target = torch.tensor([[[1.0, 3.0], [2.0, 2.0]]]), torch.zeros(1, 2, 2)
    weight = torch.tensor([[0.5, 2.0]])
    assert power_error(prediction, target, weight=weight).item() == pytest.approx((0.5 * 2 + 2 * 2) / 2)
    assert power_error(prediction, target, 2.0, weight).item() == pytest.approx((0.5 * 5 + 2 * 4) / 2 / 2)
    assert smooth_l1(prediction, target, weight).item() == pytest.approx((0.5 * 1.5 + 2 * 1.5) / 2)


def test_target_blocks_equal_a_naive_loop(batch_of: Make, family: Make, target_blocks: Make) -> None:
    model = ModelConfig(size="nano", patch=8, tubelet=1, positions="sincos2d", mask_tokens=1)
    jepa, objective = family(model, ObjectiveConfig(loss="smooth_l1"))
    batch = target_blocks(batch_of(image=True))
    (mask,) = batch.masks
    target = F.layer_norm(jepa.target_encoder(batch.clips), (96,))
    errors = []
    for block in mask.target.split(2, dim=1):  # each block by itself, behind the same context
        alone = type(mask)(mask.context, block)
        prediction = jepa.predictor(jepa.encoder(batch.clips, mask.context), alone, batch.grid)
        wanted = torch.stack([tokens[ids] for tokens, ids in zip(target, block, strict=True)])
        errors.append(F.smooth_l1_loss(prediction, wanted, beta=1.0))
    torch.testing.assert_close(objective(jepa, batch).loss, torch.stack(errors).mean())


@pytest.mark.parametrize("context_weight", [0.0, 0.5])
def test_a_teacher_s_tokens_are_the_targets(
    context_weight: float, batch_of: Make, family: Make, teacher_of: Make
) -> None:
    model = ModelConfig(size="nano", patch=8, context_head=context_weight > 0)
    config = ObjectiveConfig(target="teacher", teacher="wide", context_weight=context_weight, distance_weighting=False)
    teacher, batch = teacher_of(), batch_of()
    jepa, objective = family(model, config, teacher)
    with torch.no_grad():  # it makes no targets
        for parameter in jepa.target_encoder.parameters():
            parameter.zero_()
    target = F.layer_norm(teacher.encoder(batch.clips), (144,))
    losses = []
    for number, mask in enumerate(batch.masks):
        seen = jepa.encoder(batch.clips, mask.context)
        heads = jepa.predictor.both(seen, mask, batch.grid, number) if context_weight else [
            jepa.predictor(seen, mask, batch.grid, number)
        ]  # fmt: skip
        for head, ids, factor in zip(heads, (mask.target, mask.context), (1.0, context_weight), strict=False):
            wanted = torch.stack([tokens[places] for tokens, places in zip(target, ids, strict=True)])
            losses.append(factor * (head - wanted).abs().mean())
    torch.testing.assert_close(objective(jepa, batch).loss, torch.stack(losses).sum() / 2)


def test_a_teacher_is_no_part_of_what_holds_it(family: Make, teacher_of: Make) -> None:
    teacher = teacher_of()
    _, objective = family(PLAIN, TAUGHT, teacher)
    holder = nn.Module()
    holder.objective = objective  # type: ignore[assignment]
    assert not holder.state_dict()
    assert not list(holder.parameters())
    assert not any(parameter.requires_grad for parameter in teacher.encoder.parameters())
    assert not teacher.encoder.training


def test_a_teacher_follows_the_clips_to_their_device(batch_of: Make, teacher_of: Make) -> None:
    teacher = teacher_of()
    assert teacher(batch_of().clips.to("meta")).device.type == "meta"
    assert {parameter.device.type for parameter in teacher.encoder.parameters()} == {"meta"}


def test_several_levels_of_a_teacher_are_normalised_one_by_one(batch_of: Make, teacher_of: Make) -> None:
    teacher, batch = teacher_of(levels=2, levels_of_encoder=(1, 3, 5)), batch_of()
    parts = [F.layer_norm(level, (144,)) for level in teacher.encoder.levels(batch.clips, [3, 5])]
    assert torch.equal(teacher(batch.clips), torch.cat(parts, dim=-1))
    assert teacher.width == 288
    with pytest.raises(ConfigError, match=r"4 levels wanted of a teacher with 3.*fused_levels to 1 or up to 3$"):
        teacher_of(levels=4, levels_of_encoder=(1, 3, 5))
    with pytest.raises(ConfigError, match=r"2 levels wanted of a teacher with 0 .*fused_levels to 1$"):
        teacher_of(levels=2)


@pytest.mark.parametrize("tokenizer", [False, True])
def test_a_student_with_images_learns_from_a_teacher_with_or_without_their_tokenizer(
    tokenizer: bool, batch_of: Make, family: Make, teacher_of: Make
) -> None:
    teacher, images = teacher_of(image_tokenizer=tokenizer), batch_of(image=True)
    shown = images.clips if tokenizer else images.clips.repeat(1, 1, 2, 1, 1)  # a tubelet of the same frame
    assert torch.equal(teacher(images.clips), F.layer_norm(teacher.encoder(shown), (144,)))
    config = ObjectiveConfig(target="teacher", teacher="wide", context_weight=0.5)
    jepa, objective = family(ModelConfig(**{**vars(DENSE), "fused_levels": 1}), config, teacher)
    assert objective(jepa, images).loss.isfinite()


def test_the_student_is_watched_and_not_the_teacher(batch_of: Make, family: Make, teacher_of: Make) -> None:
    jepa, objective = family(PLAIN, TAUGHT, teacher_of())
    batch = batch_of()
    found = objective(jepa, batch, diagnose=True).diagnostics
    own = F.layer_norm(jepa.target_encoder(batch.clips), (96,)).flatten(0, 1).std(0).mean()
    torch.testing.assert_close(found["feature_std"], own)


def test_target_and_teacher_come_together(family: Make, teacher_of: Make) -> None:
    encoder = family(PLAIN, ObjectiveConfig())[0].encoder.config
    with pytest.raises(ValueError, match="target is teacher, got no teacher"):
        build_objective(TAUGHT, encoder)
    with pytest.raises(ValueError, match="target is ema, got a teacher"):
        build_objective(ObjectiveConfig(), encoder, teacher_of())
