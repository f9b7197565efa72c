"""Which of how many processes this is, from what `torchrun` or `srun` has put into the environment.

`jepa pretrain` is the same command everywhere:

    jepa pretrain ...                                        one process, one device
    torchrun --nproc-per-node 8 -m jepa pretrain ...         RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_*
    srun --ntasks 16 python -m jepa pretrain ...             SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID, ...

Public training code falls back to one process when these variables are incomplete, and a broken job then trains N
separate models into one folder without a word. Here an incomplete or contradictory environment is an error.
"""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jepa.errors import ConfigError

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE")
_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_PORTS = range(15000, 32000)
"""Below the range from which systems take the ports of outgoing connections."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among all."""

    rank: int = 0
    """Of this process, from 0."""
    world_size: int = 1
    """Processes of the run."""
    local_rank: int = 0
    """Of this process on its machine."""
    local_world_size: int = 1
    """Processes on this machine."""
    launcher: Literal["none", "torchrun", "srun"] = "none"
    """What has started them."""
    address: str = "127.0.0.1"
    """Machine of rank 0."""
    port: int = 29500
    """Where the processes meet there."""

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.world_size > 1

    def command(self, arguments: str) -> str:
        """What to type for `jepa ARGUMENTS` on as many processes."""
        if not self.several:
            return f"jepa {arguments}"
        if self.launcher == "srun":
            return f"srun --ntasks {self.world_size} python -m jepa {arguments}"
        nodes = self.world_size // self.local_world_size
        machines = f"--nnodes {nodes} " if nodes > 1 else ""
        return f"torchrun {machines}--nproc-per-node {self.local_world_size} -m jepa {arguments}"

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size} on {socket.gethostname()}"


def find_ranks(environ: Mapping[str, str]) -> Ranks:
    """The ranks that an environment describes; those of a single process if it says nothing of others.

    Raises:
        ConfigError: variables are missing or contradict each other, or a Slurm job of several tasks has started this
            process without `srun`.
    """
    # Harmless when left alone by something else: the values of a single process.
    told = any(environ.get(name, alone) != alone for name, alone in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")))
    if told or any(name in environ for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID")):
        return _of_torchrun(environ)
    if "SLURM_STEP_NUM_TASKS" in environ or environ.get("SLURM_PROCID", "0") != "0":
        return _of_srun(environ)
    if "SLURM_JOB_ID" in environ:
        _require_one_task(environ)
    for name in _MPI:
        if environ.get(name, "1") != "1":
            raise ConfigError(
                f"started as one of {environ[name]} processes ({name}), each of which would train alone: start by srun "
                "or torchrun"
            )
    return Ranks()


def _require_one_task(environ: Mapping[str, str]) -> None:
    """In a job, outside srun, where the batch script runs: raise ConfigError unless one process is all there is."""
    for name, what in (("SLURM_NTASKS", "tasks"), ("SLURM_NNODES", "machines")):
        count = environ.get(name, "1")
        if count != "1":
            raise ConfigError(
                f"job {environ['SLURM_JOB_ID']} has {count} {what} ({name}), but this process was not started by srun "
                "and would train alone: put `srun` before the command, or `srun --ntasks 1` for one process"
            )


def _of_torchrun(environ: Mapping[str, str]) -> Ranks:
    _require(environ, _TORCHRUN, "torchrun")
    rank, size, local, locals_ = (_number(environ, name) for name in _TORCHRUN[:4])
    _check(rank, size, "RANK", "WORLD_SIZE")
    _check(local, locals_, "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if locals_ > size:
        raise ConfigError(f"LOCAL_WORLD_SIZE is {locals_}, but WORLD_SIZE {size}: start all processes by one launcher")
    tasks = environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks.isdecimal() and int(tasks) > size:
        raise ConfigError(
            f"WORLD_SIZE is {size}, but srun has started {tasks} tasks (SLURM_STEP_NUM_TASKS): unset RANK, WORLD_SIZE, "
            "LOCAL_RANK and LOCAL_WORLD_SIZE, which another launcher has left"
        )
    return Ranks(rank, size, local, locals_, "torchrun", environ["MASTER_ADDR"], _port(environ))


def _of_srun(environ: Mapping[str, str]) -> Ranks:
    _require(environ, _SRUN, "srun")
    rank, size, local, node = (_number(environ, name) for name in _SRUN[:4])
    _check(rank, size, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    if size == 1:
        return Ranks(launcher="srun")
    counts = _tasks_per_node(environ["SLURM_STEP_TASKS_PER_NODE"])
    if sum(counts) != size or node >= len(counts):
        raise ConfigError(
            f"SLURM_STEP_TASKS_PER_NODE is {environ['SLURM_STEP_TASKS_PER_NODE']} (node {node}), but "
            f"SLURM_STEP_NUM_TASKS {size}: start the processes by one srun"
        )
    _check(local, counts[node], "SLURM_LOCALID", "tasks of this node")
    job, step = _number(environ, "SLURM_JOB_ID"), environ.get("SLURM_STEP_ID", "0")
    port = _PORTS[(job * 7 + (int(step) if step.isdigit() else 0)) % len(_PORTS)]  # not that of a job beside it
    address = environ.get("MASTER_ADDR") or first_host(environ.get("SLURM_STEP_NODELIST", ""))
    if "MASTER_PORT" in environ:
        port = _port(environ)
    return Ranks(rank, size, local, counts[node], "srun", address, port)


def first_host(nodes: str) -> str:
    """The first name of a list of hosts as Slurm writes it: "gpu[07-09,12],login" is gpu07.

    Raises:
        ConfigError: it is none.
    """
    found = re.match(r"[\w.-]+(?:\[\w[^\]]*\]|[\w.-])*", nodes)
    if found is None:
        raise ConfigError(f"SLURM_STEP_NODELIST is '{nodes}', which names no host: set MASTER_ADDR to that of rank 0")
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", found[0])


def _tasks_per_node(text: str) -> list[int]:
    """Slurm's "2(x3),1" as [2, 2, 2, 1]."""
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if found is None:
            raise ConfigError(f"SLURM_STEP_TASKS_PER_NODE is '{text}', expected numbers like 2(x3),1: start by srun")
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def _require(environ: Mapping[str, str], names: tuple[str, ...], launcher: str) -> None:
    if missing := [name for name in names if not environ.get(name)]:
        given = ", ".join(f"{name}={environ[name]}" for name in names if name in environ)
        raise ConfigError(
            f"the environment looks like that of {launcher} ({given}), but lacks {', '.join(missing)}: start by "
            f"{launcher}, or unset these for a single process"
        )


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ConfigError(f"{name} is '{text}', expected a number: it is set by the launcher, do not set it by hand")
    return int(text)


def _port(environ: Mapping[str, str]) -> int:
    port = _number(environ, "MASTER_PORT")
    if not 1 <= port < 1 << 16:
        raise ConfigError(f"MASTER_PORT is {port}, expected the number of a free port, below 65536")
    return port


def _check(number: int, count: int, name: str, of: str) -> None:
    if number >= count:
        raise ConfigError(f"{name} is {number}, but {of} {count}: ranks count from 0; start all by one launcher")
