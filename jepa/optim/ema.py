"""Exponential moving average of the target encoder: target <- momentum * target + (1 - momentum) * source."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def update_ema(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """Move all parameters of `target` towards those of `source`, in place."""
    targets: list[Tensor] = list(target.parameters())
    sources: list[Tensor] = list(source.parameters())
    if len(targets) != len(sources):
        raise ValueError(f"target has {len(targets)} parameters, source {len(sources)}: expected the same module twice")
    torch._foreach_lerp_(targets, sources, 1.0 - momentum)
