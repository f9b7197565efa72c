"""One small reduction over all processes per step: the numbers and wishes that all of them must act on alike.

What a process knows alone (its part of the loss, that its loss is not finite, that it has received a signal, that
a checkpoint could not be written) must change nothing before the others know it too: one that stops or skips by
itself leaves the rest waiting in the next reduction. So all of it is packed into one vector, summed over the
processes between backward and optimizer, and read once; this is also the only place of a step where the host waits for
the device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

WISHES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "the time limit", "a failed save", "an alarm")
"""What a process may ask all to stop for; of several, the first counts."""


@dataclass(frozen=True)
class Agreed:
    """The same on every process."""

    values: dict[str, float]
    """Means over the processes."""
    bad_losses: int
    """Processes whose loss is not finite."""
    grad_norm: float
    """Norm of the gradient, of all processes together."""
    wish: str | None
    """Why the run is to stop after this step, one of `WISHES`, if any process wants that."""


class Agreement:
    """The reduction of one run."""

    def __init__(self, world_size: int, device: torch.device) -> None:
        self.world_size, self.device = world_size, device

    def __call__(
        self, values: Mapping[str, Tensor], losses: Sequence[Tensor], grad_norm: Tensor, wish: str | None = None
    ) -> Agreed:
        """
        Args:
            values: scalars to average, of the same names on every process.
            losses: of this process; looked at for whether they are finite.
            grad_norm: of the reduced gradient, so the same on every process.
            wish: of this process.
        """
        wishes = torch.tensor([float(name == wish) for name in WISHES], dtype=torch.float64)
        bad = 1 - torch.stack(list(losses)).isfinite().all().double()
        # float64: many float32 losses are summed without rounding that would depend on their order.
        packed = torch.cat(
            [
                torch.stack([value.double() for value in values.values()]) / self.world_size,
                bad.reshape(1),
                grad_norm.double().reshape(1) / self.world_size,
                wishes.to(bad.device),
            ]
        ).to(self.device)
        if self.world_size > 1:
            distributed.all_reduce(packed)
        numbers = packed.tolist()
        count = len(values)
        asked = numbers[count + 2 :]
        return Agreed(
            dict(zip(values, numbers[:count], strict=True)),
            bad_losses=round(numbers[count]),
            grad_norm=numbers[count + 1],
            wish=next((name for name, sum_ in zip(WISHES, asked, strict=True) if sum_), None),
        )
