"""V-JEPA 2.1: supervised levels, the tokenizer of images, stretched positions, and a predictor with two outputs."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from jepa.errors import ConfigError
from jepa.models.build import ModelConfig, build_jepa
from jepa.models.encoder import Encoder, EncoderConfig
from jepa.models.jepa import JEPA
from jepa.models.predictor import Predictor
from jepa.models.rope import grid_rotation
from jepa.tokens import Mask, TokenGrid

CONFIG = EncoderConfig(
    width=32, depth=4, heads=2, patch=8, frames=4, size=16, levels=(0, 2, 3), image_tokenizer=True, interpolate_from=32
)
MODEL = ModelConfig(size="nano", patch=8, levels=(1, 3), image_tokenizer=True, context_head=True, mask_tokens=3)
GRID = TokenGrid(2, 2, 2)
MASK = Mask(torch.tensor([[0, 1, 4], [2, 5, 7]]), torch.tensor([[2, 6], [0, 1]]))


def randomised(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(CONFIG).eval()
    randomised(encoder)
    return encoder


@pytest.fixture
def jepa() -> JEPA:
    torch.manual_seed(0)
    jepa = build_jepa(MODEL, frames=4, size=16)
    randomised(jepa)
    return jepa


def attention(tokens_ND: Tensor, qkv: torch.nn.Linear, proj: torch.nn.Linear, where: list[list[float]]) -> Tensor:
    """Two heads, token by token; pair i of an axis's share turns by coordinate * 10000^(-i / (share / 2))."""
    count, width = tokens_ND.shape
    head = width // 2
    share = 2 * (head // 3 // 2)
    parts = qkv(tokens_ND).reshape(count, 3, 2, head)
    out = torch.zeros(count, 2, head)
    for number in range(2):
        turned = [[], []]  # type: list[list[Tensor]]
        for part in range(2):
            for token in range(count):
                vector = parts[token, part, number].clone()
                for axis in range(3):
                    for pair in range(share // 2):
                        angle = torch.tensor(where[token][axis] * 10000 ** (-pair / (share / 2)))
                        at = axis * share + 2 * pair
                        a, b = vector[at].clone(), vector[at + 1].clone()
                        vector[at] = a * angle.cos() - b * angle.sin()
                        vector[at + 1] = b * angle.cos() + a * angle.sin()
                turned[part].append(vector)
        scores = torch.stack(turned[0]) @ torch.stack(turned[1]).T / head**0.5
        out[:, number] = scores.softmax(-1) @ parts[:, 2, number]
    mixed: Tensor = proj(out.reshape(count, width))
    return mixed


@torch.no_grad()
def naive(encoder: Encoder, clip_CTHW: Tensor) -> list[Tensor]:
    """The supervised levels of one clip, written from the description: a loop over tokens, pairs and blocks."""
    image = clip_CTHW.shape[1] == 1
    embed = encoder.patch_embed_img if image else encoder.patch_embed
    grid = embed.proj(clip_CTHW.unsqueeze(0))[0]
    steps, rows, columns = grid.shape[1:]
    tokens = grid.flatten(1).T + (encoder.img_mod_embed if image else encoder.video_mod_embed)[0]
    last = CONFIG.interpolate_from // CONFIG.patch - 1  # type: ignore[operator]
    where = [
        [step, row * last / (rows - 1), column * last / (columns - 1)]
        for step in range(steps)
        for row in range(rows)
        for column in range(columns)
    ]
    found = []
    for number, block in enumerate(encoder.blocks):
        tokens = tokens + attention(block.norm1(tokens), block.attn.qkv, block.attn.proj, where)  # type: ignore[operator,union-attr,arg-type]
        tokens = tokens + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(tokens))))  # type: ignore[operator,union-attr]
        if number in CONFIG.levels:
            found.append(encoder.norms_block[len(found)](tokens))
    return found


@pytest.mark.parametrize("shape", [(3, 4, 16, 16), (3, 1, 24, 16), (3, 2, 32, 24)])
def test_levels_equal_a_naive_loop(encoder: Encoder, shape: tuple[int, ...]) -> None:
    clip = torch.randn(shape)
    expected = naive(encoder, clip)
    found = encoder.levels(clip.unsqueeze(0), CONFIG.levels)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own[0], other, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder(clip.unsqueeze(0))[0], expected[-1], atol=1e-5, rtol=1e-4)
    hierarchy = encoder.hierarchy(clip.unsqueeze(0), 2)[0]
    torch.testing.assert_close(hierarchy, torch.cat(expected[1:], dim=-1), atol=1e-5, rtol=1e-4)


def test_images_and_videos_have_tokenizers_of_their_own(encoder: Encoder) -> None:
    image = torch.randn(1, 3, 1, 16, 16)
    assert encoder.grid_of(image) == TokenGrid(1, 2, 2)
    before = encoder(image), encoder(image.expand(-1, -1, 2, -1, -1))
    with torch.no_grad():
        encoder.patch_embed_img.proj.weight.zero_()
        encoder.img_mod_embed.add_(1.0)
    assert not torch.equal(encoder(image), before[0])
    assert torch.equal(encoder(image.expand(-1, -1, 2, -1, -1)), before[1])


def test_a_level_without_a_norm_goes_through_the_last_one(encoder: Encoder) -> None:
    clip = torch.randn(1, 3, 4, 16, 16)
    before = encoder.levels(clip, [1])[0]
    with torch.no_grad():
        encoder.norms_block[-1].bias.add_(1.0)  # type: ignore[operator]
    torch.testing.assert_close(encoder.levels(clip, [1])[0], before + 1.0)


@pytest.mark.parametrize("levels", [(0, 2), (2, 0, 3), (0, 0, 3), (-1, 3), (0, 4)])
def test_levels_that_cannot_be_are_refused(levels: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="depth 4"):
        replace(CONFIG, levels=levels)


def test_stretched_positions_meet_at_first_and_last_row() -> None:
    small, large = (
        grid_rotation(TokenGrid(1, 4, 4), 30, "interleaved"),
        grid_rotation(TokenGrid(1, 7, 10), 30, "interleaved", 4),
    )
    corners = [0, 3, 12, 15], [0, 9, 60, 69]
    torch.testing.assert_close(large.cos[0, 0, corners[1]], small.cos[0, 0, corners[0]])
    torch.testing.assert_close(large.sin[0, 0, corners[1]], small.sin[0, 0, corners[0]])
    assert torch.isfinite(grid_rotation(TokenGrid(1, 1, 1), 30, "interleaved", 4).cos).all()


def test_widths_and_parts_of_the_predictor(jepa: JEPA) -> None:
    clips = torch.randn(2, 3, 4, 16, 16)
    context = jepa.encode_context(clips, MASK.context)
    assert context.shape == (2, 3, 2 * 96)
    predicted, seen = jepa.predict_both(context, MASK, GRID)
    assert (predicted.shape, seen.shape) == ((2, 2, 192), (2, 3, 192))
    torch.testing.assert_close(jepa.predict(context, MASK, GRID), predicted)
    assert not torch.equal(jepa.predict(context, MASK, GRID), jepa.predict(context, MASK, GRID, image=True))
    assert (jepa.predictor.context_width, jepa.predictor.target_width) == (96, 192)


def test_each_level_of_the_targets_is_normalised_by_itself(jepa: JEPA) -> None:
    target = jepa.encode_target(torch.randn(2, 3, 4, 16, 16))
    levels = target.unflatten(-1, (2, 96))
    torch.testing.assert_close(levels.mean(-1), torch.zeros(2, 8, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(levels.var(-1, unbiased=False), torch.ones(2, 8, 2), atol=1e-3, rtol=0)


def test_a_student_of_one_level_keeps_the_norms_of_all(jepa: JEPA) -> None:
    student = build_jepa(replace(MODEL, fused_levels=1), frames=4, size=16, target_width=64)
    assert len(student.encoder.norms_block) == 2
    assert isinstance(student.predictor, Predictor)
    context = student.encode_context(torch.randn(2, 3, 4, 16, 16), MASK.context)
    assert context.shape == (2, 3, 96)
    assert student.predict(context, MASK, GRID).shape == (2, 2, 64)


def test_modality_vectors_start_small_and_mask_tokens_as_asked() -> None:
    jepa = build_jepa(replace(MODEL, mask_token_init="normal"), frames=4, size=16)
    assert 0 < jepa.encoder.img_mod_embed.abs().max() < 1e-5
    assert all(0.01 < token.std() < 0.03 for token in jepa.predictor.mask_tokens)
    assert all(token.abs().max() == 0 for token in build_jepa(MODEL, frames=4, size=16).predictor.mask_tokens)


def test_what_is_not_there_is_said(jepa: JEPA) -> None:
    plain = build_jepa(ModelConfig(size="nano", patch=8), frames=4, size=16)
    context = plain.encode_context(torch.randn(2, 3, 4, 16, 16), MASK.context)
    with pytest.raises(ConfigError, match="context_head"):
        plain.predict_both(context, MASK, GRID)
    with pytest.raises(ConfigError, match="2 levels wanted of an encoder with 0"):
        plain.encoder.hierarchy(torch.randn(2, 3, 4, 16, 16), 2)
    with pytest.raises(ConfigError, match="fuses 3 levels"):
        build_jepa(replace(MODEL, fused_levels=3), frames=4, size=16)
    blocks = Mask(MASK.context, MASK.target, 2)
    with pytest.raises(ConfigError, match="one block"):
        jepa.predict_both(jepa.encode_context(torch.randn(2, 3, 4, 16, 16), MASK.context), blocks, GRID)
