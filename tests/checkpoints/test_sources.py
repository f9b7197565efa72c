"""Every other kind of source, the architectures by name, and what a file leaves open."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import jepa
from jepa.checkpoints.convert import convert
from jepa.checkpoints.folder import save_folder
from jepa.checkpoints.load import load_weights
from jepa.checkpoints.run_checkpoint import find_checkpoints
from jepa.checkpoints.source import open_weights, shipped
from jepa.checkpoints.weights import Hints
from jepa.errors import ConfigError, DataError
from jepa.models.build import ModelConfig, build_jepa
from jepa.models.catalog import CATALOG
from jepa.models.encoder import Encoder
from jepa.models.positions import sincos_positions

HINTS = Hints(heads=3)


def official(path: Path, *, frames: int = 4, pixels: int = 16, **model: Any) -> Path:
    """An official file of a nano model."""
    settings: dict[str, Any] = {"size": "nano", "patch": 8, "rope": "tiled"}
    made = build_jepa(ModelConfig(**settings | model), frames=frames, size=pixels)
    save_folder(path.with_suffix(""), made, facts={"evaluate": "target"})
    convert(path.with_suffix(""), path, "official")
    return path


def changed(path: Path, part: str, change: Any) -> Path:
    content = torch.load(path, weights_only=True)
    change(content[part])
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        (
            "target_encoder",
            lambda state: state.update({"module.backbone.cls_token": torch.zeros(1, 1, 96)}),
            "target_encoder that its shapes tell of: 1 tensors differ in name or shape: 1 unknown (cls_token)",
        ),
        (
            "encoder",
            lambda state: [state.pop(f"module.backbone.blocks.{n}.norm1.bias") for n in range(4)],
            "4 missing (blocks.0.norm1.bias, blocks.1.norm1.bias, blocks.2.norm1.bias and 1 more)",
        ),
        (
            "predictor",
            lambda state: state.update({"module.backbone.predictor_norm.bias": torch.zeros(5)}),
            "1 of another shape (predictor_norm.bias is [5], expected [64])",
        ),
    ],
)
def test_every_tensor_has_its_place(tmp_path: Path, part: str, change: Any, words: str) -> None:
    path = changed(official(tmp_path / "x.pt"), part, change)
    with pytest.raises(DataError) as caught:
        open_weights(path, HINTS)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_heads_of_an_unusual_width_are_asked_for(tmp_path: Path) -> None:
    path = official(tmp_path / "x.pt")
    with pytest.raises(DataError, match="has width 96, a width of no published model: give --heads"):
        jepa.load_encoder(path)
    with pytest.raises(DataError, match="which 5 heads do not divide: give --heads"):
        jepa.load_encoder(path, heads=5)
    assert jepa.load_encoder(path, heads=3).config.heads == 3


def test_what_is_not_told_is_assumed_and_said(tmp_path: Path) -> None:
    path = official(tmp_path / "x.pt")
    opened = open_weights(path, HINTS)
    assert opened.report.assumed == ("frames 64", "size 256")
    told = open_weights(path, Hints(heads=3, frames=8, size=32))
    assert told.report.assumed == ()
    assert told.encoder is not None
    assert (told.encoder.frames, told.encoder.size) == (8, 32)


def test_positions_that_may_be_stale(tmp_path: Path) -> None:
    """A sine-cosine table, and no predictor whose mask tokens would tell V-JEPA 1 from 2."""
    path = official(tmp_path / "x.pt", positions="sincos", interpolate_from=16)
    content = torch.load(path, weights_only=True)
    del content["predictor"]
    torch.save(content, path)
    with pytest.raises(DataError, match="say so by --positions sincos or --positions rope"):
        jepa.load_encoder(path, heads=3)
    old, new = (jepa.load_encoder(path, heads=3, positions=kind) for kind in ("sincos", "rope"))  # type: ignore[arg-type]
    assert (old.config.positions, old.config.frames, old.config.size) == ("sincos", 4, 16)
    assert new.config.positions == "rope"
    clips = torch.randn(1, 3, 4, 16, 16)
    assert not torch.allclose(old(clips), new(clips), atol=1e-2)


def test_positions_of_another_kind(tmp_path: Path) -> None:
    path = official(tmp_path / "x.pt", positions="sincos", interpolate_from=16)
    changed(path, "target_encoder", lambda state: state["module.backbone.pos_embed"].mul_(0.5))
    with pytest.raises(DataError, match="no sine-cosine table"):
        jepa.load_encoder(path, heads=3, positions="sincos")
    # It may be stale, or V-JEPA 1's and changed: two mask tokens do not tell.
    with pytest.raises(DataError, match=r"no sine-cosine table, and nothing tells .* --positions rope"):
        jepa.load_encoder(path, heads=3)
    assert jepa.load_encoder(path, heads=3, positions="rope").config.positions == "rope"


def test_a_bare_state_dict(tmp_path: Path) -> None:
    path = official(tmp_path / "x.pt")
    content = torch.load(path, weights_only=True)
    torch.save(content["target_encoder"], tmp_path / "bare.pt")
    clips = torch.randn(1, 3, 4, 16, 16)
    bare = jepa.load_encoder(tmp_path / "bare.pt", heads=3)
    assert torch.equal(bare(clips), jepa.load_encoder(path, heads=3)(clips))


def test_the_teacher_of_a_distilled_model_is_left_out(tmp_path: Path) -> None:
    """It may lie in the same file, as large as it is; the model is `ema_encoder`."""
    path, teacher = official(tmp_path / "x.pt"), official(tmp_path / "y.pt", size="tiny")
    content = torch.load(path, weights_only=True)
    content["ema_encoder"] = content.pop("target_encoder")
    torch.save(content | {"target_encoder": torch.load(teacher, weights_only=True)["target_encoder"]}, path)
    opened = open_weights(path, HINTS)
    assert opened.encoder is not None
    assert opened.encoder.width == 96
    assert opened.report.dropped == {"target_encoder": "the teacher of a distilled model: ema_encoder is the model"}


def test_levels_of_an_unusual_depth(tmp_path: Path) -> None:
    path = official(
        tmp_path / "x.pt",
        rope="interleaved",
        levels=(1, 3),
        image_tokenizer=True,
        interpolate_from=256,
        context_head=True,
    )
    with pytest.raises(DataError, match="2 supervised levels in 4 blocks, not told which: give --levels"):
        jepa.load_encoder(path, heads=3)
    assert jepa.load_encoder(path, heads=3, levels=(1, 3)).config.levels == (1, 3)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if entry.encoder.depth > 24 else [])
        for name, entry in CATALOG.items()
    ],
)
def test_published_files_tell_their_architecture(name: str) -> None:
    """From names and shapes alone, on the meta device, each published encoder and predictor is known again."""
    from jepa.checkpoints.architecture import encoder_of, named, predictor_of
    from jepa.checkpoints.blank import blank
    from jepa.models.predictor import Predictor

    entry = CATALOG[name]
    assert entry.predictor is not None
    config = entry.predictor
    encoder = blank(lambda: Encoder(entry.encoder)).state_dict()
    predictor = blank(
        lambda: Predictor(config, context_width=entry.encoder.width, target_width=entry.predicted_width)
    ).state_dict()
    if entry.encoder.positions == "sincos2d":
        base = entry.encoder.places.base
        assert base is not None
        encoder["pos_embed"] = sincos_positions(base, entry.encoder.width, "sincos2d").unsqueeze(0)
        encoder["patch_embed.proj.weight"] = encoder["patch_embed.proj.weight"].squeeze(2)
    hints = Hints(positions=entry.encoder.positions, frames=entry.encoder.frames, size=entry.encoder.size)
    found, _ = encoder_of(encoder, hints, name, config.mask_tokens)
    assert found == entry.encoder
    assert predictor_of(predictor, found, Hints(), name) == config
    if "pos_embed" in encoder:
        return
    guessed, assumed = encoder_of(encoder, Hints(positions=entry.encoder.positions), name, config.mask_tokens)
    assert assumed
    assert named(guessed, Path(entry.source.file).name) == entry.encoder


def nearly(path: Path, name: str, depth: int) -> Path:
    """An official file of a published encoder of fewer blocks, which takes no space."""
    from jepa.checkpoints.official import official_container
    from jepa.checkpoints.weights import MemoryStore, Weights

    encoder = replace(CATALOG[name].encoder, depth=depth, frames=min(CATALOG[name].encoder.frames, 2))
    with torch.device("meta"):
        shapes = Encoder(encoder).state_dict()
    tensors = {f"target_encoder.{key}": torch.zeros(tensor.shape) for key, tensor in shapes.items()}
    torch.save(official_container(Weights(str(path), MemoryStore(tensors), encoder)), path)
    return path


@pytest.mark.parametrize(
    ("name", "heads", "assumed"),
    [
        ("ijepa_vit_huge_patch14_224", 16, ()),
        ("ijepa_vit_giant_patch16_224", 16, ()),
        ("vjepa2_vit_huge_patch16_256", 16, ("frames 64", "size 256")),
        ("vjepa2_vit_giant_patch16_256", 22, ("frames 64", "size 256", "heads 22")),
    ],
)
def test_heads_that_the_width_does_not_tell(name: str, heads: int, assumed: tuple[str, ...], tmp_path: Path) -> None:
    """The giant of I-JEPA has 16; the video models of this width have 22, but their code builds one of 16 too."""
    opened = open_weights(nearly(tmp_path / "x.pt", name, 1))
    assert opened.encoder is not None
    assert (opened.encoder.heads, opened.encoder.positions) == (heads, CATALOG[name].encoder.positions)
    assert opened.report.assumed == assumed
    told = open_weights(tmp_path / "x.pt", Hints(heads=16))
    assert told.encoder is not None
    assert told.encoder.heads == 16
    assert told.report.assumed == assumed[:2]


def test_the_name_of_a_published_file_tells_its_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    from jepa.checkpoints.official import _assemble

    monkeypatch.setattr("jepa.checkpoints.official.require_parts", lambda *arguments: None)  # shapes do here
    entry = CATALOG["vjepa2_vit_giant_patch16_384"]
    with torch.device("meta"):
        part = Encoder(entry.encoder).state_dict()
    for file, told in (("vitg-384.pt", ()), ("vitg-16-heads.pt", ("frames 64", "size 256", "heads 22"))):
        opened = _assemble(f"/files/{file}", {"encoder": part}, [], Hints(), True)
        assert opened.report.assumed == told


def test_hints_are_for_files_that_need_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="describes its architecture itself: leave out heads"):
        jepa.load_encoder("jepa-nano", heads=3)
    made = build_jepa(ModelConfig(size="nano", patch=8, positions="sincos", interpolate_from=16), frames=4, size=16)
    save_folder(tmp_path, made, facts={"evaluate": "target"})
    with pytest.raises(ConfigError, match="positions of the clips it was trained on"):
        jepa.load_encoder(tmp_path, frames=8)


def test_an_encoder_for_other_clips(tmp_path: Path) -> None:
    """Probes and extraction cut clips of as many frames as the encoder says."""
    convert("jepa-nano", tmp_path / "longer", "jepa", hints=Hints(frames=16, size=64))
    for encoder in (jepa.load_encoder("jepa-nano", frames=16, size=64), jepa.load_encoder(tmp_path / "longer")):
        assert (encoder.config.frames, encoder.config.size) == (16, 64)
        assert (encoder.facts["clip"]["frames"], encoder.facts["clip"]["stride"]) == (16, 2)
        clips = torch.randn(1, 3, 8, 32, 32)
        assert torch.equal(encoder(clips), jepa.load_encoder("jepa-nano")(clips))


@pytest.mark.parametrize("name", shipped())
def test_a_folder_written_before_these_formats_loads(name: str) -> None:
    """Its config.json knows nothing of levels, tokenizers or probes."""
    opened = open_weights(name)
    described = json.loads((Path(opened.where).parent / "config.json").read_text())
    assert described["format_version"] == 1
    assert not {"levels", "image_tokenizer", "interpolate_from"} & described["encoder"].keys()
    encoder, predictor = jepa.load_encoder(name), jepa.load_predictor(name)
    assert encoder.config == opened.encoder
    assert sum(parameter.numel() for parameter in predictor.parameters()) > 0


def test_a_checkpoint_of_an_unfinished_run(tiny_run: Path, tmp_path: Path) -> None:
    """The same encoder as in the portable folder that its end has written."""
    clips = torch.randn(1, 3, 16, 40, 40)
    expected = jepa.load_encoder(tiny_run)(clips)
    for path in ("config.yaml", "checkpoints/last.ckpt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes((tiny_run / path).read_bytes())
    for place in (tmp_path, tmp_path / "checkpoints" / "last.ckpt"):
        loaded = jepa.load_encoder(place)
        assert torch.equal(loaded(clips), expected)
        assert loaded.facts["clip"] == jepa.load_encoder(tiny_run).facts["clip"]
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(DataError, match=r"has no config\.yaml of its run beside it"):
        jepa.load_encoder(tmp_path)


def test_training_can_start_from_an_official_file(tmp_path: Path) -> None:
    model = ModelConfig(size="tiny", rope="tiled")
    small = build_jepa(model, frames=2, size=16)
    save_folder(tmp_path / "ours", small, facts={"evaluate": "target"})
    convert(tmp_path / "ours", tmp_path / "x.pt", "official")
    other = build_jepa(model, frames=2, size=16)
    report = load_weights(other, tmp_path / "x.pt")
    assert not report.fresh
    assert not report.unused
    clips = torch.randn(1, 3, 2, 16, 16)
    assert torch.equal(other.encoder(clips), small.target_encoder(clips))


def test_encoders_by_name() -> None:
    names = jepa.list_encoders()
    assert set(names) == {*CATALOG, *shipped()}
    encoder = jepa.create_encoder("vjepa2_1_vit_base_patch16_384", depth=2, levels=(0, 1), frames=2, size=32)
    assert encoder.config.rope == "interleaved"
    assert encoder(torch.zeros(1, 3, 2, 32, 32)).shape == (1, 4, 768)
    assert encoder(torch.zeros(1, 3, 1, 32, 32)).shape == (1, 4, 768)
    first, second = (jepa.create_encoder("jepa-nano", seed=seed) for seed in (0, 1))
    clips = torch.randn(1, 3, 8, 32, 32)
    assert not torch.allclose(first(clips), second(clips))
    assert torch.equal(first(clips), jepa.create_encoder("jepa-nano")(clips))


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("vjepa2_vit_larg_patch16_256", {}, "did you mean 'vjepa2_vit_large_patch16_256'"),
        ("jepa-nano", {"dept": 3}, "encoders have no 'dept'; did you mean 'depth'"),
        ("jepa-nano", {"heads": 5}, "not divisible by 5 heads"),
    ],
)
def test_names_that_are_wrong(name: str, overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        jepa.create_encoder(name, **overrides)


def test_an_unfinished_run_with_phases_is_as_far_as_its_latest_one(tiny_run: Path, tmp_path: Path) -> None:
    for phase in ("1-first", "2-second", "10-last"):
        (tmp_path / phase / "checkpoints").mkdir(parents=True)
        shutil.copy(tiny_run / "config.yaml", tmp_path / phase)
    with pytest.raises(DataError, match="safetensors is missing"):
        jepa.load_encoder(tmp_path)
    shutil.copy(tiny_run / "checkpoints" / "last.ckpt", tmp_path / "1-first" / "checkpoints")
    assert find_checkpoints(tmp_path) == tmp_path / "1-first" / "checkpoints"
    for phase in ("2-second", "10-last"):
        shutil.copy(tiny_run / "checkpoints" / "last.ckpt", tmp_path / phase / "checkpoints")
    assert find_checkpoints(tmp_path) == tmp_path / "10-last" / "checkpoints"
    assert jepa.load_encoder(tmp_path).facts["source"]["format"] == "checkpoint"


def test_parts_that_are_not_there(tmp_path: Path) -> None:
    model = build_jepa(ModelConfig(size="nano", patch=8), frames=4, size=16)
    save_folder(tmp_path, model, facts={"evaluate": "target"}, predictor=False)
    with pytest.raises(DataError, match="holds no predictor"):
        jepa.load_predictor(tmp_path)
    with pytest.raises(DataError, match="holds no probe"):
        jepa.load_probe(tmp_path)


def test_the_published_files_are_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "weights.md").read_text("utf-8")
    for name, entry in CATALOG.items():
        row = f"| `{name}` | `{entry.source.file}` | {f'`{entry.source.hub}`' if entry.source.hub else '-'} |"
        row += f" {entry.source.licence} |"
        assert row in text, name
