"""The three probes of whole clips behind one function: features and a task in, answers on the test clips out.

A probe asks what a frozen encoder's features make easy to read. `linear` may weigh them, `attentive` may also
choose where to look, `knn` may not learn at all. Whatever a probe has to choose (penalty, learning rate, weight
decay) is chosen on a fifth of the training set, parted by origin; test labels do not enter here at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from jepa.errors import ConfigError
from jepa.eval.attentive_training import AttentiveConfig, train_attentive
from jepa.eval.clips import Task
from jepa.eval.features import TokenTable
from jepa.eval.knn import KnnConfig, nearest, vote
from jepa.eval.linear import LinearConfig, span_coordinates, train_linear
from jepa.eval.segmentation import SegmentationConfig
from jepa.eval.split import hold_out
from jepa.eval.standardiser import Standardiser
from jepa.logs import get_logger

log = get_logger(__name__)

ProbeKind = Literal["linear", "attentive", "knn"]
"""Probes that tell clips apart."""
AnyProbe = Literal["linear", "attentive", "knn", "segmentation"]
"""And the one that tells tokens apart (`jepa.eval.segmentation`)."""


@dataclass(frozen=True)
class ProbesConfig:
    """Settings of the probes."""

    linear: LinearConfig = field(default_factory=LinearConfig)
    """Linear probe."""
    attentive: AttentiveConfig = field(default_factory=AttentiveConfig)
    """Attentive probe."""
    knn: KnnConfig = field(default_factory=KnnConfig)
    """Nearest-neighbour probe."""
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    """Segmentation probe."""
    validation: float = 0.2
    """Share of the training set on which settings are chosen."""

    def __post_init__(self) -> None:
        if not 0 < self.validation < 1:
            raise ConfigError(f"validation is {self.validation}, expected a share between 0 and 1")

    def of(self, kind: AnyProbe) -> LinearConfig | AttentiveConfig | KnnConfig | SegmentationConfig:
        """The settings of one probe."""
        match kind:
            case "linear":
                return self.linear
            case "attentive":
                return self.attentive
            case "knn":
                return self.knn
            case "segmentation":
                return self.segmentation


@dataclass(frozen=True)
class Features:
    """What is known about every clip of both parts: one vector each and, from an encoder, tokens."""

    train: Tensor
    test: Tensor
    """float32 (clips, features) each."""
    tokens: tuple[TokenTable, TokenTable] | None = None
    """Of the training and the test part."""

    @cached_property
    def standardised(self) -> tuple[Tensor, Tensor]:
        standardise = Standardiser.of(self.train)
        return standardise(self.train), standardise(self.test)

    @cached_property
    def coordinates(self) -> tuple[Tensor, Tensor]:
        """For the linear probe; see `span_coordinates`."""
        return span_coordinates(*self.standardised)


@dataclass(frozen=True)
class Answers:
    """What a probe says about the test clips."""

    predicted: Tensor
    """int64, a class number per test row of the task."""
    settings: Mapping[str, float | int | str | None]
    """What it was trained with, and the validation accuracy that decided."""


def run_probe(kind: ProbeKind, features: Features, task: Task, config: ProbesConfig, *, seed: int) -> Answers:
    """Train a probe on the training clips of a task and answer the test clips.

    Raises:
        ConfigError: an attentive probe without tokens.
    """
    match kind:
        case "linear":
            return _linear(features, task, config, seed)
        case "knn":
            return _knn(features, task, config)
        case "attentive":
            return _attentive(features, task, config, seed)


def _part(task: Task, config: ProbesConfig, seed: int) -> tuple[list[int], list[int]]:
    """Positions among the training rows: to fit on, and to choose on."""
    targets = task.train_targets.tolist()
    parts = hold_out(targets, task.origins, config.validation, seed=seed, purpose=f"validation {task.name}")
    if not parts[1]:
        log.warning(
            "task %s: every class has one film only, so no settings can be chosen; defaults are used", task.name
        )
    return parts


def _linear(features: Features, task: Task, config: ProbesConfig, seed: int) -> Answers:
    train_BF, test_BF = features.coordinates
    targets_B = task.train_targets.to(train_BF.device)
    fit, validation = _part(task, config, seed)
    probe = train_linear(train_BF[task.train_rows], targets_B, task.learnable, fit, validation, config.linear)
    settings = {"strength": probe.strength, "validation": probe.validation}
    return Answers(probe.fit.predict(test_BF[task.test_rows]).cpu(), settings)


def _knn(features: Features, task: Task, config: ProbesConfig) -> Answers:
    train_BF, test_BF = features.standardised
    similarity_Bk, rows_Bk = nearest(train_BF[task.train_rows], test_BF[task.test_rows], config.knn.k)
    targets_B = task.train_targets.to(train_BF.device)
    predicted = vote(similarity_Bk, targets_B[rows_Bk], task.learnable, config.knn.temperature)
    return Answers(predicted.cpu(), {"k": similarity_Bk.shape[1], "temperature": config.knn.temperature})


def _attentive(features: Features, task: Task, config: ProbesConfig, seed: int) -> Answers:
    if features.tokens is None:
        raise ConfigError("the attentive probe reads tokens: raw pixels have linear and knn only")
    train, test = features.tokens
    device: torch.device = features.train.device
    fit, validation = _part(task, config, seed)
    probe = train_attentive(
        train, task.train_rows, task.train_targets, task.learnable, fit, validation, config.attentive,
        seed=seed, device=device,
    )  # fmt: skip
    settings = {
        "learning_rate": probe.setting.learning_rate,
        "weight_decay": probe.setting.weight_decay,
        "depth": config.attentive.depth,
        "epochs": config.attentive.epochs,
        "validation": probe.validation,
    }
    return Answers(probe.predict(test, task.test_rows, device), settings)
