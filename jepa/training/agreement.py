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

from jepa.devices import exact_device
from jepa.training.preemption import TIME_LIMIT

FAILED_SAVE, ALARM = "a failed save", "an alarm"
WISHES = (FAILED_SAVE, ALARM, "SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", TIME_LIMIT)
"""What a process may ask all to stop for; of several, the first counts."""


@dataclass(frozen=True)
class Agreed:
    """The same on every process."""

    values: dict[str, float]
    """Means over the processes."""
    grad_norm: float
    """Norm of the gradient, of all processes together."""
    bad_losses: int
    """Processes whose loss is not finite."""
    wish: str | None
    """Why the run is to stop after this step, one of `WISHES`, if any process wants that."""


class Agreement:
    """The reduction of one run."""

    def __init__(self, world_size: int, device: torch.device) -> None:
        self.world_size, self.device = world_size, exact_device(device)

    def __call__(
        self, values: Mapping[str, Tensor], losses: Sequence[Tensor], grad_norm: Tensor, wish: str | None = None
    ) -> Agreed:
        """
        Args:
            values: scalars to average, of the same names on every process.
            losses: scalars of this process, one per part of the batch; looked at for whether they are finite.
            grad_norm: of the reduced gradient, so the same on every process.
            wish: of this process.
        """
        # One transfer, then float64: a sum of many float32 losses would depend on their order.
        measured = torch.stack([*values.values(), grad_norm, *losses]).detach().to(self.device).double()
        count, wishes = len(values), torch.tensor([float(name == wish) for name in WISHES], dtype=torch.float64)
        if self.device.type == "cuda":
            wishes = wishes.pin_memory()  # else the copy would wait for the device
        packed = torch.cat(
            [
                measured[: count + 1] / self.world_size,
                1 - measured[count + 1 :].isfinite().all().double().reshape(1),
                wishes.to(self.device, non_blocking=True),
            ]
        )
        if self.world_size > 1:
            distributed.all_reduce(packed)
        numbers = packed.tolist()
        asked = [name for name, processes in zip(WISHES, numbers[count + 2 :], strict=True) if processes]
        return Agreed(
            dict(zip(values, numbers[:count], strict=True)),
            grad_norm=numbers[count],
            bad_losses=round(numbers[count + 1]),
            wish=asked[0] if asked else None,
        )
