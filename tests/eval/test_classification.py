"""Evaluation end to end on real clips, and what must not leak into it."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from jepa.checkpoints.load import FrozenEncoder, random_encoder
from jepa.data.loader_config import LoaderConfig
from jepa.data.source import SampleInfo, Source
from jepa.errors import DataError
from jepa.eval.attentive_training import AttentiveConfig
from jepa.eval.classification import evaluate_encoder, evaluate_pixels
from jepa.eval.clips import ClipSet, EvaluationData, open_evaluation_data
from jepa.eval.metrics import wilson
from jepa.eval.probes import ProbesConfig
from jepa.eval.results import read_predictions, read_results
from jepa.eval.settings import ClipConfig, EvaluationConfig
from jepa.models.encoder import EncoderConfig

ATTENTIVE = AttentiveConfig(epochs=1, batch_size=8, least_steps=3)
SMALL = EvaluationConfig(probes=ProbesConfig(attentive=ATTENTIVE), loader=LoaderConfig(batch_size=8, workers=0))


@dataclass
class Relabelled:
    """A source in which every clip has the label of another."""

    source: Source
    name: str = "relabelled"
    fingerprint: str = "relabelled"

    @property
    def runs(self) -> tuple[int, ...]:
        return self.source.runs

    def __len__(self) -> int:
        return len(self.source)

    def info(self, index: int) -> SampleInfo:
        other = self.source.info((index + 5) % len(self.source))
        return replace(self.source.info(index), labels=other.labels)

    def read(self, index: int) -> bytes:
        return self.source.read(index)

    def place(self, index: int) -> str:
        return self.source.place(index)

    def extra(self, index: int, name: str) -> bytes:
        return self.source.extra(index, name)


@pytest.fixture
def encoder() -> FrozenEncoder:
    return random_encoder(EncoderConfig(width=24, depth=2, heads=2, patch=16, frames=4, size=32), seed=0)


def test_results_are_complete_consistent_and_written(encoder: FrozenEncoder, tiny_shards: Path, tmp_path: Path) -> None:
    data = open_evaluation_data(tiny_shards)
    results = evaluate_encoder("pretrained", encoder, data, ["bodies"], config=SMALL, out=tmp_path)
    assert [result.probe for result in results] == ["linear", "attentive", "knn"]
    for result in results:
        assert result.checkpoint_hash == encoder.checkpoint_hash
        assert (result.low, result.high) == wilson(round(result.value * result.count), result.count)
        said = read_predictions(tmp_path, result)
        right = sum(truth == predicted for truth, predicted in zip(said.truth, said.predicted, strict=True))
        assert result.count == len(said.truth) == 12
        assert result.value == pytest.approx(right / 12)
    assert read_results(tmp_path) == results
    again = evaluate_encoder("pretrained", encoder, data, ["bodies"], config=SMALL, out=tmp_path)
    assert again == results == read_results(tmp_path)


def test_test_labels_change_no_choice_and_no_answer(encoder: FrozenEncoder, tiny_shards: Path, tmp_path: Path) -> None:
    data = open_evaluation_data(tiny_shards)
    shuffled = EvaluationData(data.name, data.train, ClipSet(Relabelled(data.test.source), data.test.indices))
    answers, truths = [], []
    for name, part in (("true", data), ("shuffled", shuffled)):
        results = evaluate_encoder("pretrained", encoder, part, ["bodies"], config=SMALL, out=tmp_path / name)
        files = [read_predictions(tmp_path / name, result) for result in results]
        answers.append(([result.settings for result in results], [file.predicted for file in files]))
        truths.append(files[0].truth)
    assert answers[0] == answers[1]
    assert truths[0] != truths[1], "the labels were not shuffled"


def test_the_hash_follows_what_matters_and_nothing_else(encoder: FrozenEncoder, tiny_shards: Path) -> None:
    data = open_evaluation_data(tiny_shards)

    def digests(config: EvaluationConfig) -> list[str]:
        results = evaluate_encoder("x", encoder, data, ["bodies"], ["linear", "knn"], config=config)
        return [result.config_hash for result in results]

    linear, knn = digests(SMALL)
    assert linear != knn
    assert digests(replace(SMALL, loader=LoaderConfig(batch_size=3, workers=0))) == [linear, knn]
    stronger = replace(SMALL, probes=replace(SMALL.probes, linear=replace(SMALL.probes.linear, strengths=(1.0,))))
    assert digests(stronger)[0] != linear
    assert digests(stronger)[1] == knn
    assert digests(replace(SMALL, clip=ClipConfig(stride=2)))[1] != knn


def test_pixels_have_no_attentive_probe(encoder: FrozenEncoder, tiny_shards: Path) -> None:
    data = open_evaluation_data(tiny_shards)
    results = evaluate_pixels(data, SMALL.clip.view(encoder), ["bodies"], config=SMALL)
    assert [(result.encoder, result.probe) for result in results] == [("pixels", "linear"), ("pixels", "knn")]


def test_a_blind_encoder_gets_the_share_of_the_commonest_class(tiny_shards: Path) -> None:
    data = open_evaluation_data(tiny_shards)
    config = EncoderConfig(width=24, depth=1, heads=2, patch=16, frames=4, size=32)
    blind = random_encoder(config, seed=0)
    for parameter in blind.parameters():
        parameter.zero_()
    (result,) = evaluate_encoder("blind", blind, data, ["bodies"], ["linear"], config=SMALL)
    # Features that say nothing leave the bias: the commonest class of the training part.
    truth = [str(info.labels["bodies"]) for info in data.test.infos]
    train = [str(info.labels["bodies"]) for info in data.train.infos]
    assert result.value == pytest.approx(truth.count(max(sorted(set(train)), key=train.count)) / len(truth))


def test_clip_settings_override_those_of_the_encoder() -> None:
    config = EncoderConfig(width=24, depth=1, heads=2, patch=16, frames=4, size=32)
    trained = random_encoder(config, seed=0, facts={"clip": {"stride": 3, "fps": 2.0}})
    own = ClipConfig().view(trained)
    assert (own.window.frames, own.window.stride, own.window.fps, own.size) == (4, 3, 2.0, 32)
    other = ClipConfig(frames=8, stride=1, size=48).view(trained)
    assert (other.window.frames, other.window.stride, other.window.fps, other.size) == (8, 1, None, 48)


def test_a_frame_rate_of_its_own_counts() -> None:
    config = EncoderConfig(width=24, depth=1, heads=2, patch=16, frames=4, size=32)
    trained = random_encoder(config, seed=0, facts={"clip": {"stride": 3, "fps": 2.0}})
    other = ClipConfig(fps=4.0).view(trained)
    assert (other.window.frames, other.window.fps, other.size) == (4, 4.0, 32)


def test_short_videos_are_treated_as_in_pretraining_unless_said(
    encoder: FrozenEncoder, tiny_shards: Path, tmp_path: Path
) -> None:
    padded = random_encoder(encoder.config, seed=0, facts={"clip": {"stride": 20, "short": "repeat"}})
    assert ClipConfig().view(padded).window.short == "repeat"
    assert ClipConfig(short="error").view(padded).window.short == "error"
    data = open_evaluation_data(tiny_shards)  # 16 frames each; a clip of 4 at stride 20 wants 61
    assert evaluate_encoder("padded", padded, data, ["bodies"], ["knn"], config=SMALL)
    strict = replace(SMALL, clip=ClipConfig(short="error"))
    with pytest.raises(DataError, match="needs 61"):
        evaluate_encoder("strict", padded, data, ["bodies"], ["knn"], config=strict)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_answers(encoder: FrozenEncoder, tiny_shards: Path) -> None:
    data = open_evaluation_data(tiny_shards)
    ours = evaluate_encoder("x", encoder, data, ["bodies"], config=SMALL)
    theirs = evaluate_encoder("x", encoder.to("cuda"), data, ["bodies"], config=SMALL)
    for one, other in zip(ours, theirs, strict=True):
        # One clip of twelve may change sides by rounding.
        assert abs(one.value - other.value) < 1.5 / 12
        assert one.config_hash == other.config_hash


def test_gradients_never_reach_the_encoder(encoder: FrozenEncoder, tiny_shards: Path) -> None:
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    evaluate_encoder("x", encoder, open_evaluation_data(tiny_shards), ["bodies"], ["attentive"], config=SMALL)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name])
