"""Segmentation probe: can a linear map read from a frozen token whether it shows a body?

A probe on whole clips asks what an encoder says about a clip; this one asks what each of its tokens says about its own
place, which is what the dense objective of V-JEPA 2.1 (arXiv 2603.14482) is for: there a linear layer on frozen patches
is judged on segmentation. Here the classes are body and ground (`jepa.eval.token_labels`); the map is a logistic
regression with L2 penalty on standardised tokens, so it is convex and no seed or learning rate decides.

The penalty is the one with the highest average precision on held-out training clips, and the score above which a token
is called body the one with the highest mean IoU there: bodies are few, and at even odds a careful classifier would name
hardly any token. Then all training clips are fitted once more. The test clips are read once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa.errors import ConfigError, DataError
from jepa.eval.linear import LogisticFit, fit_logistic
from jepa.eval.metrics import Share
from jepa.eval.standardiser import Standardiser
from jepa.eval.token_labels import BODY, EDGE, GROUND, token_labels
from jepa.eval.token_metrics import Ranking, chances, token_shares
from jepa.rng import torch_generator

_CLIPS = 256  # scored at a time


@dataclass(frozen=True)
class SegmentationConfig:
    """Segmentation probe."""

    strengths: tuple[float, ...] = (0.1, 0.01, 0.001, 0.0001, 0.00001, 0.000001)
    """L2 strengths to choose from on the validation part; thousands of tokens need weak ones."""
    iterations: int = 100
    """Most L-BFGS iterations per strength."""
    body: float = 0.5
    """A token shows a body if bodies cover at least this part of it."""
    ground: float = 0.5
    """A token that shows no body shows the ground if bodies cover at most this part of it; others are left out."""
    tokens: int = 200_000
    """Fit at most so many tokens, chosen at random."""

    def __post_init__(self) -> None:
        if not self.strengths:
            raise ConfigError("segmentation.strengths is empty, expected at least one number above 0")
        for strength in self.strengths:
            if not 0 < strength < math.inf:
                raise ConfigError(f"segmentation.strengths has {strength}, expected numbers above 0")
        for name in ("iterations", "tokens"):
            if (count := getattr(self, name)) < 1:
                raise ConfigError(f"segmentation.{name} is {count}, expected 1 or more")
        if not (0 <= self.ground <= self.body <= 1 and self.body > 0):
            raise ConfigError(
                f"segmentation.ground is {self.ground} and segmentation.body {self.body}, expected parts of a token, "
                "0 <= ground <= body <= 1, body above 0"
            )


@dataclass(frozen=True)
class TokenSet:
    """Tokens of some videos and how much of each is covered by bodies."""

    tokens: Tensor
    """float32 (videos, N, D)."""
    shares: Tensor
    """float32 (videos, N)."""

    def labels(self, config: SegmentationConfig) -> Tensor:
        """BODY, GROUND or EDGE, int64 (videos, N)."""
        return token_labels(self.shares, body=config.body, ground=config.ground)


@dataclass(frozen=True)
class TokenProbe:
    """A linear map from tokens to scores, and how it was chosen."""

    fit: LogisticFit
    standardise: Standardiser
    threshold: float
    """Scores above it say body."""
    strength: float
    validation: float | None
    """Average precision of the chosen strength on the validation part; none if there was nothing to choose with."""

    def scores(self, tokens_BND: Tensor) -> Tensor:
        """Log odds of a body, float32 (videos, N), on the CPU."""
        device = self.standardise.mean.device
        parts = [_odds(self.fit, self.standardise(part.to(device))).cpu() for part in tokens_BND.split(_CLIPS)]
        return torch.cat(parts)


@dataclass(frozen=True)
class Segmentation:
    """What the probe reaches on the test clips."""

    shares: Mapping[str, Share]
    """By name of the metric."""
    chances: Mapping[str, float]
    settings: Mapping[str, float | int | str | None]


def segment(
    train: TokenSet,
    test: TokenSet,
    validation: Sequence[int],
    config: SegmentationConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
) -> Segmentation:
    """Train on the training videos, test once on the others.

    Args:
        train: training videos.
        test: test videos.
        validation: training videos to choose on, after a fit of the others; if there are none, the middle strength and
            even odds are taken.
        config: settings.
        seed: of the tokens that are fitted if there are too many, and of the bootstrap.
        device: where to fit.

    Raises:
        DataError: there are no tokens of one of the classes.
    """
    labels_BN = test.labels(config)
    _require_both(labels_BN, "test")
    probe = train_token_probe(train, validation, config, seed=seed, device=device)
    shares = token_shares(probe.scores(test.tokens), labels_BN, probe.threshold, seed=seed)
    settings: dict[str, float | int | str | None] = {
        "strength": probe.strength,
        "threshold": probe.threshold,
        "validation": probe.validation,
    }
    return Segmentation(shares, chances(labels_BN), settings)


def train_token_probe(
    train: TokenSet,
    validation: Sequence[int],
    config: SegmentationConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
) -> TokenProbe:
    """Choose the strength and the threshold on the validation videos, then fit all. As `segment`."""
    labels_BN = train.labels(config)
    _require_both(labels_BN, "training")
    videos_M, places_M = _chosen(labels_BN, config.tokens, seed)
    features_MD, targets_M = train.tokens[videos_M, places_M].to(device), labels_BN[videos_M, places_M].to(device)
    standardise = Standardiser.of(features_MD)
    features_MD = standardise(features_MD)
    strengths = sorted(config.strengths, reverse=True)
    strength, threshold, precision, start = strengths[len(strengths) // 2], 0.0, None, None
    held_M = torch.isin(videos_M, torch.tensor(list(validation))).to(device)
    if len(validation) and all(len(targets_M[part].unique()) == 2 for part in (held_M, ~held_M)):
        found: LogisticFit | None = None
        for tried in strengths:
            found = fit_logistic(
                features_MD[~held_M], targets_M[~held_M], 2, tried, iterations=config.iterations, start=found
            )
            ranking = Ranking.of(_odds(found, features_MD[held_M])[None].cpu(), targets_M[held_M][None].cpu())
            reached = ranking.average_precision()
            if precision is None or reached > precision:
                strength, threshold, precision, start = tried, ranking.best_threshold(), reached, found
    final = fit_logistic(features_MD, targets_M, 2, strength, iterations=config.iterations, start=start)
    return TokenProbe(final, standardise, threshold, strength, precision)


def _odds(fit: LogisticFit, features: Tensor) -> Tensor:
    """Log odds of a body: one number per token."""
    scores = fit.scores(features)
    return scores[..., BODY] - scores[..., GROUND]


def _chosen(labels_BN: Tensor, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """Video and place of the tokens to fit: all but edges, or a random part of them."""
    known = (labels_BN != EDGE).nonzero()
    if len(known) > most:
        order = torch.randperm(len(known), generator=torch_generator(seed, 0, "segmentation tokens"))
        known = known[order[:most].sort().values]
    return known[:, 0], known[:, 1]


def _require_both(labels_BN: Tensor, part: str) -> None:
    for label, name in ((BODY, "a body"), (GROUND, "the ground")):
        if not (labels_BN == label).any():
            raise DataError(f"no token of the {part} clips shows {name}: nothing to tell apart; add clips")
