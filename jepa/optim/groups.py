"""AdamW with two parameter groups: weights decay, biases and other 1-D parameters do not."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from jepa.optim.schedules import OptimConfig


def parameter_groups(modules: Iterable[nn.Module]) -> list[dict[str, Any]]:
    """Trainable parameters, as a decayed and an undecayed group.

    Mask tokens (1, 1, width) are one vector each and are not decayed either.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                vector = parameter.numel() == max(parameter.shape, default=1)
                (free if vector else decayed).append(parameter)
    return [{"params": decayed, "decays": True}, {"params": free, "decays": False, "weight_decay": 0.0}]


def build_optimizer(modules: Iterable[nn.Module], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; the schedules set its rates before each step."""
    groups = parameter_groups(modules)
    return torch.optim.AdamW(groups, lr=config.start_learning_rate, betas=config.betas, eps=config.eps, fused=True)
