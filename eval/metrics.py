"""Accuracy with its interval, and chance.

The interval is Wilson's score interval (Wilson 1927): it keeps its coverage for few clips and near 0 and 1,
where the textbook p +- 1.96 sqrt(p (1 - p) / n) does not. With z = 1.96 and p = correct / n,

    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).

It is the uncertainty from the finite number of test clips; that of the seed needs several runs.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix


@dataclass(frozen=True)
class Share:
    """A share of right answers, with its 95 % interval; all fractions 0..1."""

    value: float
    low: float
    high: float
    count: int
    """Number of answers."""


def wilson(correct: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of correct / count.

    Raises:
        ValueError: no answers, or more right answers than answers.
    """
    if not 0 <= correct <= count or count == 0:
        raise ValueError(
            f"got {correct} right of {count} answers, expected 0 <= right <= answers and at least one answer"
        )
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = correct / count
    centre = share + z * z / (2 * count)
    margin = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def accuracy(predicted_B: Tensor, truth_B: Tensor, classes: int) -> Share:
    """Share of clips whose class was said right; class numbers below `classes`, int64."""
    share = float(multiclass_accuracy(predicted_B, truth_B, num_classes=classes, average="micro"))
    count = truth_B.numel()
    correct = round(share * count)  # exact again: torchmetrics divides in single precision
    return Share(correct / count, *wilson(correct, count), count)


def confusion(predicted_B: Tensor, truth_B: Tensor, classes: int) -> Tensor:
    """int64 (classes, classes): how many clips of class row were called column."""
    counts: Tensor = multiclass_confusion_matrix(predicted_B, truth_B, num_classes=classes)
    return counts


def chance(truth_B: Tensor, train_targets_B: Tensor, classes: int) -> float:
    """Accuracy without looking: guessing among the classes seen, or always saying the commonest one if that is more.

    Args:
        truth_B: classes of the test clips.
        train_targets_B: classes of the training clips.
        classes: number of classes that occur in the training clips.
    """
    commonest = torch.bincount(train_targets_B).argmax()
    return max(1 / classes, float((truth_B == commonest).float().mean()))
