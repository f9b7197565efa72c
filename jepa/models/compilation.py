"""Transformer blocks compiled by torch.compile, block by block.

Nearly all time is spent in blocks, and all blocks of a network have the same code. So each is compiled by itself, into
graphs that the others use too: the waiting is that for one block, whatever the depth, and what surrounds the blocks
(positions, masks, losses, stochastic depth, FSDP's communication, activations computed again) stays ordinary code.

Shapes are static: a graph for each shape a run has, which are few. A step with two masks has five or so: the target
encoder's, and those of encoder and predictor for each mask, twice if there is stochastic depth, which the first block
never has; steps of images bring as many again. All of them are compiled when they are first met, and none later.
Whatever is compiled behind that wastes minutes at each step; `compilations` tells.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.utils import counters

from jepa.models.jepa import JEPA
from jepa.models.stack import stacks

GRAPHS = 64
"""Graphs of the code of a block, before torch gives up and leaves it as it is; torch allows 8 by default."""


def compile_blocks(jepa: JEPA, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the blocks of the three networks, each when it is first called; names of parameters stay as they are.

    Before or after `shard`, and before or after `checkpoint_activations`.

    Args:
        backend: of torch.compile; another than the default is for tests, as "aot_eager", which compiles no kernels.
    """
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, GRAPHS)
    for stack in stacks(jepa):
        for block in stack.children():
            block.compile(dynamic=False, backend=backend)


def compilations() -> int:
    """Graphs that this process has compiled so far; those of the backward pass are not counted."""
    return int(counters["stats"]["unique_graphs"])
