"""Run by `test_sharding.py` in each of two processes: a model that is divided between them against a whole one."""

import copy
import os
import sys
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from checks import run
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from jepa.models.build import ModelConfig, build_jepa
from jepa.models.compilation import compile_blocks
from jepa.models.jepa import JEPA
from jepa.models.sharding import shard
from jepa.models.stack import checkpoint_activations, set_rows
from jepa.objectives.build import Objective
from jepa.objectives.dense import ContextTerm, DensePrediction
from jepa.objectives.latent import LatentPrediction
from jepa.optim.ema import update_ema
from jepa.optim.gradients import clip_gradients, gradient_norm
from jepa.optim.groups import build_optimizer
from jepa.optim.schedules import OptimConfig
from jepa.optim.state import load_optimizer_state, optimizer_state
from jepa.tokens import Mask, TokenGrid
from jepa.types import ClipBatch

PLAIN = ModelConfig(size="nano", patch=8, heads=3, predictor_depth=2)
DENSE = ModelConfig(
    size="nano", patch=8, levels=(1, 3), image_tokenizer=True, context_head=True, predictor_depth=2, mask_tokens=3
)
CASES: dict[str, tuple[ModelConfig, Objective]] = {
    "latent": (PLAIN, LatentPrediction()),
    "dense": (DENSE, DensePrediction(ContextTerm())),
}
CLIPS = 4
RATES = OptimConfig(start_learning_rate=1e-3)


def batch_of_all(frames: int = 4) -> ClipBatch:
    """The batch of a whole step, the same in both processes; two masks of different sizes."""
    generator = torch.Generator().manual_seed(1)
    grid = TokenGrid(max(frames // 2, 1), 2, 2)
    shuffled = torch.rand(2, CLIPS, grid.count, generator=generator).argsort(-1)
    masks = [
        Mask(ids[:, :kept].sort().values, ids[:, kept:].sort().values)
        for ids, kept in zip(shuffled, (1, grid.count // 2), strict=True)
    ]
    clips = torch.randn(CLIPS, 3, frames, 16, 16, generator=generator)
    return ClipBatch(clips, tuple(masks), grid, torch.arange(CLIPS))


def rows(batch: ClipBatch, first: int, count: int) -> ClipBatch:
    part = slice(first, first + count)
    masks = tuple(Mask(mask.context[part], mask.target[part]) for mask in batch.masks)
    return ClipBatch(batch.clips[part], masks, batch.grid, batch.positions[part])


def own(batch: ClipBatch) -> ClipBatch:
    return rows(batch, dist.get_rank() * CLIPS // 2, CLIPS // 2)


def build(config: ModelConfig) -> JEPA:
    torch.manual_seed(0)
    jepa = build_jepa(config, frames=4, size=16)
    for parameter in jepa.predictor.mask_tokens:
        nn.init.normal_(parameter)
    return jepa


def both(config: ModelConfig, mesh: DeviceMesh) -> tuple[JEPA, JEPA]:
    """A whole model, and the same divided."""
    whole = build(config)
    divided = copy.deepcopy(whole)
    shard(divided, mesh)
    return whole, divided


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def require_same_gradients(divided: nn.Module, whole: nn.Module, tolerance: float = 1e-5) -> None:
    for (name, one), other in zip(divided.named_parameters(), whole.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None and other.grad is not None:
            scale = other.grad.abs().max().clamp_min(1e-6)
            error = (full(one.grad) - other.grad).abs().max() / scale
            assert error < tolerance, f"{name}: {error}"


def require_divided(jepa: JEPA) -> None:
    for name, parameter in jepa.named_parameters():
        assert isinstance(parameter, DTensor), name
        assert parameter.dtype == torch.float32


def check_names_and_slices(mesh: DeviceMesh) -> None:
    whole, divided = both(DENSE, mesh)
    assert list(divided.state_dict()) == list(whole.state_dict())
    assert not list(whole.buffers())
    require_divided(divided)
    held = sum(parameter.to_local().numel() for parameter in divided.parameters())  # type: ignore[attr-defined]
    assert held < 0.51 * sum(parameter.numel() for parameter in whole.parameters())


def check_gradients_are_those_of_the_whole_batch(mesh: DeviceMesh) -> None:
    for config, objective in CASES.values():
        whole, divided = both(config, mesh)
        objective(whole, batch_of_all()).loss.backward()
        objective(divided, own(batch_of_all()), diagnose=True).loss.backward()
        require_same_gradients(divided, whole)
        require_divided(divided)
        unused = [name for name, parameter in divided.encoder.named_parameters() if parameter.grad is None]
        assert ("patch_embed_img.proj.weight" in unused) == (config is DENSE)


def check_images_use_other_parameters(mesh: DeviceMesh) -> None:
    config, objective = CASES["dense"]
    whole, divided = both(config, mesh)
    for frames in (4, 1, 4):
        objective(whole, batch_of_all(frames)).loss.backward()
        objective(divided, own(batch_of_all(frames))).loss.backward()
    require_same_gradients(divided, whole)


def check_parts_add_up(mesh: DeviceMesh) -> None:
    whole, divided = both(PLAIN, mesh)
    objective = CASES["latent"][1]
    objective(whole, batch_of_all()).loss.backward()
    for first in range(2):
        (objective(divided, rows(own(batch_of_all()), first, 1)).loss / 2).backward()
    require_same_gradients(divided, whole)


def check_bf16_means_what_it_means_for_a_whole_model(mesh: DeviceMesh) -> None:
    whole, divided = both(DENSE, mesh)
    objective = CASES["dense"][1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        one = objective(whole, own(batch_of_all())).loss
        two = objective(divided, own(batch_of_all())).loss
    assert torch.equal(one, two)
    one.backward()
    two.backward()
    for parameter in whole.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= 2
    require_same_gradients(divided, whole)


def check_norm_and_clipping(mesh: DeviceMesh) -> None:
    config, objective = CASES["dense"]
    whole, divided = both(config, mesh)
    objective(whole, batch_of_all()).loss.backward()
    objective(divided, own(batch_of_all())).loss.backward()
    norm = gradient_norm(divided.parameters())
    assert not isinstance(norm, DTensor)
    torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(whole.parameters(), 0.1), rtol=1e-5, atol=0)
    assert norm > 0.1
    clip_gradients(divided.parameters(), 0.1, norm)
    require_same_gradients(divided, whole)


def check_the_average_is_that_of_whole_parameters(mesh: DeviceMesh) -> None:
    whole, divided = both(DENSE, mesh)
    with torch.no_grad():
        for one, other in zip(whole.encoder.parameters(), divided.encoder.parameters(), strict=True):
            one.mul_(1.3).add_(0.1)
            other.mul_(1.3).add_(0.1)
    for jepa in (whole, divided):
        update_ema(jepa.target_encoder, jepa.encoder, 0.9)
    for one, other in zip(whole.target_encoder.parameters(), divided.target_encoder.parameters(), strict=True):
        assert torch.equal(one, full(other))
    with pytest.raises(ValueError, match="divided"):
        update_ema(divided.target_encoder, whole.encoder, 0.9)


def steps(jepa: JEPA, objective: Objective, batch: ClipBatch, count: int = 2) -> torch.optim.AdamW:
    optimizer = build_optimizer([jepa.encoder, jepa.predictor], RATES)
    for _ in range(count):
        step(jepa, objective, batch, optimizer)
    return optimizer


def step(jepa: JEPA, objective: Objective, batch: ClipBatch, optimizer: torch.optim.AdamW) -> None:
    optimizer.zero_grad()
    objective(jepa, batch).loss.backward()
    clip_gradients(jepa.parameters(), 1.0, gradient_norm(jepa.parameters()))
    optimizer.step()
    update_ema(jepa.target_encoder, jepa.encoder, 0.5)


def check_steps_change_the_same(mesh: DeviceMesh) -> None:
    config, objective = CASES["dense"]
    whole, divided = both(config, mesh)
    before = copy.deepcopy(whole)
    steps(whole, objective, batch_of_all())
    steps(divided, objective, own(batch_of_all()))
    require_divided(divided)
    moved = False
    for (name, one), other, old in zip(
        divided.named_parameters(), whole.parameters(), before.parameters(), strict=True
    ):
        # Adam divides the gradient by its size: where that is rounding alone, so is the direction.
        close = (full(one) - other).abs() < 1e-5
        assert close.float().mean() > 0.99, name
        moved = moved or not torch.equal(other, old)
    assert moved


def gathered(state: dict[str, Any]) -> dict[str, Any]:
    """A state of AdamW with whole moments."""
    moments = state["state"].items()
    return {"state": {name: {key: full(value) for key, value in values.items()} for name, values in moments}}


def check_optimizer_state_of_slices(mesh: DeviceMesh) -> None:
    config, objective = CASES["dense"]
    whole, divided = both(config, mesh)
    optimizer = steps(divided, objective, own(batch_of_all()))
    as_slices = optimizer_state(divided, optimizer)
    as_whole = gathered(as_slices)
    named = dict(whole.named_parameters())
    for name, values in as_slices["state"].items():
        assert isinstance(values["exp_avg"], DTensor)
        assert as_whole["state"][name]["exp_avg_sq"].shape == named[name].shape
    assert "encoder.patch_embed_img.proj.weight" not in as_whole["state"]

    other = build(config)
    shard(other, mesh)
    plain = build(config)
    for target, given in ((other, as_slices), (other, as_whole), (plain, as_slices), (plain, as_whole)):
        loaded = build_optimizer([target.encoder, target.predictor], RATES)
        load_optimizer_state(target, loaded, given)
        found = gathered(optimizer_state(target, loaded))
        assert found["state"].keys() == as_whole["state"].keys()
        for name, values in as_whole["state"].items():
            for key, value in values.items():
                assert torch.equal(found["state"][name][key], value), (name, key)

    # A step behind it is the step of the one that went on.
    other.load_state_dict(divided.state_dict())
    again = build_optimizer([other.encoder, other.predictor], RATES)
    load_optimizer_state(other, again, as_whole)
    step(divided, objective, own(batch_of_all()), optimizer)
    step(other, objective, own(batch_of_all()), again)
    for one, two in zip(divided.parameters(), other.parameters(), strict=True):
        assert torch.equal(full(one), full(two))


def check_activations_computed_again(mesh: DeviceMesh) -> None:
    config, objective = CASES["dense"]
    _, plain = both(config, mesh)
    _, again = both(config, mesh)
    checkpoint_activations(again)
    for jepa in (plain, again):
        objective(jepa, own(batch_of_all())).loss.backward()
    for (name, one), two in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None), name
        if one.grad is not None and two.grad is not None:
            assert torch.equal(full(one.grad), full(two.grad)), name


def check_compiled_blocks(mesh: DeviceMesh) -> None:
    config, objective = CASES["latent"]
    whole, divided = build(config), build(config)
    checkpoint_activations(divided)
    compile_blocks(divided, "aot_eager")
    shard(divided, mesh)
    for _ in range(2):
        objective(whole, batch_of_all()).loss.backward()
        objective(divided, own(batch_of_all())).loss.backward()
    assert not counters["graph_break"]
    require_same_gradients(divided, whole)


def check_stochastic_depth_of_rows(mesh: DeviceMesh) -> None:
    config = ModelConfig(size="nano", patch=8, predictor_depth=1, drop_path=0.5)
    objective = CASES["latent"][1]
    whole, divided = both(config, mesh)
    torch.manual_seed(7)
    objective(whole, batch_of_all()).loss.backward()
    torch.manual_seed(7)
    set_rows(divided, dist.get_rank() * CLIPS // 2, CLIPS // 2, CLIPS)
    objective(divided, own(batch_of_all())).loss.backward()
    require_same_gradients(divided, whole)


def main() -> None:
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = f"file://{sys.argv[1]}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=60))
    run(globals(), init_device_mesh("cpu", (world_size,)))


if __name__ == "__main__":
    main()
