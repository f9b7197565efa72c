"""How well scores tell tokens of bodies from those of the ground: intersection over union, accuracy, precision.

With a threshold, tokens above it are called body. The IoU of a class is right answers over tokens that are or are
called of this class, and `mean_iou` the mean over the two classes. `average_precision` needs no threshold: it is the
area under precision over recall, the sum over thresholds of (recall - recall before) * precision.

Tokens of one clip are anything but independent, so the 95 % intervals are from a bootstrap over clips: clips are drawn
with replacement as often as there are, 1000 times, and the middle 95 % of the values are the interval.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa.eval.metrics import Share
from jepa.eval.token_labels import BODY, EDGE
from jepa.rng import generator

DRAWS = 1000


def confusion_counts(scores_BN: Tensor, labels_BN: Tensor, threshold: float) -> Tensor:
    """float64 (B, 2, 2): for each clip, how many tokens of class row were called column; edges are left out."""
    called_BN = (scores_BN > threshold).long()
    known_BN = labels_BN != EDGE
    cells = [(known_BN & (labels_BN == truth) & (called_BN == answer)).sum(1) for truth in (0, 1) for answer in (0, 1)]
    counts: Tensor = torch.stack(cells, dim=1).double().unflatten(1, (2, 2))
    return counts


def mean_iou(counts: Tensor) -> Tensor:
    """Mean over the classes of intersection over union, of confusion counts (..., 2, 2).

    A class that does not occur and is not called is left out; 0 / 0 tells nothing about it.
    """
    right = counts.diagonal(dim1=-2, dim2=-1)
    union = counts.sum(-1) + counts.sum(-2) - right
    occurs = union > 0
    shares: Tensor = (right / union.clamp_min(1e-300)).where(occurs, 0.0)
    return shares.sum(-1) / occurs.sum(-1).clamp_min(1)


def token_accuracy(counts: Tensor) -> Tensor:
    """Share of right answers, of confusion counts (..., 2, 2)."""
    return counts.diagonal(dim1=-2, dim2=-1).sum(-1) / counts.sum((-2, -1)).clamp_min(1)


@dataclass(frozen=True)
class Ranking:
    """Tokens in falling order of their scores."""

    scores: Tensor
    """(tokens,), as all that follows."""
    positive: Tensor
    """float64: 1 for a body, 0 for ground."""
    clips: Tensor
    """int64: the clip of each."""
    ends: Tensor
    """int64: the last of each run of equal scores; a threshold cannot part them."""

    @classmethod
    def of(cls, scores_BN: Tensor, labels_BN: Tensor) -> "Ranking":
        """Of all tokens but those at edges."""
        known_BN = labels_BN != EDGE
        clips_BN = torch.arange(len(labels_BN), device=labels_BN.device).unsqueeze(1).expand_as(labels_BN)
        scores, order = scores_BN[known_BN].sort(descending=True, stable=True)
        last = torch.ones_like(scores, dtype=torch.bool)
        last[:-1] = scores[:-1] != scores[1:]
        positive = (labels_BN[known_BN] == BODY)[order].double()
        return cls(scores, positive, clips_BN[known_BN][order], last.nonzero().flatten())

    def average_precision(self, weights_B: Tensor | None = None) -> float:
        """Of clips that count as often as their weights say; not a number without a body.

        Args:
            weights_B: float64; 1 each if none.
        """
        weights_M = torch.ones_like(self.positive) if weights_B is None else weights_B[self.clips]
        found = (weights_M * self.positive).cumsum(0)[self.ends]
        called = weights_M.cumsum(0)[self.ends]
        recalled = found.diff(prepend=found.new_zeros(1)) / found[-1]
        return float((recalled * found / called.clamp_min(1)).sum().clamp_max(1.0))

    def best_threshold(self) -> float:
        """Score above which tokens are to be called body for the highest mean IoU: midway between two of them."""
        found, called = self.positive.cumsum(0)[self.ends], (self.ends + 1).double()
        bodies, tokens = self.positive.sum(), float(len(self.positive))
        missed, wrong = bodies - found, called - found
        right = tokens - bodies - wrong
        counts = torch.stack([right, wrong, missed, found], dim=1).unflatten(1, (2, 2))
        best = int(mean_iou(counts).argmax())
        end = int(self.ends[best])
        if end + 1 == len(self.scores):
            return float(self.scores[end]) - 1.0
        return float((self.scores[end] + self.scores[end + 1]) / 2)


def clip_weights(clips: int, seed: int) -> Tensor:
    """float64 (DRAWS, clips): how often each clip is in each draw."""
    drawn = generator(seed, 0, "bootstrap of clips").multinomial(clips, [1 / clips] * clips, size=DRAWS)
    return torch.from_numpy(drawn).double()


def token_shares(scores_BN: Tensor, labels_BN: Tensor, threshold: float, *, seed: int) -> dict[str, Share]:
    """mean_iou, token_accuracy and average_precision with their intervals; `count` is that of the clips.

    Args:
        scores_BN: higher for bodies.
        labels_BN: BODY, GROUND or EDGE; some of both classes.
        threshold: scores above it say body.
        seed: of the bootstrap.
    """
    scores_BN, labels_BN = scores_BN.cpu(), labels_BN.cpu()
    counts, ranking = confusion_counts(scores_BN, labels_BN, threshold), Ranking.of(scores_BN, labels_BN)
    weights_RB = clip_weights(len(labels_BN), seed)
    drawn = (weights_RB @ counts.flatten(1)).unflatten(1, (2, 2))
    by_counts: dict[str, Callable[[Tensor], Tensor]] = {"mean_iou": mean_iou, "token_accuracy": token_accuracy}
    found = {name: _share(float(of(counts.sum(0))), of(drawn), len(labels_BN)) for name, of in by_counts.items()}
    precisions = torch.tensor([ranking.average_precision(weights_B) for weights_B in weights_RB])
    return found | {"average_precision": _share(ranking.average_precision(), precisions, len(labels_BN))}


def _share(value: float, draws_R: Tensor, count: int) -> Share:
    # A draw without any body has no precision; it says nothing.
    low, high = draws_R.double().nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Share(value, min(low, value), max(high, value), count)


def chances(labels_BN: Tensor) -> dict[str, float]:
    """What the same answer for every token reaches, whichever is better."""
    known = labels_BN[labels_BN != EDGE]
    bodies = float((known == BODY).double().mean())
    most = max(bodies, 1 - bodies)
    return {"mean_iou": most / 2, "token_accuracy": most, "average_precision": bodies}
