"""Where gradients go: into every trained parameter, and into no target encoder or teacher."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from jepa.models.build import ModelConfig
from jepa.models.jepa import JEPA
from jepa.objectives.build import Objective, ObjectiveConfig

Make = Callable[..., Any]
DENSE = ModelConfig(
    size="nano", patch=8, levels=(1, 2, 3), image_tokenizer=True, interpolate_from=32, context_head=True
)
PLAIN = ModelConfig(size="nano", patch=8)

LEVELS = replace(DENSE, context_head=False)
DISTILLED = replace(DENSE, levels=(3,), context_head=True)
CASES = {
    "latent": (PLAIN, ObjectiveConfig()),
    "smooth L1": (PLAIN, ObjectiveConfig(loss="smooth_l1")),
    "pixels": (PLAIN, ObjectiveConfig(target="pixels")),
    "levels": (LEVELS, ObjectiveConfig()),
    "dense": (DENSE, ObjectiveConfig(context_weight=0.5)),
    "teacher": (PLAIN, ObjectiveConfig(target="teacher", teacher="wide")),
    "teacher, dense": (DISTILLED, ObjectiveConfig(target="teacher", teacher="wide", context_weight=0.5)),
}


def backward(jepa: JEPA, objective: Objective, images: bool, batch_of: Make) -> None:
    """Gradients of a step of clips and, with `images`, of one of images."""
    for image in [False, True] if images else [False]:
        loss = objective(jepa, batch_of(image)).loss
        loss.backward()


def without_gradient(jepa: JEPA) -> list[str]:
    """Trained parameters that got none, or one of zeros."""
    trained = [*jepa.encoder.named_parameters("encoder"), *jepa.predictor.named_parameters("predictor")]
    return [name for name, parameter in trained if parameter.grad is None or not parameter.grad.any()]


@pytest.mark.parametrize("case", CASES)
def test_every_trained_parameter_gets_a_gradient_and_no_target_does(
    case: str, family: Make, teacher_of: Make, batch_of: Make
) -> None:
    model, config = CASES[case]
    teacher = teacher_of() if config.teacher else None
    jepa, objective = family(model, config, teacher)
    backward(jepa, objective, model.image_tokenizer, batch_of)
    assert without_gradient(jepa) == []
    assert all(parameter.grad is None for parameter in jepa.target_encoder.parameters())
    if teacher is not None:
        assert all(parameter.grad is None for parameter in teacher.encoder.parameters())


def test_the_dense_case_trains_what_is_particular_to_it(family: Make) -> None:
    names = {name for name, _ in family(*CASES["dense"])[0].named_parameters()}
    modality = {f"{part}.{kind}_mod_embed" for part in ("encoder", "predictor") for kind in ("img", "video")}
    norms = {f"encoder.norms_block.{level}.weight" for level in range(3)}
    assert (
        modality | norms | {"predictor.predictor_proj_context.weight", "encoder.patch_embed_img.proj.weight"} <= names
    )


def test_target_blocks_give_gradients(batch_of: Make, family: Make, target_blocks: Make) -> None:
    model = ModelConfig(size="nano", patch=8, tubelet=1, positions="sincos2d", mask_tokens=1, mask_token_init="normal")
    jepa, objective = family(model, ObjectiveConfig(loss="smooth_l1"))
    objective(jepa, target_blocks(batch_of(image=True))).loss.backward()
    assert without_gradient(jepa) == []


def test_the_test_sees_a_parameter_that_is_left_out(family: Make, batch_of: Make) -> None:
    jepa, objective = family(*CASES["dense"])
    backward(jepa, objective, False, batch_of)
    assert {name.split(".")[1] for name in without_gradient(jepa)} == {"patch_embed_img", "img_mod_embed"}
