"""Files of half precision, of types that are none of weights, and of values that are none."""

from pathlib import Path
from typing import Any

import pytest
import torch

import jepa
from jepa.checkpoints.convert import convert
from jepa.checkpoints.folder import save_folder
from jepa.checkpoints.load import load_weights
from jepa.checkpoints.source import open_weights
from jepa.checkpoints.weights import Hints, not_finite
from jepa.cli import main
from jepa.errors import DataError
from jepa.models.build import ModelConfig, build_jepa
from jepa.models.positions import sincos_positions
from jepa.tokens import TokenGrid

HINTS = Hints(heads=3, predictor_heads=2)
VIDEO = {"positions": "sincos", "interpolate_from": 32}
IMAGE = {"positions": "sincos2d", "interpolate_from": 32, "tubelet": 1}


def official(path: Path, *, dtype: torch.dtype = torch.float32, **model: Any) -> dict[str, Any]:
    """An official file of a nano model, and what it holds."""
    made = build_jepa(ModelConfig(size="nano", patch=8, **model), frames=1 if "tubelet" in model else 4, size=32)
    save_folder(path.with_suffix(""), made, facts={"evaluate": "target"})
    convert(path.with_suffix(""), path, "official")
    content = torch.load(path, weights_only=True)
    for state in content.values():
        if isinstance(state, dict):
            state.update({name: tensor.to(dtype) for name, tensor in state.items()})
    torch.save(content, path)
    return dict(content)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("model", [VIDEO, IMAGE], ids=["V-JEPA 1", "I-JEPA"])
def test_positions_of_another_precision(dtype: torch.dtype, model: dict[str, Any], tmp_path: Path) -> None:
    """Rounded tables are tables: known as such, and the way there and back gives the same bits, of the table too."""
    before = official(tmp_path / "x.pt", dtype=dtype, **model)
    opened = open_weights(tmp_path / "x.pt", HINTS)
    assert opened.encoder is not None
    assert (opened.encoder.positions, opened.encoder.size) == (model["positions"], 32)
    assert jepa.load_encoder(tmp_path / "x.pt", heads=3).encoder.norm.weight.dtype == torch.float32
    convert(tmp_path / "x.pt", tmp_path / "ours", "jepa", hints=HINTS)
    convert(tmp_path / "ours", tmp_path / "back.pt", "official")
    after = torch.load(tmp_path / "back.pt", weights_only=True)
    for part in ("encoder", "target_encoder", "predictor"):
        assert before[part].keys() == after[part].keys()
        assert any(name.endswith("pos_embed") for name in before[part])
        for name, tensor in before[part].items():
            assert tensor.dtype == after[part][name].dtype == dtype
            assert torch.equal(tensor, after[part][name]), name


def test_a_predictor_without_mask_tokens_is_none_of_v_jepa_1(tmp_path: Path) -> None:
    """That of V-JEPA 2-AC has none, so a table beside it is stale."""
    from jepa.checkpoints.architecture import positions_of

    state = official(tmp_path / "x.pt", **VIDEO)["target_encoder"]
    bare = {name.removeprefix("module.backbone."): tensor for name, tensor in state.items()}
    assert [positions_of(bare, Hints(), "x", count).kind for count in (0, 1, 2, 3)] == [
        "rope", "sincos", "sincos", "rope",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_none_are_told(
    value: float, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is enough, in whatever part; what holds none of them is left in peace."""
    content = official(tmp_path / "x.pt", rope="tiled")
    for part, name in (("target_encoder", "norm.bias"), ("predictor", "predictor_norm.bias")):
        content[part][f"module.backbone.{name}"][1] = value
    torch.save(content, tmp_path / "x.pt")
    told: dict[str, Any] = {"heads": 3, "frames": 4, "size": 32}
    jepa.load_encoder(tmp_path / "x.pt", **told, weights="context")
    assert not caplog.records
    jepa.load_encoder(tmp_path / "x.pt", **told)
    jepa.load_predictor(tmp_path / "x.pt", heads=3, predictor_heads=2)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/x.pt holds NaN or infinity in 1 tensors: {name}" for name in ("norm.bias", "predictor_norm.bias")
    ]
    names = ("predictor.predictor_norm.bias", "target_encoder.norm.bias")
    assert main(["convert", f"{tmp_path}/x.pt", f"{tmp_path}/out", "--to", "jepa", "--heads", "3"]) == 0
    assert f"NaN or infinity in 2 tensors: {', '.join(names)}" in capsys.readouterr().out
    assert convert(tmp_path / "out", tmp_path / "back.pt", "official").not_finite == names


def test_large_values_are_values() -> None:
    """Also where their sum is none."""
    full = {
        str(dtype): torch.full((9,), torch.finfo(dtype).max, dtype=dtype)
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    }
    assert not_finite(full) == []
    for tensor in full.values():
        tensor[3] = float("nan")
    assert not_finite(full) == sorted(full)


@pytest.mark.parametrize("part", ["encoder", "predictor"])
def test_training_from_values_that_are_none(part: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = build_jepa(ModelConfig(size="nano", patch=8), frames=4, size=16)
    with torch.no_grad():
        broken = made.target_encoder.norm if part == "encoder" else made.predictor.predictor_norm
        broken.bias.fill_(float("nan"))
    save_folder(tmp_path, made, facts={"evaluate": "target"})
    load_weights(build_jepa(ModelConfig(size="nano", patch=8), frames=4, size=16), tmp_path)
    (record,) = caplog.records
    assert record.getMessage().endswith(f"1 tensors: {'' if part == 'encoder' else 'predictor.predictor_'}norm.bias")


@pytest.mark.parametrize(
    ("grid", "width"), [(TokenGrid(4, 4, 2), 64), (TokenGrid(8, 2, 2), 64), (TokenGrid(2, 4, 4), 66)]
)
def test_positions_of_a_predictor_on_another_grid(grid: TokenGrid, width: int, tmp_path: Path) -> None:
    """A table, but not the one of its encoder."""
    content = official(tmp_path / "x.pt", **VIDEO)
    table = sincos_positions(grid, width, "sincos").unsqueeze(0)
    content["predictor"]["module.backbone.predictor_pos_embed"] = table
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(DataError, match=r"\(predictor_pos_embed\) that are no sine-cosine table of the encoder's"):
        open_weights(tmp_path / "x.pt", HINTS)
