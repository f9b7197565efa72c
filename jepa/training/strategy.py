"""How several processes share a model, and what Lightning has to be told for it.

    one process     the model as it is
    ddp             a copy in each; gradients are averaged while the backward pass goes on
    fsdp            blocks, gradients and optimizer state divided among the processes (FSDP2): Lightning's
                    `ModelParallelStrategy`, with the blocks divided by `jepa.models.sharding`

To Lightning every process is a machine with one device: who is who has been found out before (`launch.py`), and so it
makes no difference whether a launcher shows each process all GPUs of its machine or only one.
"""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.nn.parallel import DistributedDataParallel

from jepa.errors import ConfigError
from jepa.objectives.idle import idle_parameters
from jepa.training.config import PretrainConfig
from jepa.training.launch import Ranks


def device_number(ranks: Ranks, visible: int) -> int:
    """The GPU of this process, counted among those that it sees.

    Raises:
        ConfigError: there are more processes on this machine than GPUs.
    """
    if visible == 1 and ranks.launcher == "srun":
        return 0  # bound by the scheduler (--gpus-per-task), each process to another one
    if ranks.local_world_size > visible:
        raise ConfigError(
            f"{ranks.local_world_size} processes on this machine, but {visible} GPU{'s' * (visible != 1)}: start one "
            "process per GPU, or set run.device to cpu"
        )
    return ranks.local_rank


class Processes(ClusterEnvironment):
    """The ranks, as Lightning asks for them."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self._ranks.address

    @property
    def main_port(self) -> int:
        return self._ranks.port

    @staticmethod
    def detect() -> bool:
        return False  # it is never looked for, only given

    def world_size(self) -> int:
        return self._ranks.world_size

    def set_world_size(self, size: int) -> None:
        pass  # it is what it is

    def global_rank(self) -> int:
        return self._ranks.rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return self._ranks.rank


def trainer_options(config: PretrainConfig, ranks: Ranks, device: torch.device) -> dict[str, Any]:
    """Arguments of Lightning's `Trainer`: accelerator, devices, strategy, and what keeps it from looking around."""
    options: dict[str, Any] = {
        "accelerator": device.type,
        "devices": [device.index or 0] if device.type == "cuda" else 1,
        "plugins": [LightningEnvironment()],
    }
    if not ranks.several:
        return options
    return options | {
        "num_nodes": ranks.world_size,
        "plugins": [Processes(ranks)],
        "strategy": _strategy(config, ranks),
    }


def _strategy(config: PretrainConfig, ranks: Ranks) -> Strategy:
    wait = datetime.timedelta(seconds=config.run.timeout)
    if config.run.strategy == "fsdp":
        return ModelParallelStrategy(data_parallel_size=ranks.world_size, tensor_parallel_size=1, timeout=wait)
    return DDPStrategy(
        timeout=wait,
        broadcast_buffers=False,  # there are none that change
        gradient_as_bucket_view=True,
        # A step of images leaves the tokenizer of videos without gradient, and the other way round.
        find_unused_parameters=config.model.image_tokenizer or has_idle_parameters(config),
    )


def has_idle_parameters(config: PretrainConfig) -> bool:
    """Whether some step leaves some parameters without gradient (see `jepa.objectives.idle`)."""
    images = config.images.data is not None
    masks = [len(config.masks.kinds), *([len(config.images.masks.kinds)] if images else [])]
    # A mask has its token: a step of images, which has fewer masks, leaves that of the second without gradient.
    return bool(idle_parameters(config.model, masks=min(masks), images=images or config.clip.frames == 1))


@contextmanager
def gradient_exchange(strategy: Strategy, on: bool) -> Iterator[None]:
    """Whether a backward pass inside the block averages gradients over the processes, or only adds them up here.

    Divided models exchange with every part: to wait, each process would have to hold whole gradients.
    """
    model = strategy.model
    with model.no_sync() if isinstance(model, DistributedDataParallel) and not on else nullcontext():
        yield
