"""Tiny models of the family, and batches for them."""

from collections.abc import Callable

import pytest
import torch

from jepa.masks.build import MaskSampler, MasksConfig
from jepa.models.build import ModelConfig, build_jepa
from jepa.models.encoder import Encoder, EncoderConfig
from jepa.models.jepa import JEPA
from jepa.objectives.build import Objective, ObjectiveConfig, build_objective, target_width
from jepa.objectives.targets import Teacher
from jepa.tokens import Mask, TokenGrid
from jepa.types import ClipBatch

VIDEO, IMAGE = TokenGrid(2, 4, 4), TokenGrid(1, 4, 4)


def _family(
    model: ModelConfig, config: ObjectiveConfig, teacher: Teacher | None = None, seed: int = 0
) -> tuple[JEPA, Objective]:
    """A model for clips of 4 frames and 32 x 32 pixels, and its objective. Mask tokens are not zero."""
    torch.manual_seed(seed)
    encoder = build_jepa(model, frames=4, size=32).encoder.config
    width = target_width(config, encoder, model.predicted_levels, teacher)
    jepa = build_jepa(model, frames=4, size=32, target_width=width)
    with torch.no_grad():
        for token in jepa.predictor.mask_tokens:
            token.normal_(std=0.02)
    return jepa, build_objective(config, encoder, teacher)


def _batch_of(image: bool = False, step: int = 0, seed: int = 0, clips: int = 3) -> ClipBatch:
    """Clips or images, each with two masks."""
    grid, frames = (IMAGE, 1) if image else (VIDEO, 4)
    masks = MaskSampler(MasksConfig(), grid, seed)(0, clips)
    pixels = torch.randn(clips, 3, frames, 32, 32, generator=torch.Generator().manual_seed(seed))
    return ClipBatch(pixels, masks, grid, torch.arange(clips), step=step)


def _target_blocks(image: ClipBatch) -> ClipBatch:
    """Images whose target is four blocks of two tokens, as in I-JEPA; some tokens are in two of them."""
    count = len(image.clips)
    context = torch.tensor([0, 1, 2, 3, 4, 8, 12]).expand(count, -1)
    target = torch.tensor([5, 6, 6, 7, 9, 10, 10, 11]).expand(count, -1)
    return ClipBatch(image.clips, (Mask(context, target, blocks=4),), image.grid, image.positions)


def _teacher_of(levels: int = 1, levels_of_encoder: tuple[int, ...] = (), **changes: object) -> Teacher:
    """A teacher that is wider and deeper than the models above, and cuts clips as they do."""
    torch.manual_seed(7)
    shape: dict[str, object] = {"width": 144, "depth": 6, "heads": 3, "patch": 8, "frames": 4, "size": 32}
    shape |= {"levels": levels_of_encoder} | changes
    return Teacher(Encoder(EncoderConfig(**shape)), levels)  # type: ignore[arg-type]


@pytest.fixture
def family() -> Callable[..., tuple[JEPA, Objective]]:
    return _family


@pytest.fixture
def batch_of() -> Callable[..., ClipBatch]:
    return _batch_of


@pytest.fixture
def target_blocks() -> Callable[[ClipBatch], ClipBatch]:
    return _target_blocks


@pytest.fixture
def teacher_of() -> Callable[..., Teacher]:
    return _teacher_of
