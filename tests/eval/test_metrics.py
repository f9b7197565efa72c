"""Intervals against published tables, accuracy and confusion against counting."""

import pytest
import torch

from jepa.eval.metrics import accuracy, chance, confusion, wilson


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: score interval without continuity correction.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_newcombe(correct: int, count: int, low: float, high: float) -> None:
    assert wilson(correct, count) == pytest.approx((low, high), abs=5.1e-5)
    mirrored = wilson(count - correct, count)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5.1e-5)


@pytest.mark.parametrize(("correct", "count"), [(0, 0), (3, 2), (-1, 4)])
def test_wilson_refuses_nonsense(correct: int, count: int) -> None:
    with pytest.raises(ValueError, match="answers"):
        wilson(correct, count)


def test_accuracy_counts_clips_not_classes() -> None:
    truth, predicted = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 0, 0, 0, 0])
    share = accuracy(predicted, truth, 3)
    assert share.value == pytest.approx(3 / 5)
    assert (share.low, share.high) == wilson(3, 5)
    assert share.count == 5


def test_confusion_rows_are_the_truth() -> None:
    counts = confusion(torch.tensor([1, 1, 0]), torch.tensor([0, 0, 1]), 3)
    assert counts.tolist() == [[0, 2, 0], [1, 0, 0], [0, 0, 0]]


def test_chance_is_the_better_of_guessing_and_the_commonest_class() -> None:
    train = torch.tensor([0, 1, 1, 2])
    assert chance(torch.tensor([0, 0, 2, 2]), train, 3) == pytest.approx(1 / 3)
    assert chance(torch.tensor([1, 1, 1, 2]), train, 3) == pytest.approx(3 / 4)
