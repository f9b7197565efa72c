"""Every recipe trains: the shipped YAML with tiny networks, clips and batches in place of the published ones."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from jepa import yaml_text
from jepa.checkpoints.folder import save_folder
from jepa.checkpoints.load import load_encoder
from jepa.config import make_layer, resolve, shipped_configs
from jepa.models.build import ModelConfig, build_jepa
from jepa.training.config import PretrainConfig
from jepa.training.metrics import MetricsFile
from jepa.training.trainer import pretrain

QUICK = {"vjepa1-vitl16-224", "vjepa2-vitg16-384", "vjepa2_1-vitb16", "vjepa2_1-vitgigantic16", "ijepa-vith14-224"}
FAMILIES = ("vjepa1", "vjepa2", "vjepa2_1", "ijepa")
NAMES = [name.removeprefix("pretrain/") for name in shipped_configs() if name.startswith("pretrain/")]
RECIPES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in NAMES
    if name.split("-")[0] in FAMILIES
]

SIDES = {224: 32, 256: 32, 384: 48, 448: 48, 512: 64}
FRAMES = {1: 1, 16: 2, 64: 4}
TINY: dict[str, Callable[[Any], Any]] = {
    "model.size": lambda _: "nano",
    "model.patch": lambda _: 4,
    "model.heads": lambda _: 3,
    "model.interpolate_from": SIDES.__getitem__,
    "model.levels": lambda levels: [0, 1, 2, 3][-len(levels) :],
    "model.predictor_depth": lambda _: 1,
    "model.predictor_heads": lambda _: 2,
    "clip.frames": FRAMES.__getitem__,
    "clip.size": SIDES.__getitem__,
    "images.size": SIDES.__getitem__,
    "images.batch_size": lambda _: 3,
    "objective.context_warmup": lambda steps: [0, 2] if steps[1] else steps,
    "optim.steps": lambda _: 2,
    "optim.warmup_steps": lambda steps: min(steps, 1),
    "loader.batch_size": lambda _: 2,
    "loader.workers": lambda _: 0,
    "run.precision": lambda _: "32",
    "run.deterministic": lambda _: True,
}
"""What stands for a published size; all else in a YAML stays."""
UNSAID = {"model.size": "large", "model.patch": 16, "clip.frames": 16, "clip.size": 224}
"""Defaults that are sizes, for the YAMLs that do not name them."""


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def shrunk(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a YAML, or those that a phase changes, with tiny values for sizes."""
    result = {key: TINY.get(key, lambda value: value)(value) for key, value in flat(values).items()}
    if phases := result.get("phases"):
        result["phases"] = [{**phase, "changes": shrunk(phase.get("changes", {}))} for phase in phases]
    return result


@pytest.fixture(scope="session")
def teacher(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A dense encoder of another width than the student."""

    def make(folder: Path) -> None:
        model = ModelConfig(size="tiny", patch=4, levels=(2, 5, 8, 11), image_tokenizer=True, interpolate_from=32)
        save_folder(folder, build_jepa(model, frames=4, size=48), facts={"evaluate": "target"})

    return once("teacher", make)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_in_all_its_phases(name: str, tiny_shards: Path, teacher: Path, tmp_path: Path) -> None:
    values, _ = yaml_text.read(shipped_configs()[f"pretrain/{name}"])
    paths = {"data": str(tiny_shards), "out": str(tmp_path / "run"), "run.device": "cpu", "run.log_every": 1}
    if name.startswith("vjepa2_1"):
        paths |= {"images.data": str(tiny_shards)}
    if values.get("objective", {}).get("target") == "teacher":
        paths |= {"objective.teacher": str(teacher)}
    tiny = {**shrunk(UNSAID), **shrunk(values), **paths, "optim.steps": 2}
    if "optim.warmup_steps" not in tiny:
        tiny["optim.warmup_steps"] = 1
    config = resolve(PretrainConfig, [make_layer(PretrainConfig, tiny, "test")]).build()

    result = pretrain(config)

    folders = [tmp_path / "run" / f"{number}-{phase}" for number, phase in enumerate(("pretrain", "cooldown"), start=1)]
    for folder in folders if config.phases else [tmp_path / "run"]:
        rows = MetricsFile(folder / "metrics.csv").read()
        assert [row["step"] for row in rows] == [1, 2]
        assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
    encoder = load_encoder(result.run)
    last = config.phase_run(1) if config.phases else config
    assert (encoder.config.frames, encoder.config.size) == (last.clip.frames, last.clip.size)
    if config.objective.teacher is not None:
        with safe_open(result.model, framework="pt") as file:
            assert file.get_tensor("predictor.predictor_proj.weight").shape[0] == 192
    assert json.loads((result.run / "config.json").read_text())["step"] == 2
