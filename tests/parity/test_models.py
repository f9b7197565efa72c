"""Our modules against the authors', with the same random weights: V-JEPA 1 and 2, the probe, V-JEPA 2-AC.

The names of parameters are those of the released checkpoints, so weights are copied as they are.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepa.models.action_predictor import ActionPredictor, ActionPredictorConfig
from jepa.models.attentive import AttentiveClassifier, AttentivePooler
from jepa.models.encoder import Encoder, EncoderConfig
from jepa.models.place import PlaceConfig
from jepa.models.positions import sincos_positions
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.tokens import Mask, TokenGrid

FRAMES, SIZE, PATCH, WIDTH, HEADS = 8, 32, 8, 64, 2
"""A grid of 4 x 4 x 4 tokens; heads of 32 channels are 10 + 10 + 10 + 2, so a rest is not rotated."""
CLOSE = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
NORM = partial(nn.LayerNorm, eps=1e-6)


def copied(own: nn.Module, theirs: nn.Module) -> Any:
    """`own` with their weights; the tables of positions, which are no weights, are left out."""
    state = {name: tensor for name, tensor in theirs.state_dict().items() if not name.endswith("pos_embed")}
    own.load_state_dict(state)
    return own.eval()


def clips(frames: int = FRAMES, height: int = SIZE, width: int = SIZE) -> Tensor:
    return torch.randn(2, 3, frames, height, width)


def some(count: int, kept: int) -> Tensor:
    """Sorted ids of `kept` of the tokens of two clips."""
    return torch.stack([torch.randperm(count)[:kept].sort().values for _ in range(2)])


def columns_first(module: nn.Module, name: str) -> None:
    """Their table of positions for images has rows first; the one I-JEPA was trained with has columns first."""
    table = module.get_parameter(name)
    half = table.shape[-1] // 2
    table.data = torch.cat([table.data[..., half:], table.data[..., :half]], dim=-1)


def encoders(official: SimpleNamespace, randomised: Any, *, rope: bool, frames: int = FRAMES) -> tuple[Any, Encoder]:
    """Theirs and ours."""
    theirs = official.vision_transformer.VisionTransformer(
        img_size=SIZE, patch_size=PATCH, num_frames=frames, tubelet_size=2, embed_dim=WIDTH, depth=3, num_heads=HEADS,
        norm_layer=NORM, use_rope=rope, uniform_power=True,
    )  # fmt: skip
    image = frames == 1
    if image:
        columns_first(theirs, "pos_embed")
    config = EncoderConfig(
        width=WIDTH, depth=3, heads=HEADS, patch=PATCH, tubelet=1 if image else 2, frames=frames, size=SIZE,
        rope="tiled", positions="rope" if rope else "sincos2d" if image else "sincos",
        interpolate_from=None if rope else SIZE,
    )  # fmt: skip
    return randomised(theirs), Encoder(config)


@pytest.mark.parametrize("shape", [(8, 32, 32), (4, 32, 32), (16, 32, 32), (8, 48, 48), (8, 32, 48), (2, 16, 64)])
@pytest.mark.parametrize("rope", [True, False])
def test_encoder_at_every_length_and_size(
    official: SimpleNamespace, randomised: Any, rope: bool, shape: tuple[int, int, int]
) -> None:
    theirs, ours = encoders(official, randomised, rope=rope)
    copied(ours, theirs)
    batch = clips(*shape)
    CLOSE(ours(batch), theirs(batch))


@pytest.mark.parametrize("rope", [True, False])
@pytest.mark.parametrize("kept", [1, 7, 40, 64])
def test_encoder_of_some_tokens(official: SimpleNamespace, randomised: Any, rope: bool, kept: int) -> None:
    theirs, ours = encoders(official, randomised, rope=rope)
    copied(ours, theirs)
    batch, ids = clips(), some(64, kept)
    CLOSE(ours(batch, ids), theirs(batch, [ids]))


def test_levels(official: SimpleNamespace, randomised: Any) -> None:
    theirs, ours = encoders(official, randomised, rope=True)
    theirs.out_layers = [0, 2]
    copied(ours, theirs)
    batch = clips()
    for own, other in zip(ours.levels(batch, [0, 2]), theirs(batch), strict=True):
        CLOSE(own, other)


@pytest.mark.parametrize("size", [32, 48, 64])
def test_image_encoder(official: SimpleNamespace, randomised: Any, size: int) -> None:
    """An image is a clip of one frame, its convolution has a time axis of one: I-JEPA."""
    theirs, ours = encoders(official, randomised, rope=False, frames=1)
    state = {name: tensor for name, tensor in theirs.state_dict().items() if name != "pos_embed"}
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].unsqueeze(2)
    ours.load_state_dict(state)
    batch = torch.randn(2, 3, size, size)
    CLOSE(ours.eval()(batch.unsqueeze(2)), theirs(batch))


def test_the_table_of_positions_is_that_of_the_checkpoints(official: SimpleNamespace, randomised: Any) -> None:
    theirs, _ = encoders(official, randomised, rope=False)
    CLOSE(sincos_positions(TokenGrid(4, 4, 4), WIDTH), theirs.pos_embed[0])
    flat, _ = encoders(official, randomised, rope=False, frames=1)
    CLOSE(sincos_positions(TokenGrid(1, 4, 4), WIDTH, "sincos2d"), flat.pos_embed[0])


@pytest.mark.parametrize("rope", [True, False])
@pytest.mark.parametrize("number", [0, 1, 4])
def test_predictor(official: SimpleNamespace, randomised: Any, rope: bool, number: int) -> None:
    theirs = randomised(
        official.predictor.VisionTransformerPredictor(
            img_size=SIZE, patch_size=PATCH, num_frames=FRAMES, tubelet_size=2, embed_dim=WIDTH, predictor_embed_dim=32,
            depth=2, num_heads=2, norm_layer=NORM, use_mask_tokens=True, num_mask_tokens=3, use_rope=rope,
            uniform_power=True,
        )
    )  # fmt: skip
    config = PredictorConfig(width=32, depth=2, heads=2, mask_tokens=3)
    places = PlaceConfig("rope" if rope else "sincos", rope="tiled")
    ours = copied(Predictor(config, context_width=WIDTH, target_width=WIDTH, places=places), theirs)
    order = torch.stack([torch.randperm(64) for _ in range(2)])
    context, target = order[:, :20].sort(dim=1).values, order[:, 20:50].sort(dim=1).values
    tokens = torch.randn(2, 20, WIDTH)
    expected = theirs(tokens, [context], [target], mask_index=number)
    CLOSE(ours(tokens, Mask(context, target), TokenGrid(4, 4, 4), number % 3), expected)  # theirs counts round


def test_predictor_of_target_blocks(official: SimpleNamespace, randomised: Any) -> None:
    """Blocks side by side are what the authors predict one after the other, from the same context."""
    theirs = randomised(
        official.predictor.VisionTransformerPredictor(
            img_size=SIZE, patch_size=PATCH, num_frames=1, embed_dim=WIDTH, predictor_embed_dim=32, depth=2,
            num_heads=2, norm_layer=NORM, use_mask_tokens=True, num_mask_tokens=1, zero_init_mask_tokens=False,
        )
    )  # fmt: skip
    columns_first(theirs, "predictor_pos_embed")
    config = PredictorConfig(width=32, depth=2, heads=2, mask_tokens=1)
    ours = copied(Predictor(config, context_width=WIDTH, target_width=WIDTH, places=PlaceConfig("sincos2d")), theirs)
    context, blocks = some(16, 5), [some(16, 4) for _ in range(3)]
    tokens = torch.randn(2, 5, WIDTH)
    expected = torch.cat([theirs(tokens.clone(), [context], [block]) for block in blocks], dim=1)
    CLOSE(ours(tokens, Mask(context, torch.cat(blocks, dim=1), 3), TokenGrid(1, 4, 4)), expected)


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("queries", [1, 3])
def test_attentive_pooler(official: SimpleNamespace, randomised: Any, depth: int, queries: int) -> None:
    theirs = randomised(
        official.attentive_pooler.AttentivePooler(
            num_queries=queries, embed_dim=WIDTH, num_heads=4, depth=depth, norm_layer=NORM
        )
    )
    ours = copied(AttentivePooler(WIDTH, 4, depth=depth, num_queries=queries), theirs)
    tokens = torch.randn(3, 20, WIDTH)
    CLOSE(ours(tokens), theirs(tokens))


def test_attentive_classifier(official: SimpleNamespace, randomised: Any) -> None:
    theirs = randomised(
        official.attentive_pooler.AttentiveClassifier(
            embed_dim=WIDTH, num_heads=4, depth=2, norm_layer=NORM, num_classes=5
        )
    )
    tokens = torch.randn(3, 20, WIDTH)
    CLOSE(copied(AttentiveClassifier(WIDTH, 4, 5, depth=2), theirs)(tokens), theirs(tokens))


@pytest.mark.parametrize("extrinsics", [False, True])
@pytest.mark.parametrize(("height", "width", "steps"), [(32, 32, 4), (32, 32, 2), (16, 32, 4)])
def test_action_predictor(
    official: SimpleNamespace, randomised: Any, extrinsics: bool, height: int, width: int, steps: int
) -> None:
    theirs = randomised(
        official.ac_predictor.VisionTransformerPredictorAC(
            img_size=(height, width), patch_size=PATCH, num_frames=FRAMES, tubelet_size=2, embed_dim=WIDTH,
            predictor_embed_dim=48, depth=2, num_heads=2, norm_layer=NORM, use_extrinsics=extrinsics,
        )
    )  # fmt: skip
    config = ActionPredictorConfig(context_width=WIDTH, width=48, depth=2, heads=2, extrinsics=extrinsics)
    ours = copied(ActionPredictor(config), theirs)
    grid = TokenGrid(steps, height // PATCH, width // PATCH)
    tokens, actions, states = torch.randn(2, grid.count, WIDTH), torch.randn(2, steps, 7), torch.randn(2, steps, 7)
    poses = torch.randn(2, steps, 6) if extrinsics else None
    CLOSE(ours(tokens, actions, states, grid, poses), theirs(tokens, actions, states, poses))
