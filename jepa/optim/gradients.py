"""The norm of the gradient, and clipping by it, for parameters that are whole or divided among processes (DTensor)."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


@torch.no_grad()
def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """L2 norm of all gradients together, a scalar on their device; 0 without any.

    Of slices it is the norm of the whole, the same in all processes: all of them must ask for it.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], most: float, norm: Tensor) -> None:
    """Scale all gradients so that their norm, which is `norm`, is at most `most`."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients:
        factor = (most / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([g.to_local() if isinstance(g, DTensor) else g for g in gradients], factor)
