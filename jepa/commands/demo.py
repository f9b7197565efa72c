"""`jepa demo`: the whole way in one command, from simulated videos to a page with probe results.

Two stages of pretraining: masked reconstruction of pixels, then V-JEPA with the EMA target encoder, started from the
first. From random weights V-JEPA has little worth predicting in its own features and learns slowly; a short
reconstruction stage gives it something to predict (docs/log.md has the measurements). Both stages, a random encoder
of the same architecture and raw pixels are probed on motions that no single frame gives away.

Every part continues where it was interrupted: the same command again finishes the demo.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from jepa.checkpoints.load import load_encoder, shipped
from jepa.config import load_named
from jepa.data.loader_config import LoaderConfig
from jepa.data.synthetic.generate import generate
from jepa.data.synthetic.world import WorldConfig
from jepa.devices import choose_device
from jepa.errors import ConfigError, InterruptedRun
from jepa.eval.attentive_training import AttentiveConfig
from jepa.eval.classification import evaluate_beside
from jepa.eval.clips import EvaluationData, open_evaluation_data
from jepa.eval.probes import ProbesConfig
from jepa.eval.results import Result, table
from jepa.eval.settings import EvaluationConfig
from jepa.logs import get_logger
from jepa.report.page import write_report
from jepa.training.config import PretrainConfig
from jepa.training.run_folder import RunFolder

SUMMARY = "Run the whole pipeline on a synthetic world: data, pretraining, probes, page"
EXAMPLE = "jepa demo --out runs/demo"

log = get_logger(__name__)


@dataclass(frozen=True)
class Config:
    """Run the whole pipeline on a synthetic world."""

    out: Path = Path("runs/demo")
    """Run folder; the data set lies in its subfolder `data`, the stages before the last one in `stages`."""
    preset: Literal["quick", "full"] = "quick"
    """`quick`: the easy world, minutes on two cores. `full`: the hard world, also V-JEPA from scratch, over an hour."""
    seed: int = 0
    """Seed of the data, the weights and the probes."""
    clips: int | None = None
    """Clips to simulate, training and test together; none for what the preset says."""
    max_steps: int | None = None
    """End each stage after so many optimizer steps, and the training of an attentive probe after so many passes; for a
    quick look at the mechanics, not at the results."""
    json: bool = False
    """Print the results as JSON."""


@dataclass(frozen=True)
class Stage:
    """One pretraining run of the demo."""

    encoder: str
    """Its name in the results."""
    config: str
    """Shipped configuration."""
    folder: str
    """Run folder inside the demo's."""
    init: str | None = None
    """Folder of the stage whose weights it starts from."""


@dataclass(frozen=True)
class Preset:
    """What the demo does."""

    world: Literal["easy", "hard"]
    clips: int
    labelled: int
    """Training clips whose labels the probes see."""
    stages: tuple[Stage, ...]


_RECONSTRUCTION = "stages/reconstruction"
PRESETS = {
    "quick": Preset(
        "easy",
        6000,
        1000,
        (
            Stage("reconstruction", "demo-reconstruction", _RECONSTRUCTION),
            Stage("pretrained", "demo", ".", init=_RECONSTRUCTION),
        ),
    ),
    "full": Preset(
        "hard",
        24000,
        1000,
        (
            Stage("reconstruction", "full-reconstruction", _RECONSTRUCTION),
            Stage("scratch", "full", "stages/scratch"),
            Stage("pretrained", "full", ".", init=_RECONSTRUCTION),
        ),
    ),
}
TASKS = ("motion", "shape")


def run(config: Config) -> int:
    """Make the data, train the stages, probe them, write the page, print the table and the page's path.

    Raises:
        ConfigError: the folder holds another run, one whose first stage was shorter than it now would be, or cannot be
            written.
        InterruptedRun: stopped by a signal; the same command continues.
    """
    started, preset = time.monotonic(), PRESETS[config.preset]
    data = config.out / "data"
    generate(WorldConfig(world=preset.world), data, clips=config.clips or preset.clips, seed=config.seed, workers=2)
    plans = {stage.folder: _plan(stage, config, data) for stage in preset.stages}
    _require_unmoved(preset.stages, plans)
    for stage in preset.stages:
        log.info("stage %s: %s", stage.encoder, stage.config)
        try:
            _train(plans[stage.folder])
        except InterruptedRun as stop:
            raise InterruptedRun("stopped, state saved; the same command continues", stop.exit_code) from stop
    results = list(
        _probe(preset.stages, open_evaluation_data(data, seed=config.seed, labelled=preset.labelled), config)
    )
    page = write_report([config.out]).page
    log.info("demo finished in %.1f minutes", (time.monotonic() - started) / 60)
    if config.json:
        print(json.dumps({"results": [asdict(result) for result in results], "page": page}, indent=2))
    else:
        print(f"{table(results)}\n\nThe page: {page}")
    return 0


def _plan(stage: Stage, config: Config, data: Path) -> PretrainConfig:
    given = {
        "data": data,
        "out": config.out / stage.folder,
        "resume": True,
        "seed": config.seed,
        "max_steps": config.max_steps,
        "init": None if stage.init is None else str(config.out / stage.init),
        "loader.cache": config.out / "cache",
    }
    return load_named(PretrainConfig, "pretrain", stage.config, given, "jepa demo")


def _require_unmoved(stages: Sequence[Stage], plans: Mapping[str, PretrainConfig]) -> None:
    """Refuse now what `pretrain` would refuse only after the first stage: to go on from weights that moved on."""
    for stage in stages:
        if stage.init is None or not RunFolder(plans[stage.folder].out).saved_step():
            continue
        done = RunFolder(plans[stage.init].out).model_step()
        if done is not None and done < plans[stage.init].last_step:
            raise ConfigError(
                f"cannot go on in {plans[stage.folder].out}: its first stage ended after {done} steps and later ones "
                "started from it, so a longer first stage would change what they began with; choose another --out"
            )


def _train(plan: PretrainConfig) -> None:
    from jepa.training.trainer import pretrain  # imports lightning, which `--help` need not wait for

    pretrain(plan)


def _probe(stages: Sequence[Stage], data: EvaluationData, config: Config) -> Iterator[Result]:
    """Results of the stages, of shipped encoders, and of what they must beat."""
    attentive = AttentiveConfig()
    if config.max_steps is not None:
        epochs = min(attentive.epochs, config.max_steps)
        attentive = replace(attentive, epochs=epochs, least_steps=min(attentive.least_steps, config.max_steps))
    settings = EvaluationConfig(
        probes=ProbesConfig(attentive=attentive), loader=LoaderConfig(workers=0, cache=config.out / "cache")
    )
    places = [(stage.encoder, config.out / stage.folder) for stage in reversed(stages)]
    device = choose_device("auto")  # as the training of the stages
    places += [(name, Path(name)) for name in shipped()]
    encoders = [(name, load_encoder(place).to(device)) for name, place in places]
    yield from evaluate_beside(
        encoders, ("random", "pixels"), data, TASKS, config=settings, seed=config.seed, out=config.out
    )
