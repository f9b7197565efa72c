"""Prints which clips a run consumes, from any position, for any number of processes and workers: without decoding, and
by the very code that training uses. Options are those of `jepa pretrain`, so that `--config RUN/config.yaml` tells what
a run has consumed or will. Samples that are known to be bad are replaced as in training.

Clips are numbered in the order of the steps; with images between the videos, `position` counts each kind by itself.
The number of processes that share a step decides which of them reads a clip (its rank), and nothing else.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from jepa.data.draws import Draw
from jepa.data.mixture import Mixture
from jepa.data.plan import Plan, RankStep, make_plan
from jepa.data.workers import Loader
from jepa.errors import ConfigError
from jepa.training.config import PretrainConfig
from jepa.training.data import open_data
from jepa.training.order_file import row_of

SUMMARY = "Print which clips a run consumes, from any position, without decoding"
EXAMPLE = "jepa order --data shards/mine --start 1000000 --count 64 --world-size 4 --json"

AT_ONCE = 1024
"""Steps that are worked out before they are printed."""


@dataclass(frozen=True)
class Config(PretrainConfig):
    """As a pretraining run; what does not decide its clips is taken and not used."""

    out: Path = Path("unused")
    """Not used: nothing is written."""
    start: int = 0
    """Number of the first clip, as consumed by the run: the clips of all kinds and processes counted together."""
    count: int = 64
    """Clips to print."""
    phase: str | None = None
    """Name of the phase whose clips to print, if the run has phases; none for the first."""
    world_size: int = 1
    """Processes that share each step."""
    workers: int = 0
    """Worker processes of each, which work its part out; 0: none beside this one. The clips do not depend on it.
    (loader.workers is that of training, and not used here.)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("start", 0), ("count", 0), ("world_size", 1), ("workers", 0)):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"{name} is {value}, expected {least} or more")


def run(config: Config) -> int:
    """Print a line per clip."""
    for number, row in enumerate(rows(config)):
        if not number and not config.json:
            print("    step   position  kind   rank  source  shard  key  frames")
        print(json.dumps(row, ensure_ascii=False) if config.json else _text(row))
    return 0


def rows(config: Config) -> Iterator[dict[str, Any]]:
    """The clips, in order.

    Raises:
        ConfigError, DataError: as training with this configuration would, before its first step or at such a clip.
    """
    if not config.count:
        return
    config = _of_phase(config)
    videos, images = open_data(config)
    mixed = None if images is None else (images, config.steps)
    plan = make_plan(
        videos, config.clip.window, config.loader, config.seed, rank=0, world_size=config.world_size, images=mixed
    )
    first, last = (config.steps.of_clip(clip) for clip in (config.start, config.start + config.count - 1))
    clips = (
        row
        for start in range(first, last + 1, AT_ONCE)
        for step, ranks in _planned(config, plan, range(start, min(start + AT_ONCE, last + 1)))
        for rank, one in enumerate(ranks)
        for row in _rows(step, rank, one, images if one.images and images is not None else videos)
    )
    before = config.start - config.steps.consumed(first)
    yield from islice(clips, before, before + config.count)


def _of_phase(config: Config) -> Config:
    """The phase that is asked for, as a run of its own; the run itself if it has none."""
    names = [phase.name for phase in config.phases]
    if config.phase is not None and config.phase not in names:
        there = f"the phases are {', '.join(names)}" if names else "this run has no phases"
        raise ConfigError(f"phase is '{config.phase}', but {there}")
    if not names:
        return config
    run = config.phase_run(0 if config.phase is None else names.index(config.phase))
    assert isinstance(run, Config)
    return run


def _planned(config: Config, plan: Plan, steps: range) -> Iterator[tuple[int, tuple[RankStep, ...]]]:
    """What each rank consumes in each of the steps, worked out by its worker processes."""
    ranks = [
        list(Loader(replace(plan, rank=rank), steps, workers=config.workers, start_method=config.loader.start_method))
        for rank in range(config.world_size)
    ]
    return zip(steps, zip(*ranks, strict=True), strict=True)


def _rows(step: int, rank: int, planned: RankStep, mixture: Mixture) -> Iterator[dict[str, Any]]:
    """The clips of a rank in a step."""
    for draw in planned.draws:
        start = row_of(step, images=planned.images, position=draw.position, source=mixture.names[draw.source])
        shard = _shard(mixture, draw)
        yield {**start, "key": draw.key, "frames": list(draw.window), "shard": shard, "rank": rank}


def _shard(mixture: Mixture, draw: Draw) -> str:
    return mixture.sources[draw.source].place(draw.index)


def _text(row: dict[str, Any]) -> str:
    frames = row["frames"]
    return (
        f"{row['step']:8}  {row['position']:9}  {row['kind']:5}  {row['rank']:4}  {row['source']}  "
        f"{row['shard']}  {row['key']}  {frames[0]}..{frames[-1]}"
    )
