"""Names on the hub, with a made-up library in place of huggingface_hub: no test uses the network."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import jepa
from jepa.checkpoints.convert import convert
from jepa.checkpoints.folder import save_folder
from jepa.checkpoints.hub import is_hub_name
from jepa.errors import DataError
from jepa.models.build import ModelConfig, build_jepa

NAME = "facebook/vjepa2-vitl-fpc64-256"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the hub would send: a HuggingFace folder."""
    config = ModelConfig(size="nano", patch=8, rope="tiled")
    save_folder(tmp_path / "ours", build_jepa(config, frames=4, size=16), facts={"evaluate": "target"})
    convert(tmp_path / "ours", tmp_path / "theirs", "huggingface")
    return tmp_path / "theirs"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Any], list[Any]]:
    """`hub(answer)`: a library whose download returns a folder or raises; the list of its calls."""
    monkeypatch.chdir(tmp_path)
    errors: Any = pytest.importorskip("huggingface_hub.errors")

    def install(answer: Any) -> list[Any]:
        calls: list[Any] = []

        def snapshot_download(name: str, **options: Any) -> str:
            calls.append((name, options))
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        module: Any = ModuleType("huggingface_hub")
        module.snapshot_download, module.errors = snapshot_download, errors
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)
        monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
        return calls

    return install


def test_a_name_is_downloaded_and_loaded(hub: Callable[[Any], list[Any]], folder: Path) -> None:
    calls = hub(folder)
    encoder = jepa.load_encoder(NAME)
    assert encoder(torch.randn(1, 3, 4, 16, 16)).shape == (1, 8, 96)
    ((name, options),) = calls
    assert name == NAME
    # Neither pickles nor code: those would be downloaded for nothing, or worse.
    assert options == {"revision": None, "allow_patterns": ["*.json", "*.safetensors"]}


def test_a_revision_can_be_named(hub: Callable[[Any], list[Any]], folder: Path) -> None:
    calls = hub(folder)
    jepa.load_encoder(f"{NAME}@v1.0")
    assert calls[0] == (NAME, {"revision": "v1.0", "allow_patterns": ["*.json", "*.safetensors"]})


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("LocalEntryNotFoundError", "not in the hub's cache, and the hub cannot be reached"),
        ("OfflineModeIsEnabled", "HF_HUB_OFFLINE is set"),
        ("RepositoryNotFoundError", "nothing of this name on the hub"),
        ("RevisionNotFoundError", "nothing of this name on the hub"),
        ("GatedRepoError", "behind terms of use"),
        ("HfHubHTTPError", "could not be downloaded"),
    ],
)
def test_what_goes_wrong_is_one_line(hub: Callable[[Any], list[Any]], kind: str, words: str) -> None:
    errors: Any = pytest.importorskip("huggingface_hub.errors")
    error = getattr(errors, kind)
    hub(error.__new__(error, "no"))
    with pytest.raises(DataError, match=words) as caught:
        jepa.load_encoder(NAME)
    assert NAME in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DataError, match=r"pip install 'jepa-video\[hf\]'"):
        jepa.load_encoder(NAME)


def test_offline_with_the_real_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """HF_HUB_OFFLINE=1, as the library has it after its import, and an empty cache; then one that was filled before."""
    constants: Any = pytest.importorskip("huggingface_hub").constants
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match="not in the hub's cache, and the hub cannot be reached"):
        jepa.load_encoder(NAME)


def test_paths_do_not_reach_the_network(
    hub: Callable[[Any], list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = hub(RuntimeError("must not be asked"))
    (tmp_path / "runs").mkdir()
    for path in ("runs/frist", "nowhere", "a/b/c", "./a/b", "/a/b", "weights/vitl.pt", "x/model.safetensors"):
        assert not is_hub_name(path)
        with pytest.raises(DataError, match="no encoder at"):
            jepa.load_encoder(path)
    assert not calls
