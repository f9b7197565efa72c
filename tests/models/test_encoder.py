"""Encoder: geometry, masked forward, positions; parity with transformers' VJEPA2 built tiny."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from jepa.errors import ConfigError
from jepa.models.encoder import Encoder, EncoderConfig, differences
from jepa.models.positions import sincos_positions
from jepa.models.rope import grid_rotation, rotate
from jepa.tokens import TokenGrid

SMALL = EncoderConfig(width=48, depth=2, heads=2, patch=8, tubelet=2, frames=4, size=16)


@pytest.fixture
def clips() -> torch.Tensor:
    return torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def test_embedding_equals_the_convolution(clips: torch.Tensor) -> None:
    embed = Encoder(SMALL).patch_embed
    torch.testing.assert_close(embed(clips), embed.proj(clips).flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["rope", "sincos"])
def test_all_tokens_as_context_in_any_order_give_the_full_forward(clips: torch.Tensor, positions: str) -> None:
    config = EncoderConfig(width=48, depth=2, heads=2, patch=8, positions=positions)  # type: ignore[arg-type]
    encoder = Encoder(config).eval()
    order = torch.stack([torch.randperm(8), torch.randperm(8)])
    full, shuffled = encoder(clips), encoder(clips, order)
    expected = full.gather(1, order.unsqueeze(-1).expand(-1, -1, 48))
    torch.testing.assert_close(shuffled, expected, atol=1e-5, rtol=1e-5)


def test_masked_forward_does_not_see_hidden_pixels(clips: torch.Tensor) -> None:
    encoder = Encoder(SMALL).eval()
    context = torch.tensor([[0, 1, 5], [2, 3, 4]])
    changed = clips.clone()
    changed[0, :, 0:2, 8:16, 0:8] += 1.0  # token 2 of clip 0 is hidden
    assert torch.equal(encoder(clips, context), encoder(changed, context))
    assert not torch.equal(encoder(clips), encoder(changed))


@pytest.mark.parametrize("positions", ["rope", "sincos"])
def test_swapping_two_patches_changes_more_than_their_order(clips: torch.Tensor, positions: str) -> None:
    encoder = Encoder(EncoderConfig(width=48, depth=2, heads=2, patch=8, positions=positions)).eval()  # type: ignore[arg-type]
    mirrored = clips.flip(-1)
    assert (encoder(clips).mean(1) - encoder(mirrored).mean(1)).abs().max() > 1e-4


def test_other_lengths_and_sizes_work() -> None:
    encoder = Encoder(SMALL)
    assert encoder(torch.randn(1, 3, 8, 24, 32)).shape == (1, 4 * 3 * 4, 48)


@pytest.mark.parametrize("positions", ["rope", "sincos"])
def test_a_first_look_without_gradients_does_not_spoil_training(clips: torch.Tensor, positions: str) -> None:
    encoder = Encoder(EncoderConfig(width=48, depth=1, heads=2, patch=8, positions=positions))  # type: ignore[arg-type]
    with torch.inference_mode():
        before = encoder(clips)
    after = encoder(clips)
    after.mean().backward()
    assert torch.equal(before.clone(), after.detach())


def test_a_single_frame_fills_a_tubelet(clips: torch.Tensor) -> None:
    encoder = Encoder(SMALL).eval()
    frame = clips[:, :, :1]
    assert encoder.grid_of(frame) == TokenGrid(1, 2, 2)
    assert torch.equal(encoder(frame), encoder(frame.expand(-1, -1, 2, -1, -1)))
    some = torch.tensor([[0, 3], [1, 2]])
    assert torch.equal(encoder(frame, some), encoder(frame.expand(-1, -1, 2, -1, -1), some))


def test_encoders_differ_in_what_they_compute_only() -> None:
    assert differences(SMALL, replace(SMALL, init="fan_in", drop_path=0.1, frames=8, size=64)) == []
    assert differences(SMALL, replace(SMALL, rope="tiled", heads=4)) == [
        "heads 2, not 4",
        "rope interleaved, not tiled",
    ]
    fixed = replace(SMALL, positions="sincos")
    assert differences(fixed, replace(fixed, rope="tiled", frames=8)) == []
    drawn_out = replace(fixed, interpolate_from=16)
    assert differences(drawn_out, replace(drawn_out, frames=8)) == ["frames 4, not 8"]


def test_levels_end_with_the_forward_and_refuse_others(clips: torch.Tensor) -> None:
    encoder = Encoder(SMALL).eval()
    first, last = encoder.levels(clips, [0, -1])
    assert torch.equal(last, encoder(clips))
    assert not torch.equal(first, last)
    with pytest.raises(ConfigError, match="depth 2"):
        encoder.levels(clips, [2])


@pytest.mark.parametrize(
    ("width", "depth", "heads", "what"),
    [(50, 2, 3, "not divisible"), (66, 2, 2, "must be even"), (48, 0, 2, "depth 0"), (48, 2, 0, "0 heads")],
)
def test_shapes_that_cannot_be_are_refused(width: int, depth: int, heads: int, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        EncoderConfig(width=width, depth=depth, heads=heads)


@pytest.mark.parametrize(("init", "std"), [("fixed", 0.02), ("fan_in", 0.64 / math.sqrt(192))])
def test_initial_deviation(init: str, std: float) -> None:
    encoder = Encoder(EncoderConfig(width=192, depth=1, heads=3, init=init))  # type: ignore[arg-type]
    assert encoder.blocks[0].attn.qkv.weight.std().item() == pytest.approx(std, rel=0.05)  # type: ignore[union-attr]


def test_rotation_turns_each_axis_by_its_own_angle() -> None:
    grid, width = TokenGrid(2, 3, 5), 20
    share = 6
    rotation = grid_rotation(grid, width, "interleaved")
    vector = torch.randn(1, 1, grid.count, width)
    turned = rotate(vector, rotation)
    token = 1 * 15 + 2 * 5 + 4
    for axis, coordinate in enumerate((1, 2, 4)):
        for pair in range(share // 2):
            angle = coordinate * 10000 ** (-pair / (share / 2))
            at = axis * share + 2 * pair
            a, b = vector[0, 0, token, at].item(), vector[0, 0, token, at + 1].item()
            assert turned[0, 0, token, at].item() == pytest.approx(a * math.cos(angle) - b * math.sin(angle), abs=1e-5)
            assert turned[0, 0, token, at + 1].item() == pytest.approx(
                b * math.cos(angle) + a * math.sin(angle), abs=1e-5
            )
    assert torch.equal(turned[..., 3 * share :], vector[..., 3 * share :])


def test_rope_depends_on_distances_only() -> None:
    rotation = grid_rotation(TokenGrid(1, 1, 9), 18, "interleaved")
    query, key = torch.randn(1, 1, 1, 18), torch.randn(1, 1, 1, 18)
    scores = rotate(query.expand(1, 1, 9, 18), rotation) @ rotate(key.expand(1, 1, 9, 18), rotation).transpose(-1, -2)
    for shift in (-3, 0, 4):
        diagonal = scores[0, 0].diagonal(shift)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)


def test_sincos_positions_follow_the_formula() -> None:
    grid = TokenGrid(3, 2, 4)
    found = sincos_positions(grid, 24)
    token = 2 * 8 + 1 * 4 + 3
    for axis, coordinate in enumerate((2, 1, 3)):
        for channel in range(4):
            angle = coordinate * 10000 ** (-channel / 4)
            assert found[token, axis * 8 + channel].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert found[token, axis * 8 + 4 + channel].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_encoder_equals_the_transformers_vjepa2(clips: torch.Tensor) -> None:
    transformers = pytest.importorskip("transformers")
    theirs_config = transformers.VJEPA2Config(
        patch_size=8, crop_size=16, frames_per_clip=4, tubelet_size=2, hidden_size=48, num_hidden_layers=2,
        num_attention_heads=2, mlp_ratio=4, pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1,
        pred_num_mask_tokens=2, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.VJEPA2Model(theirs_config).eval()
    ours = Encoder(EncoderConfig(width=48, depth=2, heads=2, patch=8, rope="tiled")).eval()
    state = theirs.encoder.state_dict()
    with torch.no_grad():
        ours.patch_embed.proj.weight.copy_(state["embeddings.patch_embeddings.proj.weight"])
        ours.patch_embed.proj.bias.copy_(state["embeddings.patch_embeddings.proj.bias"])  # type: ignore[union-attr]
        own = ours.state_dict()
        for number in range(2):
            for kind in ("weight", "bias"):
                parts = [state[f"layer.{number}.attention.{part}.{kind}"] for part in ("query", "key", "value")]
                own[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat(parts)
                own[f"blocks.{number}.attn.proj.{kind}"] = state[f"layer.{number}.attention.proj.{kind}"]
                for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                    own[f"blocks.{number}.{name}.{kind}"] = state[f"layer.{number}.{name}.{kind}"]
        for kind in ("weight", "bias"):
            own[f"norm.{kind}"] = state[f"layernorm.{kind}"]
        ours.load_state_dict(own)
        expected = theirs.encoder(clips.transpose(1, 2)).last_hidden_state
        torch.testing.assert_close(ours(clips), expected, atol=1e-5, rtol=1e-5)


def test_initial_residual_outputs_shrink_with_depth() -> None:
    encoder = Encoder(EncoderConfig(width=192, depth=6, heads=3))
    stds = [block.mlp.fc2.weight.std().item() for block in encoder.blocks]  # type: ignore[union-attr]
    for number, std in enumerate(stds, start=1):
        assert std == pytest.approx(0.02 / math.sqrt(2 * number), rel=0.05)


def test_attention_equals_a_naive_softmax() -> None:
    block = Encoder(SMALL).blocks[0]
    x = torch.randn(1, 5, 48)
    query, key, value = block.attn.qkv(x).chunk(3, dim=-1)  # type: ignore[union-attr, operator]
    heads = []
    for head in range(2):
        part = slice(head * 24, head * 24 + 24)
        weights = F.softmax(query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(24), dim=-1)
        heads.append(weights @ value[..., part])
    expected = block.attn.proj(torch.cat(heads, dim=-1))  # type: ignore[union-attr, operator]
    torch.testing.assert_close(block.attn(x), expected, atol=1e-5, rtol=1e-5)  # type: ignore[union-attr, operator]
