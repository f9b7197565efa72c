"""The diagnostics of a training step, gathered where its tokens are at hand."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jepa.models.jepa import JEPA
from jepa.objectives.diagnostics import clip_std, token_cosine, watch
from jepa.tokens import Mask, gather


@dataclass(frozen=True)
class View:
    """What context encoder and predictor made of the clips of a batch under one mask."""

    mask: Mask
    context: Tensor
    """(B, K, LD), at the visible positions."""
    predicted: Tensor
    """(B, M, E), at the target positions."""


@torch.no_grad()
def watch_step(
    jepa: JEPA,
    clips: Float[Tensor, "B C T H W"],
    views: Sequence[View],
    target: Float[Tensor, "B N E"] | None = None,
) -> dict[str, Tensor]:
    """Diagnostics of the target encoder's output, and of the views by the first mask.

    Args:
        jepa: the networks.
        clips: normalised.
        views: one for each mask.
        target: tokens of the target encoder for all positions, where they are at hand.
    """
    tokens_BNE = jepa.encode_target(clips) if target is None else target
    width, view = jepa.encoder.config.width, views[0]
    tokens_BND = tokens_BNE[..., -width:]
    return watch(tokens_BND) | {
        "context_cosine": token_cosine(view.context[..., -width:], gather(tokens_BND, view.mask.context)),
        "prediction_std": clip_std(view.predicted, view.mask.target),
    }
