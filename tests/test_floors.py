"""Imports only go down: both tables of the house as data, and every import statement held against them."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "jepa"

FLOORS: list[set[str]] = [
    {
        "errors",
        "config",
        "config_values",
        "yaml_text",
        "types",
        "tokens",
        "rng",
        "logs",
        "devices",
        "cores",
        "version",
        "arguments",
    },
    {"masks", "models", "optim", "data", "viz", "configs"},
    {"objectives", "checkpoints", "planning"},
    {"training", "features", "timm_models"},
    {"eval"},
    {"report", "bench", "slurm"},
    {"commands"},
    {"cli", "__main__", "__init__"},
]
"""From the ground up. A part may import lower floors, and itself."""

ONLY: dict[str, set[str]] = {
    "objectives": {"models", "optim"},
    "checkpoints": {"models"},
    "planning": {"models", "data"},
}
"""Parts that may import only these of the floors between the ground and their own."""

FENCES: dict[str, str] = {
    "lightning": r"training/|eval/|commands/",
    "pytorch_lightning": r"(?!)",
    "decord": r"data/decoders/decord_backend\.py|bench/bare\.py",
    "torchcodec": r"data/decoders/torchcodec_backend\.py|bench/bare\.py",
    "av": r"data/(decoders/pyav_backend|video_file|timeline|pack)\.py|data/synthetic/|bench/(bare|material)\.py",
    "PIL": r"data/pictures\.py",
    "vjepa2": r"bench/official\.py",
    "fsspec": r"data/remote\.py",
    "webdataset": r"data/shard_writer\.py",
    "matplotlib": r"viz/",
    "wandb": r"training/loggers\.py",
    "mlflow": r"training/loggers\.py",
    "jsonargparse": r"arguments\.py",
    "transformers": r"(?!)",
    "huggingface_hub": r"checkpoints/hub\.py",
    "random": r"(?!)",  # randomness is a function of (seed, step, purpose): jepa.rng
    "data": r"(?!)",  # the linked folders have one name: jepa.data, ...
    "eval": r"(?!)",
    "configs": r"(?!)",
    "slurm": r"(?!)",
    "torch": r"(?!(config|config_values|yaml_text|errors|logs|version|cli|arguments|__main__|__init__)\.py$)",
}
"""Outside package -> pattern of the files (below jepa/) that may import it. `(?!)` matches nothing."""


INSIDE: dict[str, str] = {
    "jepa.data.decoders.": r"data/decode\.py|data/decoders/",
    "jepa.data.decoders.shrink": r"data/(decode|pictures)\.py|data/decoders/",
}
"""Start of a module of ours -> pattern of the files that may import it; the longest start counts."""


@dataclass(frozen=True)
class Import:
    file: str
    line: int
    name: str


def imports_of(source: str, file: str) -> Iterator[Import]:
    """Every module named by an import statement or by `import_module("literal")`, wherever it stands."""
    for node in ast.walk(ast.parse(source, file)):
        if isinstance(node, ast.Import):
            yield from (Import(file, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            # `from jepa import data` imports jepa.data
            split = module in ("jepa", "jepa.data.decoders")
            names = [f"{module}.{alias.name}" for alias in node.names] if split else [module]
            yield from (Import(file, node.lineno, name) for name in names)
        elif isinstance(node, ast.Call) and (name := dynamic_import(node)):
            yield Import(file, node.lineno, name)


def dynamic_import(node: ast.Call) -> str | None:
    """The module that `import_module("literal")` names."""
    function = ast.unparse(node.func).split(".")[-1]
    if function not in ("import_module", "__import__") or not node.args or not isinstance(node.args[0], ast.Constant):
        return None
    return str(node.args[0].value)


def part_of(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def floor_of(part: str) -> int | None:
    return next((floor for floor, parts in enumerate(FLOORS) if part in parts), None)


def complaint(found: Import) -> str | None:
    """What is wrong with an import, or None."""
    where, package = f"jepa/{found.file}:{found.line}: ", found.name.split(".")[0]
    if found.name.startswith("."):
        return f"{where}relative import {found.name}"
    if package != "jepa":
        allowed = re.match(FENCES.get(package, ""), found.file)
        return None if allowed else f"{where}{package} may not be imported here"
    start = max((start for start in INSIDE if found.name.startswith(start)), key=len, default=None)
    if start is not None and not re.match(INSIDE[start], found.file):
        return f"{where}{found.name} may be imported only behind data/decode.py"
    importer, imported = part_of(found.file), found.name.split(".")[1] if "." in found.name else "version"
    own, other = floor_of(importer), floor_of(imported)
    if own is None:
        return f"{where}{importer} is on no floor: add it to the table"
    if importer == imported or (own == 0 and other == 0) or own == len(FLOORS) - 1:
        return None
    if other is None:  # a name of the package itself, as in `from jepa import __version__`
        return None if imported.startswith("__") else f"{where}{found.name} is on no floor: add it to the table"
    if other >= own:
        return f"{where}{importer} (floor {own}) may not import {found.name} (floor {other})"
    if importer in ONLY and other > 0 and imported not in ONLY[importer]:
        return f"{where}{importer} may import only {', '.join(sorted(ONLY[importer]))}, not {found.name}"
    return None


def files() -> list[Path]:
    """Every module, through the links (which rglob does not follow)."""
    folders = [ROOT, *(path for path in sorted(ROOT.iterdir()) if path.is_dir())]
    return sorted({path for folder in folders for path in (*folder.glob("*.py"), *folder.glob("*/**/*.py"))})


def test_imports_only_go_down_and_stay_inside_the_fences() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in files()}
    assert {"cli.py", "data/synthetic/__init__.py", "eval/__init__.py"} <= names, "the walk missed a linked folder"
    found = [one for path in files() for one in imports_of(path.read_text("utf-8"), path.relative_to(ROOT).as_posix())]
    complaints = [text for one in found if (text := complaint(one))]
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_table_for_people_has_the_same_floors() -> None:
    """Every part that exists stands in the row of its floor in CONTRIBUTING.md; doors share one."""
    text = (ROOT.parent / "CONTRIBUTING.md").read_text("utf-8")
    rows = {
        int(number): set(re.findall(r"`(\w+)`", who))
        for number, who in re.findall(r"^\| (\d) \w+ \|([^|]*)\|", text, re.M)
    }
    assert set(rows) == set(range(7))
    parts = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    for part in parts - {"__main__", "__init__"}:
        floor = floor_of(part)
        assert floor is not None, part
        assert [row for row, names in rows.items() if part in names] == [min(floor, 6)], part


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("masks/build.py", "import os\nfrom jepa.models.encoder import Encoder"),
        ("models/encoder.py", "if True:\n    import jepa.training.module"),
        ("objectives/latent.py", "def f():\n    from jepa.masks.build import MaskSampler"),
        ("checkpoints/load.py", "from jepa.data.source import open_source"),
        ("training/module.py", "from jepa.features import extract"),
        ("eval/knn.py", "from jepa import report"),
        ("rng.py", "from jepa.masks.build import MaskSampler"),
        ("models/encoder.py", "import lightning.pytorch as pl"),
        ("data/stream.py", "from decord import VideoReader"),
        ("data/decode.py", "import decord"),
        ("data/decoders/decord_backend.py", "import torchcodec"),
        ("data/frames.py", "from jepa.data.decoders import pyav_backend"),
        ("eval/clips.py", "from jepa.data.decoders.shrink import shrunk"),
        ("data/pack.py", "from PIL import Image"),
        ("data/frames.py", 'importlib.import_module("av")'),
        ("data/frames.py", "import webdataset as wds"),
        ("data/shards.py", 'importlib.import_module("fsspec.core")'),
        ("report/page.py", "from matplotlib import pyplot"),
        ("config.py", "import torch.nn"),
        ("data/order.py", "import random"),
        ("commands/probe.py", "from eval.knn import knn"),
        ("data/order.py", "from .index import Index"),
        ("training/module.py", "from transformers import AutoModel"),
        ("novelty/thing.py", "from jepa.errors import JepaError"),
    ],
)
def test_a_violation_is_caught_with_file_and_line(file: str, source: str) -> None:
    (found,) = [one for one in imports_of(source, file) if one.name != "os"]
    assert (complaint(found) or "").startswith(f"jepa/{file}:{len(source.splitlines())}: ")


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("objectives/latent.py", "from jepa.models.jepa import JEPA"),
        ("tokens.py", "from jepa.errors import ConfigError"),
        ("data/stream.py", "from jepa.data.order import Order"),
        ("data/synthetic/video.py", "import av"),
        ("data/decode.py", "from jepa.data.decoders.decord_backend import read_frames"),
        ("data/pictures.py", "from jepa.data.decoders.shrink import shrunk"),
        ("training/module.py", "import lightning"),
        ("commands/pretrain.py", "from jepa.eval.knn import knn"),
        ("cli.py", "from jepa.logs import configured"),
        ("models/encoder.py", "import torch"),
    ],
)
def test_what_is_allowed_passes(file: str, source: str) -> None:
    (found,) = imports_of(source, file)
    assert complaint(found) is None


def test_no_file_has_more_than_400_lines() -> None:
    paths = [path for folder in ("jepa", "data", "eval", "tests") for path in (ROOT.parent / folder).rglob("*.py")]
    assert len(paths) > 200, "the walk missed a folder"
    assert not [path for path in paths if len(path.read_text("utf-8").splitlines()) > 400]
