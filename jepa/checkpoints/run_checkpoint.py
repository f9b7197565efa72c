"""The checkpoint of an unfinished run, the newest in `checkpoints/`; `config.yaml` of the run tells its architecture.

A finished run has a portable folder, which is read instead. Of the configuration only the groups `model` and `clip`
are read.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from jepa import yaml_text
from jepa.checkpoints.blank import require_parts
from jepa.checkpoints.manifest import LAST
from jepa.checkpoints.read import checkpoint_exists, read_checkpoint
from jepa.checkpoints.shelf import Shelf
from jepa.checkpoints.store import CheckpointStore
from jepa.checkpoints.weights import MemoryStore, Report, Weights, norms_of
from jepa.config import make_layer, resolve
from jepa.errors import ConfigError, DataError
from jepa.models.build import ModelConfig, encoder_config, predictor_config
from jepa.models.catalog import IMAGENET_MEAN, IMAGENET_STD
from jepa.models.encoder import EncoderConfig
from jepa.models.predictor import PredictorConfig

CHECKPOINTS = "checkpoints"
"""Name of their folder in that of a run."""
PREFIX = "jepa."
"""Of the model inside the Lightning module."""


def find_checkpoints(folder: Path) -> Path | None:
    """Where the checkpoints of a run folder are, if there are any; of a run with phases, of the last one begun."""
    phases = [path for path in folder.glob("*-*") if path.name.split("-")[0].isdecimal() and _has_checkpoint(path)]
    latest = max(phases, key=lambda path: int(path.name.split("-")[0]), default=folder)
    return latest / CHECKPOINTS if _has_checkpoint(latest) else None


def _has_checkpoint(folder: Path) -> bool:
    """Whether there is one; a job can have been killed between writing the first and linking it."""
    return checkpoint_exists(folder / CHECKPOINTS / LAST) or bool(Shelf(folder / CHECKPOINTS).steps())


def open_newest(checkpoints: Path) -> Weights:
    """Read the newest checkpoint of a run that is whole, as resuming does; newer ones that are not are warned about.

    Raises:
        DataError: none is, or as `open_checkpoint`.
    """
    if not Shelf(checkpoints).steps():
        return open_checkpoint(checkpoints / LAST)  # somebody has copied it alone
    saved = CheckpointStore(checkpoints).newest()
    if saved is None:
        raise DataError(f"{checkpoints} holds no checkpoint any more: another process has removed it")
    return open_checkpoint(saved.path, checked=saved.checked)


def open_checkpoint(path: Path, *, checked: bool = False) -> Weights:
    """Read a checkpoint of a run: a file, a folder of a divided model, or the link to the newest.

    Args:
        path: the data, or the link.
        checked: the bytes are known to be those that were written.

    Raises:
        DataError: it is damaged, no checkpoint of this package, or `config.yaml` of its run is not there.
    """
    content = read_checkpoint(path, lazy=True, groups=("state_dict",), checked=checked)
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise DataError(f"{path} is no checkpoint of this package")
    return _weights(path, state, int(content["jepa"]["step"]))


def described_model(path: Path) -> tuple[EncoderConfig, PredictorConfig]:
    """The architecture of a checkpoint of a run. Raises DataError as `open_checkpoint`."""
    config = _config_of(path)
    groups = _groups(config)
    try:
        model = resolve(ModelConfig, [make_layer(ModelConfig, groups.get("model", {}), str(config))]).build()
        clip = groups["clip"]
        return encoder_config(model, frames=int(clip["frames"]), size=int(clip["size"])), predictor_config(model)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{config} does not describe the model of {path}: {error}") from error


def _config_of(path: Path) -> Path:
    folder = path.parent.parent if path.parent.name == CHECKPOINTS else path.parent
    if not (folder / "config.yaml").is_file():
        raise DataError(f"{path} has no config.yaml of its run beside it, which tells its architecture")
    return folder / "config.yaml"


def _weights(path: Path, state: dict[str, Tensor], step: int) -> Weights:
    encoder, predictor = described_model(path)
    clip = _groups(_config_of(path))["clip"]
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "target_encoder": {}, "predictor": {}}
    for name, tensor in state.items():
        part, _, rest = name.removeprefix(PREFIX).partition(".")
        if part in parts and name.startswith(PREFIX):
            parts[part][rest] = tensor
    require_parts(str(path), parts, encoder, predictor, ())
    facts = {
        "evaluate": "target",
        "clip": clip,
        "normalisation": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        "step": step,
        "source": {"file": path.name, "format": "checkpoint"},
    }
    tensors = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
    report = Report(len(tensors), {}, norms_of(tensors))
    return Weights(str(path), MemoryStore(tensors), encoder, predictor, (), facts, report)


def _groups(config: Path) -> dict[str, dict[str, Any]]:
    try:
        content, _ = yaml_text.read(config)
    except ConfigError as error:
        raise DataError(str(error)) from error
    return {str(key): dict(value) for key, value in content.items() if isinstance(value, dict)}
