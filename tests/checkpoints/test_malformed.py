"""Folders by strangers: what does not describe a model ends in one line that names the file, and at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import jepa
from jepa.checkpoints.convert import convert
from jepa.checkpoints.folder import save_folder
from jepa.checkpoints.weights import Hints
from jepa.errors import DataError
from jepa.models.build import ModelConfig, build_jepa
from jepa.models.probes import ProbeConfig, build_probe

CLIPS = torch.randn(1, 3, 4, 16, 16)
NAME, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    model = build_jepa(ModelConfig(size="nano", patch=8, rope="tiled"), frames=4, size=16)
    return save_folder(tmp_path / "ours", model, facts={"evaluate": "target", "clip": {"stride": 2}})


@pytest.fixture
def theirs(ours: Path, tmp_path: Path) -> Path:
    """A folder of HuggingFace with a probe."""
    probe = build_probe(ProbeConfig(width=96, classes=(5,), heads=3, depth=2))
    torch.save({"classifiers": [{f"module.{k}": v for k, v in probe.state_dict().items()}]}, tmp_path / "probe.pt")
    convert(tmp_path / "probe.pt", tmp_path / "probe", "jepa", hints=Hints(heads=3))
    convert(ours, tmp_path / "hf", "huggingface", probe=tmp_path / "probe")
    return tmp_path / "hf"


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        jepa.load_encoder(folder)
    text = str(caught.value)
    assert str(folder) in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("hidden_size", "96", "hidden_size '96', expected a whole number from 1"),
        ("hidden_size", 0, "hidden_size 0"),
        ("hidden_size", 3 * 2**60, "cannot be built ("),
        ("num_attention_heads", None, "num_attention_heads None"),
        ("num_hidden_layers", 2.5, "num_hidden_layers 2.5"),
        ("num_hidden_layers", True, "num_hidden_layers True"),
        ("num_hidden_layers", 10**7, "num_hidden_layers 10000000, and only"),
        ("pred_num_hidden_layers", 10**7, "pred_num_hidden_layers 10000000, and only"),
        ("num_pooler_layers", 10**7, "num_pooler_layers 10000000, and only"),
        ("pred_num_mask_tokens", 10**7, "[2, 1, 1, 64] as predictor.embeddings.mask_tokens, expected [10000000, 1,"),
        ("layer_norm_eps", "1e-6", "layer_norm_eps 1e-6, this package only"),
        ("layer_norm_eps", -1.0, "layer_norm_eps -1.0, this package only"),
        ("use_SiLU", True, "use_SiLU True, this package only False"),
        ("drop_path_rate", None, "drop_path_rate None, expected a number"),
        ("mlp_ratio", 1e400, "mlp_ratio inf"),
        ("mlp_ratio", 1e300, "cannot be built ("),
        ("frames_per_clip", None, "frames_per_clip None"),
        ("frames_per_clip", -1, "frames_per_clip -1"),
        ("crop_size", 0, "crop_size 0"),
        ("patch_size", ["8", "8"], "patch_size '8'"),
        ("id2label", {"a": "b"}, "does not describe a model (invalid literal for int() with base 10: 'a')"),
        ("id2label", ["a"], "does not describe a model"),
    ],
)
def test_a_configuration_of_huggingface(theirs: Path, key: str, value: object, words: str) -> None:
    assert words in refusal(edited(theirs, lambda config: config.update({key: value})))


@pytest.mark.parametrize(
    ("part", "key", "value", "words"),
    [
        (None, "normalisation", None, "normalisation None, expected an object"),
        (None, "normalisation", {}, "mean None in normalisation, expected 3 numbers"),
        ("normalisation", "mean", [0, "a", 0], "mean [0, 'a', 0] in normalisation"),
        ("normalisation", "mean", [0.0] * 2, "expected 3 numbers"),
        ("normalisation", "std", [0], "std [0] in normalisation, expected 3 numbers above 0"),
        ("normalisation", "std", [1, 1, 0], "expected 3 numbers above 0"),
        ("normalisation", "std", [1, 1, float("inf")], "expected 3 numbers above 0"),
        (None, "clip", None, "clip None, expected an object"),
        ("clip", "stride", "2", "clip stride '2', expected a whole number"),
        (None, "source", 3, "source 3, expected an object"),
        (None, "source", {"family": []}, "source family []"),
        (None, "classes", {"0": "a"}, "expected a list of names"),
        (None, "encoder", [1], "config.json"),
        (None, "probes", 3, "does not describe an encoder of this package"),
        ("encoder", "frames", -1, "encoder has frames -1, expected 1 or more"),
        ("encoder", "size", 0, "encoder has size 0, expected 1 or more"),
        ("encoder", "patch", 0, "encoder has patch 0, expected 1 or more"),
        ("encoder", "depth", 10**6, "depth 1000000 in the encoder, and 124 tensors"),
        ("predictor", "depth", 10**6, "depth 1000000 in the predictor, and 124 tensors"),
        ("predictor", "mask_tokens", 10**6, "mask_tokens 1000000 in the predictor"),
        (None, "probes", [{"width": 96, "classes": [2], "depth": 10**6}], "depth 1000000 in the probe"),
        ("encoder", "mlp_ratio", float("inf"), "mlp_ratio inf in the encoder"),
        ("encoder", "width", 3 * 2**60, "cannot be built ("),
    ],
)
def test_a_configuration_of_ours(ours: Path, part: str | None, key: str, value: object, words: str) -> None:
    folder = edited(ours, lambda config: (config[part] if part else config).update({key: value}))
    assert words in refusal(folder)


@pytest.mark.parametrize("text", ["[" * 200_000, "[]", "null", '{"model_type": "vjepa2"', '{"model_type": []}', "\xff"])
@pytest.mark.parametrize("kind", ["ours", "theirs"])
def test_what_is_no_object(request: pytest.FixtureRequest, kind: str, text: str) -> None:
    folder: Path = request.getfixturevalue(kind)
    (folder / "config.json").write_text(text, "latin-1")
    assert len(refusal(folder)) < 400


def shards(folder: Path) -> dict[str, str]:
    """Cut the weights of a folder into parts a and b; the index."""
    tensors = load_file(folder / NAME)
    (folder / NAME).unlink()
    names = sorted(tensors)
    places = {name: "a.safetensors" if number % 2 else "b.safetensors" for number, name in enumerate(names)}
    for file in ("a.safetensors", "b.safetensors"):
        save_file({name: tensors[name] for name in names if places[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    return places


def test_copies_in_another_part_do_not_count(theirs: Path) -> None:
    expected = jepa.load_encoder(theirs)(CLIPS)
    places = shards(theirs)
    for file in ("a.safetensors", "b.safetensors"):
        own = load_file(theirs / file)
        others = load_file(theirs / ("b.safetensors" if file[0] == "a" else "a.safetensors"))
        stale = {name: tensor + 1 for name, tensor in others.items() if places[name] != file}
        save_file(stale | own, theirs / f"new-{file}")
    for file in ("a.safetensors", "b.safetensors"):
        (theirs / f"new-{file}").replace(theirs / file)
    assert torch.equal(jepa.load_encoder(theirs)(CLIPS), expected)


@pytest.mark.parametrize("home", [["a.safetensors"], 3, None, "../a.safetensors"])
def test_an_index_that_names_no_file(theirs: Path, home: object) -> None:
    places: dict[str, Any] = shards(theirs)
    (theirs / INDEX).write_text(json.dumps({"weight_map": places | {next(iter(places)): home}}))
    assert "names a file outside its folder" in refusal(theirs)


def test_only_the_files_of_a_model_stand_for_its_folder(theirs: Path) -> None:
    """Another file beside them would be passed over in silence for `model.safetensors`."""
    expected = jepa.load_encoder(theirs)(CLIPS)
    for name in ("finetuned.safetensors", INDEX, "tokenizer.json"):
        (theirs / name).write_bytes((theirs / NAME).read_bytes())
        with pytest.raises(
            DataError, match=r"is no part of the model in its folder \(config.json, model.safetensors\)"
        ):
            jepa.load_encoder(theirs / name)
    for name in (NAME, "config.json"):
        assert torch.equal(jepa.load_encoder(theirs / name)(CLIPS), expected)


def test_the_parts_of_a_model_stand_for_its_folder(theirs: Path) -> None:
    expected = jepa.load_encoder(theirs)(CLIPS)
    (theirs / "finetuned.safetensors").write_bytes((theirs / NAME).read_bytes())
    shards(theirs)
    for name in ("a.safetensors", INDEX):
        assert torch.equal(jepa.load_encoder(theirs / name)(CLIPS), expected)
    assert "is no part of the model" in refusal(theirs / "finetuned.safetensors")


def test_a_folder_without_normalisation_is_as_usual(ours: Path, tmp_path: Path) -> None:
    convert(edited(ours, lambda config: config.pop("normalisation")), tmp_path / "hf", "huggingface")
    processor = json.loads((tmp_path / "hf" / "video_preprocessor_config.json").read_text())
    assert processor["image_mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["vjepa2", "ijepa"])
def test_weights_of_16_bits(tmp_path: Path, kind: torch.dtype, family: str) -> None:
    """They compute as float32 with the rounded values, and are converted as they are."""
    options: dict[str, Any] = {"rope": "tiled"}
    frames = 4
    if family == "ijepa":
        options, frames = {"positions": "sincos2d", "interpolate_from": 16, "tubelet": 1}, 1
    model = build_jepa(ModelConfig(size="nano", patch=8, **options), frames=frames, size=16)
    convert(save_folder(tmp_path / "ours", model, facts={"evaluate": "target"}), tmp_path / "hf", "huggingface")
    tensors = {name: tensor.to(kind) for name, tensor in load_file(tmp_path / "hf" / NAME).items()}
    save_file(tensors, tmp_path / "hf" / NAME, metadata={"format": "pt"})
    encoder, clips = jepa.load_encoder(tmp_path / "hf"), CLIPS[:, :, :frames]
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    rounded = {name: tensor.to(kind).float() for name, tensor in model.target_encoder.state_dict().items()}
    model.target_encoder.load_state_dict(rounded)
    assert torch.equal(encoder(clips), model.target_encoder(clips))
    convert(tmp_path / "hf", tmp_path / "back", "jepa")
    assert {tensor.dtype for tensor in load_file(tmp_path / "back" / NAME).values()} == {kind}
