"""Prints which clips a run consumes, from any position, for any number of processes and workers: without decoding, and
by the very code that training uses. Options are those of `jepa pretrain`, so that `--config RUN/config.yaml` tells what
a run has consumed or will. Samples that are known to be bad are replaced as in training.

Clips are numbered in the order of the steps; with images between the videos, `position` counts each kind by itself.
Workers are those of processes that start, or resume, at the step of the first clip.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

from jepa.data.draws import Draw
from jepa.data.mixture import Mixture
from jepa.data.plan import Plan, make_plan
from jepa.data.workers import worker_of
from jepa.errors import ConfigError
from jepa.training.config import PretrainConfig
from jepa.training.data import open_data
from jepa.training.order_file import row_of

SUMMARY = "Print which clips a run consumes, from any position, without decoding"
EXAMPLE = "jepa order --data shards/mine --start 1000000 --count 64 --world-size 4 --json"


@dataclass(frozen=True)
class Config(PretrainConfig):
    """As a pretraining run; what does not decide its clips is taken and not used."""

    out: Path = Path("unused")
    """Not used: nothing is written."""
    start: int = 0
    """Number of the first clip, as consumed by the run: the clips of all kinds and processes counted together."""
    count: int = 64
    """Clips to print."""
    world_size: int = 1
    """Processes that share each step."""
    workers: int | None = None
    """Worker processes of each; none for loader.workers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("start", 0), ("count", 0), ("world_size", 1), ("workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}, expected {least} or more")


def run(config: Config) -> int:
    """Print a line per clip."""
    for number, row in enumerate(rows(config)):
        if not number and not config.json:
            print("    step   position  kind   rank  worker  source  shard  key  frames")
        print(json.dumps(row, ensure_ascii=False) if config.json else _text(row))
    return 0


def rows(config: Config) -> Iterator[dict[str, Any]]:
    """The clips, in order.

    Raises:
        ConfigError, DataError: as training with this configuration would, before its first step or at such a clip.
    """
    videos, images = open_data(config)
    mixed = None if images is None else (images, config.steps)
    plan = make_plan(
        videos, config.clip.window, config.loader, config.seed, rank=0, world_size=config.world_size, images=mixed
    )
    plans = [replace(plan, rank=rank) for rank in range(config.world_size)]
    first = config.steps.of_clip(config.start)
    clips = (row for step in count(first) for row in _step(config, plans, images, step, first))
    before = config.start - config.steps.consumed(first)
    return islice(clips, before, before + config.count)


def _step(config: Config, plans: list[Plan], images: Mixture | None, step: int, first: int) -> Iterator[dict[str, Any]]:
    """The clips of a step, rank by rank."""
    workers = config.loader.workers if config.workers is None else config.workers
    for plan in plans:
        planned = plan(step)
        mixture = images if planned.images and images is not None else plan.videos.mixture
        process = {"rank": plan.rank, "worker": worker_of(step - first, workers)}
        for draw in planned.draws:
            source = mixture.names[draw.source]
            start = row_of(step, images=planned.images, position=draw.position, source=source)
            yield {**start, "key": draw.key, "frames": list(draw.window), "shard": _shard(mixture, draw), **process}


def _shard(mixture: Mixture, draw: Draw) -> str:
    return mixture.sources[draw.source].place(draw.index)


def _text(row: dict[str, Any]) -> str:
    worker = "-" if row["worker"] is None else row["worker"]
    frames = row["frames"]
    return (
        f"{row['step']:8}  {row['position']:9}  {row['kind']:5}  {row['rank']:4}  {worker:>6}  {row['source']}  "
        f"{row['shard']}  {row['key']}  {frames[0]}..{frames[-1]}"
    )
