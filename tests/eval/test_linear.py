"""Logistic regression against its optimality condition, a closed form, and separable data."""

import math

import pytest
import torch

from jepa.errors import ConfigError
from jepa.eval.linear import LinearConfig, fit_logistic, span_coordinates, train_linear


def blobs(count: int, width: int, classes: int, spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    targets = torch.arange(count) % classes
    return centres[targets] + spread * torch.randn(count, width, generator=generator), targets


def test_bias_alone_learns_the_class_frequencies() -> None:
    # Without features the optimum is known: the softmax of the bias is the share of each class.
    targets = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    fit = fit_logistic(torch.zeros(10, 4), targets, 3, 0.1)
    torch.testing.assert_close(fit.bias.softmax(0), torch.tensor([0.5, 0.3, 0.2]), atol=1e-4, rtol=0)


def test_two_points_have_the_closed_form() -> None:
    # x = +1 for class 0 and -1 for class 1: by symmetry W = (w, -w), so the objective is
    # log(1 + exp(-2w)) + strength * w^2, which is least where sigmoid(-2w) = strength * w.
    strength = 0.1
    fit = fit_logistic(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]), 2, strength)
    weight = float(fit.weight[0, 0])
    assert float(fit.weight[0, 1]) == pytest.approx(-weight, abs=1e-4)
    assert 1 / (1 + math.exp(2 * weight)) == pytest.approx(strength * weight, abs=1e-4)


def test_gradient_vanishes_at_the_fit() -> None:
    features, targets = blobs(120, 6, 4, 1.0)
    fit = fit_logistic(features, targets, 4, 0.03, iterations=300)
    error = (features @ fit.weight + fit.bias).softmax(1) - torch.nn.functional.one_hot(targets, 4)
    gradient = features.T @ error / len(features) + 0.03 * fit.weight
    assert float(gradient.abs().max()) < 1e-4
    assert float(error.mean(0).abs().max()) < 1e-4


def test_span_coordinates_give_the_same_classifier() -> None:
    train, targets = blobs(40, 300, 3, 1.0)
    test, _ = blobs(30, 300, 3, 1.0, seed=1)
    near, far = span_coordinates(train, test)
    assert near.shape == (40, 40)
    torch.testing.assert_close(far @ near.T, test @ train.T, rtol=1e-3, atol=1e-2)
    direct = fit_logistic(train, targets, 3, 0.1, iterations=300)
    spanned = fit_logistic(near, targets, 3, 0.1, iterations=300)
    torch.testing.assert_close(
        far @ spanned.weight + spanned.bias, test @ direct.weight + direct.bias, rtol=1e-2, atol=1e-2
    )


def test_narrow_features_are_not_rewritten() -> None:
    train, test = torch.randn(10, 10), torch.randn(3, 10)
    assert span_coordinates(train, test)[0] is train


def test_separable_classes_are_separated() -> None:
    features, targets = blobs(200, 8, 5, 0.1)
    unseen, truth = blobs(100, 8, 5, 0.1, seed=1)
    fit, validation = list(range(0, 160)), list(range(160, 200))
    probe = train_linear(features, targets, 5, fit, validation, LinearConfig())
    assert probe.validation == 1.0
    assert torch.equal(probe.fit.predict(unseen), truth)


def test_validation_clips_do_not_train_the_fits_they_judge() -> None:
    (fit, classes), (validation, others) = blobs(30, 8, 3, 0.1), blobs(90, 8, 3, 0.1, seed=1)
    # The classes of the more numerous validation clips are named differently: who has seen them is right, else wrong.
    features, targets = torch.cat([fit, validation]), torch.cat([classes, (others + 1) % 3])
    config = LinearConfig(strengths=(0.1, 0.01))
    probe = train_linear(features, targets, 3, list(range(30)), list(range(30, 120)), config)
    assert probe.validation == 0.0
    assert torch.equal(probe.fit.predict(validation), targets[30:]), "the chosen strength is fitted on all"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"strengths": ()}, "linear.strengths is empty"),
        ({"strengths": (1.0, 0.0)}, "linear.strengths has 0.0, expected numbers above 0"),
        ({"strengths": (math.nan,)}, "linear.strengths has nan"),
        ({"iterations": 0}, "linear.iterations is 0, expected 1 or more"),
    ],
)
def test_wrong_settings_are_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LinearConfig(**arguments)  # type: ignore[arg-type]


def test_noise_prefers_a_strong_penalty() -> None:
    features, targets = blobs(300, 150, 3, 6.0)
    probe = train_linear(
        features, targets, 3, list(range(200)), list(range(200, 300)), LinearConfig(strengths=(1e-5, 0.3))
    )
    assert probe.strength == 0.3


def test_without_validation_clips_the_middle_is_taken() -> None:
    features, targets = blobs(6, 2, 2, 0.1)
    probe = train_linear(features, targets, 2, list(range(6)), [], LinearConfig(strengths=(1.0, 0.1, 0.01)))
    assert (probe.strength, probe.validation) == (0.1, None)


def test_classes_in_faint_directions_are_found_behind_noise() -> None:
    # Strong penalties see the loud noise alone, so the validation loss rises at chance before it falls.
    faint, targets = blobs(400, 4, 4, 0.3)
    noise = torch.randn(400, 40, generator=torch.Generator().manual_seed(1))
    features = torch.cat([0.05 * faint, noise], 1)
    probe = train_linear(features, targets, 4, range(300), range(300, 400), LinearConfig())
    assert probe.strength < 0.1
    assert (probe.validation or 0.0) > 0.7
