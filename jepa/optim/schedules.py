"""Schedules as pure functions of the step: nothing to replay on resume.

Learning rate: linear warm-up, then constant, cosine or linear to the final value. Weight decay: cosine between its
ends. EMA momentum: linear between its ends. `stretch` computes the schedules for a longer run than is made (V-JEPA 1
uses 1.25 and cuts).
"""

import math
from dataclasses import dataclass
from typing import Literal

from jepa.errors import ConfigError


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its schedules, and the momentum of the target encoder. Values of the V-JEPA 2 recipe by default."""

    steps: int = 90_000
    """Optimizer steps of the run."""
    learning_rate: float = 6.25e-4
    """Learning rate after the warm-up."""
    start_learning_rate: float = 2e-4
    """Learning rate at step 0."""
    final_learning_rate: float = 1e-6
    """Learning rate at the last step."""
    warmup_steps: int = 12_000
    """Steps of linear warm-up."""
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after the warm-up; `constant` stays at `learning_rate`."""
    weight_decay: float = 0.04
    """Weight decay at step 0; none on biases and other 1-D parameters."""
    final_weight_decay: float = 0.4
    """Weight decay at the last step."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW betas."""
    eps: float = 1e-8
    """AdamW epsilon."""
    clip: float | None = None
    """Largest norm of the gradient, none for no clipping."""
    momentum: float = 0.999
    """EMA momentum of the target encoder at step 0."""
    final_momentum: float = 1.0
    """EMA momentum at the last step."""
    stretch: float = 1.0
    """Schedules are computed for `stretch` times the steps and cut."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"optim.steps is {self.steps}, expected at least 1")
        if not 0 <= self.momentum <= 1 or not 0 <= self.final_momentum <= 1:
            raise ConfigError(f"optim momentum {self.momentum} -> {self.final_momentum} must lie between 0 and 1")


def learning_rate(config: OptimConfig, step: int) -> float:
    """Learning rate used by optimizer step `step` (from 0)."""
    if step < config.warmup_steps:
        return _linear(config.start_learning_rate, config.learning_rate, step / config.warmup_steps)
    length = max(config.steps * config.stretch - config.warmup_steps, 1)
    progress = min((step - config.warmup_steps) / length, 1.0)
    match config.decay:
        case "constant":
            return config.learning_rate
        case "linear":
            return _linear(config.learning_rate, config.final_learning_rate, progress)
        case "cosine":
            return _cosine(config.learning_rate, config.final_learning_rate, progress)


def weight_decay(config: OptimConfig, step: int) -> float:
    """Weight decay used by optimizer step `step`."""
    return _cosine(config.weight_decay, config.final_weight_decay, _progress(config, step))


def momentum(config: OptimConfig, step: int) -> float:
    """EMA momentum used after optimizer step `step`."""
    return _linear(config.momentum, config.final_momentum, _progress(config, step))


def _progress(config: OptimConfig, step: int) -> float:
    return min(step / (config.steps * config.stretch), 1.0)


def _linear(start: float, end: float, progress: float) -> float:
    return start + (end - start) * progress


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))
