"""Exponential moving average of the target encoder: target <- momentum * target + (1 - momentum) * source.

Element by element, so slices of parameters (DTensor) are averaged where they lie, without communication.
"""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def update_ema(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """Move all parameters of `target` towards those of `source`, in place.

    Raises:
        ValueError: they are not twice the same module, divided among processes in the same way.
    """
    targets, sources = dict(target.named_parameters()), dict(source.named_parameters())
    if len(targets) != len(sources):
        raise ValueError(f"target has {len(targets)} parameters, source {len(sources)}: expected the same module twice")
    for (name, one), other in zip(targets.items(), sources.values(), strict=True):
        if _division(one) != _division(other):
            raise ValueError(f"{name} is divided as {_division(one)} in the target, {_division(other)} in the source")
    torch._foreach_lerp_([*map(_own, targets.values())], [*map(_own, sources.values())], 1.0 - momentum)


def _division(parameter: Tensor) -> object:
    """How a parameter is divided among processes; none if it is whole."""
    return (parameter.device_mesh, parameter.placements) if isinstance(parameter, DTensor) else None


def _own(parameter: Tensor) -> Tensor:
    """What this process holds of a parameter, sharing its memory."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter
