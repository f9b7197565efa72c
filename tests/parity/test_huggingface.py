"""Our modules against transformers' V-JEPA 2 and I-JEPA with tiny random weights, in both directions of conversion."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import jepa
from jepa.checkpoints.convert import convert
from jepa.cli import main
from jepa.errors import DataError
from jepa.models.probes import ProbeConfig, build_probe
from jepa.tokens import Mask

transformers = pytest.importorskip("transformers")

CLOSE = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
SHAPES = [(4, 32), (8, 32), (2, 48), (6, 64)]
"""Frames and sizes: those of the default configuration here, longer, shorter, larger."""


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.utils.logging.disable_progress_bar()


def configuration(**changes: Any) -> Any:
    """Heads of 26 channels are 8 + 8 + 8 with a rest of 2; hidden widths are cut from a fraction."""
    settings = {
        "hidden_size": 52, "num_attention_heads": 2, "num_hidden_layers": 3, "crop_size": 32, "frames_per_clip": 4,
        "patch_size": 8, "mlp_ratio": 48 / 11, "pred_hidden_size": 40, "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 2, "pred_num_mask_tokens": 3, "num_pooler_layers": 2, "num_labels": 5,
    }  # fmt: skip
    return transformers.VJEPA2Config(**settings | changes)


def randomised(model: Any) -> Any:
    """Weights far from the initial ones, zeros above all."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def clips(frames: int, size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, frames, size, size)


def theirs_on(model: Any, batch: Tensor, **masks: Any) -> Any:
    return model(pixel_values_videos=batch.transpose(1, 2), **masks)


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """`saved(model)`: the folder that `save_pretrained` wrote."""

    def save(model: Any, **options: Any) -> Path:
        model.save_pretrained(tmp_path / "theirs", **options)
        return tmp_path / "theirs"

    return save


@pytest.mark.parametrize(("frames", "size"), SHAPES)
@torch.no_grad()
def test_encoder(saved: Any, frames: int, size: int) -> None:
    model = randomised(transformers.VJEPA2Model(configuration(frames_per_clip=frames, crop_size=size)))
    encoder = jepa.load_encoder(saved(model))
    assert (encoder.config.frames, encoder.config.size, encoder.config.rope) == (frames, size, "tiled")
    batch = clips(frames, size)
    CLOSE(encoder(batch), theirs_on(model, batch, skip_predictor=True).last_hidden_state)
    longer = clips(frames + 4, size)
    CLOSE(encoder(longer), theirs_on(model, longer, skip_predictor=True).last_hidden_state)


@pytest.mark.parametrize(("kept", "asked"), [(1, 31), (9, 16), (31, 1), (32, 32)])
@pytest.mark.parametrize("tokens", [1, 2, 3])
@torch.no_grad()
def test_predictor(saved: Any, kept: int, asked: int, tokens: int) -> None:
    """Their predictor always takes mask token 1, counted round; ours takes the one it is told."""
    model = randomised(transformers.VJEPA2Model(configuration(pred_num_mask_tokens=tokens)))
    predictor: Any = jepa.load_predictor(saved(model))
    batch = clips(4, 32)
    encoder = jepa.load_encoder(saved(model))
    order = torch.stack([torch.randperm(32) for _ in range(2)])
    context = order[:, :kept].sort().values
    target = order[:, -asked:].sort().values
    features = encoder(batch)
    seen = features.gather(1, context.unsqueeze(-1).expand(-1, -1, 52))
    expected = theirs_on(model, batch, context_mask=[context], target_mask=[target]).predictor_output.last_hidden_state
    grid = encoder.grid_of(batch)
    CLOSE(predictor(seen, Mask(context, target), grid, number=1 % tokens), expected)
    if tokens > 1:
        assert not torch.allclose(predictor(seen, Mask(context, target), grid, number=0), expected, atol=1e-3)


@torch.no_grad()
def test_classifier(saved: Any) -> None:
    model = randomised(transformers.VJEPA2ForVideoClassification(configuration()))
    folder = saved(model)
    encoder, probe, batch = jepa.load_encoder(folder), jepa.load_probe(folder), clips(4, 32)
    scores: Any = probe(encoder(batch))
    CLOSE(scores, theirs_on(model, batch).logits)
    assert encoder.facts["classes"] == [f"LABEL_{number}" for number in range(5)]


@pytest.mark.parametrize("kind", ["VJEPA2Model", "VJEPA2ForVideoClassification"])
@torch.no_grad()
def test_there_and_back(saved: Any, tmp_path: Path, kind: str) -> None:
    """HuggingFace -> ours -> HuggingFace: the same bits, which `from_pretrained` takes without a complaint."""
    model = randomised(getattr(transformers, kind)(configuration()))
    folder = saved(model)
    convert(folder, tmp_path / "ours", "jepa")
    convert(tmp_path / "ours", tmp_path / "back", "huggingface")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    loaded, info = getattr(transformers, kind).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch = clips(4, 32)
    if kind == "VJEPA2Model":
        CLOSE(theirs_on(loaded, batch).last_hidden_state, theirs_on(model, batch).last_hidden_state)
    else:
        CLOSE(theirs_on(loaded, batch).logits, theirs_on(model, batch).logits)
    processor = transformers.AutoVideoProcessor.from_pretrained(tmp_path / "back")
    assert dict(processor.crop_size) == {"height": 32, "width": 32}


@torch.no_grad()
def test_our_weights_load_there(tmp_path: Path) -> None:
    """A model of ours, never seen by transformers: the encoder that is evaluated, and its predictor."""
    from jepa.checkpoints.folder import save_folder
    from jepa.models.build import ModelConfig, build_jepa

    config = ModelConfig(size="nano", patch=8, rope="tiled", mask_tokens=2, predictor_width=40, predictor_heads=2)
    model = randomised(build_jepa(config, frames=8, size=48))
    save_folder(tmp_path / "ours", model, facts={"evaluate": "target", "clip": {"frames": 8, "size": 48}})
    done = convert(tmp_path / "ours", tmp_path / "theirs", "huggingface")
    assert list(done.dropped) == ["encoder"]  # the class has one encoder
    loaded = transformers.VJEPA2Model.from_pretrained(tmp_path / "theirs").eval()
    batch = clips(8, 48)
    grid = model.encoder.grid_of(batch)
    everything = torch.arange(grid.count).expand(2, -1)
    out = theirs_on(loaded, batch)
    CLOSE(out.last_hidden_state, model.target_encoder(batch))
    expected = model.predictor(model.target_encoder(batch), Mask(everything, everything), grid, number=1)
    CLOSE(out.predictor_output.last_hidden_state, expected)


@torch.no_grad()
def test_an_official_probe_makes_a_classifier(saved: Any, tmp_path: Path) -> None:
    """As the published classifiers were made: weights of one file, the probe of another."""
    model = randomised(transformers.VJEPA2Model(configuration()))
    convert(saved(model), tmp_path / "v2.pt", "official")
    probe: Any = randomised(build_probe(ProbeConfig(width=52, classes=(5,), heads=2, depth=3)))
    state = {f"module.{name}": tensor for name, tensor in probe.state_dict().items()}
    torch.save({"classifiers": [state, state]}, tmp_path / "probe.pt")
    options = "--to huggingface --heads 2 --predictor-heads 2 --frames 4 --size 32 --number 1"
    files = [tmp_path / "v2.pt", tmp_path / "out", "--probe", tmp_path / "probe.pt"]
    assert main(["convert", *map(str, files), *options.split()]) == 0
    loaded = transformers.VJEPA2ForVideoClassification.from_pretrained(tmp_path / "out").eval()
    batch = clips(4, 32)
    tokens = theirs_on(model, batch, skip_predictor=True).last_hidden_state
    CLOSE(theirs_on(loaded, batch).logits, probe(tokens))


@torch.no_grad()
def test_shards(saved: Any, tmp_path: Path) -> None:
    model = randomised(transformers.VJEPA2Model(configuration()))
    folder = saved(model, max_shard_size="100KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 1
    batch = clips(4, 32)
    CLOSE(jepa.load_encoder(folder)(batch), theirs_on(model, batch, skip_predictor=True).last_hidden_state)
    (folder / files[0]).unlink()
    with pytest.raises(DataError, match=f"lacks {files[0]}, which model.safetensors.index.json lists"):
        jepa.load_encoder(folder)


def image_model(**changes: Any) -> Any:
    from jepa.models.positions import sincos_positions
    from jepa.tokens import TokenGrid

    settings = {
        "hidden_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8,
        "intermediate_size": 209, "layer_norm_eps": 1e-6,
    }  # fmt: skip
    model = randomised(transformers.IJepaModel(transformers.IJepaConfig(**settings | changes)))
    model.embeddings.position_embeddings.data = sincos_positions(TokenGrid(1, 4, 4), 48, "sincos2d").unsqueeze(0)
    return model


@torch.no_grad()
def test_image_encoder(saved: Any, tmp_path: Path) -> None:
    model = image_model()
    folder = saved(model)
    encoder, images = jepa.load_encoder(folder), torch.randn(2, 3, 32, 32)
    CLOSE(encoder(images.unsqueeze(2)), model(images).last_hidden_state)
    larger = torch.randn(2, 3, 48, 64)
    expected = model(larger, interpolate_pos_encoding=True).last_hidden_state
    CLOSE(encoder(larger.unsqueeze(2)), expected)
    convert(folder, tmp_path / "ours", "jepa")
    convert(tmp_path / "ours", tmp_path / "back", "huggingface")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    loaded = transformers.AutoModel.from_pretrained(tmp_path / "back")
    CLOSE(loaded.eval()(images).last_hidden_state, model(images).last_hidden_state)
    assert transformers.AutoImageProcessor.from_pretrained(tmp_path / "back").size["height"] == 32


def test_learned_positions_are_refused(saved: Any) -> None:
    model = image_model()
    model.embeddings.position_embeddings.data[0, 3, 5] += 0.1
    with pytest.raises(DataError, match="position_embeddings that are no sine-cosine table"):
        jepa.load_encoder(saved(model))


def damaged(folder: Path, what: str) -> Path:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    if what == "extra":
        tensors["encoder.layer.0.gate.weight"] = torch.zeros(1)
    elif what == "missing":
        del tensors["encoder.layer.1.attention.key.bias"]
    elif what == "shape":
        tensors["predictor.proj.bias"] = torch.zeros(7)
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("extra", "1 tensors of no known name (encoder.layer.0.gate.weight)"),
        ("missing", "1 missing (blocks.1.attn.qkv.bias)"),
        ("shape", "1 of another shape (predictor_proj.bias is [7], expected [52])"),
    ],
)
def test_every_tensor_has_its_place(saved: Any, what: str, words: str) -> None:
    folder = damaged(saved(transformers.VJEPA2Model(configuration())), what)
    with pytest.raises(DataError) as caught:
        jepa.load_encoder(folder)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("hidden_act", "silu", "hidden_act silu, this package only gelu"),
        ("qkv_bias", False, "qkv_bias False"),
        ("patch_size", [8, 4], r"expected a square one"),
        ("num_attention_heads", 5, "not divisible by 5 heads"),
        ("hidden_size", None, "does not describe a model: 'hidden_size'"),
    ],
)
def test_a_configuration_that_we_lack(saved: Any, key: str, value: object, words: str) -> None:
    folder = saved(transformers.VJEPA2Model(configuration()))
    config = json.loads((folder / "config.json").read_text())
    config[key] = value
    if value is None:
        del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=words):
        jepa.load_encoder(folder)
