"""Ten steps of training, loss by loss: against the modules that the authors of V-JEPA 2 published (package
`cc-vjepa2`), and for V-JEPA 2.1, which that package lacks, against loops written here.

What is theirs here: encoder, predictor and the wrappers that run them once per mask. Written here, after the published
training script: the loss, AdamW with its two groups, the moving average. Everything in float32, constant rates.
"""

import copy
import importlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import timm.layers
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.masks.build import MaskSampler, MasksConfig
from jepa.models.build import ModelConfig, build_jepa
from jepa.models.jepa import JEPA
from jepa.objectives.build import Objective, ObjectiveConfig, build_objective
from jepa.optim.ema import update_ema
from jepa.optim.groups import build_optimizer
from jepa.optim.schedules import OptimConfig
from jepa.tokens import Mask, TokenGrid
from jepa.types import ClipBatch

STEPS, CLIPS, FRAMES, SIZE, PATCH = 10, 2, 4, 32, 8
RATE, DECAY, MOMENTUM = 1e-3, 0.04, 0.9
VIDEO, IMAGE = TokenGrid(2, 4, 4), TokenGrid(1, 4, 4)
Losses = Iterator[float]


def batch_at(step: int, image: bool = False) -> ClipBatch:
    """Clips and masks of a step, the masks as their collator cuts them."""
    grid, frames = (IMAGE, 1) if image else (VIDEO, FRAMES)
    rng = torch.Generator().manual_seed(step)
    clips = torch.randn(CLIPS, 3, frames, SIZE, SIZE, generator=rng)
    masks = MaskSampler(MasksConfig(collation="official"), grid, seed=0)(step, CLIPS)
    return ClipBatch(clips, masks, grid, torch.arange(CLIPS), step=step)


def ours(jepa: JEPA, objective: Objective, batches: list[ClipBatch]) -> Losses:
    """Losses of our training."""
    config = OptimConfig(start_learning_rate=RATE, weight_decay=DECAY)
    optimizer = build_optimizer([jepa.encoder, jepa.predictor], config)
    for group in optimizer.param_groups:
        group["weight_decay"] = DECAY if group["decays"] else 0.0
    for batch in batches:
        loss = objective(jepa, batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update_ema(jepa.target_encoder, jepa.encoder, MOMENTUM)
        yield loss.item()


def reference(
    encoder: nn.Module, predictor: nn.Module, target: nn.Module, loss_of: Callable[[ClipBatch], Tensor],
    batches: list[ClipBatch],
) -> Losses:  # fmt: skip
    """Losses of a training written out: no decay for biases and 1-D parameters, the average after each step."""
    named = [*encoder.named_parameters(), *predictor.named_parameters()]
    free = [parameter for name, parameter in named if "bias" in name or parameter.ndim == 1]
    decayed = [parameter for name, parameter in named if not ("bias" in name or parameter.ndim == 1)]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY, foreach=False)
    for batch in batches:
        loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for average, parameter in zip(target.parameters(), encoder.parameters(), strict=True):
                average.mul_(MOMENTUM).add_(parameter, alpha=1 - MOMENTUM)
        yield loss.item()


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Modules of the published code by name. It imports timm's layers under a name that timm has given up."""
    monkeypatch.setitem(sys.modules, "timm.models.layers", timm.layers)
    return lambda name: importlib.import_module(f"vjepa2.{name}")


def theirs(published: Callable[[str], Any], jepa: JEPA) -> tuple[nn.Module, nn.Module]:
    """Their encoder and predictor with our weights."""
    shape = {"img_size": SIZE, "patch_size": PATCH, "num_frames": FRAMES, "tubelet_size": 2, "use_rope": True}
    norm = {"norm_layer": lambda width: nn.LayerNorm(width, eps=1e-6), "mlp_ratio": 4.0}
    small = {"embed_dim": 96, "predictor_embed_dim": 64, "num_heads": 2, "use_mask_tokens": True, "num_mask_tokens": 1}
    vision, predicting = published("models.vision_transformer"), published("models.predictor")
    encoder = vision.VisionTransformer(**shape, **norm, embed_dim=96, depth=4, num_heads=3)
    predictor = predicting.VisionTransformerPredictor(**shape, **norm, **small, depth=2)
    encoder.load_state_dict(jepa.encoder.state_dict())
    predictor.load_state_dict(jepa.predictor.state_dict())
    wrappers = published("utils.wrappers")
    return wrappers.MultiSeqWrapper(encoder), wrappers.PredictorMultiSeqWrapper(predictor)


@pytest.mark.filterwarnings("ignore:.*sdp_kernel:FutureWarning")
def test_the_losses_of_v_jepa_2_are_those_of_the_published_modules(published: Callable[[str], Any]) -> None:
    torch.manual_seed(0)
    # Their wrapper passes the number of the clip length as that of the mask: one token serves all configurations.
    model = ModelConfig(size="nano", patch=PATCH, rope="tiled", mask_tokens=1, predictor_depth=2)
    jepa = build_jepa(model, frames=FRAMES, size=SIZE)
    encoder, predictor = theirs(published, jepa)
    target = copy.deepcopy(encoder)
    apply_masks = published("masks.utils").apply_masks

    def loss_of(batch: ClipBatch) -> Tensor:
        seen, asked = [[mask.context for mask in batch.masks]], [[mask.target for mask in batch.masks]]
        with torch.no_grad():
            features = [F.layer_norm(tokens, (tokens.shape[-1],)) for tokens in target([batch.clips])]
        predictions = predictor(encoder([batch.clips], seen), seen, asked)
        wanted = [apply_masks(tokens, ids, concat=False) for tokens, ids in zip(features, asked, strict=True)]
        errors = [
            (prediction - value).abs().mean()
            for per_length, values in zip(predictions, wanted, strict=True)
            for prediction, value in zip(per_length, values, strict=True)
        ]
        return sum(errors, torch.zeros(())) / len(errors)

    batches = [batch_at(step) for step in range(STEPS)]
    found = list(ours(jepa, build_objective(ObjectiveConfig(), jepa.encoder.config), batches))
    expected = list(reference(encoder, predictor, target, loss_of, batches))
    assert found == pytest.approx(expected, rel=1e-4)
    assert max(expected) - min(expected) > 0.01, "nothing was trained"


def distances(mask: Mask, clip: int, grid: TokenGrid) -> Tensor:
    """From each context token of a clip to its nearest target, pair by pair."""
    places = list(zip(*(axis.tolist() for axis in grid.coordinates(torch.arange(grid.count))), strict=True))
    return torch.tensor(
        [
            min(math.dist(places[token], places[other]) for other in mask.target[clip].tolist())
            for token in mask.context[clip].tolist()
        ]
    )


def test_the_losses_of_v_jepa_2_1_are_those_of_loops_over_clips() -> None:
    torch.manual_seed(0)
    levels, warmup = (0, 1, 2, 3), (2, 6)
    jepa = build_jepa(
        ModelConfig(
            size="nano", patch=PATCH, levels=levels, image_tokenizer=True, interpolate_from=SIZE, context_head=True
        ),
        frames=FRAMES,
        size=SIZE,
    )
    other = copy.deepcopy(jepa)

    def loss_of(batch: ClipBatch) -> Tensor:
        image = batch.clips.shape[2] == 1
        ramp = min(max((batch.step - warmup[0]) / (warmup[1] - warmup[0]), 0.0), 1.0)
        with torch.no_grad():
            parts = other.target_encoder.levels(batch.clips, levels)
            target = torch.cat([F.layer_norm(part, (96,)) for part in parts], dim=-1)
        masked, visible = [], []
        for number, mask in enumerate(batch.masks):
            seen = torch.cat(other.encoder.levels(batch.clips, levels, mask.context), dim=-1)
            hidden, shown = other.predictor.both(seen, mask, batch.grid, number, image)
            for clip in range(CLIPS):
                masked.append((hidden[clip] - target[clip, mask.target[clip]]).abs().mean())
                error = (shown[clip] - target[clip, mask.context[clip]]).abs()
                visible.append((error / distances(mask, clip, batch.grid).sqrt()[:, None]).mean())
        return torch.stack(masked).mean() + ramp * (0.7 if image else 0.5) * torch.stack(visible).mean()

    batches = [batch_at(step, image=step % 2 == 1) for step in range(STEPS)]
    config = ObjectiveConfig(context_weight=0.5, image_context_weight=0.7, context_warmup=warmup)
    found = list(ours(jepa, build_objective(config, jepa.encoder.config), batches))
    expected = list(reference(other.encoder, other.predictor, other.target_encoder, loss_of, batches))
    assert found == pytest.approx(expected, rel=1e-4)
