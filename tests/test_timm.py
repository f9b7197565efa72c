"""The encoders in timm: names, inputs, intermediate tokens, data configuration, fine-tuning, weights."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.optim import create_optimizer_v2
from torch import nn

import jepa.timm_models  # noqa: F401  registers the names
from jepa.checkpoints.load import load_encoder
from jepa.errors import ConfigError, DataError
from jepa.models.catalog import CATALOG

VIDEO = "jepa_vit_large_patch16_256.vjepa2"
FIRST = "jepa_vit_huge_patch16_224.vjepa1"
DENSE = "jepa_vit_large_patch16_384.vjepa2_1"
IMAGE = "jepa_vit_huge_patch14_224.ijepa"
TINY: dict[str, dict[str, Any]] = {
    VIDEO: {"embed_dim": 48, "depth": 3, "num_heads": 2},
    FIRST: {"width": 48, "depth": 3, "heads": 2},
    DENSE: {"width": 48, "depth": 3, "heads": 2, "levels": [0, 2]},
    IMAGE: {"width": 48, "depth": 3, "heads": 2},
}


def tiny(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **TINY[name], **options)


def shaken(module: nn.Module) -> nn.Module:
    """All parameters away from their initial values: norms are not the identity, modality vectors not next to zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module


def test_every_published_encoder_is_listed_once() -> None:
    names = timm.list_models("jepa_*", include_tags=True)
    assert len(names) == len(set(names)) == len(CATALOG)
    assert {f"{tag}_{name.removeprefix('jepa_')}" for name, tag in (name.split(".") for name in names)} == set(CATALOG)
    assert not timm.list_models("jepa_*", pretrained=True)  # where weights are, the user says


@pytest.mark.parametrize("name", timm.list_models("jepa_*", include_tags=True))
def test_a_name_means_the_architecture_of_the_catalogue(name: str) -> None:
    own, tag = name.split(".")
    entry = CATALOG[f"{tag}_{own.removeprefix('jepa_')}"]
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7)
    assert model.encoder.config == entry.encoder
    assert model.get_classifier().weight.shape == (7, entry.encoder.width)
    data = resolve_model_data_config(model)
    assert data["input_size"] == (3, entry.encoder.size, entry.encoder.size)
    assert (data["mean"], data["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (data["interpolation"], data["crop_pct"], data["crop_mode"]) == ("bilinear", 0.875, "center")


def test_a_size_of_two_families_is_told_apart_by_the_tag() -> None:
    with torch.device("meta"):
        bare, second, third = (
            timm.create_model(f"jepa_vit_giant_patch16_384{tag}").encoder.config for tag in ("", ".vjepa2", ".vjepa2_1")
        )
    assert bare == second
    assert (second.rope, third.rope) == ("tiled", "interleaved")
    assert third.levels == (9, 19, 29, 39)


@pytest.mark.parametrize("name", [VIDEO, FIRST, DENSE])
def test_clips_are_encoded_as_by_the_encoder(name: str) -> None:
    model = shaken(tiny(name)).eval()
    clips = torch.randn(2, 3, 4, 32, 48)
    expected = model.encoder(clips)
    assert torch.equal(model.forward_features(clips), expected)
    assert torch.allclose(model(clips), expected.mean(dim=1))


@pytest.mark.parametrize(("name", "frames"), [(VIDEO, 2), (FIRST, 2), (DENSE, 1), (IMAGE, 1)])
def test_images_fill_one_tubelet(name: str, frames: int) -> None:
    model = shaken(tiny(name, num_classes=5)).eval()
    side = model.encoder.config.patch
    images = torch.randn(2, 3, 2 * side, 3 * side)
    tokens = model.forward_features(images)
    assert tokens.shape == (2, 6, 48)
    assert torch.equal(tokens, model.encoder(torch.stack([images] * frames, dim=2)))
    assert torch.allclose(model(images), model.head(tokens.mean(dim=1)))
    assert torch.allclose(model.forward_head(tokens, pre_logits=True), tokens.mean(dim=1))


def test_an_encoder_of_images_takes_no_clips() -> None:
    with pytest.raises(ConfigError, match="4 frames for an encoder of images"):
        tiny(IMAGE)(torch.zeros(1, 3, 4, 28, 28))
    assert tiny(IMAGE)(torch.zeros(1, 3, 1, 28, 28)).shape == (1, 48)


@pytest.mark.parametrize("name", [VIDEO, DENSE])
def test_intermediate_tokens_are_the_encoder_s_levels(name: str) -> None:
    model = shaken(tiny(name)).eval()
    clips = torch.randn(2, 3, 4, 32, 48)
    final, found = model.forward_intermediates(clips, indices=[0, -1], norm=True, output_fmt="NLC")
    expected = model.encoder.levels(clips, [0, 2])
    assert torch.equal(final, model.encoder(clips))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    raw = model.forward_intermediates(clips, indices=2, intermediates_only=True)
    assert [tuple(level.shape) for level in raw] == [(2, 48, 2, 2, 3)] * 2
    assert torch.equal(model.encoder.normalise(raw[-1].flatten(2).mT, 2), expected[-1])


def test_what_lies_behind_the_last_wanted_block_is_not_run() -> None:
    model, run = tiny(VIDEO), []
    for number, block in enumerate(model.encoder.blocks):
        block.register_forward_hook(lambda *_, number=number: run.append(number))
    images = torch.zeros(1, 3, 32, 32)
    final, (only,) = model.forward_intermediates(images, indices=[1], stop_early=True, output_fmt="NLC")
    assert run == [0, 1]
    assert torch.equal(final, model.encoder.normalise(only, 1))
    assert len(model.forward_intermediates(images)[1]) == 3


@pytest.mark.parametrize("name", [VIDEO, IMAGE])
def test_features_only(name: str) -> None:
    model = timm.create_model(name, **TINY[name], features_only=True, out_indices=(0, 2))
    side = 14 if name == IMAGE else 16
    assert [tuple(one.shape) for one in model(torch.zeros(2, 3, 2 * side, 3 * side))] == [(2, 48, 2, 3)] * 2
    assert model.feature_info.channels() == [48, 48]
    assert model.feature_info.reduction() == [side, side]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tiny(VIDEO, embed_dims=3), "unknown option 'embed_dims'; did you mean 'embed_dim'"),
        (lambda: tiny(VIDEO, global_pool="token"), "global_pool is 'token'"),
        (lambda: tiny(VIDEO, img_size=(32, 64)), "leave it out"),
        (lambda: timm.create_model(DENSE, depth=2), "the last of them 1"),
        (lambda: tiny(VIDEO).forward_intermediates(torch.zeros(1, 3, 32, 32), indices=[3]), "depth 3"),
        (lambda: tiny(VIDEO).forward_intermediates(torch.zeros(1, 3, 32, 32), output_fmt="NHWC"), "NCHW or NLC"),
        (lambda: tiny(VIDEO)(torch.zeros(1, 3, 30, 32)), "multiple of 16"),
    ],
)
def test_a_mistake_is_one_line(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_options_in_the_words_of_timm() -> None:
    model = tiny(VIDEO, img_size=(64, 64), drop_path_rate=0.1, fc_norm=True, drop_rate=0.5, num_classes=3)
    assert (model.encoder.config.size, model.encoder.config.drop_path) == (64, 0.1)
    assert isinstance(model.fc_norm, nn.LayerNorm)
    assert model.head_drop.p == 0.5
    assert (model.num_features, model.head_hidden_size, model.num_prefix_tokens) == (48, 48, 0)
    model.reset_classifier(4, "")
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 4, 4)
    model.reset_classifier(0, "max")
    assert isinstance(model.get_classifier(), nn.Identity)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 48)


@pytest.mark.parametrize("name", [VIDEO, DENSE])
def test_the_learning_rate_falls_with_depth(name: str) -> None:
    model = tiny(name, num_classes=3)
    groups = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.1, layer_decay=0.5).param_groups
    told = {id(one): (group["lr_scale"], group["weight_decay"]) for group in groups for one in group["params"]}
    assert len(told) == len(list(model.parameters()))
    scale = {key: told[id(parameter)] for key, parameter in model.named_parameters()}
    assert scale["head.weight"] == (1.0, 0.1)
    assert scale["encoder.blocks.2.attn.qkv.weight"] == (0.5, 0.1)
    assert scale["encoder.blocks.0.attn.qkv.weight"] == (0.125, 0.1)
    assert scale["encoder.patch_embed.proj.weight"] == (0.0625, 0.1)
    assert scale["encoder.blocks.0.norm1.weight"] == (0.125, 0.0)
    final = "norms_block.1" if name == DENSE else "norm"
    assert scale[f"encoder.{final}.weight"] == (0.5, 0.0)
    if name == DENSE:
        assert scale["encoder.video_mod_embed"] == (0.0625, 0.0)
        assert scale["encoder.patch_embed_img.proj.weight"] == (0.0625, 0.1)


def test_gradients_reach_every_parameter_also_with_checkpointing() -> None:
    clips, gradients = torch.randn(2, 3, 4, 32, 32), []
    for enable in (False, True):
        model = tiny(VIDEO, num_classes=3)
        model.set_grad_checkpointing(enable)
        model(clips).logsumexp(dim=1).sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_weights_of_a_run_folder(tiny_run: Path) -> None:
    shape = {"width": 96, "depth": 4, "heads": 3, "patch": 8, "rope": "interleaved", "num_classes": 3}
    weights = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(tiny_run)}}
    model, loaded = timm.create_model(VIDEO, **shape, **weights), load_encoder(tiny_run)
    clips = torch.randn(2, 3, 8, 32, 32)
    assert torch.equal(model.eval().forward_features(clips), loaded(clips))
    features = timm.create_model(VIDEO, **shape, **weights, features_only=True, out_indices=[-1])
    (last,) = features(clips)
    assert torch.equal(loaded.encoder.norm(last.flatten(2).mT), loaded(clips))
    with pytest.raises(ConfigError, match="another architecture: heads 3, not 2; rope interleaved, not tiled"):
        timm.create_model(VIDEO, **shape | {"heads": 2, "rope": "tiled"}, **weights)


@pytest.mark.parametrize("name", [VIDEO, DENSE])
def test_weights_of_an_official_file(name: str, tmp_path: Path) -> None:
    model = shaken(tiny(name)).eval()
    encoder = {f"module.backbone.{key}": value for key, value in model.encoder.state_dict().items()}
    torch.save({"target_encoder": encoder, "epoch": 1}, tmp_path / "official.pt")
    file = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(tmp_path / "official.pt")}}
    clips = torch.randn(1, 3, 2, 32, 32)
    loaded = tiny(name, num_classes=3, **file).eval()
    assert torch.equal(loaded.forward_features(clips), model.forward_features(clips))
    with pytest.raises(ConfigError, match="another architecture: width 48, not 32"):
        timm.create_model(name, **TINY[name] | {"width" if name == DENSE else "embed_dim": 32}, **file)


def test_without_a_file_there_are_no_weights() -> None:
    with pytest.raises(ConfigError, match=r"pretrained_cfg_overlay=dict\(file=PATH\).*/vjepa2/vitl\.pt"):
        timm.create_model(VIDEO, pretrained=True)
    with pytest.raises(DataError, match="/nowhere"):
        tiny(VIDEO, pretrained=True, pretrained_cfg_overlay={"file": "/nowhere"})


def test_keys_are_those_of_the_encoder_and_a_checkpoint_of_timm_loads(tmp_path: Path) -> None:
    model = shaken(tiny(DENSE, num_classes=3)).eval()
    keys = set(model.state_dict())
    assert keys == {f"encoder.{key}" for key in model.encoder.state_dict()} | {"head.weight", "head.bias"}
    torch.save({"state_dict": model.state_dict()}, tmp_path / "checkpoint.pth")
    again = tiny(DENSE, num_classes=3, checkpoint_path=tmp_path / "checkpoint.pth").eval()
    clips = torch.randn(1, 3, 2, 32, 32)
    assert torch.equal(model(clips), again(clips))
    state = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": model.state_dict()}}
    assert torch.equal(
        tiny(DENSE, num_classes=5, **state).eval().forward_features(clips), model.forward_features(clips)
    )


@pytest.mark.slow  # 87 million parameters
def test_the_example_of_the_documentation_runs() -> None:
    text = (Path(__file__).parents[1] / "docs" / "timm.md").read_text("utf-8")
    names: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert names["scores"].shape == (2, 10)
    assert names["tokens"].shape == (2, 2 * 8 * 12, 768)
    assert [tuple(level.shape) for level in names["levels"]] == [(2, 768, 8, 12)] * 4
    assert names["features"].feature_info.channels() == [768, 768]
