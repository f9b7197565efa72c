"""Official files that are nearly right: nothing in them vanishes, counts twice, hangs or ends in another error."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import jepa
from jepa.checkpoints.convert import convert
from jepa.checkpoints.folder import save_folder
from jepa.checkpoints.source import open_weights
from jepa.checkpoints.weights import Hints
from jepa.cli import main
from jepa.errors import DataError
from jepa.models.build import ModelConfig, build_jepa
from jepa.models.probes import ProbeConfig, build_probe

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
@pytest.mark.parametrize(("value", "kind"), [(3, "a int"), (None, "a NoneType"), ({}, "a dict")])
def test_what_is_no_tensor_is_named(
    odd: Callable[[Change], Path], part: str, value: object, kind: str
) -> None:
    """Or the part would be left out, and the other encoder taken without a word."""
    refused(odd(lambda content: content[part].update(epoch=value)), f"{kind} in {part}.epoch, expected tensors by name")


def test_an_empty_part_and_names_that_are_none(odd: Callable[[Change], Path]) -> None:
    refused(odd(lambda content: content.update(target_encoder={})), "holds nothing in target_encoder")
    refused(odd(lambda content: content["encoder"].update({3: torch.zeros(1)})), "encoder.3, expected tensors by name")
    refused(odd(lambda content: content["encoder"].update({"a\nb": 0})), r"'encoder.a\nb'")


def test_what_is_no_tensor_in_a_probe(tmp_path: Path) -> None:
    good = build_probe(ProbeConfig(96, (5,), heads=3)).state_dict()
    torch.save({"classifiers": [good, {**good, "epoch": 3}]}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "a int in classifiers.1.epoch")


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
