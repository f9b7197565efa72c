"""How a run is executed: devices, processes, saving, logging. Nothing here changes what is learned, up to rounding."""

from dataclasses import dataclass
from typing import Literal

from jepa.devices import DeviceName
from jepa.errors import ConfigError

LoggerName = Literal["tensorboard", "wandb", "mlflow"]


@dataclass(frozen=True)
class RunConfig:
    """How the run is executed; nothing here changes what is learned, up to rounding."""

    device: DeviceName = "auto"
    """`auto`: the GPU if there is one. One process uses one device; start several with torchrun or srun."""
    precision: Literal["32", "bf16"] = "32"
    """`bf16`: matrix products in bfloat16, weights and optimizer in float32; for GPUs that have it."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """Of several processes: `ddp`, a copy of the model in each; `fsdp`, its blocks and their optimizer state divided
    among them (FSDP2), for models that one device cannot hold. `auto`: ddp."""
    device_batch: int | None = None
    """Clips that a device computes at once, at most; none: its whole share of loader.batch_size. A larger share is cut
    into equal parts whose gradients are added up, which costs memory for one part only."""
    checkpoint_activations: bool = False
    """Compute the activations of each block again in the backward pass instead of keeping them: less memory, about a
    third more computation."""
    compile: bool = False
    """Compile each transformer block with torch.compile; shapes are static, so all of it happens in the first steps."""
    threads: int | None = None
    """CPU threads of a training process; none for what torch chooses."""
    log_every: int = 50
    """Steps between two rows of metrics.csv."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; one is also written at the end and when a signal or a time limit stops the run."""
    keep_last: int = 2
    """Checkpoints kept, counted from the newest; the second is what a damaged newest one falls back to."""
    keep_every: int | None = None
    """Also keep, for good, the checkpoints of steps that are a multiple of this; none: only the last ones."""
    save_in_background: bool = False
    """Copy the state and go on training while it is written; needs the memory of the copy, and a kill during the
    writing loses the interval before it too."""
    timeout: float = 600.0
    """Seconds that a process waits for the others before it gives up; longer than the slowest step and any save."""
    stall_after: float = 300.0
    """Seconds without a finished step after which each process writes where it hangs to stacks/; 0: never."""
    stop_before: float = 120.0
    """Seconds before the time limit of a Slurm job at which the run saves its state and has itself requeued."""
    requeue: bool = True
    """In a Slurm job: put the job back into the queue when a signal or its time limit stops the run."""
    loggers: tuple[LoggerName, ...] = ("tensorboard",)
    """Where metrics go beside metrics.csv; `wandb` and `mlflow` need the extras of these names."""
    pictures_every: int = 1000
    """Steps between two pictures of masks and of the features' main components in TensorBoard; 0: none."""
    record_order: bool = False
    """Write every consumed clip to order.jsonl in the run folder: position, key, frames, as `jepa order` tells them."""
    deterministic: bool = True
    """Ask torch for deterministic algorithms; some GPU operations are slower then."""

    def __post_init__(self) -> None:
        for name in ("threads", "device_batch", "log_every", "checkpoint_every", "keep_last", "keep_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"run.{name} is {value}, expected at least 1")
        for name in ("stall_after", "stop_before", "pictures_every"):
            if getattr(self, name) < 0:
                raise ConfigError(f"run.{name} is {getattr(self, name)}, expected 0 or more")
        if self.timeout <= 0:
            raise ConfigError(f"run.timeout is {self.timeout}, expected seconds above 0")
