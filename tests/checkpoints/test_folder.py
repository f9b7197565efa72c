"""Portable folders: round trip, what is refused, starting weights."""

import json
from pathlib import Path

import pytest
import torch

import jepa as package
from jepa.checkpoints.folder import save_folder
from jepa.checkpoints.load import load_encoder, load_weights, random_encoder
from jepa.errors import ConfigError, DataError
from jepa.models.build import ModelConfig, build_jepa
from jepa.models.jepa import JEPA

CLIPS = torch.randn(2, 3, 4, 16, 16)
FACTS = {"evaluate": "target", "clip": {"frames": 4, "stride": 3, "size": 16}, "step": 5}


@pytest.fixture
def jepa() -> JEPA:
    model = build_jepa(ModelConfig(size="nano", patch=8), frames=4, size=16)
    with torch.no_grad():
        for parameter in model.target_encoder.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model


def test_round_trip_is_exact(jepa: JEPA, tmp_path: Path) -> None:
    save_folder(tmp_path, jepa, facts=FACTS)
    encoder = package.load_encoder(tmp_path)
    assert torch.equal(encoder(CLIPS), jepa.target_encoder(CLIPS))
    assert torch.equal(load_encoder(tmp_path / "model.safetensors", weights="context")(CLIPS), jepa.encoder(CLIPS))
    assert encoder.window_stride == 3
    assert encoder.config == jepa.encoder.config
    assert not any(path.name.endswith(".tmp") for path in tmp_path.iterdir())


def test_evaluate_context_is_obeyed(jepa: JEPA, tmp_path: Path) -> None:
    save_folder(tmp_path, jepa, facts=FACTS | {"evaluate": "context"})
    assert torch.equal(load_encoder(tmp_path)(CLIPS), jepa.encoder(CLIPS))


def test_encoder_alone_is_smaller_and_loads(jepa: JEPA, tmp_path: Path) -> None:
    save_folder(tmp_path, jepa, facts=FACTS, predictor=False)
    assert torch.equal(load_encoder(tmp_path)(CLIPS), jepa.target_encoder(CLIPS))
    with pytest.raises(DataError, match=r"encoder\.\*"):
        load_encoder(tmp_path, weights="context")


def test_frozen_encoder_stays_frozen(jepa: JEPA, tmp_path: Path) -> None:
    encoder = load_encoder(save_folder(tmp_path, jepa, facts=FACTS))
    encoder.train()
    assert not encoder.training
    assert not encoder(CLIPS).requires_grad


def test_preprocess_normalises_by_imagenet(jepa: JEPA, tmp_path: Path) -> None:
    encoder = load_encoder(save_folder(tmp_path, jepa, facts=FACTS))
    clips = torch.full((1, 3, 4, 16, 16), 255, dtype=torch.uint8)
    red = encoder.preprocess(clips)[0, 0, 0, 0, 0].item()
    assert red == pytest.approx((1 - 0.485) / 0.229, rel=1e-5)


def test_random_encoder_depends_on_its_seed_only(jepa: JEPA) -> None:
    torch.manual_seed(1)
    first = random_encoder(jepa.encoder.config, seed=0)(CLIPS)
    torch.manual_seed(2)
    assert torch.equal(first, random_encoder(jepa.encoder.config, seed=0)(CLIPS))
    assert not torch.equal(first, random_encoder(jepa.encoder.config, seed=1)(CLIPS))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (ModelConfig(size="nano", patch=8, rope="tiled"), "it has rope interleaved, not tiled"),
        (ModelConfig(size="nano", patch=8, heads=6), "it has heads 3, not 6"),
        (ModelConfig(size="nano", patch=8, positions="sincos"), "it has positions rope, not sincos"),
        (ModelConfig(size="nano", patch=8, interpolate_from=32), "it has interpolate_from None, not 32"),
    ],
)
def test_weights_that_would_compute_something_else_are_refused(
    jepa: JEPA, tmp_path: Path, other: ModelConfig, message: str
) -> None:
    save_folder(tmp_path, jepa, facts=FACTS)
    with pytest.raises(DataError, match=message):
        load_weights(build_jepa(other, frames=4, size=16), tmp_path)


def test_a_predictor_with_other_heads_starts_afresh(jepa: JEPA, tmp_path: Path) -> None:
    save_folder(tmp_path, jepa, facts=FACTS)
    report = load_weights(build_jepa(ModelConfig(size="nano", patch=8, predictor_heads=4), frames=4, size=16), tmp_path)
    assert set(report.unused) == {f"predictor.{name}" for name in jepa.predictor.state_dict()} <= set(report.fresh)


def test_start_from_weights_of_another_target(jepa: JEPA, tmp_path: Path) -> None:
    pixels = build_jepa(ModelConfig(size="nano", patch=8), frames=4, size=16, target_width=384)
    save_folder(tmp_path, pixels, facts=FACTS)
    report = load_weights(jepa, tmp_path)
    assert report.fresh == ("predictor.predictor_proj.bias", "predictor.predictor_proj.weight")
    assert report.unused == report.fresh  # there under the same names, with another shape
    assert torch.equal(jepa.encoder(CLIPS), pixels.target_encoder(CLIPS))
    assert torch.equal(jepa.target_encoder(CLIPS), pixels.target_encoder(CLIPS))


def test_what_is_no_encoder_is_refused_in_one_line(jepa: JEPA, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    broken = save_folder(tmp_path / "broken", jepa, facts=FACTS)
    (broken / "model.safetensors").write_bytes(b"\x10" * 64)
    other = save_folder(tmp_path / "other", jepa, facts=FACTS)
    config = json.loads((other / "config.json").read_text())
    config["encoder"]["width"] = 48
    (other / "config.json").write_text(json.dumps(config))
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (text, broken, other, empty, tmp_path / "missing"):
        with pytest.raises(DataError) as caught:
            load_encoder(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_weights_of_another_architecture_are_refused(jepa: JEPA, tmp_path: Path) -> None:
    save_folder(tmp_path, build_jepa(ModelConfig(size="nano", patch=4), frames=4, size=16), facts=FACTS)
    shape = r"1 of another shape \(patch_embed\.proj\.weight is \[96, 3, 2, 4, 4\], expected \[96, 3, 2, 8, 8\]\)"
    with pytest.raises(DataError, match=rf"{shape}; it holds width 96, depth 4, patch 4, wanted .* patch 8"):
        load_weights(jepa, tmp_path)


def test_unwritable_folder(jepa: JEPA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigError, match="cannot write"):
        save_folder(tmp_path / "x", jepa, facts=FACTS)
