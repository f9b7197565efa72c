"""The state of a run between two steps: out of the module and its companions, and back into them.

    state_dict     weights of the three networks
    optimizer      AdamW's moments by the name of their parameter
    callbacks      what companions of the training remember (running means of a row, bad steps in a row)
    jepa           facts: position in the data, fingerprints, processes

Nothing else is state: schedules, clips, masks and dropout are functions of the step. Under FSDP, weights and moments
are tensors divided among the processes, and stay so on their way to the disk and back (`jepa.checkpoints.store`); any
number of processes can go on from either kind of checkpoint.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from jepa.checkpoints.background import copied
from jepa.checkpoints.store import CheckpointStore, Saved
from jepa.checkpoints.tree import Keys
from jepa.optim.state import load_optimizer_state, optimizer_state
from jepa.training.module import Pretraining

if TYPE_CHECKING:
    from jepa.checkpoints.sharded import Make


class Memory(Protocol):
    """Something whose state belongs into checkpoints."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


def is_sharded(module: Pretraining) -> bool:
    """Whether the weights are divided among the processes."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def facts(module: Pretraining) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    ranks, run = module.team.ranks, module.config.run
    return {
        "position": module.config.steps.consumed(module.step),
        "fingerprint": module.fingerprint,
        "init": module.init_digest,
        "teacher": module.teacher_digest,
        "world_size": ranks.world_size,
        "strategy": "none" if not ranks.several else "ddp" if run.strategy == "auto" else run.strategy,
    }


def capture(module: Pretraining, memories: Mapping[str, Memory]) -> dict[str, Any]:
    """The state as it is; its tensors are those of the module, not copies."""
    return {
        "state_dict": module.state_dict(),
        "optimizer": optimizer_state(module, _optimizer(module)),
        "callbacks": {name: memory.state_dict() for name, memory in memories.items()},
    }


def restore(
    module: Pretraining, store: CheckpointStore, saved: Saved, memories: Mapping[str, Memory] | None = None
) -> None:
    """Put a checkpoint into the module and its optimizer, and into the companions if they are given.

    A file is mapped into memory and copied tensor by tensor: the processes of a machine share what is read, and none
    holds a second state.

    Raises:
        DataError: it cannot be read, or is of another model.
    """
    if is_sharded(module):
        # Which parameters have moments, the checkpoint says: an optimizer that starts has none, and one that goes back
        # may have more.
        own: dict[str, Any] = {"state_dict": module.state_dict(), "optimizer": {"state": {}}}
        state = store.load_sharded(saved, own, _moments_of(module)) | own
    else:
        state = store.load(saved, lazy=True)
        load_weights(module, state["state_dict"])
    load_optimizer_state(module, _optimizer(module), state["optimizer"])
    module.init_digest = saved.facts.get("init")
    if memories is not None:
        module.step = saved.step
        kept = copied(state["callbacks"])  # they may keep what they get, and the file would stay mapped
        for name, memory in memories.items():
            memory.load_state_dict(kept[name])


def _moments_of(module: Pretraining) -> "Make":
    """Where moments of a checkpoint go: to those of the optimizer or, if it has none yet, to new ones."""
    parameters, known = dict(module.named_parameters()), _optimizer(module).state

    def make(keys: Keys, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        _, _, name, kind = keys
        parameter = parameters.get(name)
        if parameter is None or parameter.shape != shape:
            return torch.empty(shape, dtype=dtype)  # a scalar, or of another model, which is told later
        moment: Tensor = known.get(parameter, {}).get(kind, torch.empty_like(parameter, requires_grad=False))
        return moment

    return make


@torch.no_grad()
def load_weights(module: Pretraining, weights: Mapping[str, Tensor]) -> None:
    """Whole tensors into the parameters of a module, whole or divided.

    Raises:
        ValueError: names other than its own.
    """
    own = module.state_dict()
    if own.keys() != weights.keys():
        raise ValueError(f"got weights of other names: {sorted(own.keys() ^ weights.keys())[:3]}")
    for name, parameter in own.items():
        value = weights[name].to(parameter.device, parameter.dtype)
        if isinstance(parameter, DTensor):
            # Every process has the whole tensor, and keeps its part: nothing is sent.
            value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.copy_(value)


def whole_weights(module: Pretraining) -> dict[str, Tensor]:
    """The weights of `module.jepa` as whole tensors on the CPU, on rank 0; of divided ones, all processes must ask."""
    weights = {}
    for name, value in module.jepa.state_dict().items():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if module.team.leads:  # one after the other: a device need not hold all of them
            weights[name] = whole.cpu()
    return weights


def _optimizer(module: Pretraining) -> torch.optim.AdamW:
    optimizer = module.optimizers(use_pl_optimizer=False)
    assert isinstance(optimizer, torch.optim.AdamW)
    return optimizer
