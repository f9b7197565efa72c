"""What Lightning is told of several processes, and which device each of them has."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from jepa.errors import ConfigError
from jepa.training.config import PretrainConfig
from jepa.training.launch import Ranks
from jepa.training.strategy import Processes, device_number, has_idle_parameters, trainer_options

Configure = Callable[..., PretrainConfig]
CPU = torch.device("cpu")


def test_devices() -> None:
    third = Ranks(7, 8, 3, 4, "torchrun")
    assert device_number(third, 4) == 3
    assert device_number(third, 8) == 3
    assert device_number(replace(third, launcher="srun"), 4) == 3, "srun that shows each task all of them"
    assert device_number(replace(third, launcher="srun"), 1) == 0, "srun that shows each task its own"
    with pytest.raises(ConfigError, match="4 processes on this machine, but 1 GPU: start one process per GPU"):
        device_number(third, 1)
    with pytest.raises(ConfigError, match="4 processes on this machine, but 2 GPUs"):
        device_number(replace(third, launcher="srun"), 2)


def test_one_process_has_no_strategy(micro: Configure) -> None:
    options = trainer_options(micro(), Ranks(), CPU)
    assert (options["accelerator"], options["devices"]) == ("cpu", 1)
    assert "strategy" not in options
    assert trainer_options(micro(), Ranks(), torch.device("cuda", 2))["devices"] == [2]


def test_each_process_is_a_machine_with_one_device(micro: Configure) -> None:
    ranks = Ranks(5, 8, 1, 4, "srun", "gpu07", 1234)
    options = trainer_options(micro(), ranks, CPU)
    assert (options["num_nodes"], options["devices"]) == (8, 1)
    (processes,) = options["plugins"]
    assert isinstance(processes, Processes)
    assert (processes.global_rank(), processes.node_rank(), processes.local_rank()) == (5, 5, 0)
    assert (processes.world_size(), processes.main_address, processes.main_port) == (8, "gpu07", 1234)
    assert processes.creates_processes_externally, "Lightning is to start none"


def test_strategies(micro: Configure) -> None:
    ranks, run = Ranks(0, 2, 0, 2, "torchrun"), micro().run
    for name in ("auto", "ddp"):
        options = trainer_options(micro(run=vars(replace(run, strategy=name, timeout=7.0))), ranks, CPU)
        assert isinstance(options["strategy"], DDPStrategy)
        assert options["strategy"]._timeout.total_seconds() == 7
    options = trainer_options(micro(run=vars(replace(run, strategy="fsdp"))), ranks, CPU)
    assert isinstance(options["strategy"], ModelParallelStrategy)


def test_unused_parameters_are_looked_for_only_where_there_are_some(micro: Configure) -> None:
    """Looking costs time in every step; not looking ends the run where a step leaves one out."""
    base = micro()
    assert not has_idle_parameters(base)
    images = {"data": str(base.data), "share": 0.5, "batch_size": 4, "size": 24}
    assert has_idle_parameters(micro(images=images)), "one mask per image, two per video: a token is left out"
    one_mask = {"kinds": [{"kind": "tube"}]}
    assert has_idle_parameters(micro(masks=one_mask)), "the second token, in each step"
    assert not has_idle_parameters(
        micro(masks=one_mask, images=images, model={"mask_tokens": 1, "size": "nano", "patch": 8})
    )
