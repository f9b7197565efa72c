"""Families: one answer for every architecture, and one row for a family that nobody here has heard of."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa.checkpoints.convert import convert
from jepa.checkpoints.families import FAMILIES, Family, facts_of, family_of
from jepa.checkpoints.folder import save_folder
from jepa.checkpoints.source import open_weights
from jepa.checkpoints.weights import Hints
from jepa.errors import ConfigError
from jepa.models.action_predictor import ActionPredictorConfig
from jepa.models.build import ModelConfig, build_jepa
from jepa.models.catalog import CATALOG, Release
from jepa.models.encoder import EncoderConfig

NEWER = {"rope": "interleaved", "levels": (1, 3), "image_tokenizer": True, "interpolate_from": 256}


def made(folder: Path, **model: Any) -> Path:
    settings: dict[str, Any] = {"size": "nano", "patch": 8}
    return save_folder(
        folder, build_jepa(ModelConfig(**settings | model), frames=4, size=16), facts={"evaluate": "target"}
    )


def without_images(file: Path) -> Path:
    """A file of V-JEPA 2.1 whose encoders have lost their image tokenizer: supervised levels of no family."""
    content = torch.load(file, weights_only=True)
    for part in ("encoder", "target_encoder"):
        content[part] = {
            name: tensor
            for name, tensor in content[part].items()
            if not name.endswith("mod_embed") and "patch_embed_img" not in name
        }
    torch.save(content, file)
    return file


@pytest.mark.parametrize("name", CATALOG)
def test_published_encoders_are_of_their_release(name: str) -> None:
    entry = CATALOG[name]
    family, why = family_of(entry.encoder, entry.predictor)
    assert (family, why) == (name.split("_vit_")[0], "")
    assert FAMILIES[str(family)].release is entry.source.release


def test_the_action_conditioned_predictor_is_of_a_family_of_its_own() -> None:
    entry = CATALOG["vjepa2_vit_giant_patch16_256"]
    actions = ActionPredictorConfig(context_width=entry.encoder.width)
    assert family_of(entry.encoder, actions) == ("vjepa2_ac", "")
    assert family_of(entry.encoder, None) == ("vjepa2", "")


@pytest.mark.parametrize(
    ("encoder", "why"),
    [
        (EncoderConfig(levels=(1, 3)), "both supervised levels and an image tokenizer"),
        (EncoderConfig(image_tokenizer=True, interpolate_from=256), "both supervised levels and an image tokenizer"),
        (EncoderConfig(levels=(1, 3), image_tokenizer=True), "interleaved, interpolated"),
        (EncoderConfig(), "tiled and not interpolated"),
        (EncoderConfig(positions="sincos2d"), "images, no clips"),
        (EncoderConfig(positions="sincos2d", tubelet=1, frames=1), "interpolated from those of the crop size"),
        (EncoderConfig(positions="sincos", interpolate_from=112), "interpolated from those of the crop size"),
        (EncoderConfig(positions="sincos", position_scale=2.0), "scales layers or positions"),
    ],
)
def test_what_is_of_no_family_gets_no_licence(encoder: EncoderConfig, why: str) -> None:
    name, said = family_of(encoder, None)
    assert name is None
    assert why in said
    facts = facts_of("x.pt", "official", encoder, None)
    assert facts["source"] == {"file": "x.pt", "format": "official"}
    assert facts["clip"] == {"frames": encoder.frames, "size": encoder.size}


def test_loading_and_writing_agree_on_a_file_of_no_family(tmp_path: Path) -> None:
    """What cannot be written as an official file is not called one when it is read."""
    convert(made(tmp_path / "source", **NEWER), tmp_path / "x.pt", "official")
    hints = Hints(heads=3, levels=(1, 3))
    whole = open_weights(tmp_path / "x.pt", hints)
    assert whole.facts["source"] == {"file": "x.pt", "format": "official", "family": "vjepa2_1", "licence": "MIT"}
    opened = open_weights(without_images(tmp_path / "x.pt"), hints)
    assert opened.encoder is not None
    assert (opened.encoder.levels, opened.encoder.image_tokenizer) == ((1, 3), False)
    assert opened.facts["source"] == {"file": "x.pt", "format": "official"}
    done = convert(tmp_path / "x.pt", tmp_path / "ours", "jepa", hints=hints)
    assert done.licence is None
    assert "| family | none of the published ones |" in (tmp_path / "ours" / "README.md").read_text()
    with pytest.raises(ConfigError, match=r"fits no official model: V-JEPA 2\.1 has both"):
        convert(tmp_path / "ours", tmp_path / "y.pt", "official")


def test_a_family_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that transformers does not know either: named, refused there, written by its own prefix."""
    source = made(tmp_path / "source", rope="interleaved")
    row = Family(Release("V-JEPA 3", "9999.99999", "MIT"), "wrapped.", lambda encoder, _: "", {"fps": 8.0})
    with pytest.raises(ConfigError, match="fits no official model"):
        convert(source, tmp_path / "x.pt", "official")
    monkeypatch.setitem(FAMILIES, "vjepa3", row)
    with pytest.raises(ConfigError, match="transformers has no class for V-JEPA 3; use --to jepa"):
        convert(source, tmp_path / "out", "huggingface")
    convert(source, tmp_path / "x.pt", "official")
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    assert all(name.startswith("wrapped.") for name in content["encoder"])
    encoder = open_weights(source).encoder
    assert encoder is not None
    facts = facts_of("x.pt", "official", encoder, None)
    assert (facts["clip"]["fps"], facts["source"]["licence"]) == (8.0, "MIT")


def test_a_card_of_a_family_that_is_not_known_here(tmp_path: Path) -> None:
    """A folder of a later version may name one."""
    source = made(tmp_path / "source", rope="tiled")
    described = json.loads((source / "config.json").read_text())
    described["source"] = {"file": "x.pt", "format": "official", "family": "vjepa9", "licence": "MIT"}
    (source / "config.json").write_text(json.dumps(described))
    convert(source, tmp_path / "out", "huggingface")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| family | none of the published ones |" in card
    assert 'AutoModel.from_pretrained("out")' in card
