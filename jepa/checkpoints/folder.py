"""The portable folder of a trained model: `model.safetensors` and `config.json`.

The tensors carry the names of the modules (`encoder.*`, `target_encoder.*`, `predictor.*`); the JSON holds the format
version, the architecture and the facts a user of the encoder needs: which encoder to evaluate, how clips were cut and
normalised, at which step this was. Nothing is pickled.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from jepa.checkpoints.io import atomic_write
from jepa.config import make_layer, resolve
from jepa.errors import DataError
from jepa.models.encoder import EncoderConfig
from jepa.models.jepa import JEPA

FORMAT_VERSION = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class SavedModel:
    """A portable folder, opened: architecture, facts, and where the weights lie."""

    weights: Path
    encoder: EncoderConfig
    facts: Mapping[str, Any]

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Tensors whose names start with `prefix`, without it. Raises DataError when the file is damaged."""
        try:
            with safe_open(self.weights, framework="pt") as file:
                names = [name for name in list(file.keys()) if name.startswith(prefix)]
                return {name[len(prefix) :]: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise DataError(f"{self.weights} cannot be read as safetensors ({error}): is it damaged?") from error

    def digest(self) -> str:
        """12 hexadecimal digits of the weights file."""
        with self.weights.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=6)).hexdigest()


def save_folder(folder: Path, jepa: JEPA, *, facts: Mapping[str, Any], predictor: bool = True) -> Path:
    """Write `model.safetensors` and `config.json`, each by an atomic rename, and return the folder.

    Raises ConfigError when they cannot be written.

    Args:
        folder: where; made if missing.
        jepa: the model.
        facts: JSON-able facts: `evaluate` ("target" or "context"), `clip`, `step`, ...
        predictor: also write the context encoder and the predictor, which further training needs.
    """
    parts = ("encoder.", "target_encoder.", "predictor.") if predictor else (f"{encoder_prefix(facts)}.",)
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in jepa.state_dict().items() if name.startswith(parts)
    }
    head = {
        "format_version": FORMAT_VERSION,
        "encoder": asdict(jepa.encoder.config),
        "predictor": asdict(jepa.predictor.config) if predictor else None,
        "normalisation": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    }
    for name, content in ((WEIGHTS, save(tensors)), (CONFIG, json.dumps(head | dict(facts), indent=2).encode())):
        with atomic_write(folder / name) as file:
            file.write(content)
    return folder


def encoder_prefix(facts: Mapping[str, Any]) -> str:
    """Module name of the encoder that is meant to be evaluated."""
    return "encoder" if facts.get("evaluate") == "context" else "target_encoder"


def open_folder(path: Path) -> SavedModel:
    """Open a run folder, a portable folder, or its weights file.

    Raises:
        DataError: there is no such path, or it holds no encoder of this format.
    """
    folder = path.parent if path.is_file() else path
    if not path.exists():
        raise DataError(f"no encoder at {path}: no such file or folder")
    if path.is_file() and path.suffix != ".safetensors":
        raise DataError(f"{path} is no encoder: expected a run folder or its {WEIGHTS}")
    weights = path if path.is_file() else folder / WEIGHTS
    for needed in (weights, folder / CONFIG):
        if not needed.is_file():
            unfinished = [*folder.glob("checkpoints"), *folder.glob("[0-9]*-*/checkpoints")]  # its own, of its phases
            hint = " (the run has not finished: resume it first)" if unfinished else ""
            raise DataError(f"{path} holds no encoder: {needed.name} is missing{hint}")
    return SavedModel(weights, *_parse(folder / CONFIG))


def _parse(path: Path) -> tuple[EncoderConfig, dict[str, Any]]:
    try:
        facts = json.loads(path.read_text())
        version, encoder = facts["format_version"], dict(facts["encoder"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} does not describe an encoder of this package") from error
    known = {field.name for field in fields(EncoderConfig)}
    if version != FORMAT_VERSION or set(encoder) - known:
        raise DataError(f"{path} has format version {version}, this package reads {FORMAT_VERSION}: update jepa-video")
    return resolve(EncoderConfig, [make_layer(EncoderConfig, encoder, str(path))]).build(), facts
