"""Objectives: against naive loops, gradients where they belong, diagnostics against closed forms."""

import pytest
import torch
from torch.nn import functional as F

from jepa.masks.build import MaskSampler, MasksConfig
from jepa.models.build import ModelConfig, build_jepa
from jepa.models.jepa import JEPA
from jepa.objectives.build import ObjectiveConfig, build_objective, target_width
from jepa.objectives.diagnostics import effective_rank, feature_std
from jepa.objectives.losses import power_error
from jepa.tokens import TokenGrid
from jepa.types import ClipBatch

GRID = TokenGrid(2, 4, 4)


def make(target: str, **settings: object) -> tuple[JEPA, ClipBatch, ObjectiveConfig]:
    torch.manual_seed(0)
    config = ObjectiveConfig(target=target, **settings)  # type: ignore[arg-type]
    jepa = build_jepa(ModelConfig(size="nano", patch=8), frames=4, size=32)
    jepa = build_jepa(
        ModelConfig(size="nano", patch=8), frames=4, size=32, target_width=target_width(config, jepa.encoder.config)
    )
    masks = MaskSampler(MasksConfig(), GRID, 0)(0, 3)
    return jepa, ClipBatch(torch.randn(3, 3, 4, 32, 32), masks, GRID, torch.arange(3)), config


def test_latent_loss_equals_a_naive_loop() -> None:
    jepa, batch, config = make("ema")
    loss = build_objective(config, jepa.encoder.config)(jepa, batch).loss
    target = F.layer_norm(jepa.target_encoder(batch.clips), (96,))
    per_mask = []
    for number, mask in enumerate(batch.masks):
        context = jepa.encoder(batch.clips, mask.context)
        prediction = jepa.predictor(context, mask, GRID, number)
        errors = [
            (prediction[clip, place] - target[clip, token]).abs()
            for clip in range(3)
            for place, token in enumerate(mask.target[clip].tolist())
        ]
        per_mask.append(torch.stack(errors).mean())
    torch.testing.assert_close(loss, torch.stack(per_mask).mean())


@pytest.mark.parametrize("target", ["ema", "pixels"])
def test_gradients_reach_encoder_and_predictor_only(target: str) -> None:
    jepa, batch, config = make(target)
    build_objective(config, jepa.encoder.config)(jepa, batch).loss.backward()
    assert all(parameter.grad is None for parameter in jepa.target_encoder.parameters())
    for name, parameter in [*jepa.encoder.named_parameters(), *jepa.predictor.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_each_kind_of_target_has_the_exponent_of_its_paper() -> None:
    encoder = make("ema")[0].encoder.config
    found = {kind: build_objective(ObjectiveConfig(target=kind), encoder).loss.exponent for kind in ("ema", "pixels")}  # type: ignore[arg-type, attr-defined]
    assert found == {"ema": 1.0, "pixels": 2.0}
    assert build_objective(ObjectiveConfig(target="pixels", exponent=1.0), encoder).loss.exponent == 1.0  # type: ignore[attr-defined]


def test_patch_targets_have_zero_mean_and_unit_deviation() -> None:
    jepa, batch, config = make("pixels")
    targets = build_objective(config, jepa.encoder.config).targets(batch.clips)  # type: ignore[attr-defined]
    torch.testing.assert_close(targets.mean(-1), torch.zeros(3, 32), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.var(-1), torch.ones(3, 32), atol=1e-3, rtol=0)


def test_clip_targets_keep_flat_patches_flat() -> None:
    jepa, _, config = make("pixels", pixel_norm="clip")
    clips = torch.zeros(1, 3, 4, 32, 32)
    clips[..., 0:8, 0:8] = torch.rand(1, 3, 4, 8, 8)
    targets = build_objective(config, jepa.encoder.config).targets(clips)  # type: ignore[attr-defined]
    assert targets[0, 5].std() < targets[0, 0].std() / 2
    torch.testing.assert_close(targets.mean(), torch.zeros(()), atol=1e-5, rtol=0)


def test_power_error() -> None:
    prediction, target = torch.tensor([[[1.0, -2.0]]]), torch.zeros(1, 1, 2)
    assert power_error(prediction, target).item() == 1.5
    assert power_error(prediction, target, 2.0).item() == pytest.approx((1 + 4) / 2 / 2)


def test_effective_rank_of_known_spectra() -> None:
    basis = torch.linalg.qr(torch.randn(512, 16))[0]
    spread = (basis - basis.mean(0)).reshape(1, 512, 16)
    assert effective_rank(spread).item() == pytest.approx(16, rel=0.02)
    assert effective_rank(spread[..., :4]).item() == pytest.approx(4, rel=0.02)
    line = torch.randn(1, 512, 1) * torch.randn(16)
    assert effective_rank(line).item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("count", [4097, 8000, 8191, 8192, 20000])
def test_effective_rank_sees_all_of_a_large_batch(count: int) -> None:
    rows = torch.zeros(count, 2)
    rows[: count // 2, 0] = torch.linspace(-1, 1, count // 2)  # one direction in the first half, another in the second
    rows[count // 2 :, 1] = torch.linspace(-1, 1, count - count // 2)
    assert effective_rank(rows[: count // 2][None]).item() == pytest.approx(1, abs=0.01)
    assert effective_rank(rows[None]).item() == pytest.approx(2, abs=0.01)
    rows[-1] = torch.nan
    assert effective_rank(rows[None]).isnan(), "the last row is looked at"


def test_feature_std_sees_collapse() -> None:
    assert feature_std(torch.ones(2, 8, 4)).item() == 0.0
    assert feature_std(torch.randn(8, 512, 4)).item() == pytest.approx(1.0, abs=0.05)


def test_diagnostics_are_asked_for() -> None:
    jepa, batch, config = make("ema")
    objective = build_objective(config, jepa.encoder.config)
    assert not objective(jepa, batch).diagnostics
    assert set(objective(jepa, batch, diagnose=True).diagnostics) >= {"feature_std", "effective_rank"}
