"""The shipped recipes against the published ones: parameters, schedules, batches, clips, masks.

The figures in the tables are those of papers, public configurations and layouts of released files, written out here
and not read from our files: a typo in a YAML fails.
"""

import math
import sys
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import pytest
import timm.layers
import torch
from torch import nn

from jepa.config import load_named, shipped_configs
from jepa.masks.config import MaskConfig
from jepa.models.build import encoder_config, predictor_config
from jepa.models.catalog import CATALOG
from jepa.models.encoder import Encoder
from jepa.models.jepa import JEPA
from jepa.objectives.targets import Teacher
from jepa.optim.schedules import learning_rate, momentum, weight_decay
from jepa.training.config import PretrainConfig
from jepa.training.start import build_model

FAMILIES = ("vjepa1", "vjepa2", "vjepa2_1", "ijepa")
NAMES = [name.removeprefix("pretrain/") for name in shipped_configs() if name.startswith("pretrain/")]
RECIPES = [name for name in NAMES if name.split("-")[0] in FAMILIES]
DISTILLED = ("vjepa2_1-vitb16", "vjepa2_1-vitl16")


def recipe(name: str) -> PretrainConfig:
    """The run that the first comment of the YAML starts."""
    given: dict[str, Any] = {"data": "videos", "out": "runs"}
    if name.startswith("vjepa2_1"):
        given["images"] = {"data": "images"}
    if name in DISTILLED:
        given["objective"] = {"teacher": "teacher"}
    return load_named(PretrainConfig, "pretrain", name, given, "test")


def runs_of(name: str) -> list[PretrainConfig]:
    """The phases, or the run itself if it has none."""
    config = recipe(name)
    return [config.phase_run(number) for number in range(len(config.phases))] or [config]


class Shape(NamedTuple):
    """A published pair of networks, as the tensors of its files tell it."""

    width: int
    depth: int
    hidden: int
    """Of the MLPs."""
    entry: str
    """In the catalogue."""
    rounded: float
    """Millions of parameters of the encoder, as papers and read-mes round them."""
    off: float
    """By how much that is wrong, at most."""
    patch: int = 16
    tubelet: int = 2
    norms: int = 1
    predictor_depth: int = 12
    fused: int = 1
    outputs: int | None = None
    """Values predicted per token; none for the width."""
    mask_tokens: int = 2
    """In the released file."""


SHAPES: dict[str, Shape] = {
    "vjepa1-vitl16-224": Shape(1024, 24, 4096, "vjepa1_vit_large_patch16_224", 300, 0.02),
    "vjepa1-vith16-224": Shape(1280, 32, 5120, "vjepa1_vit_huge_patch16_224", 600, 0.06),
    "vjepa1-vith16-384": Shape(1280, 32, 5120, "vjepa1_vit_huge_patch16_384", 600, 0.06),
    "vjepa2-vitl16": Shape(1024, 24, 4096, "vjepa2_vit_large_patch16_256", 300, 0.02, mask_tokens=10),
    "vjepa2-vitl16-90k": Shape(1024, 24, 4096, "vjepa2_vit_large_patch16_256", 300, 0.02, mask_tokens=10),
    "vjepa2-vith16": Shape(1280, 32, 5120, "vjepa2_vit_huge_patch16_256", 600, 0.06, mask_tokens=10),
    "vjepa2-vitg16-256": Shape(1408, 40, 6144, "vjepa2_vit_giant_patch16_256", 1000, 0.02, mask_tokens=10),
    "vjepa2-vitg16-384": Shape(1408, 40, 6144, "vjepa2_vit_giant_patch16_384", 1000, 0.02, mask_tokens=10),
    "vjepa2_1-vitb16": Shape(
        768, 12, 3072, "vjepa2_1_vit_base_patch16_384", 80, 0.09, norms=4, outputs=1664, mask_tokens=8
    ),
    "vjepa2_1-vitl16": Shape(
        1024, 24, 4096, "vjepa2_1_vit_large_patch16_384", 300, 0.02, norms=4, outputs=1664, mask_tokens=8
    ),
    "vjepa2_1-vitg16": Shape(
        1408, 40, 6144, "vjepa2_1_vit_giant_patch16_384", 1000, 0.02,
        norms=4, predictor_depth=24, fused=4, outputs=5632, mask_tokens=8,
    ),
    "vjepa2_1-vitgigantic16": Shape(
        1664, 48, 8192, "vjepa2_1_vit_gigantic_patch16_384", 2000, 0.09,
        norms=4, predictor_depth=24, fused=4, outputs=6656, mask_tokens=8,
    ),
    "ijepa-vith14-224": Shape(1280, 32, 5120, "ijepa_vit_huge_patch14_224", 630, 0.01, 14, 1, mask_tokens=1),
    "ijepa-vith16-448": Shape(1280, 32, 5120, "ijepa_vit_huge_patch16_448", 630, 0.01, 16, 1, mask_tokens=1),
    "ijepa-vitg16-224": Shape(
        1408, 40, 6144, "ijepa_vit_giant_patch16_224", 1000, 0.02, 16, 1, predictor_depth=16, mask_tokens=1
    ),
}  # fmt: skip


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def blocks(depth: int, width: int, hidden: int) -> int:
    """norm1, attn.qkv, attn.proj, norm2, mlp.fc1, mlp.fc2."""
    own = 2 * width + linear(width, 3 * width) + linear(width, width) + 2 * width
    return depth * (own + linear(width, hidden) + linear(hidden, width))


def encoder_parameters(shape: Shape) -> int:
    count = blocks(shape.depth, shape.width, shape.hidden) + shape.norms * 2 * shape.width
    count += linear(3 * shape.tubelet * shape.patch**2, shape.width)
    if shape.norms > 1:  # V-JEPA 2.1: patch_embed_img, img_mod_embed, video_mod_embed
        count += linear(3 * shape.patch**2, shape.width) + 2 * shape.width
    return count


def predictor_parameters(shape: Shape, mask_tokens: int) -> int:
    fuse = linear(shape.fused * shape.width, shape.width) if shape.fused > 1 else 0
    count = fuse + linear(shape.width, 384) + blocks(shape.predictor_depth, 384, 1536) + 2 * 384 + mask_tokens * 384
    outputs = linear(384, shape.outputs or shape.width)
    return count + (2 * outputs + 2 * 384 if shape.norms > 1 else outputs)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for name, parameter in module.named_parameters() if not name.endswith("pos_embed"))


@cache
def on_meta(name: str) -> JEPA:
    """The model of a recipe, without weights."""
    with torch.device("meta"):
        if name not in DISTILLED:
            return build_model(runs_of(name)[0])
        return build_model(runs_of(name)[0], Teacher(Encoder(CATALOG["vjepa2_1_vit_gigantic_patch16_384"].encoder)))


def test_the_tables_hold_every_recipe() -> None:
    assert set(RECIPES) == set(SHAPES) == set(SCHEDULES)
    assert {shape.entry for shape in SHAPES.values()} == set(CATALOG)


@pytest.mark.parametrize("name", RECIPES)
def test_parameters_are_those_of_the_published_files(name: str) -> None:
    model, shape = on_meta(name), SHAPES[name]
    assert all(parameter.is_meta for parameter in model.parameters())
    assert parameters(model.encoder) == parameters(model.target_encoder) == encoder_parameters(shape)
    assert parameters(model.predictor) == predictor_parameters(shape, len(model.predictor.mask_tokens))
    published = predictor_parameters(shape, shape.mask_tokens)
    assert parameters(model.predictor) == pytest.approx(published, rel=0.001)  # we drop mask tokens never trained
    assert shape.rounded * 1e6 == pytest.approx(encoder_parameters(shape), rel=shape.off)


@pytest.mark.parametrize(
    ("name", "constructor", "rope"),
    [
        ("vjepa1-vitl16-224", "vit_large", False),
        ("vjepa1-vith16-384", "vit_huge", False),
        ("vjepa2-vitl16", "vit_large_rope", True),
        ("vjepa2-vith16", "vit_huge_rope", True),
        ("vjepa2-vitg16-384", "vit_giant_xformers_rope", True),
    ],
)
def test_parameters_are_those_of_the_official_classes(
    name: str, constructor: str, rope: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm.models.layers", timm.layers)
    encoders = pytest.importorskip("vjepa2.models.vision_transformer")
    predictors = pytest.importorskip("vjepa2.models.predictor")
    model, run = on_meta(name), runs_of(name)[0]
    options = {"img_size": run.clip.size, "num_frames": run.clip.frames, "tubelet_size": 2, "use_sdpa": True}
    with monkeypatch.context() as patched:
        patched.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))  # they read its values
        with torch.device("meta"):
            encoder = getattr(encoders, constructor)(**options)
            predictor = predictors.vit_predictor(
                **options, embed_dim=encoder.embed_dim, predictor_embed_dim=384, depth=12, use_rope=rope,
                num_heads=12 if rope else 16, use_mask_tokens=True, num_mask_tokens=len(model.predictor.mask_tokens),
            )  # fmt: skip
    assert parameters(model.encoder) == parameters(encoder)
    assert parameters(model.predictor) == parameters(predictor)


@pytest.mark.parametrize("name", RECIPES)
def test_the_encoder_that_is_trained_is_the_one_of_the_catalogue(name: str) -> None:
    run, entry = runs_of(name)[-1], CATALOG[SHAPES[name].entry]
    frames = 16 if name.endswith("90k") else entry.encoder.frames
    trained = encoder_config(run.model, frames=run.clip.frames, size=run.clip.size)
    assert trained == replace(entry.encoder, frames=frames)
    assert entry.predictor is not None
    assert predictor_config(run.model) == replace(entry.predictor, mask_tokens=run.model.mask_tokens)
    if SHAPES[name].outputs is not None:
        assert entry.predicted_width == SHAPES[name].outputs


LONG, SHORT = MaskConfig(blocks=2, spatial=(0.7, 0.7)), MaskConfig(blocks=8, spatial=(0.15, 0.15))
V1_RATE = 1e-6 + (6.25e-4 - 1e-6) * (1 + math.cos(math.pi * (90000 - 12000) / (112500 - 12000))) / 2
V1_DECAY = 0.4 - (0.4 - 0.04) * (1 + math.cos(math.pi * 90000 / 112500)) / 2
SCHEDULES: dict[str, list[tuple[float, ...]]] = {
    # per phase: steps, learning rate at step 0, behind the warm-up of so many steps, and at the end; weight decay and
    # momentum at step 0 and at the end; batch, frames, pixels
    "vjepa1-vitl16-224": [(90000, 2e-4, 6.25e-4, 12000, V1_RATE, 0.04, V1_DECAY, 0.998, 0.9996, 3072, 16, 224)],
    "vjepa1-vith16-224": [(90000, 2e-4, 6.25e-4, 12000, V1_RATE, 0.04, V1_DECAY, 0.998, 0.9996, 3072, 16, 224)],
    "vjepa1-vith16-384": [(90000, 2e-4, 6.25e-4, 12000, V1_RATE, 0.04, V1_DECAY, 0.998, 0.9996, 2400, 16, 384)],
    "vjepa2-vitl16-90k": [(90000, 2e-4, 6.25e-4, 12000, 1e-6, 0.04, 0.4, 0.999, 1.0, 3072, 16, 256)],
    **{
        name: [
            (240000, 1e-4, 5.25e-4, 12000, 5.25e-4, 0.04, 0.04, 0.99925, 0.99925, 3072, 16, 256),
            (12000, 5.25e-4, 5.25e-4, 0, 1e-6, 0.04, 0.04, 0.99925, 0.99925, 3072, 64, size),
        ]
        for name, size in (
            ("vjepa2-vitl16", 256), ("vjepa2-vith16", 256), ("vjepa2-vitg16-256", 256), ("vjepa2-vitg16-384", 384),
        )
    },
    **{
        f"vjepa2_1-vit{size}16": [
            (135000, 1e-4, 6e-4, 12000, 6e-4, 0.04, 0.04, 0.99925, 0.99925, 3072, 16, 256),
            (12000, 6e-4, 6e-4, 0, 1e-6, 0.04, 0.04, 0.99925, 0.99925, 3072, 64, 384),
        ]
        for size in ("b", "l", "g", "gigantic")
    },
    "ijepa-vith14-224": [(187500, 2e-4, 1e-3, 25000, 1e-6, 0.04, 0.4, 0.996, 1.0, 2048, 1, 224)],
    "ijepa-vith16-448": [(187500, 2e-4, 1e-3, 25000, 1e-6, 0.04, 0.4, 0.996, 1.0, 2048, 1, 448)],
    "ijepa-vitg16-224": [(305008, 2e-4, 1e-3, 20796, 1e-6, 0.04, 0.4, 0.996, 1.0, 2048, 1, 224)],
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_schedules_batches_and_clips_are_the_published_ones(name: str) -> None:
    for run, expected in zip(runs_of(name), SCHEDULES[name], strict=True):
        optim, end = run.optim, run.optim.steps
        warm = optim.warmup_steps
        told = (
            end, learning_rate(optim, 0), learning_rate(optim, warm), warm, learning_rate(optim, end),
            weight_decay(optim, 0), weight_decay(optim, end), momentum(optim, 0), momentum(optim, end),
            run.loader.batch_size, run.clip.frames, run.clip.size,
        )  # fmt: skip
        assert told == pytest.approx(expected, rel=1e-6)
        assert max(learning_rate(optim, step) for step in range(0, end, 1000)) == pytest.approx(expected[2], rel=1e-4)
        if run.clip.frames == 64:  # a cool-down falls linearly
            assert learning_rate(optim, end // 2) == pytest.approx((expected[1] + 1e-6) / 2)
        assert (optim.betas, optim.eps) == ((0.9, 0.999), 1e-8)
        assert optim.clip == (10.0 if name.startswith("vjepa1") else None)
        assert run.clip.scale == (0.3, 1.0)
        assert (run.run.precision, run.masks.collation) == ("bf16", "fixed")


@pytest.mark.parametrize("name", RECIPES)
def test_frames_crops_masks_and_losses_are_the_published_ones(name: str) -> None:
    for run in runs_of(name):
        images = name.startswith("ijepa")
        assert run.masks.kinds == ((MaskConfig(kind="ijepa"),) if images else (SHORT, LONG))
        assert (run.objective.loss, run.objective.exponent) == ("smooth_l1" if images else "power", None)
        assert run.clip.flip is not images
        assert run.clip.ratio == pytest.approx((3 / 4, 4 / 3) if images else (0.75, 1.35))
        assert run.clip.fps == (4.0 if name.startswith("vjepa2") else None)
        assert run.clip.stride == (1 if images else 4)
        assert run.clip.short == ("error" if images else "repeat")
        assert run.model.mask_tokens == (2 if name.startswith("vjepa1") else 1)
        assert run.objective.target == ("teacher" if name in DISTILLED else "ema")


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("vjepa2_1")])
def test_dense_recipes_train_on_images_too_and_compare_visible_tokens(name: str) -> None:
    pretrain, cooldown = runs_of(name)
    for run, size in ((pretrain, 256), (cooldown, 512)):
        assert (run.images.share, run.images.batch_size) == (0.5, 4608)
        assert run.images.augment(run.clip.size).size == size
        assert run.images.masks.kinds == (MaskConfig(blocks=10, spatial=(0.15, 0.15)),)
        assert (run.objective.context_weight, run.objective.image_context_weight) == (0.5, 0.7)
    assert (pretrain.objective.context_warmup, pretrain.objective.distance_weighting) == ((15000, 30000), True)
    assert (cooldown.objective.context_warmup, cooldown.objective.distance_weighting) == ((0, 0), False)


def test_without_its_teacher_a_distillation_says_what_it_needs() -> None:
    paths = {"data": "videos", "out": "runs"}
    with pytest.raises(ValueError, match=r"objective\.teacher"):
        load_named(PretrainConfig, "pretrain", DISTILLED[0], paths, "test")


def test_names_of_recipes_differ_in_more_than_their_case() -> None:
    """On file systems that do not tell cases apart one of two such files would be lost."""
    names = [name.lower() for name in shipped_configs()]
    assert len(names) == len(set(names))
