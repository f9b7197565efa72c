"""Linear probe: multinomial logistic regression on standardised features, to the optimum or nearly.

    minimise  mean cross-entropy(W' x + b, y) + strength / 2 * |W|^2

The problem is convex, so L-BFGS on the whole training part finds nearly the same answer every time: no learning
rate, no batches, no seed (with the weakest penalties the limit on iterations ends it a little before the optimum).
The strengths are tried from strong to weak, each started from the one before, and judged on a validation part of the
training set; the chosen one is fitted again on all of it.

Features wider than the number of training clips (raw pixels) are first rewritten in the span of those clips: by
the representer theorem the best W lies there, so coordinates that keep all inner products lose nothing and cost
less.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa.errors import ConfigError

_FEATURES = 2048
_JITTER = 3e-5
_PATIENCE = 2


@dataclass(frozen=True)
class LinearConfig:
    """Linear probe."""

    strengths: tuple[float, ...] = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
    """L2 strengths to choose from on the validation part."""
    iterations: int = 100
    """Most L-BFGS iterations per strength."""

    def __post_init__(self) -> None:
        if not self.strengths:
            raise ConfigError("linear.strengths is empty, expected at least one number above 0")
        for strength in self.strengths:
            if not 0 < strength < math.inf:
                raise ConfigError(f"linear.strengths has {strength}, expected numbers above 0")
        if self.iterations < 1:
            raise ConfigError(f"linear.iterations is {self.iterations}, expected 1 or more")


def span_coordinates(train_BF: Tensor, test_BF: Tensor) -> tuple[Tensor, Tensor]:
    """Both feature sets in at most as many coordinates as there are training clips; inner products stay.

    With the Gram matrix K = X X' = L L', the rows of L have the inner products of the training clips, and a test
    clip z becomes L^-1 X z. Features that are not wider than that are returned as they are.
    """
    clips, width = train_BF.shape
    if width <= clips:
        return train_BF, test_BF
    # Pixels are so alike that K spans ten orders of magnitude: single precision suffices for some features at a time.
    gram = train_BF.new_zeros(clips, clips, dtype=torch.float64)
    products = train_BF.new_zeros(clips, len(test_BF), dtype=torch.float64)
    for train, test in zip(train_BF.split(_FEATURES, 1), test_BF.split(_FEATURES, 1), strict=True):
        gram += train @ train.T
        products += train @ test.T
    # Centred or repeated clips make K singular. The jitter is a fraction of what the weakest penalty does.
    gram.diagonal().add_(_JITTER * float(gram.diagonal().mean()) + 1e-30)
    factor = torch.linalg.cholesky(gram)
    found = torch.linalg.solve_triangular(factor, products, upper=False).T
    return factor.to(train_BF.dtype), found.to(train_BF.dtype).contiguous()


@dataclass(frozen=True)
class LogisticFit:
    """A fitted classifier."""

    weight: Tensor
    """(features, classes)."""
    bias: Tensor

    def scores(self, features_BF: Tensor) -> Tensor:
        """(clips, classes), before the softmax."""
        return features_BF @ self.weight + self.bias

    def predict(self, features_BF: Tensor) -> Tensor:
        """Class number of each clip, int64."""
        return self.scores(features_BF).argmax(1)


def fit_logistic(
    features_BF: Tensor,
    targets_B: Tensor,
    classes: int,
    strength: float,
    *,
    iterations: int = 100,
    start: LogisticFit | None = None,
) -> LogisticFit:
    """Minimise the penalised cross-entropy with L-BFGS.

    Args:
        features_BF: standardised features.
        targets_B: class numbers, int64.
        classes: number of classes.
        strength: of the L2 penalty on the weights (the bias is free).
        iterations: at most so many.
        start: where to begin; zero if none.
    """
    weight = start.weight.clone() if start else features_BF.new_zeros(features_BF.shape[1], classes)
    bias = start.bias.clone() if start else features_BF.new_zeros(classes)
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=iterations, tolerance_grad=1e-5, tolerance_change=1e-8, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(features_BF @ weight + bias, targets_B) + strength / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return LogisticFit(weight.detach(), bias.detach())


@dataclass(frozen=True)
class LinearProbe:
    """A classifier fitted on the whole training set, and how it was chosen."""

    fit: LogisticFit
    strength: float
    validation: float | None
    """Accuracy of the chosen strength on the validation part; none if there was nothing to choose with."""


def train_linear(
    features_BF: Tensor,
    targets_B: Tensor,
    classes: int,
    fit: Sequence[int],
    validation: Sequence[int],
    config: LinearConfig,
) -> LinearProbe:
    """Choose the strength on the validation rows, then fit all rows with it; of equals the strongest wins.

    Args:
        features_BF: standardised features of the training set.
        targets_B: its class numbers, int64.
        classes: number of classes.
        fit: rows to fit on while choosing.
        validation: rows to judge on; if there are none, the middle strength is taken.
        config: strengths and iterations.
    """
    strengths = sorted(config.strengths, reverse=True)
    best = LinearProbe(_zero(features_BF, classes), strengths[len(strengths) // 2], None)
    if len(strengths) > 1 and len(validation):
        parts = (features_BF[fit], targets_B[fit]), (features_BF[validation], targets_B[validation])
        for probe in _path(*parts, classes, strengths, config.iterations):
            if best.validation is None or (probe.validation or 0.0) > best.validation:
                best = probe
    final = fit_logistic(features_BF, targets_B, classes, best.strength, iterations=config.iterations, start=best.fit)
    return LinearProbe(final, best.strength, best.validation)


def _path(
    fit: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    classes: int,
    strengths: Sequence[float],
    iterations: int,
) -> Iterator[LinearProbe]:
    """Fits from strong to weak, until weaker ones only widen the margins of rows that are all fitted, at rising loss.

    A rising validation loss alone is no reason to stop: where the classes show in faint directions it rises first, at
    chance, and accuracy grows only with much weaker penalties.
    """
    found: LogisticFit | None = None
    least, risen = float("inf"), 0
    for strength in strengths:
        found = fit_logistic(*fit, classes, strength, iterations=iterations, start=found)
        scores_BY = found.scores(validation[0])
        yield LinearProbe(found, strength, float((scores_BY.argmax(1) == validation[1]).float().mean()))
        loss = float(F.cross_entropy(scores_BY, validation[1]))
        least, risen = min(loss, least), risen + 1 if loss > least else 0
        if risen >= _PATIENCE and bool((found.predict(fit[0]) == fit[1]).all()):
            return


def _zero(features_BF: Tensor, classes: int) -> LogisticFit:
    return LogisticFit(features_BF.new_zeros(features_BF.shape[1], classes), features_BF.new_zeros(classes))
