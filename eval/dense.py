"""The segmentation probe on the data of an evaluation: from tokens of clips and their masks to results."""

import time
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from jepa.checkpoints.load import FrozenEncoder
from jepa.config import config_hash
from jepa.devices import exact_device
from jepa.eval.clips import EvaluationData
from jepa.eval.features import ClipView, TokenTable
from jepa.eval.pixels import pixel_tokens
from jepa.eval.results import Result, record
from jepa.eval.segmentation import Segmentation, TokenSet, segment
from jepa.eval.settings import Conditions, EvaluationConfig
from jepa.eval.split import hold_out
from jepa.eval.token_labels import body_shares, instances
from jepa.logs import get_logger
from jepa.tokens import TokenGrid

log = get_logger(__name__)

NAME: Literal["segmentation"] = "segmentation"
"""Of the task and of the probe in the results."""


def require_masks(data: EvaluationData) -> None:
    """Say that there are no masks before minutes are spent on tokens. Raises DataError."""
    for clips in (data.train, data.test):
        instances(clips, 0)


def segment_tokens(
    name: str,
    checkpoint_hash: str,
    tables: tuple[TokenTable, TokenTable],
    data: EvaluationData,
    view: ClipView,
    config: EvaluationConfig,
    *,
    seed: int,
    out: Path | None,
    device: torch.device,
) -> list[Result]:
    """Probe the tokens of an encoder on the training and the test clips.

    Args:
        name: of the encoder in the results.
        checkpoint_hash: of its weights.
        tables: its tokens on the training and on the test clips.
        data: these clips.
        view: how they were cut.
        config: probe settings and levels.
        seed: of the validation part and the bootstrap.
        out: run folder that the results are written to.
        device: where to fit.

    Raises:
        DataError: clips without masks.
    """
    started = time.monotonic()
    tokens = tables[0].places(view.segments), tables[1].places(view.segments)
    found = _segment(tokens, tables[0].grid, data, view, config, seed, device)
    return _results(name, checkpoint_hash, found, data, Conditions.of(data, view, config, NAME), seed, out, started)


def segment_pixels(
    like: FrozenEncoder,
    data: EvaluationData,
    view: ClipView,
    config: EvaluationConfig,
    *,
    seed: int,
    out: Path | None,
    device: torch.device,
) -> list[Result]:
    """Probe the raw pixels of each token that an encoder would make; arguments and errors as of `segment_tokens`."""
    started = time.monotonic()
    require_masks(data)
    (train, grid), (test, _) = (
        pixel_tokens(
            clips, view, like.encoder, loader=config.loader, memory_gb=config.memory_gb, what=f"pixels: {part} clips"
        )
        for part, clips in (("training", data.train), ("test", data.test))
    )
    found = _segment((train, test), grid, data, view, config, seed, device)
    return _results("pixels", "none", found, data, Conditions.of(data, view, config, NAME, grid), seed, out, started)


def _segment(
    tokens: tuple[Tensor, Tensor],
    grid: TokenGrid,
    data: EvaluationData,
    view: ClipView,
    config: EvaluationConfig,
    seed: int,
    device: torch.device,
) -> Segmentation:
    train, test = (
        TokenSet(found, body_shares(clips, view, grid))
        for found, clips in zip(tokens, (data.train, data.test), strict=True)
    )
    alike = [0] * len(data.train)  # there are no classes of clips to spread
    _, held = hold_out(alike, data.train.origins, config.probes.validation, seed=seed, purpose=f"validation {NAME}")
    return segment(train, test, held, config.probes.segmentation, seed=seed, device=exact_device(device))


def _results(
    name: str,
    checkpoint_hash: str,
    found: Segmentation,
    data: EvaluationData,
    conditions: Conditions,
    seed: int,
    out: Path | None,
    started: float,
) -> list[Result]:
    results = [
        Result(
            task=NAME, encoder=name, probe=NAME, metric=metric, value=share.value, low=share.low, high=share.high,
            count=share.count, seed=seed, config_hash=config_hash(conditions), checkpoint_hash=checkpoint_hash,
            classes=2, chance=found.chances[metric], settings=found.settings, data=data.name,
        )
        for metric, share in found.shares.items()
    ]  # fmt: skip
    if out is not None:
        for result in results:
            record(out, result)
    shown = ", ".join(f"{result.metric} {100 * result.value:.1f} %" for result in results)
    log.info("%s, %s: %s of %d clips (%.1f s)", NAME, name, shown, len(data.test), time.monotonic() - started)
    return results
