"""Measures of collapse, against closed forms and naive loops."""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.nn import functional as F

from jepa.models.build import ModelConfig
from jepa.objectives.build import ObjectiveConfig
from jepa.objectives.diagnostics import (
    clip_cosine,
    clip_std,
    effective_rank,
    ema_distance,
    feature_std,
    lidar,
    squared_lengths,
    token_cosine,
)
from jepa.optim.ema import update_ema
from jepa.tokens import gather

Make = Callable[..., Any]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_clip_std_sees_tokens_that_only_say_where_they_are() -> None:
    positions_only = noise(1, 64, 8).expand(16, -1, -1)
    assert clip_std(positions_only).item() == pytest.approx(0, abs=1e-6)
    # What this is for: the others see nothing.
    assert feature_std(positions_only) > 0.8
    assert effective_rank(positions_only) > 7
    assert clip_std(positions_only + noise(16, 64, 8, seed=1)).item() == pytest.approx(1, abs=0.05)


def test_clip_std_of_other_positions_in_each_clip_is_a_naive_loop() -> None:
    tokens, draws = noise(5, 4, 3), torch.Generator().manual_seed(1)
    positions = torch.stack([torch.randperm(7, generator=draws)[:4] for _ in range(5)])
    squares, freedom = torch.zeros(3), 0
    for place in range(7):
        here = tokens[positions == place]
        if len(here):
            squares += (here - here.mean(0)).square().sum(0)
            freedom += len(here) - 1
    torch.testing.assert_close(clip_std(tokens, positions), (squares / freedom).sqrt().mean())
    torch.testing.assert_close(clip_std(tokens), tokens.var(0).mean(0).sqrt().mean())
    assert clip_std(tokens, torch.arange(20).reshape(5, 4)).isnan(), "no position is shared"


@pytest.mark.parametrize("directions", [1, 3, 6])
def test_lidar_counts_the_directions_in_which_clips_differ(directions: int) -> None:
    # A simplex: directions + 1 clips whose means differ as much in each of the directions; all have the same noise.
    corners = torch.linalg.svd(torch.eye(directions + 1) - 1 / (directions + 1))[0][:, :directions]
    means = F.pad(corners, (0, 16 - directions))
    tokens = means[:, None] + torch.cat([torch.eye(16), -torch.eye(16)])
    assert lidar(tokens).item() == pytest.approx(directions, rel=1e-3)


def test_lidar_weighs_directions_by_what_varies_within_clips() -> None:
    means = torch.diag(torch.tensor([1.0, 1.0, 1.0]))
    inner = torch.cat([torch.eye(3), -torch.eye(3)])
    assert lidar(means[:, None] + inner).item() == pytest.approx(2, rel=1e-3)
    # The same clips, but one direction varies thirty times more within them, so that hardly anything is told by it.
    assert lidar(means[:, None] + inner * torch.tensor([1.0, 30.0, 30.0])).item() == pytest.approx(1, abs=0.03)


def test_lidar_is_the_definition_computed_step_by_step() -> None:
    tokens = (noise(6, 40, 5) * torch.tensor([1, 2, 0.3, 1, 4]) + noise(6, 1, 5, seed=1)).double()
    means = tokens.mean(1)
    between = sum(torch.outer(*2 * [mean - means.mean(0)]) for mean in means) / 5
    within = sum(torch.outer(*2 * [tokens[b, n] - means[b]]) for b in range(6) for n in range(40)) / 240
    values, vectors = torch.linalg.eigh(within + 1e-4 * torch.eye(5))
    root = vectors @ torch.diag(values**-0.5) @ vectors.T
    eigenvalues = torch.linalg.eigvalsh(root @ between @ root)
    shares = eigenvalues / eigenvalues.sum() + 1e-7
    torch.testing.assert_close(
        lidar(tokens.float()).double(), torch.exp(-(shares * shares.log()).sum()), rtol=1e-4, atol=0
    )


def test_what_cannot_be_told_from_one_clip_is_nan() -> None:
    one = noise(1, 8, 4)
    assert lidar(one).isnan()
    assert clip_cosine(one).isnan()
    assert clip_std(one).isnan()
    broken = noise(3, 8, 4)
    broken[1, 2, 3] = torch.inf
    assert lidar(broken).isnan()


def test_clip_cosine_is_the_mean_over_all_pairs() -> None:
    tokens = noise(5, 7, 6) + 0.5
    pairs = [F.cosine_similarity(a.mean(0), b.mean(0), dim=0) for a, b in combinations(tokens, 2)]
    torch.testing.assert_close(clip_cosine(tokens), torch.stack(pairs).mean())
    assert clip_cosine(noise(1, 7, 6).expand(4, -1, -1)).item() == pytest.approx(1)


def test_token_cosine_ignores_scale_and_offset_of_a_token() -> None:
    tokens = noise(2, 5, 16)
    assert token_cosine(tokens, 3 * tokens + 2).item() == pytest.approx(1, abs=1e-4)
    assert token_cosine(tokens, -tokens).item() == pytest.approx(-1, abs=1e-4)
    other = noise(2, 5, 16, seed=1)
    naive = [
        torch.corrcoef(torch.stack([a, b]))[0, 1]
        for a, b in zip(tokens.flatten(0, 1), other.flatten(0, 1), strict=True)
    ]
    torch.testing.assert_close(token_cosine(tokens, other), torch.stack(naive).mean(), rtol=1e-3, atol=1e-4)


def test_ema_distance_shrinks_by_the_momentum() -> None:
    target, source = nn.Linear(5, 4), nn.Linear(5, 4)
    far = ema_distance(squared_lengths(target, source))
    both = [torch.cat([value.flatten() for value in module.parameters()]) for module in (target, source)]
    torch.testing.assert_close(far, (both[0] - both[1]).norm() / both[0].norm())
    update_ema(target, source, 0.9)
    difference = squared_lengths(target, source)[0].sqrt()
    torch.testing.assert_close(difference, 0.9 * (both[0] - both[1]).norm())
    update_ema(target, source, 0.0)
    assert ema_distance(squared_lengths(target, source)) == 0
    with pytest.raises(ValueError, match="expected the same module twice"):
        squared_lengths(target, nn.Linear(5, 4, bias=False))


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    store = distributed.HashStore()  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield DeviceMesh("cpu", [0])
    distributed.destroy_process_group()


def test_squared_lengths_of_shards_add_up(mesh: DeviceMesh) -> None:
    target, source = nn.Linear(5, 4), nn.Linear(5, 4)
    whole = squared_lengths(target, source)
    parts = []
    for rank in (0, 1, 2):  # the third has nothing, as with four rows on three ranks
        shards = [nn.Linear(5, 4), nn.Linear(5, 4)]
        for shard, module in zip(shards, (target, source), strict=True):
            for name, value in module.named_parameters():
                local = value.detach()[2 * rank : 2 * rank + 2]
                setattr(shard, name, nn.Parameter(DTensor.from_local(local, mesh, [Shard(0)], run_check=False)))
        parts.append(squared_lengths(*shards))
    torch.testing.assert_close(torch.stack(parts).sum(0), whole)


def test_a_step_is_watched_at_its_first_mask(batch_of: Make, family: Make) -> None:
    jepa, objective = family(ModelConfig(size="nano", patch=8), ObjectiveConfig())
    batch = batch_of()
    with torch.no_grad():
        for parameter in jepa.target_encoder.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    found = objective(jepa, batch, diagnose=True).diagnostics
    target, mask = jepa.encode_target(batch.clips), batch.masks[0]
    context = jepa.encode_context(batch.clips, mask.context)
    expected = {
        "feature_std": feature_std(target),
        "effective_rank": effective_rank(target),
        "clip_std": clip_std(target),
        "lidar": lidar(target),
        "clip_cosine": clip_cosine(target),
        "context_cosine": token_cosine(context, gather(target, mask.context)),
        "prediction_std": clip_std(jepa.predict(context, mask, batch.grid), mask.target),
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.detach(), msg=name)
    assert found["context_cosine"] < 0.99


def test_bfloat16_is_not_for_measures(batch_of: Make, family: Make) -> None:
    jepa, objective = family(ModelConfig(size="nano", patch=8), ObjectiveConfig())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        target = jepa.encode_target(batch_of().clips)
        found = objective(jepa, batch_of(), diagnose=True).diagnostics
    for measure in (clip_cosine, lidar, effective_rank):
        torch.testing.assert_close(found[measure.__name__], measure(target))
