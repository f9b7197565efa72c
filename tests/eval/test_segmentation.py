"""The segmentation probe: what it reaches with features that know all or nothing, and what it may not look at."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_average_precision,
    binary_jaccard_index,
    multiclass_jaccard_index,
)

from jepa.checkpoints.load import random_encoder
from jepa.data.loader_config import LoaderConfig
from jepa.errors import DataError
from jepa.eval.classification import evaluate_beside, evaluate_encoder
from jepa.eval.clips import open_evaluation_data
from jepa.eval.features import TokenTable
from jepa.eval.results import read_results, table
from jepa.eval.segmentation import SegmentationConfig, TokenSet, segment, train_token_probe
from jepa.eval.settings import ClipConfig, EvaluationConfig
from jepa.eval.token_labels import EDGE
from jepa.eval.token_metrics import Ranking, confusion_counts, mean_iou, token_accuracy, token_shares
from jepa.models.encoder import EncoderConfig
from jepa.tokens import TokenGrid

QUICK = SegmentationConfig(strengths=(0.01, 0.0001), iterations=50)
SMALL = EvaluationConfig(loader=LoaderConfig(batch_size=8, workers=0))
ENCODER = EncoderConfig(width=24, depth=2, heads=2, patch=8, frames=4, size=32)


def blobs(videos: int, seed: int, knowing: bool) -> TokenSet:
    """Tokens of width 6, a fifth of which show a body; features that know it up to a shift, or nothing."""
    torch.manual_seed(seed)
    shares = (torch.rand(videos, 20) < 0.2).float()
    tokens = torch.randn(videos, 20, 6)
    if knowing:
        tokens[..., 2] = 7 + 3 * shares
    return TokenSet(tokens, shares)


def test_features_that_know_reach_everything() -> None:
    found = segment(blobs(40, 0, True), blobs(30, 1, True), range(0, 40, 4), QUICK, seed=0)
    for name, share in found.shares.items():
        assert (share.value, share.low, share.high) == (1.0, 1.0, 1.0), name
        assert share.count == 30


def test_features_that_know_nothing_reach_chance() -> None:
    found = segment(blobs(200, 0, False), blobs(200, 1, False), range(0, 200, 4), QUICK, seed=0)
    precision = found.shares["average_precision"]
    assert precision.low - 0.01 < found.chances["average_precision"] < precision.high + 0.01
    assert found.shares["mean_iou"].value < found.chances["mean_iou"] + 0.08
    assert found.chances["average_precision"] == pytest.approx(0.2, abs=0.02)
    assert found.chances["mean_iou"] == pytest.approx(found.chances["token_accuracy"] / 2)


def test_test_labels_choose_nothing() -> None:
    train, test = blobs(40, 0, True), blobs(30, 1, True)
    wrong = replace(test, shares=1 - test.shares)
    right, turned = (segment(train, part, range(10), QUICK, seed=0) for part in (test, wrong))
    assert right.settings == turned.settings
    assert turned.shares["token_accuracy"].value == 0.0


def test_tokens_left_out_neither_teach_nor_test() -> None:
    config = replace(QUICK, body=0.5, ground=0.1)
    train, test = blobs(40, 0, True), blobs(30, 1, True)
    expected = segment(train, test, range(10), config, seed=0)
    for part in (train, test):
        more = torch.full((len(part.shares), 5), 0.3)
        noise = 100 * torch.randn(len(part.shares), 5, 6)
        grown = TokenSet(torch.cat([part.tokens, noise], 1), torch.cat([part.shares, more], 1))
        train, test = (grown, test) if part is train else (train, grown)
    assert segment(train, test, range(10), config, seed=0).shares == expected.shares


def test_fewer_tokens_are_fitted_if_there_are_too_many() -> None:
    train, test = blobs(40, 0, True), blobs(30, 1, True)
    full = train_token_probe(train, range(10), QUICK, seed=0)
    part = train_token_probe(train, range(10), replace(QUICK, tokens=200), seed=0)
    assert not torch.equal(full.standardise.mean, part.standardise.mean)
    assert torch.equal(part.scores(test.tokens) > part.threshold, test.shares > 0)


def test_without_held_out_clips_a_middle_strength_and_even_odds() -> None:
    probe = train_token_probe(blobs(10, 0, True), [], QUICK, seed=0)
    assert (probe.strength, probe.threshold, probe.validation) == (0.0001, 0.0, None)


@pytest.mark.parametrize(("shares", "words"), [(torch.zeros(4, 20), "a body"), (torch.ones(4, 20), "the ground")])
def test_one_class_alone_is_an_error(shares: Tensor, words: str) -> None:
    only = TokenSet(torch.randn(4, 20, 6), shares)
    with pytest.raises(DataError, match=f"no token of the training clips shows {words}"):
        segment(only, blobs(4, 0, True), [], QUICK, seed=0)
    with pytest.raises(DataError, match=f"no token of the test clips shows {words}"):
        segment(blobs(4, 0, True), only, [], QUICK, seed=0)


@pytest.mark.parametrize("digits", [1, 6])
def test_metrics_equal_torchmetrics(digits: int) -> None:
    """Also with many equal scores (one digit)."""
    torch.manual_seed(digits)
    labels_BN = (torch.rand(12, 30) < 0.3).long()
    scores_BN = (0.8 * labels_BN + torch.randn(12, 30)).mul(10**digits).round().div(10**digits)
    labels_BN[torch.rand(12, 30) < 0.1] = EDGE
    known = labels_BN != EDGE
    truth, called = labels_BN[known], (scores_BN[known] > 0.4).long()
    counts = confusion_counts(scores_BN, labels_BN, 0.4).sum(0)
    both = multiclass_jaccard_index(called, truth, num_classes=2)
    assert float(mean_iou(counts)) == pytest.approx(float(both))
    assert float(token_accuracy(counts)) == pytest.approx(float(binary_accuracy(called, truth)))
    expected = binary_average_precision(scores_BN[known].sigmoid().double(), truth)
    ranking = Ranking.of(scores_BN, labels_BN)
    assert ranking.average_precision() == pytest.approx(float(expected), abs=1e-6)
    assert ranking.average_precision(torch.full((12,), 3.0).double()) == pytest.approx(float(expected), abs=1e-6)


def test_the_best_threshold_is_the_best_of_all() -> None:
    torch.manual_seed(0)
    labels_BN = (torch.rand(6, 30) < 0.3).long()
    scores_BN = (labels_BN + torch.randn(6, 30)).mul(5).round().div(5)

    def reached(threshold: float) -> float:
        called = (scores_BN > threshold).long()
        return float(
            binary_jaccard_index(called.flatten(), labels_BN.flatten())
            + binary_jaccard_index(1 - called.flatten(), 1 - labels_BN.flatten())
        )

    chosen = Ranking.of(scores_BN, labels_BN).best_threshold()
    assert reached(chosen) == max(reached(float(score) + 0.01) for score in scores_BN.flatten())


def test_the_interval_is_that_of_a_naive_bootstrap() -> None:
    """Clips that are all right or all wrong: tokens are not independent, and the interval must not take them so."""
    labels_BN = torch.tensor([[1, 0, 0, 0]]).repeat(50, 1)
    scores_BN = torch.where(torch.arange(50)[:, None] < 30, labels_BN, 1 - labels_BN).float()
    share = token_shares(scores_BN, labels_BN, 0.5, seed=0)["token_accuracy"]
    rng = np.random.default_rng(5)
    draws = [(rng.integers(50, size=50) < 30).mean() for _ in range(4000)]
    assert share.value == pytest.approx(0.6)
    assert (share.low, share.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.025)


def test_levels_stand_side_by_side_at_each_place() -> None:
    tokens = torch.randn(3, 2 * 2 * 12, 5)  # two segments of two levels
    places = TokenTable(tokens, TokenGrid(2, 2, 3)).places(2)
    assert places.shape == (3, 2 * 12, 2 * 5)
    for segment_number in range(2):
        for place in range(12):
            lower, upper = (tokens[:, (2 * segment_number + level) * 12 + place] for level in (0, 1))
            assert torch.equal(places[:, 12 * segment_number + place], torch.cat([lower, upper], dim=1))


def test_results_of_real_clips_are_complete(tiny_shards: Path, tmp_path: Path) -> None:
    data, encoder = open_evaluation_data(tiny_shards), random_encoder(ENCODER, seed=0)
    kinds = ("linear", "segmentation")
    results = list(
        evaluate_beside([("mine", encoder)], ("pixels",), data, ["bodies"], kinds, config=SMALL, out=tmp_path)
    )
    assert read_results(tmp_path) == results
    found = {(result.encoder, result.probe, result.metric): result for result in results}
    metrics = ("mean_iou", "token_accuracy", "average_precision")
    assert set(found) == {(name, "linear", "accuracy") for name in ("mine", "pixels")} | {
        (name, "segmentation", metric) for name in ("mine", "pixels") for metric in metrics
    }
    for result in results:
        assert 0 <= result.low <= result.value <= result.high <= 1
        assert result.count == 12
    assert found["mine", "segmentation", "mean_iou"].checkpoint_hash == encoder.checkpoint_hash
    shown = table(results)
    assert "segmentation, mean_iou" in shown
    assert "accuracy  " not in shown.splitlines()[0]


def test_no_label_is_needed(tiny_shards: Path) -> None:
    encoder, data = random_encoder(ENCODER, seed=0), open_evaluation_data(tiny_shards)
    two = replace(SMALL, clip=ClipConfig(levels=(0, 1), segments=2))
    results = evaluate_encoder("mine", encoder, data, ["no such label"], ["segmentation"], config=two)
    assert [result.task for result in results] == ["segmentation"] * 3
