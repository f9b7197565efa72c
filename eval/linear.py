"""Linear probe: multinomial logistic regression on standardised features, to the optimum.

    minimise  mean cross-entropy(W' x + b, y) + strength / 2 * |W|^2

The problem is convex, so L-BFGS on the whole training part finds the same answer every time: no learning rate,
no batches, no seed. The strengths are tried from strong to weak, each started from the one before, and judged
on a validation part of the training set; the chosen one is fitted again on all of it.

Features wider than the number of training clips (raw pixels) are first rewritten in the span of those clips: by
the representer theorem the best W lies there, so coordinates that keep all inner products lose nothing and cost
less.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LinearConfig:
    """Linear probe."""

    strengths: tuple[float, ...] = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
    """L2 strengths to choose from on the validation part."""
    iterations: int = 100
    """Most L-BFGS iterations per strength."""


def span_coordinates(train_BF: Tensor, test_BF: Tensor) -> tuple[Tensor, Tensor]:
    """Both feature sets in at most as many coordinates as there are training clips; inner products stay.

    With the Gram matrix K = X X' = L L', the rows of L have the inner products of the training clips, and a test
    clip z becomes L^-1 X z. Features that are not wider than that are returned as they are.
    """
    clips, width = train_BF.shape
    if width <= clips:
        return train_BF, test_BF
    gram = (train_BF @ train_BF.T).double()
    # Centred or repeated clips make K singular; the jitter is far below the weakest strength.
    gram.diagonal().add_(1e-6 * float(gram.diagonal().mean()) + 1e-30)
    factor = torch.linalg.cholesky(gram)
    products = (train_BF @ test_BF.T).double()
    test = torch.linalg.solve_triangular(factor, products, upper=False).T
    return factor.to(train_BF.dtype), test.to(train_BF.dtype).contiguous()


@dataclass(frozen=True)
class LogisticFit:
    """A fitted classifier."""

    weight: Tensor
    """(features, classes)."""
    bias: Tensor

    def predict(self, features_BF: Tensor) -> Tensor:
        """Class number of each clip, int64."""
        return (features_BF @ self.weight + self.bias).argmax(1)


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
        found: LogisticFit | None = None
        fit_features, judged = features_BF[fit], features_BF[validation]
        for strength in strengths:
            found = fit_logistic(
                fit_features, targets_B[fit], classes, strength, iterations=config.iterations, start=found
            )
            share = float((found.predict(judged) == targets_B[validation]).float().mean())
            if best.validation is None or share > best.validation:
                best = LinearProbe(found, strength, share)
    final = fit_logistic(features_BF, targets_B, classes, best.strength, iterations=config.iterations, start=best.fit)
    return LinearProbe(final, best.strength, best.validation)


def _zero(features_BF: Tensor, classes: int) -> LogisticFit:
    return LogisticFit(features_BF.new_zeros(features_BF.shape[1], classes), features_BF.new_zeros(classes))
