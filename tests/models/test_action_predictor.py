"""The action-conditioned predictor: who sees what, and what it refuses. Parity: tests/parity/test_models.py."""

import pytest
import torch

from jepa.errors import ConfigError
from jepa.models.action_predictor import ActionPredictor, ActionPredictorConfig, causal
from jepa.tokens import TokenGrid

CONFIG = ActionPredictorConfig(context_width=32, width=48, depth=2, heads=2, actions=3)
GRID = TokenGrid(3, 2, 2)


@pytest.fixture
def inputs() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, 12, 32), torch.randn(1, 3, 3), torch.randn(1, 3, 3)]


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_step_sees_itself_and_what_was_before(inputs: list[torch.Tensor], part: int) -> None:
    predictor = ActionPredictor(CONFIG).eval()
    before = predictor(*inputs, GRID)
    per_step = inputs[part].shape[1] // 3
    inputs[part][:, per_step : 2 * per_step] += 1.0  # of the second of three steps
    after = predictor(*inputs, GRID)
    assert torch.equal(before[:, :4], after[:, :4])
    assert (before[:, 4:8] - after[:, 4:8]).abs().max() > 1e-5
    assert (before[:, 8:] - after[:, 8:]).abs().max() > 1e-6


def test_the_mask_is_full_inside_a_step() -> None:
    seen = causal(TokenGrid(2, 1, 2), 2)
    assert seen.tolist() == [[True] * 4 + [False] * 4] * 4 + [[True] * 8] * 4


def test_published_size() -> None:
    """24 blocks of width 1024 over features of 1408: about 300 million."""
    with torch.device("meta"):
        predictor = ActionPredictor(ActionPredictorConfig())
    width, features = 1024, 1408
    block = 4 * width + 4 * width * (width + 1) + 4 * width * (width + 1) + width * (4 * width + 1)
    maps = width * (features + 1) + 2 * width * (7 + 1) + width * (6 + 1) + features * (width + 1) + 2 * width
    count = sum(parameter.numel() for parameter in predictor.parameters())
    assert count == 24 * block + maps
    assert 290e6 < count < 310e6


def test_poses_are_told_to_who_takes_them(inputs: list[torch.Tensor]) -> None:
    with pytest.raises(ConfigError, match="poses"):
        ActionPredictor(CONFIG)(*inputs, GRID, torch.randn(1, 3, 2))
    with pytest.raises(ConfigError, match="at least 2"):
        ActionPredictorConfig(actions=1)
