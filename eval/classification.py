"""Frozen evaluation: clips -> features of a frozen encoder -> probes of clips and of tokens -> results.

The protocol of V-JEPA (arXiv 2404.08471): the encoder is not touched, a small head is trained on its features.
Beside the trained encoder stand the same architecture with random weights, which shows what the architecture
gives for free, and raw pixels, which show what the data gives for free.

    data = open_evaluation_data("shards/world")
    results = evaluate_encoder("pretrained", load_encoder("runs/demo"), data, tasks=["motion"], probes=["linear"])
"""

import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch

from jepa.checkpoints.load import FrozenEncoder, random_encoder
from jepa.config import config_hash
from jepa.devices import exact_device
from jepa.eval.clips import EvaluationData, Task, choose_tasks
from jepa.eval.dense import require_masks, segment_pixels, segment_tokens
from jepa.eval.features import ClipView, token_table
from jepa.eval.metrics import accuracy, chance
from jepa.eval.pixels import pixel_table
from jepa.eval.probes import Answers, AnyProbe, Features, ProbeKind, run_probe
from jepa.eval.results import Predictions, Result, record
from jepa.eval.settings import Conditions, EvaluationConfig
from jepa.logs import get_logger

log = get_logger(__name__)

ALL_PROBES: tuple[ProbeKind, ...] = ("linear", "attentive", "knn")


def evaluate_beside(
    encoders: Sequence[tuple[str, FrozenEncoder]],
    baselines: Collection[str],
    data: EvaluationData,
    tasks: Sequence[str] = (),
    probes: Sequence[AnyProbe] = ALL_PROBES,
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
        view, kinds = config.clip.view(first), _of_clips(probes)
        if kinds:
            yield from evaluate_pixels(data, view, tasks, kinds, config=config, seed=seed, out=out, device=device)
        if "segmentation" in probes:
            yield from segment_pixels(first, data, view, config, seed=seed, out=out, device=device)


def evaluate_encoder(
    name: str,
    encoder: FrozenEncoder,
    data: EvaluationData,
    tasks: Sequence[str] = (),
    probes: Sequence[AnyProbe] = ALL_PROBES,
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
        probes: which probes; `segmentation` asks for no label but for masks of the bodies.
        config: clips and probe settings.
        seed: of the validation part and of the attentive probe.
        out: run folder that the results are written to as they come.

    Raises:
        DataError: the data lacks a task, or clips or tokens cannot be used.
    """
    config, kinds = config or EvaluationConfig(), _of_clips(probes)
    chosen = choose_tasks(data, tasks) if kinds else []
    if "segmentation" in probes:
        require_masks(data)
    view, levels = config.clip.view(encoder), config.clip.levels
    train, test = (
        token_table(
            encoder, clips, view, loader=config.loader, levels=levels, memory_gb=config.memory_gb,
            what=f"{name} encoder: {part} clips",
        )
        for part, clips in (("training", data.train), ("test", data.test))
    )  # fmt: skip
    device = exact_device(encoder.mean.device)
    results = []
    if kinds:
        features = Features(train.step_means().to(device), test.step_means().to(device), (train, test))
        results = _probe_all(name, encoder.checkpoint_hash, features, data, chosen, kinds, view, config, seed, out)
    if "segmentation" in probes:
        results += segment_tokens(
            name, encoder.checkpoint_hash, (train, test), data, view, config, seed=seed, out=out, device=device
        )
    return results


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
    return _probe_all("pixels", "none", features, data, chosen, kinds, view, config, seed, out)


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
            conditions = Conditions.of(data, view, config, kind, config.pixels if features.tokens is None else None)
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


def _of_clips(probes: Sequence[AnyProbe]) -> list[ProbeKind]:
    """Those that tell clips apart."""
    return [kind for kind in probes if kind != "segmentation"]


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
