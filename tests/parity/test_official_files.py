"""Official files, written as the authors' training loops write them: read, computed with, and written back bit for bit.

V-JEPA 1, 2, 2-AC and the probe come from the authors' modules; V-JEPA 2.1 and I-JEPA, whose code no package has, from
the names and shapes of their released files, written out here.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import jepa
from jepa.checkpoints.convert import convert
from jepa.checkpoints.source import open_weights
from jepa.checkpoints.weights import Hints
from jepa.models.encoder import Encoder
from jepa.models.predictor import PredictorConfig
from jepa.tokens import Mask, TokenGrid

FRAMES, SIZE, PATCH, WIDTH, HEADS, INSIDE = 4, 32, 8, 48, 2, 36
"""Grids of 2 x 4 x 4 tokens; heads of 24 channels; the predictor's of 18 leave a rest of none, the encoder's none."""
NORM = partial(nn.LayerNorm, eps=1e-6)
CLOSE = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
HINTS = Hints(heads=HEADS, predictor_heads=2)
State = dict[str, Tensor]


def save(path: Path, prefix: str, **parts: State) -> Path:
    """A container as training leaves it: beside the weights an optimizer, a scaler, and numbers of several kinds."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    named = {part: {f"{prefix}{name}": tensor for name, tensor in state.items()} for part, state in parts.items()}
    extras = {"epoch": 3, "loss": np.float64(0.5), "lr": np.float32(1e-4), "batch_size": 24, "world_size": np.int64(1)}
    scaler = torch.amp.GradScaler("cpu").state_dict()
    torch.save({**named, "opt": optimizer.state_dict(), "scaler": scaler, **extras}, path)
    return path


def there_and_back(file: Path, tmp_path: Path, hints: Hints = HINTS) -> dict[str, Any]:
    convert(file, tmp_path / "ours", "jepa", hints=hints)
    convert(tmp_path / "ours", tmp_path / "back.pt", "official")
    content: dict[str, Any] = torch.load(tmp_path / "back.pt", weights_only=True)
    return content


def same_bits(before: dict[str, Any], after: dict[str, Any], *, gone: tuple[str, ...] = ()) -> None:
    """All tensors of these parts, but those that are `gone`, are there again, and nothing else is."""
    for part, state in before.items():
        expected = {name: tensor for name, tensor in state.items() if not name.endswith(gone or ("nothing",))}
        assert expected.keys() == after[part].keys()
        for name, tensor in expected.items():
            assert torch.equal(tensor, after[part][name]), name


def video_encoder(official: SimpleNamespace, randomised: Callable[[Any], Any], *, rope: bool) -> Any:
    return randomised(
        official.vision_transformer.VisionTransformer(
            img_size=SIZE, patch_size=PATCH, num_frames=FRAMES, tubelet_size=2, embed_dim=WIDTH, depth=3,
            num_heads=HEADS, norm_layer=NORM, use_rope=rope, uniform_power=True, mlp_ratio=48 / 11,
        )
    )  # fmt: skip


def video_predictor(official: SimpleNamespace, randomised: Callable[[Any], Any], *, rope: bool, tokens: int) -> Any:
    return randomised(
        official.predictor.VisionTransformerPredictor(
            img_size=SIZE, patch_size=PATCH, num_frames=FRAMES, tubelet_size=2, embed_dim=WIDTH,
            predictor_embed_dim=INSIDE, depth=2, num_heads=2, norm_layer=NORM, use_mask_tokens=True,
            num_mask_tokens=tokens, use_rope=rope, uniform_power=True,
        )
    )  # fmt: skip


def copies(state: State) -> State:
    """The target encoder beside an encoder: near, not the same."""
    return {name: tensor if name.endswith("pos_embed") else tensor + 0.01 for name, tensor in state.items()}


@pytest.mark.parametrize("suffix", [".pth.tar", ".pt"])
@pytest.mark.parametrize("rope", [False, True])
def test_video_models(
    official: SimpleNamespace, randomised: Callable[[Any], Any], rope: bool, suffix: str, tmp_path: Path
) -> None:
    encoder, count = video_encoder(official, randomised, rope=rope), 3 if rope else 2
    predictor = video_predictor(official, randomised, rope=rope, tokens=count)
    parts = {"encoder": copies(encoder.state_dict()), "predictor": predictor.state_dict()}
    parts["target_encoder"] = encoder.state_dict()
    file = save(tmp_path / f"file{suffix}", "module.backbone.", **parts)

    known = {"heads": HEADS} if not rope else {"heads": HEADS, "frames": FRAMES, "size": SIZE}
    ours = jepa.load_encoder(file, **known)  # type: ignore[arg-type]
    batch, number = torch.randn(2, 3, FRAMES, SIZE, SIZE), count - 1
    assert (ours.config.frames, ours.config.size) == (FRAMES, SIZE)
    CLOSE(ours(batch), encoder(batch))
    order = torch.stack([torch.randperm(32) for _ in range(2)])
    mask = Mask(order[:, :9].sort().values, order[:, 9:25].sort().values)
    tokens = torch.randn(2, 9, WIDTH)
    loaded: Any = jepa.load_predictor(file, predictor_heads=2, **known)  # type: ignore[arg-type]
    CLOSE(loaded(tokens, mask, TokenGrid(2, 4, 4), number), predictor(tokens, [mask.context], [mask.target], number))

    before = torch.load(file, weights_only=False)
    same_bits({part: before[part] for part in parts}, there_and_back(file, tmp_path))


@pytest.mark.parametrize("stale", ["zeros", "table"])
def test_stale_positions_are_named_and_left_out(
    official: SimpleNamespace, randomised: Callable[[Any], Any], stale: str, tmp_path: Path
) -> None:
    """V-JEPA 2 files carry positions that their rotary encoders do not use."""
    rotary, fixed = (video_encoder(official, randomised, rope=rope) for rope in (True, False))
    table = fixed.pos_embed.data if stale == "table" else torch.zeros_like(fixed.pos_embed)
    predictor = video_predictor(official, randomised, rope=True, tokens=10).state_dict()
    predictor["mask_tokens.4"] = torch.zeros_like(predictor["mask_tokens.4"])
    parts = {"target_encoder": rotary.state_dict() | {"pos_embed": table}, "predictor": predictor}
    parts["predictor"]["predictor_pos_embed"] = torch.zeros(1, 32, INSIDE)
    file = save(tmp_path / "v2.pt", "module.backbone.", **parts)
    batch = torch.randn(1, 3, FRAMES, SIZE, SIZE)
    CLOSE(jepa.load_encoder(file, heads=HEADS)(batch), rotary(batch))
    done = convert(file, tmp_path / "ours", "jepa", hints=HINTS)
    assert set(done.dropped) == {"target_encoder.pos_embed", "predictor.predictor_pos_embed"}
    assert all(why.startswith("stale") for why in done.dropped.values())
    assert [norm == 0 for norm in done.mask_tokens] == [number == 4 for number in range(10)]
    expected = [float(predictor[f"mask_tokens.{number}"].norm()) for number in range(10)]
    assert done.mask_tokens == pytest.approx(expected)
    before = torch.load(file, weights_only=False)
    after = there_and_back(file, tmp_path)
    same_bits({part: before[part] for part in parts}, after, gone=("pos_embed",))


def _encoder(file: Path) -> Encoder:
    opened = open_weights(file, HINTS)
    assert opened.encoder is not None
    encoder = Encoder(opened.encoder)
    encoder.load_state_dict(opened.tensors("target_encoder."))
    return encoder.eval()


def test_action_conditioned(official: SimpleNamespace, randomised: Callable[[Any], Any], tmp_path: Path) -> None:
    encoder = video_encoder(official, randomised, rope=True)
    predictor = randomised(
        official.ac_predictor.VisionTransformerPredictorAC(
            img_size=SIZE, patch_size=PATCH, num_frames=FRAMES, tubelet_size=2, embed_dim=WIDTH,
            predictor_embed_dim=INSIDE, depth=2, num_heads=2, norm_layer=NORM,
        )
    )  # fmt: skip
    parts = {"encoder": encoder.state_dict(), "predictor": predictor.state_dict()}
    file = save(tmp_path / "ac.pt", "module.", **parts)
    loaded: Any = jepa.load_predictor(file, heads=HEADS, predictor_heads=2)
    tokens, actions, states = torch.randn(2, 32, WIDTH), torch.randn(2, 2, 7), torch.randn(2, 2, 7)
    CLOSE(loaded(tokens, actions, states, TokenGrid(2, 4, 4)), predictor(tokens, actions, states))
    batch = torch.randn(1, 3, FRAMES, SIZE, SIZE)
    CLOSE(_plain(file)(batch), encoder(batch))
    before = torch.load(file, weights_only=False)
    same_bits({part: before[part] for part in parts}, there_and_back(file, tmp_path))
    again: Any = jepa.load_predictor(tmp_path / "ours")
    CLOSE(again(tokens, actions, states, TokenGrid(2, 4, 4)), predictor(tokens, actions, states))
    CLOSE(jepa.load_encoder(tmp_path / "ours")(batch), encoder(batch))


def _plain(file: Path) -> Any:
    opened = open_weights(file, HINTS)
    assert opened.evaluated == "encoder"
    encoder = Encoder(opened.encoder)  # type: ignore[arg-type]
    encoder.load_state_dict(opened.tensors("encoder."))
    return encoder.eval()


def linear(name: str, rows: int, columns: int) -> State:
    return {f"{name}.weight": torch.randn(rows, columns), f"{name}.bias": torch.randn(rows)}


def norm(name: str, width: int) -> State:
    return {f"{name}.weight": torch.randn(width), f"{name}.bias": torch.randn(width)}


def block(name: str, width: int, hidden: int) -> State:
    return {
        **norm(f"{name}.norm1", width), **norm(f"{name}.norm2", width),
        **linear(f"{name}.attn.qkv", 3 * width, width), **linear(f"{name}.attn.proj", width, width),
        **linear(f"{name}.mlp.fc1", hidden, width), **linear(f"{name}.mlp.fc2", width, hidden),
    }  # fmt: skip


def newer_encoder(depth: int) -> State:
    """V-JEPA 2.1 (recipes: a tokenizer for images, modality vectors, a norm per level and none at the end)."""
    state = {f"patch_embed.proj.{kind}": torch.randn(shape) for kind, shape in _patch(2)}
    state |= {f"patch_embed_img.proj.{kind}": torch.randn(shape) for kind, shape in _patch(1)}
    state |= {name: torch.randn(1, 1, WIDTH) for name in ("img_mod_embed", "video_mod_embed")}
    for number in range(depth):
        state |= block(f"blocks.{number}", WIDTH, 4 * WIDTH)
    for number in range(4):
        state |= norm(f"norms_block.{number}", WIDTH)
    return state


def _patch(tubelet: int) -> list[tuple[str, tuple[int, ...]]]:
    return [("weight", (WIDTH, 3, tubelet, PATCH, PATCH)), ("bias", (WIDTH,))]


def newer_predictor(levels: int, output: int) -> State:
    fused = {**linear("predictor_embed.0", WIDTH, 4 * WIDTH), **linear("predictor_embed.2", INSIDE, WIDTH)}
    state = fused if levels == 4 else linear("predictor_embed", INSIDE, WIDTH)
    state |= {f"mask_tokens.{number}": torch.randn(1, 1, INSIDE) for number in range(8)}
    state |= {name: torch.randn(1, 1, INSIDE) for name in ("img_mod_embed", "video_mod_embed")}
    for number in range(2):
        state |= block(f"predictor_blocks.{number}", INSIDE, 4 * INSIDE)
    state |= norm("predictor_norm", INSIDE) | linear("predictor_proj", output, INSIDE)
    return state | linear("predictor_proj_context", output, INSIDE)


@pytest.mark.parametrize("distilled", [False, True])
def test_version_2_1(distilled: bool, tmp_path: Path) -> None:
    key = "ema_encoder" if distilled else "target_encoder"
    parts = {key: newer_encoder(4), "encoder": newer_encoder(4)}
    parts["predictor"] = newer_predictor(1, 72) if distilled else newer_predictor(4, 4 * WIDTH)
    file = save(tmp_path / "v2_1.pt", "module.backbone.", **parts)
    opened = open_weights(file, HINTS)
    encoder, predictor = opened.encoder, opened.predictor
    assert encoder is not None
    assert isinstance(predictor, PredictorConfig)
    assert (encoder.rope, encoder.interpolate_from, encoder.levels) == ("interleaved", 256, (0, 1, 2, 3))
    assert (predictor.fused_levels, predictor.context_head, predictor.modality) == (1 if distilled else 4, True, True)
    assert opened.report.mask_tokens == pytest.approx(
        [float(parts["predictor"][f"mask_tokens.{number}"].norm()) for number in range(8)]
    )
    loaded = jepa.load_encoder(file, heads=HEADS)
    torch.testing.assert_close(loaded.encoder.norms_block[2].weight.data, parts[key]["norms_block.2.weight"])
    assert loaded(torch.randn(1, 3, 4, SIZE, SIZE)).shape == (1, 32, WIDTH)
    assert loaded(torch.randn(1, 3, 1, SIZE, SIZE)).shape == (1, 16, WIDTH)  # an image, by its own tokenizer
    before = torch.load(file, weights_only=False)
    same_bits({part: before[part] for part in parts}, there_and_back(file, tmp_path))


def flat_table(side: int, width: int) -> Tensor:
    """I-JEPA's positions, token by token: sines and cosines of the column, then of the row."""
    quarter = width // 4
    rates = np.power(10000.0, -np.arange(quarter) / quarter)
    rows = [
        np.concatenate([np.sin(c * rates), np.cos(c * rates), np.sin(r * rates), np.cos(r * rates)])
        for r in range(side)
        for c in range(side)
    ]
    return torch.from_numpy(np.stack(rows)).float().unsqueeze(0)


def test_image_model(tmp_path: Path) -> None:
    def encoder() -> State:
        state = {"pos_embed": flat_table(4, WIDTH), "patch_embed.proj.weight": torch.randn(WIDTH, 3, PATCH, PATCH)}
        state["patch_embed.proj.bias"] = torch.randn(WIDTH)
        for number in range(2):
            state |= block(f"blocks.{number}", WIDTH, 4 * WIDTH)
        return state | norm("norm", WIDTH)

    predictor = {"mask_token": torch.randn(1, 1, INSIDE), "predictor_pos_embed": flat_table(4, INSIDE)}
    predictor |= linear("predictor_embed", INSIDE, WIDTH) | block("predictor_blocks.0", INSIDE, 4 * INSIDE)
    predictor |= norm("predictor_norm", INSIDE) | linear("predictor_proj", WIDTH, INSIDE)
    parts = {"encoder": encoder(), "predictor": predictor, "target_encoder": encoder()}
    file = save(tmp_path / "image.pth.tar", "module.", **parts)
    loaded = jepa.load_encoder(file, heads=HEADS)
    assert (loaded.config.positions, loaded.config.size, loaded.config.frames) == ("sincos2d", SIZE, 1)
    own = loaded.encoder.places.place(torch.zeros(1, 16, WIDTH), TokenGrid(1, 4, 4), None)[0]
    CLOSE(own, flat_table(4, WIDTH))
    assert loaded(torch.randn(2, 3, 1, SIZE, SIZE)).shape == (2, 16, WIDTH)
    before = torch.load(file, weights_only=False)
    same_bits({part: before[part] for part in parts}, there_and_back(file, tmp_path))


@pytest.mark.parametrize("depth", [1, 4])
def test_probes(official: SimpleNamespace, randomised: Callable[[Any], Any], depth: int, tmp_path: Path) -> None:
    theirs = [
        randomised(
            official.attentive_pooler.AttentiveClassifier(
                embed_dim=WIDTH, num_heads=16, depth=depth, norm_layer=NORM, num_classes=5
            )
        )
        for _ in range(2)
    ]
    with torch.no_grad():
        theirs[1].linear.bias.add_(1.0)
    states = [{f"module.{name}": tensor for name, tensor in one.state_dict().items()} for one in theirs]
    torch.save({"classifiers": states, "epoch": 20, "opt": [None]}, tmp_path / "probe.pt")
    tokens = torch.randn(3, 20, WIDTH)
    for number, one in enumerate(theirs):
        loaded: Any = jepa.load_probe(tmp_path / "probe.pt", number=number)
        CLOSE(loaded(tokens), one(tokens))
    after = there_and_back(tmp_path / "probe.pt", tmp_path, Hints())
    again: Any = jepa.load_probe(tmp_path / "ours", number=1)
    CLOSE(again(tokens), theirs[1](tokens))
    for before, now in zip(states, after["classifiers"], strict=True):
        same_bits({"probe": before}, {"probe": now})


def test_the_probe_of_anticipation_has_three_answers(
    official: SimpleNamespace, randomised: Callable[[Any], Any], tmp_path: Path
) -> None:
    pooler = randomised(
        official.attentive_pooler.AttentivePooler(
            num_queries=3, embed_dim=WIDTH, num_heads=16, depth=4, norm_layer=NORM
        )
    )
    heads = {"verb": nn.Linear(WIDTH, 3), "noun": nn.Linear(WIDTH, 5), "action": nn.Linear(WIDTH, 7)}
    state = {f"module.pooler.{name}": tensor for name, tensor in pooler.state_dict().items()}
    for name, head in heads.items():
        state |= {f"module.{name}_classifier.{kind}": tensor for kind, tensor in head.state_dict().items()}
    torch.save({"classifiers": [state]}, tmp_path / "ek100.pt")
    tokens = torch.randn(2, 20, WIDTH)
    answers: Any = jepa.load_probe(tmp_path / "ek100.pt")(tokens)
    pooled = pooler(tokens)
    assert list(answers) == list(heads)
    for number, (name, head) in enumerate(heads.items()):
        CLOSE(answers[name], head(pooled[:, number]))
    same_bits({"probe": state}, {"probe": there_and_back(tmp_path / "ek100.pt", tmp_path, Hints())["classifiers"][0]})
