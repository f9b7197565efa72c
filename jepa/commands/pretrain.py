"""`jepa pretrain`: train an encoder by predicting what is masked."""

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jepa.training.config import PretrainConfig as Config

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from jepa.training.trainer import PretrainResult

SUMMARY = "Pretrain an encoder on shards or a folder of videos"
EXAMPLE = "jepa pretrain --config demo-reconstruction --data data/physics --out runs/first"

__all__ = ["EXAMPLE", "SUMMARY", "Config", "run"]


def run(config: Config) -> int:
    """Train and print where the model is."""
    # Imports lightning, which `--help` and usage errors need not wait for.
    from jepa.training.launch import find_ranks
    from jepa.training.trainer import pretrain

    result = pretrain(config, _watchers)
    if find_ranks(os.environ).rank == 0:
        print(_as_json(result) if config.json else _as_text(result))
    return 0


def _watchers(config: Config) -> "Sequence[Callback]":
    """What looks on, if anything does. Labels that cannot be used end the command before anything is written."""
    if config.online.data is None:
        return ()
    from jepa.eval.online import OnlineProbe

    return [OnlineProbe(config)]


def _as_json(result: "PretrainResult") -> str:
    return json.dumps(
        {"run": str(result.run), "steps": result.steps, "loss": result.loss, "model": str(result.model)}, indent=2
    )


def _as_text(result: "PretrainResult") -> str:
    return f"run    {result.run}\nsteps  {result.steps}\nloss   {result.loss:.4f}\nmodel  {result.model}"
