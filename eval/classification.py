"""Frozen evaluation by classification: clips -> features of a frozen encoder -> probes -> results.

The protocol of V-JEPA (arXiv 2404.08471): the encoder is not touched, a small head is trained on its features.
Beside the trained encoder stand the same architecture with random weights, which shows what the architecture
gives for free, and raw pixels, which show what the data gives for free.

    data = open_evaluation_data("shards/world")
    results = evaluate_encoder("pretrained", load_encoder("runs/demo"), data, tasks=["motion"], probes=["linear"])
"""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from jepa.checkpoints.load import FrozenEncoder, random_encoder
from jepa.config import config_hash, to_dict
from jepa.data.loader_config import LoaderConfig
from jepa.data.windows import Short, WindowConfig
from jepa.devices import exact_device
from jepa.errors import ConfigError
from jepa.eval.attentive_training import AttentiveConfig
from jepa.eval.clips import EvaluationData, Task, choose_tasks
from jepa.eval.features import ClipView, token_table, view_of
from jepa.eval.knn import KnnConfig
from jepa.eval.linear import LinearConfig
from jepa.eval.metrics import accuracy, chance
from jepa.eval.pixels import PixelsConfig, pixel_table
from jepa.eval.probes import Answers, Features, ProbeKind, ProbesConfig, run_probe
from jepa.eval.results import Predictions, Result, record
from jepa.logs import get_logger

log = get_logger(__name__)

ALL_PROBES: tuple[ProbeKind, ...] = ("linear", "attentive", "knn")


@dataclass(frozen=True)
class ClipConfig:
    """Clips that are probed; what is not given is as in the encoder's pretraining."""

    frames: int | None = None
    """Frames in a clip."""
    stride: int | None = None
    """Take every n-th frame of the video."""
    fps: float | None = None
    """Frames per second of a clip; sets the stride from each video's frame rate."""
    short: Short | None = None
    """A video too short for a clip: stop with an error, repeat its last frame, or start it again (loop)."""
    segments: int = 1
    """Clips of a video, one from the middle of each of so many equal parts; probes see the features of all of them."""
    size: int | None = None
    """Height and width in pixels."""
    levels: tuple[int, ...] = ()
    """0-based encoder blocks whose tokens are read, concatenated along the sequence; the output if none."""

    def __post_init__(self) -> None:
        for name, count in (
            ("frames", self.frames),
            ("stride", self.stride),
            ("segments", self.segments),
            ("size", self.size),
        ):
            if count is not None and count < 1:
                raise ConfigError(f"clip.{name} is {count}, expected 1 or more")
        if self.fps is not None and not self.fps > 0:
            raise ConfigError(f"clip.fps is {self.fps}, expected a number above 0")

    def view(self, encoder: FrozenEncoder) -> ClipView:
        """Window and size of the clips for this encoder."""
        own = view_of(encoder)
        # A given stride is meant to count: it switches off a frame rate from pretraining.
        fps = own.window.fps if self.fps is None and self.stride is None else self.fps
        frames = own.window.frames if self.frames is None else self.frames
        stride = own.window.stride if self.stride is None else self.stride
        window = WindowConfig(frames, stride, fps, self.short or own.window.short)
        return ClipView(window, own.size if self.size is None else self.size, self.segments)


@dataclass(frozen=True)
class EvaluationConfig:
    """How encoders are evaluated."""

    clip: ClipConfig = field(default_factory=ClipConfig)
    """Which clips."""
    probes: ProbesConfig = field(default_factory=ProbesConfig)
    """Settings of the probes."""
    pixels: PixelsConfig = field(default_factory=PixelsConfig)
    """Raw-pixel baseline."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """Reading of the clips."""
    memory_gb: float = 2.0
    """Tokens above this go to a temporary file."""

    def __post_init__(self) -> None:
        if not self.memory_gb >= 0:
            raise ConfigError(f"memory_gb is {self.memory_gb}, expected 0 or more")


@dataclass(frozen=True)
class _Conditions:
    """All that a result depends on besides the weights and the seed; its hash is the `config_hash`."""

    data: tuple[str, str, int, int]
    view: dict[str, object]
    levels: tuple[int, ...]
    validation: float
    probe: LinearConfig | AttentiveConfig | KnnConfig
    pixels: PixelsConfig | None


def evaluate_beside(
    encoders: Sequence[tuple[str, FrozenEncoder]],
    baselines: Collection[str],
    data: EvaluationData,
    tasks: Sequence[str] = (),
    probes: Sequence[ProbeKind] = ALL_PROBES,
    *,
    config: EvaluationConfig | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> Iterator[Result]:
    """Probe encoders and then what they must beat, on the device of the first one.

    Args:
        encoders: (name in the results, frozen encoder), at least one.
        baselines: `random`: the architecture of the first encoder with random weights; `pixels`: raw pixels.
        data: as for `evaluate_encoder`, like all that follows.

    Raises:
        DataError: as `evaluate_encoder`.
    """
    config, first = config or EvaluationConfig(), encoders[0][1]
    device, compared = first.mean.device, list(encoders)
    if "random" in baselines:
        # The same clips and normalisation: only the weights differ.
        compared.append(("random", random_encoder(first.config, seed=seed, facts=first.facts).to(device)))
    for name, encoder in compared:
        yield from evaluate_encoder(name, encoder, data, tasks, probes, config=config, seed=seed, out=out)
    if "pixels" in baselines:
        view = config.clip.view(first)
        yield from evaluate_pixels(data, view, tasks, probes, config=config, seed=seed, out=out, device=device)


def evaluate_encoder(
    name: str,
    encoder: FrozenEncoder,
    data: EvaluationData,
    tasks: Sequence[str] = (),
    probes: Sequence[ProbeKind] = ALL_PROBES,
    *,
    config: EvaluationConfig | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> list[Result]:
    """Probe a frozen encoder, on the device it is on (probes on the CPU where that device has no float64).

    Args:
        name: what the encoder is called in the results.
        encoder: frozen encoder.
        data: labelled clips.
        tasks: labels to probe; motion and shape, or else every label with classes, if none is named.
        probes: which probes.
        config: clips and probe settings.
        seed: of the validation part and of the attentive probe.
        out: run folder that the results are written to as they come.

    Raises:
        DataError: the data lacks a task, or clips or tokens cannot be used.
    """
    config = config or EvaluationConfig()
    chosen = choose_tasks(data, tasks)
    view, levels = config.clip.view(encoder), config.clip.levels
    train, test = (
        token_table(
            encoder, clips, view, loader=config.loader, levels=levels, memory_gb=config.memory_gb,
            what=f"{name} encoder: {part} clips",
        )
        for part, clips in (("training", data.train), ("test", data.test))
    )  # fmt: skip
    device = exact_device(encoder.mean.device)
    features = Features(train.step_means().to(device), test.step_means().to(device), (train, test))
    return _probe_all(name, encoder.checkpoint_hash, features, data, chosen, probes, view, config, seed, out)


def evaluate_pixels(
    data: EvaluationData,
    view: ClipView,
    tasks: Sequence[str] = (),
    probes: Sequence[ProbeKind] = ALL_PROBES,
    *,
    config: EvaluationConfig | None = None,
    seed: int = 0,
    out: Path | None = None,
    device: torch.device | str = "cpu",
) -> list[Result]:
    """Probe raw pixels of the clips that an encoder would see (linear and knn; `view` from `ClipConfig.view(encoder)`).

    Raises:
        DataError: the data lacks a task, or clips cannot be used.
    """
    config = config or EvaluationConfig()
    chosen = choose_tasks(data, tasks)
    train, test = (
        pixel_table(
            clips, view, loader=config.loader, config=config.pixels, memory_gb=config.memory_gb,
            what=f"pixels: {part} clips",
        )
        for part, clips in (("training", data.train), ("test", data.test))
    )  # fmt: skip
    exact = exact_device(torch.device(device))
    features = Features(train.to(exact), test.to(exact))
    kinds: list[ProbeKind] = [kind for kind in probes if kind != "attentive"]
    bare = replace(config, clip=replace(config.clip, levels=()))
    return _probe_all("pixels", "none", features, data, chosen, kinds, view, bare, seed, out)


def _probe_all(
    name: str,
    checkpoint_hash: str,
    features: Features,
    data: EvaluationData,
    tasks: Sequence[Task],
    probes: Sequence[ProbeKind],
    view: ClipView,
    config: EvaluationConfig,
    seed: int,
    out: Path | None,
) -> list[Result]:
    results = []
    for task in tasks:
        for kind in probes:
            started = time.monotonic()
            answers = run_probe(kind, features, task, config.probes, seed=seed)
            conditions = _Conditions(
                data.fingerprint, _view_facts(view), config.clip.levels, config.probes.validation,
                config.probes.of(kind), config.pixels if features.tokens is None else None,
            )  # fmt: skip
            result = _result(name, checkpoint_hash, kind, task, answers, config_hash(conditions), seed, data.name)
            if out is not None:
                truth, predicted = task.test_targets.tolist(), answers.predicted.tolist()
                record(out, result, Predictions(task.classes, tuple(truth), tuple(predicted)))
            log.info(
                "%s, %s, %s probe: %.1f %% of %d clips (%.1f s)",
                task.name, name, kind, 100 * result.value, result.count, time.monotonic() - started,
            )  # fmt: skip
            results.append(result)
    return results


def _view_facts(view: ClipView) -> dict[str, object]:
    """The view as it goes into the hash: without a single segment, so that earlier results keep theirs."""
    facts: dict[str, object] = to_dict(view)
    return {key: value for key, value in facts.items() if key != "segments" or value != 1}


def _result(
    name: str,
    checkpoint_hash: str,
    kind: ProbeKind,
    task: Task,
    answers: Answers,
    digest: str,
    seed: int,
    data: str,
) -> Result:
    share = accuracy(answers.predicted, task.test_targets, len(task.classes))
    return Result(
        task=task.name,
        encoder=name,
        probe=kind,
        metric="accuracy",
        value=share.value,
        low=share.low,
        high=share.high,
        count=share.count,
        seed=seed,
        config_hash=digest,
        checkpoint_hash=checkpoint_hash,
        classes=task.learnable,
        chance=chance(task.test_targets, task.train_targets, task.learnable),
        settings=answers.settings,
        data=data,
    )
