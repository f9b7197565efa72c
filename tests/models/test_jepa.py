"""JEPA and its predictor: what flows where, and the sizes of the table."""

import pytest
import torch

from jepa.models.build import ModelConfig, build_jepa
from jepa.models.jepa import JEPA
from jepa.models.presets import SIZES
from jepa.optim.ema import update_ema
from jepa.tokens import Mask, TokenGrid

GRID = TokenGrid(2, 2, 2)
MASK = Mask(torch.tensor([[0, 1, 4], [2, 5, 7]]), torch.tensor([[2, 6], [0, 1]]))


@pytest.fixture
def jepa() -> JEPA:
    return build_jepa(ModelConfig(size="nano", patch=8), frames=4, size=16)


def test_prediction_has_the_target_width(jepa: JEPA) -> None:
    context = jepa.encode_context(torch.randn(2, 3, 4, 16, 16), MASK.context)
    assert jepa.predict(context, MASK, GRID).shape == (2, 2, 96)
    wide = build_jepa(ModelConfig(size="nano", patch=8), frames=4, size=16, target_width=384)
    assert wide.predict(context, MASK, GRID).shape == (2, 2, 384)


def test_predictions_follow_their_position_not_their_order(jepa: JEPA) -> None:
    context = jepa.encode_context(torch.randn(2, 3, 4, 16, 16), MASK.context)
    swapped = Mask(MASK.context, MASK.target.flip(1))
    torch.testing.assert_close(
        jepa.predict(context, MASK, GRID), jepa.predict(context, swapped, GRID).flip(1), atol=1e-5, rtol=1e-5
    )


def test_each_mask_configuration_has_its_own_mask_token(jepa: JEPA) -> None:
    with torch.no_grad():
        jepa.predictor.mask_tokens[1].normal_()
    context = jepa.encode_context(torch.randn(2, 3, 4, 16, 16), MASK.context)
    assert not torch.equal(jepa.predict(context, MASK, GRID, 0), jepa.predict(context, MASK, GRID, 1))
    assert torch.equal(jepa.predict(context, MASK, GRID, 0), jepa.predict(context, MASK, GRID, 2))


def test_target_encoder_starts_as_a_copy_and_takes_no_gradient(jepa: JEPA) -> None:
    clips = torch.randn(1, 3, 4, 16, 16)
    for own, copied in zip(jepa.encoder.parameters(), jepa.target_encoder.parameters(), strict=True):
        assert torch.equal(own, copied)
        assert own.data_ptr() != copied.data_ptr()
        assert not copied.requires_grad
    assert not jepa.encode_target(clips).requires_grad
    assert not jepa.train().target_encoder.training


def test_targets_are_layer_normed_without_affine(jepa: JEPA) -> None:
    with torch.no_grad():
        jepa.target_encoder.norm.weight.fill_(3.0)
        jepa.target_encoder.norm.bias.fill_(1.0)
    target = jepa.encode_target(torch.randn(1, 3, 4, 16, 16))
    torch.testing.assert_close(target.mean(-1), torch.zeros(1, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.var(-1, unbiased=False), torch.ones(1, 8), atol=1e-3, rtol=0)


def test_ema_is_the_weighted_mean(jepa: JEPA) -> None:
    before = [parameter.clone() for parameter in jepa.target_encoder.parameters()]
    with torch.no_grad():
        for parameter in jepa.encoder.parameters():
            parameter.add_(1.0)
    update_ema(jepa.target_encoder, jepa.encoder, 0.9)
    pairs = zip(before, jepa.encoder.parameters(), jepa.target_encoder.parameters(), strict=True)
    for old, source, new in pairs:
        torch.testing.assert_close(new, 0.9 * old + 0.1 * source)


@pytest.mark.parametrize(
    ("size", "millions"), [("large", 303.9), ("huge", 632.0), ("giant", 1012.6), ("gigantic", 1840.0)]
)
def test_published_parameter_counts(size: str, millions: float) -> None:
    """Counts by the closed form of a pre-norm ViT; the papers round them to 300M, 600M, 1B and 2B."""
    row = SIZES[size]  # type: ignore[index]
    hidden = round(row.width * row.mlp_ratio)
    per_block = 4 * row.width**2 + 2 * row.width * hidden + 4 * row.width + row.width + hidden + row.width * 4
    expected = row.depth * per_block + row.width * (3 * 2 * 16 * 16 + 1) + 2 * row.width
    with torch.device("meta"):
        model = build_jepa(ModelConfig(size=size))  # type: ignore[arg-type]
    count = sum(parameter.numel() for parameter in model.encoder.parameters())
    assert count == expected
    assert count / 1e6 == pytest.approx(millions, rel=0.02)
