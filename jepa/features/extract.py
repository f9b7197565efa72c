"""Features of a frozen encoder for every video of a source, resumable at the granularity of a shard.

Long videos are cut into windows as long as the clips of pretraining: `tiles` lie side by side over the whole video,
`centre` is the middle one. The list of all windows is a pure function of the source and the settings, so shard k
holds windows k * rows to (k + 1) * rows - 1 whatever happened before, and a rerun starts at the first missing shard.

Pooling: `none` keeps all tokens (N, D), `steps` the mean of each time step (steps, D), `mean` one vector (D,). The mean
over all tokens throws time away; for motion take `steps` or `none`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jepa.checkpoints.io import atomic_write
from jepa.checkpoints.load import FrozenEncoder
from jepa.data.evaluation_batches import evaluation_batches
from jepa.data.loader_config import LoaderConfig
from jepa.data.source import Source
from jepa.data.windows import Short, WindowConfig
from jepa.errors import ConfigError, DataError
from jepa.features.plan import Plan, Skipped, make_plan, window_of
from jepa.features.writers import (
    FACTS_NAME,
    FORMAT_VERSION,
    INDEX_NAME,
    complete_shards,
    settings_hash,
    write_index,
    write_shard,
)
from jepa.logs import get_logger, progress
from jepa.tokens import TokenGrid

log = get_logger(__name__)

Pool = Literal["none", "mean", "steps"]
_SHARD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class ExtractConfig:
    """What is taken from the encoder, and how it is stored."""

    pool: Pool = "mean"
    """`none`: all tokens (N, D); `steps`: mean of each time step (steps, D); `mean`: one vector (D)."""
    level: int = -1
    """Block whose output is read, through the final norm: 0 is the first, -1 the last."""
    windows: Literal["tiles", "centre"] = "tiles"
    """`tiles`: windows side by side over the whole video; `centre`: the middle one."""
    stride: int | None = None
    """Frames from one frame of a window to the next; as in pretraining when none."""
    short: Short | None = None
    """Videos shorter than a window: `error` skips them, `repeat` repeats their last frame, `loop` starts them again; as
    in pretraining when none."""
    batch_size: int = 32
    """Windows that go through the encoder together."""
    shard_size: int | None = None
    """Rows of a shard; when none, as many as fill 256 MiB."""
    dtype: Literal["float16", "float32"] = "float16"
    """Number format of the stored features."""
    workers: int = 2
    """Processes that decode; 0 decodes in this one."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "shard_size", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}, expected at least 1")


@dataclass(frozen=True)
class Extraction:
    """What an extraction did."""

    out: str
    rows: int
    new_rows: int
    """Rows written by this call; 0 if everything was there already."""
    shards: int
    row_shape: tuple[int, ...]
    skipped: tuple[Skipped, ...]


def pool_tokens(tokens_BND: Float[Tensor, "B N D"], grid: TokenGrid, pool: Pool) -> Tensor:
    """(B, N, D), (B, steps, D) or (B, D)."""
    match pool:
        case "none":
            return tokens_BND
        case "steps":
            by_step: Tensor = tokens_BND.unflatten(1, (grid.steps, grid.rows * grid.columns))
            return by_step.mean(2)
        case "mean":
            return tokens_BND.mean(1)


def row_shape(encoder: FrozenEncoder, pool: Pool) -> tuple[int, ...]:
    """Shape of one row of features."""
    config = encoder.config
    grid = TokenGrid.of_clip(config.frames, config.size, config.size, tubelet=config.tubelet, patch=config.patch)
    return {"none": (grid.count, config.width), "steps": (grid.steps, config.width), "mean": (config.width,)}[pool]


def _settings(encoder: FrozenEncoder, source: Source, config: ExtractConfig, window: WindowConfig, rows: int) -> dict[
    str, object
]:  # fmt: skip
    """What decides the content of the files; batch size and workers do not."""
    return {
        "checkpoint": encoder.checkpoint_hash,
        "data": source.fingerprint,
        "pool": config.pool,
        "level": config.level,
        "windows": config.windows,
        "frames": window.frames,
        "stride": window.stride,
        "fps": window.fps,
        "short": window.short,
        "size": encoder.config.size,
        "shard_size": rows,
        "dtype": config.dtype,
    }


def _check_folder(out: Path, settings: Mapping[str, object]) -> None:
    """An empty or new folder, or one that was begun with the same settings; ConfigError otherwise."""
    facts = out / FACTS_NAME
    if not facts.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"{out} exists and is no extraction (no {FACTS_NAME}); choose another --out")
        return
    try:
        before = json.loads(facts.read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{facts} cannot be read ({error}); choose another --out") from error
    for name, value in settings.items():
        if before.get(name) != value:
            raise ConfigError(
                f"{out} was begun with {name} {before.get(name)}, now it is {value}; "
                "choose another --out or the same settings"
            )


def extract(
    encoder: FrozenEncoder, source: Source, out: Path, config: ExtractConfig, *, encoder_path: str
) -> Extraction:
    """Write the features of every window of `source` to `out`, continuing what is there.

    Args:
        encoder: the frozen encoder, on the device to compute on.
        source: videos.
        out: folder of shards, index and `extract.json`.
        config: pooling, windows, storage.
        encoder_path: how the user named the encoder; only written down.

    Raises:
        ConfigError: `out` was begun with other settings or cannot be written.
        DataError: no video is long enough, or one cannot be decoded.
    """
    if not -encoder.config.depth <= config.level < encoder.config.depth:
        raise ConfigError(f"level {config.level} is outside an encoder of {encoder.config.depth} blocks")
    window = window_of(encoder, config.stride, config.short)
    plan = make_plan(source, window, tiles=config.windows == "tiles")
    if not plan.rows:
        why = plan.skipped[0].why if plan.skipped else "it is empty"
        raise DataError(f"{source.name} has no video to extract from: {why}")
    shape = row_shape(encoder, config.pool)
    per_shard = config.shard_size or max(1, _SHARD_BYTES // int(np.prod(shape) * np.dtype(config.dtype).itemsize))
    settings = _settings(encoder, source, config, window, per_shard)
    _check_folder(out, settings)
    expected = [min(per_shard, len(plan.rows) - first) for first in range(0, len(plan.rows), per_shard)]
    fingerprint = settings_hash(settings)
    done = complete_shards(out, expected, fingerprint)
    _report_start(plan, expected, done)
    if done < len(expected) or not (out / INDEX_NAME).exists():
        facts = {
            "format_version": FORMAT_VERSION,
            "encoder": encoder_path,
            "settings": settings,
            "source": source.name,
            "rows": len(plan.rows),
            "shards": len(expected),
            "row_shape": list(shape),
            "skipped": [asdict(video) for video in plan.skipped],
        }
        with atomic_write(out / FACTS_NAME) as file:
            file.write(json.dumps(facts, indent=2).encode() + b"\n")
        _write_shards(_Job(encoder, source, config, window, plan), out, expected, done, fingerprint)
        write_index(out, len(expected))
    new = sum(expected[done:])
    return Extraction(str(out), len(plan.rows), new, len(expected), shape, plan.skipped)


@dataclass(frozen=True)
class _Job:
    """What the features are made from."""

    encoder: FrozenEncoder
    source: Source
    config: ExtractConfig
    window: WindowConfig
    plan: Plan


def _report_start(plan: Plan, expected: list[int], done: int) -> None:
    for video in plan.skipped:
        log.warning("skipped %s: %s", video.key, video.why)
    if 0 < done < len(expected):
        log.info("continuing after %d of %d shards", done, len(expected))


def _write_shards(job: _Job, out: Path, expected: list[int], done: int, fingerprint: str) -> None:
    """Write the shards from number `done` on."""
    first = sum(expected[:done])
    waiting: list[np.ndarray] = []
    shard = done
    with progress(None, "extracting", total=len(job.plan.rows) - first) as bar:
        for features in _feature_batches(job, first):
            waiting.extend(features)
            bar.advance(len(features))
            while shard < len(expected) and len(waiting) >= expected[shard]:
                count = expected[shard]
                rows = job.plan.rows[first : first + count]
                write_shard(out, shard, np.stack(waiting[:count]), rows, fingerprint)
                del waiting[:count]
                first += count
                shard += 1


def _feature_batches(job: _Job, first: int) -> Iterator[np.ndarray]:
    """Features (b, ...) of the windows from number `first` on."""
    encoder, config, plan = job.encoder, job.config, job.plan
    if first >= len(plan.rows):
        return
    videos = list(dict.fromkeys(plan.owners[first:]))
    position = plan.owners.index(videos[0])  # windows of that video before `first` are read again and dropped
    batches = evaluation_batches(
        job.source,
        window=job.window,
        size=encoder.config.size,
        batch_size=config.batch_size,
        loader=LoaderConfig(batch_size=config.batch_size, workers=config.workers, cache_gb=0.0),
        indices=videos,
        tiles=config.windows == "tiles",
    )
    device = next(encoder.parameters()).device
    for batch in batches:
        planned = slice(position, position + len(batch.indices))
        if batch.indices != plan.owners[planned] or batch.windows != plan.windows[planned]:
            raise RuntimeError("the windows that were read are not the planned ones")
        drop = max(first - position, 0)
        position += len(batch.indices)
        if drop >= len(batch.indices):
            continue
        clips = encoder.preprocess(batch.clips[drop:].to(device))
        tokens_BND = encoder.levels(clips, [config.level])[0].float()
        pooled = pool_tokens(tokens_BND, encoder.grid_of(clips), config.pool)
        yield _storable(pooled, config.dtype, plan, planned)


def _storable(pooled: Tensor, dtype: str, plan: Plan, planned: slice) -> np.ndarray:
    """Features as the stored number format; DataError where they are not finite or do not fit."""
    values = pooled.to(getattr(torch, dtype)).cpu().numpy()
    finite = np.isfinite(values).reshape(len(values), -1).all(1)
    if not finite.all():
        row = plan.rows[planned][-len(values) :][int(finite.argmin())]
        raise DataError(f"features of {row.key} from frame {row.start} are not finite in {dtype}; try --dtype float32")
    return np.asarray(values)
