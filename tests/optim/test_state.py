"""The state of AdamW by names: there and back, and what does not fit; of divided parameters see models/sharded.py."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from jepa.errors import DataError
from jepa.optim.gradients import clip_gradients, gradient_norm
from jepa.optim.groups import build_optimizer
from jepa.optim.schedules import OptimConfig
from jepa.optim.state import load_optimizer_state, optimizer_state

INPUT = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def network() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"used": nn.Linear(3, 2), "idle": nn.Linear(3, 2), "frozen": nn.Linear(3, 2)})


def optimizer_of(module: nn.ModuleDict) -> torch.optim.AdamW:
    module["frozen"].requires_grad_(False)
    return build_optimizer([module], OptimConfig(start_learning_rate=0.1))


def step(module: nn.ModuleDict, optimizer: torch.optim.AdamW) -> None:
    optimizer.zero_grad()
    module["used"](INPUT).square().mean().backward()
    optimizer.step()


@pytest.fixture
def trained() -> tuple[nn.ModuleDict, torch.optim.AdamW]:
    module = network()
    optimizer = optimizer_of(module)
    for _ in range(3):
        step(module, optimizer)
    return module, optimizer


def test_a_run_goes_on_as_if_nothing_had_happened(trained: tuple[nn.ModuleDict, torch.optim.AdamW]) -> None:
    module, optimizer = trained
    other = copy.deepcopy(module)
    again = optimizer_of(other)
    load_optimizer_state(other, again, copy.deepcopy(optimizer_state(module, optimizer)))
    for _ in range(2):
        step(module, optimizer)
        step(other, again)
    assert all(map(torch.equal, module.parameters(), other.parameters()))
    fresh = copy.deepcopy(module)
    step(fresh, optimizer_of(fresh))
    step(module, optimizer)
    assert not torch.equal(module["used"].weight, fresh["used"].weight)


def test_names_are_those_of_the_module_and_the_untouched_are_absent(
    trained: tuple[nn.ModuleDict, torch.optim.AdamW],
) -> None:
    module, optimizer = trained
    state = optimizer_state(module, optimizer)["state"]
    assert sorted(state) == ["used.bias", "used.weight"]
    assert set(state) <= set(module.state_dict())
    assert state["used.weight"]["step"] == 3
    assert state["used.weight"]["exp_avg"] is optimizer.state[module["used"].weight]["exp_avg"]
    other = network()
    again = optimizer_of(other)
    assert optimizer_state(other, again) == {"state": {}}
    load_optimizer_state(other, again, {"state": state})
    assert sorted(optimizer_state(other, again)["state"]) == ["used.bias", "used.weight"]


def test_loading_copies_and_replaces(trained: tuple[nn.ModuleDict, torch.optim.AdamW]) -> None:
    module, optimizer = trained
    kept = copy.deepcopy(optimizer_state(module, optimizer))
    taken = copy.deepcopy(kept)
    step(module, optimizer)
    module["idle"](INPUT).sum().backward()
    optimizer.step()
    assert "idle.weight" in optimizer_state(module, optimizer)["state"]
    load_optimizer_state(module, optimizer, taken)
    step(module, optimizer)
    assert "idle.weight" not in optimizer_state(module, optimizer)["state"]
    for name, values in kept["state"].items():
        assert all(torch.equal(value, taken["state"][name][key]) for key, value in values.items())


def test_groups_may_be_others(trained: tuple[nn.ModuleDict, torch.optim.AdamW]) -> None:
    module, optimizer = trained
    reordered = torch.optim.AdamW(reversed([*module["used"].parameters(), *module["idle"].parameters()]))
    load_optimizer_state(module, reordered, optimizer_state(module, optimizer))
    own, other = (found.state[module["used"].bias] for found in (optimizer, reordered))
    assert torch.equal(own["exp_avg_sq"], other["exp_avg_sq"])
    assert other["step"].item() == 3


def rename(state: dict[str, Any]) -> None:
    state["used.scale"] = state.pop("used.weight")


def freeze(state: dict[str, Any]) -> None:
    state["frozen.weight"] = state.pop("used.weight")


def lose(state: dict[str, Any]) -> None:
    del state["used.weight"]["exp_avg_sq"]


def cut(state: dict[str, Any]) -> None:
    state["used.weight"]["exp_avg"] = torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (rename, "used.scale: no parameter"),
        (freeze, "frozen.weight: no parameter"),
        (lose, "used.weight: exp_avg_sq is missing"),
        (cut, r"used.weight: exp_avg has the shape \[2, 2\], expected \[2, 3\]"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(
    damage: Callable[[dict[str, Any]], None], words: str, trained: tuple[nn.ModuleDict, torch.optim.AdamW]
) -> None:
    module, optimizer = trained
    before = copy.deepcopy(optimizer_state(module, optimizer))
    state = copy.deepcopy(before)["state"]
    state["used.bias"]["exp_avg"].fill_(9.0)
    damage(state)
    with pytest.raises(DataError, match=words):
        load_optimizer_state(module, optimizer, {"state": state})
    after = optimizer_state(module, optimizer)["state"]
    for name, values in before["state"].items():
        assert all(torch.equal(value, after[name][key]) for key, value in values.items())


def test_a_parameter_outside_the_module_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 parameters of the optimizer are not in the module"):
        optimizer_state(network()["used"], torch.optim.AdamW(network()["used"].parameters()))


def test_the_norm_is_that_of_all_gradients_together() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, 1)), nn.Parameter(torch.zeros(3))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([[0.0], [4.0]])
    norm = gradient_norm(parameters)
    assert norm.item() == 5.0
    clip_gradients(parameters, 10.0, norm)
    assert parameters[0].grad.tolist() == [3.0, 0.0]
    clip_gradients(parameters, 1.0, norm)
    torch.testing.assert_close(parameters[1].grad, torch.tensor([[0.0], [0.8]]))
    assert parameters[2].grad is None
    assert gradient_norm(parameters[2:]) == 0
