"""The teacher of a run: a frozen encoder, opened and held against the model that it is to teach."""

from dataclasses import dataclass

import torch

from jepa.checkpoints.folder import IMAGENET_MEAN, IMAGENET_STD
from jepa.checkpoints.load import load_encoder
from jepa.errors import ConfigError, DataError
from jepa.logs import get_logger
from jepa.objectives.targets import Teacher
from jepa.training.config import PretrainConfig

log = get_logger(__name__)


@dataclass(frozen=True)
class OpenedTeacher:
    """What `objective.teacher` names."""

    teacher: Teacher
    digest: str
    """Of its weights file."""


def open_teacher(config: PretrainConfig) -> OpenedTeacher | None:
    """Load the teacher of a run; none if its objective has none. Leaves the random generator alone.

    Raises:
        ConfigError: it cuts clips into other tokens, or has fewer levels than are to be predicted.
        DataError: nothing there, no encoder, or one that was trained on pixels normalised in another way.
    """
    name = config.objective.teacher
    if name is None:
        return None
    with torch.random.fork_rng(devices=[]):
        loaded = load_encoder(name)
    own, model = loaded.config, config.model
    if (own.patch, own.tubelet) != (model.patch, model.tubelet):
        raise ConfigError(
            f"the teacher {name} has patches of {own.patch} pixels and tubelets of {own.tubelet} frames, the model "
            f"{model.patch} and {model.tubelet}: their tokens must be the same, set model.patch and model.tubelet"
        )
    for tensor, expected in ((loaded.mean, IMAGENET_MEAN), (loaded.std, IMAGENET_STD)):
        if not torch.allclose(tensor.flatten(), torch.tensor(expected)):
            raise DataError(
                f"the teacher {name} expects pixels normalised by {tensor.flatten().tolist()}, training normalises by "
                f"{list(expected)}: choose another teacher"
            )
    teacher = Teacher(loaded.encoder, model.predicted_levels)
    log.info("teacher %s: width %d, depth %d, predicting %d values a token", name, own.width, own.depth, teacher.width)
    return OpenedTeacher(teacher, loaded.checkpoint_hash)
