"""`jepa convert`: what it writes, says and refuses, and that it takes nothing away."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import jepa
from jepa.checkpoints.convert import convert
from jepa.checkpoints.folder import save_folder
from jepa.checkpoints.weights import Hints
from jepa.cli import main
from jepa.errors import ConfigError
from jepa.models.build import ModelConfig, build_jepa
from jepa.models.probes import ProbeConfig, build_probe

FACTS = {"evaluate": "target", "clip": {"frames": 4, "size": 16, "stride": 3}, "step": 7}
CLIPS = torch.randn(2, 3, 4, 16, 16)


def made(folder: Path, **model: Any) -> Path:
    """A portable folder of a nano model."""
    jepa_model = build_jepa(ModelConfig(size="nano", patch=8, **model), frames=4, size=16)
    return save_folder(folder, jepa_model, facts=FACTS)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return made(tmp_path / "source", rope="tiled")


def probe_file(path: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {"width": 96, "classes": (5,), "heads": 3, "depth": 2}
    probe = build_probe(ProbeConfig(**settings | changes))
    torch.save({"classifiers": [{f"module.{k}": v for k, v in probe.state_dict().items()}]}, path)
    return path


def run(*arguments: object) -> int:
    return main(["convert", *map(str, arguments)])


def test_the_words_on_stdout(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, tmp_path / "out", "--to", "huggingface") == 0
    out = capsys.readouterr().out
    assert f"tensors (predictor, target_encoder): {tmp_path}/out" in out
    assert "not kept: encoder: VJEPA2Model has one encoder, this is target_encoder" in out
    assert "norms of the mask tokens: 0: 0 (unused), 1: 0 (unused)" in out


def test_json(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, tmp_path / "v2.pt", "--to", "official", "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["to"], done["out"], done["parts"]) == (
        "official", str(tmp_path / "v2.pt"), ["encoder", "predictor", "target_encoder"],
    )  # fmt: skip
    content = torch.load(tmp_path / "v2.pt", weights_only=True)
    assert done["tensors"] == sum(len(content[part]) for part in done["parts"])


def test_a_folder_is_complete_and_says_what_it_is(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "v2.pt", "official")
    done = convert(tmp_path / "v2.pt", tmp_path / "out", "jepa", hints=Hints(heads=3, frames=4, size=16))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    card = (tmp_path / "out" / "README.md").read_text()
    for words in ("4 blocks of width 96, 3 heads", "tiled rotary", "`v2.pt` (official)", "V-JEPA 2, arXiv 2506.09985"):
        assert words in card
    assert "licence" in card
    assert "MIT or Apache-2.0" in card
    assert done.licence == "MIT or Apache-2.0"
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "out").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]
    assert torch.equal(jepa.load_encoder(tmp_path / "out")(CLIPS), jepa.load_encoder(source)(CLIPS))
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_facts_of_a_run_are_kept(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", "jepa")
    encoder = jepa.load_encoder(tmp_path / "out")
    assert encoder.window_stride == 3
    assert encoder.facts["step"] == 7


def test_weights_of_v_jepa_1_and_i_jepa_are_not_for_commerce(tmp_path: Path) -> None:
    first = made(tmp_path / "v1", positions="sincos", interpolate_from=16)
    convert(first, tmp_path / "v1.pt", "official")
    done = convert(tmp_path / "v1.pt", tmp_path / "out", "jepa", hints=Hints(heads=3, predictor_heads=2))
    assert done.licence == "CC-BY-NC-4.0"
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-nc-4.0\n")


@pytest.mark.parametrize(
    ("model", "to", "words"),
    [
        ({"levels": (0, 1, 2, 3), "image_tokenizer": True, "interpolate_from": 64}, "huggingface", "V-JEPA 2.1"),
        ({"positions": "sincos", "interpolate_from": 16}, "huggingface", "no class for V-JEPA 1"),
        ({"positions": "sincos"}, "official", "interpolated from those of the crop size (model.interpolate_from)"),
        ({"rope": "interleaved"}, "huggingface", "rotary positions of V-JEPA 2 are tiled"),
        ({"rope": "interleaved"}, "official", "rotary positions of V-JEPA 2 are tiled"),
        ({"rope": "tiled", "layer_scale": 1e-3}, "official", "scales layers"),
        ({"rope": "tiled", "context_head": True}, "huggingface", "more heads than VJEPA2Model has"),
    ],
)
def test_what_the_target_cannot_hold(
    tmp_path: Path, model: dict[str, Any], to: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = made(tmp_path / "source", **model), tmp_path / ("x.pt" if to == "official" else "x")
    assert run(source, out, "--to", to) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_an_earlier_output_is_replaced(source: Path, tmp_path: Path) -> None:
    for _ in range(2):
        convert(source, tmp_path / "out", "jepa")
        convert(source, tmp_path / "out.pt", "official")
    convert(source, tmp_path / "out", "huggingface")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "vjepa2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.pt", "source"]


def test_the_work_of_others_is_not_touched(source: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    convert(source, mine, "jepa")  # an empty folder is free
    (mine / "notes.txt").write_text("thoughts")
    weights = tmp_path / "weights.pt"
    torch.save({"encoder": {}}, weights)
    for out, to in ((mine, "jepa"), (weights, "official"), (weights, "jepa"), (source, "jepa"), (mine, "official")):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ConfigError, match=r"choose another place|writes a file"):
            convert(source, out, to)  # type: ignore[arg-type]
        assert sorted(tmp_path.rglob("*")) == before
    assert (mine / "notes.txt").read_text() == "thoughts"


def test_nothing_is_left_when_writing_fails(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(source, tmp_path / "out", "jepa")
    card = (tmp_path / "out" / "README.md").read_text()

    def fails(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jepa.checkpoints.convert.save_file", fails)
    with pytest.raises(ConfigError, match="No space left"):
        convert(source, tmp_path / "out", "jepa")
    assert (tmp_path / "out" / "README.md").read_text() == card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_a_number_without_a_probe_is_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, tmp_path / "out", "--to", "jepa", "--number", "3") == 2
    assert "number is 3, but there is no --probe" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 48}, "reads tokens of width 48"),
        ({"heads": 6}, ", 96 and 3, and ratio 4"),
        ({"classes": (2, 3, 4), "answers": ("verb", "noun", "action")}, "several answers"),
    ],
)
def test_a_probe_that_does_not_fit(
    source: Path, tmp_path: Path, changes: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(source, tmp_path / "v2.pt", "official")
    file = probe_file(tmp_path / "probe.pt", **changes)
    convert(file, tmp_path / "probe", "jepa", hints=Hints(heads=changes.get("heads", 3)))
    assert run(source, tmp_path / "out", "--to", "huggingface", "--probe", tmp_path / "probe") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_usage(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, tmp_path / "out") == 2
    assert "missing --to" in capsys.readouterr().err
    assert run(source, tmp_path / "out", "--to", "official") == 2
    assert "let" in capsys.readouterr().err
    assert run(tmp_path / "nowhere", tmp_path / "out", "--to", "jepa") == 3
    assert "no encoder at" in capsys.readouterr().err
