"""Official files that are nearly right: nothing in them vanishes, counts twice, hangs or ends in another error."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import jepa
from jepa.checkpoints.convert import convert
from jepa.checkpoints.folder import save_folder
from jepa.checkpoints.load import encoder_digest
from jepa.checkpoints.source import open_weights
from jepa.checkpoints.weights import Hints
from jepa.cli import main
from jepa.errors import DataError
from jepa.models.build import ModelConfig, build_jepa
from jepa.models.probes import ProbeConfig, build_probe
from jepa.models.stack import make_blocks

HINTS = Hints(heads=3, predictor_heads=2)
WRAPPED = "module.backbone."
Container = dict[str, Any]
Change = Callable[[Container], object]


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Container:
    """What an official file of a nano model holds."""
    folder = tmp_path_factory.mktemp("official")
    made = build_jepa(ModelConfig(size="nano", patch=8, rope="tiled"), frames=4, size=16)
    save_folder(folder / "ours", made, facts={"evaluate": "target"})
    convert(folder / "ours", folder / "x.pt", "official")
    return dict(torch.load(folder / "x.pt", weights_only=True))


@pytest.fixture
def odd(container: Container, tmp_path: Path) -> Callable[[Change], Path]:
    """Writes such a file with a change."""

    def write(change: Change) -> Path:
        content = {key: dict(value) if isinstance(value, dict) else value for key, value in container.items()}
        change(content)
        torch.save(content, tmp_path / "x.pt")
        return tmp_path / "x.pt"

    return write


def refused(path: Path, *words: str, hints: Hints = HINTS) -> None:
    with pytest.raises(DataError) as caught:
        open_weights(path, hints)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("part", ["target_encoder", "encoder", "predictor"])
@pytest.mark.parametrize(("value", "kind"), [(3, "int"), (None, "NoneType"), ({}, "dict")])
def test_what_is_no_tensor_is_named(odd: Callable[[Change], Path], part: str, value: object, kind: str) -> None:
    """Or the part would be left out, and the other encoder taken without a word."""
    refused(
        odd(lambda content: content[part].update(epoch=value)),
        f"has {part}.epoch of type {kind}, expected a tensor by name",
    )


def test_an_empty_part_and_names_that_are_none(odd: Callable[[Change], Path]) -> None:
    refused(odd(lambda content: content.update(target_encoder={})), "holds nothing in target_encoder")
    refused(
        odd(lambda content: content["encoder"].update({3: torch.zeros(1)})),
        "encoder.3 of type Tensor, expected a tensor by name",
    )
    refused(odd(lambda content: content["encoder"].update({"a\nb": 0})), r"'encoder.a\nb'")


def test_what_is_no_tensor_in_a_probe(tmp_path: Path) -> None:
    good = build_probe(ProbeConfig(96, (5,), heads=3)).state_dict()
    torch.save({"classifiers": [good, {**good, "epoch": 3}]}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "classifiers.1.epoch of type int")


def test_other_entries_of_these_names_are_no_parts(odd: Callable[[Change], Path]) -> None:
    """Names of classes, or of an architecture, say."""
    path = odd(lambda content: content.update(classifiers=["verb"], ema_encoder="vit_large"))
    assert open_weights(path, HINTS).parts() == ["encoder", "predictor", "target_encoder"]


@pytest.mark.parametrize("part", ["target_encoder", "encoder", "predictor"])
def test_two_tensors_for_one(odd: Callable[[Change], Path], part: str) -> None:
    """With and without the prefixes of wrappers; the second would win."""
    name = "predictor_norm.bias" if part == "predictor" else "norm.bias"
    path = odd(lambda content: content[part].update({name: torch.ones(64 if part == "predictor" else 96)}))
    refused(path, f"two tensors for one: {WRAPPED}{name}, {name}")


def test_two_names_of_the_mask_token(odd: Callable[[Change], Path]) -> None:
    path = odd(lambda content: content["predictor"].update(mask_token=torch.ones(1, 1, 64)))
    refused(path, "two tensors for one: mask_token, mask_tokens.0")


@pytest.mark.parametrize(
    ("part", "name", "words"),
    [
        ("target_encoder", "blocks.300000.x", "5 blocks, numbered not from 0 to 4: 300000"),
        ("predictor", "predictor_blocks.300000.x", "2 predictor_blocks, numbered not from 0 to 1: 300000"),
        ("encoder", f"blocks.{'9' * 5000}.x", "unknown"),
        ("target_encoder", f"blocks.{'9' * 5000}.x", "numbered not from 0 to 4"),
        ("target_encoder", "blocks.04.x", "numbered not from 0 to 4: 04"),
    ],
)
def test_the_depth_is_that_of_the_blocks_that_are_there(
    odd: Callable[[Change], Path], part: str, name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One number does not make the reader build blocks without end."""

    def shallow(depth: int, *others: Any) -> Any:
        assert depth < 10
        return make_blocks(depth, *others)

    for module in ("encoder", "predictor"):
        monkeypatch.setattr(f"jepa.models.{module}.make_blocks", shallow)
    refused(odd(lambda content: content[part].update({f"{WRAPPED}{name}": torch.zeros(1)})), words)


def test_the_depth_of_a_probe(tmp_path: Path) -> None:
    state = build_probe(ProbeConfig(96, (5,), heads=3, depth=1)).state_dict()
    torch.save({"classifiers": [{**state, "pooler.blocks.300000.x": torch.zeros(1)}]}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "1 pooler.blocks, numbered not from 0 to 0: 300000")


PATCHES, HIDDEN = "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"


@pytest.mark.parametrize(
    ("part", "name", "tensor", "words"),
    [
        ("target_encoder", PATCHES, torch.zeros(96), "has patch_embed.proj.weight of shape [96], expected 4 or 5 axes"),
        ("target_encoder", PATCHES, torch.zeros(()), "of shape [], expected 4 or 5 axes"),
        ("target_encoder", PATCHES, torch.zeros(0, 3, 2, 8, 8), "is empty, of shape [0, 3, 2, 8, 8]"),
        ("target_encoder", PATCHES, torch.zeros(96, 3, 0, 8, 8), "is empty"),
        ("target_encoder", PATCHES, torch.zeros(96, 3, 2, 8, 9), "of another shape"),
        ("target_encoder", HIDDEN, torch.tensor(1.0), "has blocks.0.mlp.fc1.weight of shape [], expected 2 axes"),
        ("target_encoder", "pos_embed", torch.zeros(4, 96), "that are no sine-cosine table"),
        ("target_encoder", "pos_embed", torch.zeros(()), "that are no sine-cosine table"),
        ("target_encoder", "pos_embed", torch.zeros(1, 4, 6), "that are no sine-cosine table"),
        ("predictor", "predictor_embed.weight", torch.zeros(64), "expected 2 axes"),
        ("predictor", "predictor_embed.0.weight", torch.zeros(9, 9), "predictor_embed.2.weight"),
        ("predictor", "predictor_proj.weight", torch.tensor(1.0), "of another shape"),
        ("predictor", "action_encoder.weight", torch.tensor(1.0), "expected 2 axes"),
    ],
)
def test_shapes_that_cannot_be(
    odd: Callable[[Change], Path], part: str, name: str, tensor: torch.Tensor, words: str
) -> None:
    refused(odd(lambda content: content[part].update({f"{WRAPPED}{name}": tensor})), words)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("pooler.query_tokens", torch.zeros(96)),
        ("pooler.query_tokens", torch.zeros(1, 0, 96)),
        ("linear.weight", torch.tensor(1.0)),
        ("pooler.cross_attention_block.mlp.fc1.weight", torch.tensor(1.0)),
    ],
)
def test_shapes_of_a_probe_that_cannot_be(tmp_path: Path, name: str, tensor: torch.Tensor) -> None:
    state = build_probe(ProbeConfig(96, (5,), heads=3)).state_dict()
    torch.save({"classifiers": [{**state, name: tensor}]}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", name)


def test_an_architecture_that_cannot_be(container: Container, tmp_path: Path) -> None:
    """A predictor without mask tokens; no option was given that could be wrong."""
    made = build_jepa(ModelConfig(size="tiny", rope="tiled"), frames=4, size=32)
    save_folder(tmp_path / "ours", made, facts={"evaluate": "target"})
    convert(tmp_path / "ours", tmp_path / "x.pt", "official")
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    content["predictor"] = {name: value for name, value in content["predictor"].items() if "mask_token" not in name}
    torch.save(content, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "is no model of a known kind: predictor has 0 mask tokens", hints=Hints())


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(96, dtype=torch.int8), "is int8, expected floating point"),
        (torch.zeros(96, dtype=torch.complex64), "is complex64, expected floating point"),
        (torch.zeros(96, dtype=torch.bool), "is bool, expected floating point"),
        (torch.zeros(96, dtype=torch.float8_e4m3fn), "is float8_e4m3fn, expected floating point"),
        (torch.zeros(96).to_sparse(), "is sparse or nested"),
        (torch.zeros(96, device="meta"), "has a shape but no values"),
        (torch.zeros(1).expand(96), "is of shape [96], but the file holds fewer values"),
    ],
)
@pytest.mark.parametrize("name", ["norm.bias", "pos_embed"])
def test_tensors_that_are_no_weights(
    odd: Callable[[Change], Path], tensor: torch.Tensor, words: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = odd(lambda content: content["target_encoder"].update({f"{WRAPPED}{name}": tensor}))
    refused(path, f"tensor {name} {words}")
    assert main(["convert", str(path), f"{path}.out", "--to", "jepa", "--heads", "3"]) == 3
    assert words in capsys.readouterr().err


def test_integers_in_other_kinds_of_files(tmp_path: Path, tiny_run: Path) -> None:
    """They would become float32 in silence."""
    folder = tmp_path / "ours"
    save_folder(folder, build_jepa(ModelConfig(size="nano", patch=8), frames=4, size=16), facts={"evaluate": "target"})
    tensors = load_file(folder / "model.safetensors")
    tensors["target_encoder.norm.bias"] = tensors["target_encoder.norm.bias"].to(torch.int8)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(DataError, match=r"tensor target_encoder\.norm\.bias is int8"):
        jepa.load_encoder(folder)
    for name in ("config.yaml", "checkpoints/last.ckpt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((tiny_run / name).read_bytes())
    content = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    content["state_dict"]["jepa.target_encoder.norm.bias"] = content["state_dict"]["jepa.encoder.norm.bias"].to_sparse()
    torch.save(content, tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(DataError, match=r"tensor norm\.bias is sparse"):
        open_weights(tmp_path)
    assert encoder_digest(tmp_path) is None
