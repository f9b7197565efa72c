"""The state of AdamW by the names of the parameters.

torch numbers parameters in the order of the groups; a state that is kept by number fits only the same groups, and a
mistake shows in the loss, if at all. By name it can be checked, read with other groups, and divided among other numbers
of processes. A parameter that never had a gradient has no state, and has none after loading: its first step is then
that of a fresh parameter. (torch.distributed.checkpoint.state_dict refuses such states, and makes a step to fill them.)
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from jepa.errors import DataError

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of the shape of the parameter; beside them stands `step`, a scalar."""


def optimizer_state(module: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Any]:
    """State of the optimizer: {"state": {name of the parameter: {"step", "exp_avg", "exp_avg_sq"}}}.

    The tensors are those of the optimizer, not copies.

    Args:
        module: with all parameters of the optimizer; their names are those of its `state_dict`.
    """
    state = {
        name: dict(optimizer.state[parameter])
        for name, parameter in _trained(module, optimizer)
        if optimizer.state.get(parameter)
    }
    return {"state": state}


@torch.no_grad()
def load_optimizer_state(module: nn.Module, optimizer: torch.optim.AdamW, state: Mapping[str, Any]) -> None:
    """Make the state of the optimizer what `optimizer_state` gave, whole or divided, for parameters that are either.

    Values are copied. Rates, betas and the like stay those of the optimizer. Nothing is changed if anything is wrong.

    Raises:
        DataError: a name of no trained parameter, another shape than the parameter's, or something missing.
    """
    given: Mapping[str, Mapping[str, Tensor]] = state["state"]
    trained = dict(_trained(module, optimizer))
    for name, values in given.items():
        _require_fit(name, values, trained.get(name))
    fused = {parameter: group.get("fused") for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in trained.items():
        if name not in given:
            optimizer.state.pop(parameter, None)
            continue
        own = optimizer.state[parameter]
        for key in MOMENTS:
            if key not in own:
                own[key] = torch.empty_like(parameter)
            own[key].copy_(_divided(given[name][key], parameter))
        own["step"] = given[name]["step"].to(parameter.device if fused[parameter] else "cpu", torch.float32, copy=True)


def _trained(module: nn.Module, optimizer: torch.optim.AdamW) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of the optimizer, in the order of the module."""
    of_optimizer = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    found = [(name, parameter) for name, parameter in module.named_parameters() if parameter in of_optimizer]
    if len(found) != len(of_optimizer):
        raise ValueError(f"{len(of_optimizer) - len(found)} parameters of the optimizer are not in the module")
    return iter(found)


def _require_fit(name: str, values: Mapping[str, Tensor], parameter: nn.Parameter | None) -> None:
    where = f"optimizer state of {name}"
    if parameter is None:
        raise DataError(f"{where}: no parameter of this name is trained: the state is of another model")
    for key, shape in (("step", torch.Size()), *((key, parameter.shape) for key in MOMENTS)):
        if not isinstance(values.get(key), Tensor):
            raise DataError(f"{where}: {key} is missing: the state is damaged, or of another optimizer than AdamW")
        if values[key].shape != shape:
            raise DataError(f"{where}: {key} has the shape {list(values[key].shape)}, expected {list(shape)}")


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _divided(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """`value` divided among processes as the parameter is; or whole, as it is."""
    if not isinstance(parameter, DTensor):
        return _whole(value)
    mesh, placements = parameter.device_mesh, parameter.placements
    if isinstance(value, DTensor):
        if (value.device_mesh, value.placements) == (mesh, placements):
            return value
        value = value.full_tensor()
    # Each process has the whole tensor and takes its slice: nothing is sent.
    return distribute_tensor(value.to(parameter.device), mesh, placements, src_data_rank=None)
