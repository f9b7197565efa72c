"""Stacks of blocks: stochastic depth of rows, activations computed again."""

import copy

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from jepa.models import stack as stack_module
from jepa.models.build import ModelConfig, build_jepa
from jepa.models.jepa import JEPA
from jepa.models.stack import Stack, checkpoint_activations, make_blocks, set_rows
from jepa.objectives.dense import ContextTerm, DensePrediction
from jepa.tokens import Mask, TokenGrid
from jepa.types import ClipBatch

CONFIG = ModelConfig(
    size="nano", patch=8, levels=(1, 3), image_tokenizer=True, context_head=True, drop_path=0.4, predictor_depth=2
)
CLIPS = torch.randn(6, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
OBJECTIVE = DensePrediction(ContextTerm())


@pytest.fixture
def jepa() -> JEPA:
    torch.manual_seed(0)
    found = build_jepa(CONFIG, frames=4, size=16)
    for token in found.predictor.mask_tokens:
        nn.init.normal_(token)
    return found


def batch_of(first: int = 0, count: int = 6, frames: int = 4, kept: tuple[int, ...] = (3, 5)) -> ClipBatch:
    """A part of six clips (or images) with a mask for each number of context tokens."""
    grid = TokenGrid(max(frames // 2, 1), 2, 2)
    order = torch.rand(6, grid.count, generator=torch.Generator().manual_seed(1)).argsort(-1)[first : first + count]
    masks = tuple(Mask(order[:, :k].sort().values, order[:, k:].sort().values) for k in kept)
    return ClipBatch(CLIPS[first : first + count, :, :frames], masks, grid, torch.arange(count))


def gradients(jepa: JEPA, batch: ClipBatch, seed: int = 0) -> dict[str, Tensor]:
    jepa.zero_grad()
    torch.manual_seed(seed)
    OBJECTIVE(jepa, batch).loss.backward()
    return {name: p.grad.clone() for name, p in jepa.named_parameters() if p.grad is not None}


def test_stochastic_depth_is_that_of_timm_from_the_same_random_numbers() -> None:
    """Two draws a block, of the attention and the MLP branch, in this order; the first block has none."""
    torch.manual_seed(0)
    blocks, x = make_blocks(3, 24, 2, 2.0, 0.6, 0.1).train(), torch.randn(8, 5, 24)
    torch.manual_seed(3)
    found = blocks(x)
    torch.manual_seed(3)
    expected = x
    for block, rate in zip(blocks, (0.0, 0.3, 0.6), strict=True):
        drop = DropPath(rate).train()
        expected = expected + drop(block.ls1(block.attn(block.norm1(expected))))
        expected = expected + drop(block.ls2(block.mlp(block.norm2(expected))))
    assert torch.equal(found, expected)
    assert not torch.equal(blocks.eval()(x), expected)


def test_parts_of_a_batch_drop_what_the_whole_drops() -> None:
    torch.manual_seed(0)
    blocks, x = make_blocks(3, 24, 2, 2.0, 0.6).train(), torch.randn(8, 5, 24)
    torch.manual_seed(3)
    whole = blocks(x)
    for first, count in ((0, 3), (3, 4), (7, 1)):
        set_rows(blocks, first, count, 8)
        torch.manual_seed(3)
        torch.testing.assert_close(blocks(x[first : first + count]), whole[first : first + count])
    with pytest.raises(ValueError, match="8 clips for a stack that was told of 1"):
        blocks(x)
    assert blocks.eval()(x).shape == x.shape
    with pytest.raises(ValueError, match="rows 3 to 9 of a batch of 8"):
        set_rows(blocks, 3, 6, 8)


def test_gradients_of_the_parts_of_a_step_add_up_to_those_of_the_whole(jepa: JEPA) -> None:
    whole = gradients(jepa, batch_of())
    jepa.zero_grad()
    for first in (0, 3):
        torch.manual_seed(0)
        set_rows(jepa, first, 3, 6)
        (OBJECTIVE(jepa, batch_of(first, 3)).loss / 2).backward()
    for name, parameter in jepa.named_parameters():
        if name in whole:
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-6)


def test_activations_computed_again_give_the_same_gradients(jepa: JEPA) -> None:
    again = copy.deepcopy(jepa)
    checkpoint_activations(again)
    assert list(again.state_dict()) == list(jepa.state_dict())
    kept = Kept()
    with kept:
        expected = gradients(jepa, batch_of())
    most, kept = kept.values, Kept()
    with kept:
        found = gradients(again, batch_of())
    assert kept.values < 0.5 * most
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    checkpoint_activations(again, False)
    with (kept := Kept()):
        gradients(again, batch_of())
    assert kept.values == most


class Kept(torch.autograd.graph.saved_tensors_hooks):
    """Counts the values that are kept for the backward pass."""

    def __init__(self) -> None:
        self.values = 0

        def pack(tensor: Tensor) -> Tensor:
            self.values += tensor.numel()
            return tensor

        super().__init__(pack, lambda tensor: tensor)


def test_nothing_is_computed_again_without_gradient(jepa: JEPA, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("checkpoint called")

    monkeypatch.setattr(stack_module, "checkpoint", refuse)
    checkpoint_activations(jepa)
    jepa.encode_target(CLIPS)
    with pytest.raises(AssertionError, match="checkpoint called"):
        jepa.encode_context(CLIPS, batch_of().masks[0].context)


def test_a_stack_is_a_list_of_blocks() -> None:
    blocks = make_blocks(2, 24, 2, 2.0, 0.0)
    assert isinstance(blocks, Stack)
    assert sorted({name.split(".")[0] for name in blocks.state_dict()}) == ["0", "1"]
    x = torch.randn(2, 3, 24)
    first, second = blocks.after_each(x)
    assert torch.equal(first, blocks[0](x))
    assert torch.equal(second, blocks(x))


@pytest.mark.gpu
@pytest.mark.parametrize("recomputed", [False, True])
def test_a_step_on_a_gpu_waits_for_nothing(jepa: JEPA, recomputed: bool) -> None:
    """The host runs ahead of the device: nothing in forward or backward asks for a value, once there are tables."""
    jepa, batch = jepa.cuda(), batch_of().to("cuda")
    checkpoint_activations(jepa, recomputed)
    set_rows(jepa, 6, 6, 18)
    gradients(jepa, batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradients(jepa, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_parts_of_a_batch_drop_what_the_whole_drops_on_a_gpu(jepa: JEPA) -> None:
    encoder, clips = jepa.cuda().encoder, CLIPS.cuda()
    torch.manual_seed(3)
    whole = encoder(clips)
    for first, count in ((0, 4), (4, 2)):
        set_rows(encoder, first, count, 6)
        torch.manual_seed(3)
        torch.testing.assert_close(encoder(clips[first : first + count]), whole[first : first + count])
