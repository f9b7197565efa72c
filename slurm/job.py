"""What a run asks of Slurm: the options of `jepa submit`, each with what sbatch calls it.

Slurm's own names are kept where they are words (partition, nodes, time). What it leaves to the user and training
knows better has a default: as many tasks on a node as GPUs (one process drives one device), as many CPUs per task as
the loader has processes, a warning ahead of the time limit, and back into the queue when the job was stopped.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jepa.errors import ConfigError
from jepa.slurm.values import array_tasks, signal_lead, time_limit, word

_OPTION = re.compile(r"--(?P<name>[a-z][a-z-]*)(?:=(?P<value>.*))?", re.ASCII | re.DOTALL)
_VARIABLE = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<value>.*)", re.ASCII | re.DOTALL)
_OWN = frozenset(
    {
        "account", "array", "chdir", "constraint", "cpus-per-task", "error", "gpus-per-node", "job-name", "mem",
        "no-requeue", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "parsable", "partition", "qos",
        "requeue", "signal", "tasks-per-node", "test-only", "time", "wrap",
    }
)  # fmt: skip
"""Options of sbatch that follow from ours."""
_NO_SUBMISSION = frozenset({"get-user-env", "help", "usage", "version", "wait"})
"""Options with which sbatch waits for the job to end, or submits none."""
_WHOLE = frozenset({"gpus"})
"""Names that begin one of the above and are options themselves."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class ContainerConfig:
    """The container that the processes of a run live in."""

    image: str | None = None
    """Image: what pyxis takes as --container-image (a file.sqsh, or registry#name:tag), or a file.sif of Apptainer."""
    runtime: Literal["pyxis", "apptainer"] = "pyxis"
    """`pyxis`: srun --container-image, of clusters with NVIDIA's enroot. `apptainer`: apptainer exec."""
    mounts: tuple[str, ...] = ()
    """Folders to see inside, as FROM:TO or, of the same name there, FROM. Run folder and data are seen anyway."""

    def __post_init__(self) -> None:
        if self.image is not None:
            _require_path("container.image", self.image)
        for mount in self.mounts:
            _require_path("container.mounts", mount)
            if not 1 <= len(parts := mount.split(":")) <= 3 or not all(parts):
                raise ConfigError(f"container.mounts: '{mount}' is no FROM:TO")


@dataclass(frozen=True)
class JobConfig:
    """What is asked of Slurm."""

    nodes: int = 1
    """Machines."""
    gpus_per_node: int = 1
    """GPUs on each; 0 trains on CPUs."""
    tasks_per_node: int | None = None
    """Processes on each machine; none: one per GPU, and one without GPUs."""
    cpus_per_task: int | None = None
    """CPU cores of each process; none: one for itself, and one for each of loader.workers."""
    memory: str | None = None
    """Memory of each machine, e.g. 200G; 0 for all of it, none for what the cluster gives by default."""
    time: str | None = None
    """Time limit of one start, e.g. 24:00:00 or 1-00; 30 is half an hour. None: that of the partition. A run may be
    longer: it saves its state ahead of the limit and goes on in the next start."""
    partition: str | None = None
    """Partition (queue), or several with commas; none for the default one."""
    account: str | None = None
    """Account to charge."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that the machines must have, e.g. a100 or [a100|h100]."""
    signal: str | None = "USR1@120"
    """Signal that Slurm sends to the processes, and how many seconds before the time limit; the run then saves its
    state and goes back into the queue."""
    requeue: bool = True
    """Put the job back into the queue when it was stopped by a signal, its time limit, preemption or a lost machine."""
    array: str | None = None
    """Train once per number, e.g. 0-4 or 0-9%2 (two at a time): task N with seed N, in the folder OUT/seed-N."""
    name: str | None = None
    """Name of the job; none for that of the run folder."""
    sbatch: tuple[str, ...] = ()
    """More options of sbatch, e.g. --sbatch='[--reservation=mine,--exclusive]'."""
    modules: tuple[str, ...] = ()
    """Environment modules to load."""
    setup: Path | None = None
    """Shell file to source before the run."""
    env: tuple[str, ...] = ()
    """Environment variables as NAME=VALUE; in brackets if a value has commas: --env='["NCCL_IB_HCA=mlx5_0,mlx5_1"]'."""
    python: str | None = None
    """Python to run; none: the one that submits, and `python3` in a container."""
    container: ContainerConfig = field(default_factory=ContainerConfig)
    """Container."""

    def __post_init__(self) -> None:
        self._require_numbers()
        for name in ("partition", "account", "qos", "name", "memory"):
            if (value := getattr(self, name)) is not None:
                word(name, value)
        if self.memory is not None and not re.fullmatch(r"\d+[KMGT]?", self.memory):
            raise ConfigError(f"memory is '{self.memory}', expected a number with K, M, G or T, e.g. 200G")
        if self.constraint is not None:
            word("constraint", self.constraint, features=True)
        for module in self.modules:
            word("modules", module)
        if self.array is not None:
            array_tasks(self.array)
        for option in self.sbatch:
            _require_option(option)
        for variable in self.env:
            if not _VARIABLE.fullmatch(variable) or "\0" in variable:
                raise ConfigError(f"env: '{variable}' is no NAME=VALUE")
        for name in ("setup", "python"):
            if (value := getattr(self, name)) is not None:
                _require_path(name, str(value))
        self._require_time()

    def _require_numbers(self) -> None:
        for name, least in (("nodes", 1), ("gpus_per_node", 0), ("tasks_per_node", 1), ("cpus_per_task", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}, expected at least {least}")
        if self.gpus_per_node and self.tasks_per_node and self.tasks_per_node > self.gpus_per_node:
            raise ConfigError(
                f"tasks_per_node is {self.tasks_per_node} with gpus_per_node {self.gpus_per_node}: one process drives "
                "one GPU, so there may not be more of them"
            )

    def _require_time(self) -> None:
        lead = 0 if self.signal is None else signal_lead(self.signal)
        limit = None if self.time is None else time_limit(self.time)
        if limit is not None and lead >= limit:
            raise ConfigError(
                f"signal is {self.signal}, but the time limit {self.time} is {limit} seconds: the job would be stopped "
                "as soon as it starts, again and again; give it more time, or the signal less"
            )

    @property
    def tasks(self) -> int:
        """Processes on each machine."""
        return self.tasks_per_node or max(self.gpus_per_node, 1)

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables by name."""
        return {name: value for name, _, value in (variable.partition("=") for variable in self.env)}


def _require_path(name: str, path: str) -> None:
    if not path or _UNPRINTABLE.search(path):
        raise ConfigError(f"{name} is {path!r}, expected a path without line breaks")


def _require_option(option: str) -> None:
    found = _OPTION.fullmatch(option)
    if found is None:
        raise ConfigError(f"sbatch: '{option}' is no option of sbatch: expected --name or --name=value")
    name = found["name"]
    if name not in _WHOLE and any(other.startswith(name) for other in _OWN):  # sbatch takes beginnings of names too
        raise ConfigError(f"sbatch: --{name} follows from the options of jepa submit; see jepa submit --help")
    if any(other.startswith(name) for other in _NO_SUBMISSION):
        raise ConfigError(f"sbatch: with --{name}, sbatch does not submit the job and come back: leave it out")
    if found["value"] is not None:
        word(f"sbatch: --{found['name']}", found["value"], features=True)
