"""What a run starts from: seeded random weights, or the training state of another run.

`--init RUN` takes the encoder that the run meant to be used, for both encoders; that is a new beginning. A cool-down
is none: it goes on with the context encoder, the target encoder and the predictor as they were, and with AdamW's
moments, as the released code of V-JEPA 2.1 does. That is `--init RUN/checkpoints/last.ckpt`, and what each phase of
a run with phases does. Step, position in the data and schedules are those of the new run, from 0.
"""

import os
from pathlib import Path

import torch

from jepa.checkpoints.manifest import LAST
from jepa.checkpoints.read import checkpoint_digest, read_checkpoint
from jepa.checkpoints.run_checkpoint import described_model
from jepa.checkpoints.store import CheckpointStore
from jepa.checkpoints.weights import misfit
from jepa.errors import DataError
from jepa.logs import get_logger
from jepa.models.build import build_jepa, encoder_config
from jepa.models.encoder import EncoderConfig, differences
from jepa.models.jepa import JEPA
from jepa.models.predictor import PredictorConfig
from jepa.objectives.build import target_width
from jepa.objectives.targets import Teacher
from jepa.rng import derive
from jepa.training.config import PretrainConfig
from jepa.training.module import Pretraining

log = get_logger(__name__)


def build_model(config: PretrainConfig, teacher: Teacher | None = None) -> JEPA:
    """The model of a run with its seeded random weights; without any inside `torch.device("meta")`.

    Args:
        config: of the run.
        teacher: the opened `objective.teacher`, whose width is predicted.
    """
    encoder = encoder_config(config.model, frames=config.clip.frames, size=config.clip.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, 0, "init"))
        return build_jepa(
            config.model,
            frames=config.clip.frames,
            size=config.clip.size,
            target_width=target_width(config.objective, encoder, config.model.predicted_levels, teacher),
        )


def continue_from(module: Pretraining, path: Path) -> None:
    """Give a module the weights of a checkpoint, each tensor its own, and its optimizer the moments.

    The moments stay mapped from the file until the optimizer copies them.

    Raises:
        DataError: no checkpoint of this package, a damaged one, or one of another model.
    """
    path = _newest(path)
    digest = checkpoint_digest(path, whole=True)
    state = read_checkpoint(path, lazy=True, checked=True)
    own, saved = module.state_dict(), state["state_dict"]
    if other := misfit(saved, own) or _functions_differ(described_model(path), _configs(module.jepa)):
        raise DataError(f"{path} does not fit the model: {other}")
    module.load_state_dict(saved)
    module.moments = state["optimizer"]
    module.init_digest = digest
    log.info("weights and moments of step %d from %s", state["jepa"]["step"], path)


def _newest(path: Path) -> Path:
    """What a link to the newest checkpoint would point to if a kill has come before it was made; else the path."""
    if path.name != LAST or os.path.lexists(path):
        return path
    saved = CheckpointStore(path.parent).newest()
    return saved.path if saved else path


def difference(one: JEPA, other: JEPA) -> str:
    """Why the first model cannot go on with the weights of the other; empty if it can."""
    shapes = misfit(one.state_dict(), other.state_dict())
    return shapes or _functions_differ(_configs(one), _configs(other))


Configs = tuple[EncoderConfig, PredictorConfig]


def _configs(jepa: JEPA) -> Configs:
    return jepa.encoder.config, jepa.predictor.config


def _functions_differ(one: Configs, other: Configs) -> str:
    """Where two models compute something else from weights of the same shapes."""
    heads = [config.heads for _, config in (one, other)]
    found = differences(one[0], other[0])
    return "; ".join(found if heads[0] == heads[1] else [*found, f"predictor heads {heads[0]}, not {heads[1]}"])
