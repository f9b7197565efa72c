"""The portable folder of a trained model: `model.safetensors` and `config.json`.

The tensors carry the names of the modules (`encoder.*`, `target_encoder.*`, `predictor.*`, `probes.I.*`); the JSON
holds the format version, the architecture and the facts a user of the encoder needs: which encoder to evaluate, how
clips were cut and normalised, at which step this was, where the weights came from. Nothing is pickled.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save
from torch import Tensor

from jepa.checkpoints.io import atomic_write
from jepa.checkpoints.weights import SafetensorsStore, Weights, encoder_prefix
from jepa.config import make_layer, resolve
from jepa.errors import ConfigError, DataError
from jepa.models.action_predictor import ActionPredictorConfig
from jepa.models.catalog import IMAGENET_MEAN, IMAGENET_STD
from jepa.models.encoder import EncoderConfig
from jepa.models.jepa import JEPA
from jepa.models.predictor import PredictorConfig
from jepa.models.probes import ProbeConfig

FORMAT_VERSION = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"

_SHOWN = 40
"""Characters of a wrong value in a message."""
_FEW = 64
"""Blocks that any folder may ask for: then the message can name the tensors that are missing."""
_MALFORMED = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError, RecursionError, OSError,
)  # fmt: skip
"""What reading a configuration ends in that is JSON and nothing else, or not even that."""

T = TypeVar("T")
_Part = EncoderConfig | PredictorConfig | ActionPredictorConfig | ProbeConfig


def save_folder(
    folder: Path,
    jepa: JEPA,
    *,
    facts: Mapping[str, Any],
    predictor: bool = True,
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write `model.safetensors` and `config.json`, each by an atomic rename, and return the folder.

    Raises ConfigError when they cannot be written.

    Args:
        folder: where; made if missing.
        jepa: the model.
        facts: JSON-able facts: `evaluate` ("target" or "context"), `clip`, `step`, ...
        weights: of the model, where it does not hold them whole itself.
        predictor: also write the context encoder and the predictor, which further training needs.
    """
    parts = ("encoder.", "target_encoder.", "predictor.") if predictor else (f"{encoder_prefix(facts)}.",)
    state: Mapping[str, Tensor] = weights or jepa.state_dict()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items() if name.startswith(parts)}
    head = describe(jepa.encoder.config, jepa.predictor.config if predictor else None, (), facts)
    for name, content in ((WEIGHTS, save(tensors)), (CONFIG, json.dumps(head, indent=2).encode())):
        with atomic_write(folder / name) as file:
            file.write(content)
    return folder


def describe(
    encoder: EncoderConfig | None,
    predictor: PredictorConfig | ActionPredictorConfig | None,
    probes: tuple[ProbeConfig, ...],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """What `config.json` of a portable folder says."""
    action = isinstance(predictor, ActionPredictorConfig)
    return {
        "format_version": FORMAT_VERSION,
        "encoder": None if encoder is None else asdict(encoder),
        "predictor": None if predictor is None or action else asdict(predictor),
        **({"action_predictor": asdict(predictor)} if predictor is not None and action else {}),
        **({"probes": [asdict(probe) for probe in probes]} if probes else {}),
        "normalisation": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        **facts,
    }


def open_folder(path: Path) -> Weights:
    """Open a run folder, a portable folder, or its weights file; no tensor is read yet.

    Raises:
        DataError: there is no such path, or it holds no encoder of this format.
    """
    folder = path.parent if path.is_file() else path
    if not path.exists():
        raise DataError(f"no encoder at {path}: no such file or folder")
    weights = path if path.is_file() else folder / WEIGHTS
    for needed in (weights, folder / CONFIG):
        if not needed.is_file():
            unfinished = [*folder.glob("checkpoints"), *folder.glob("[0-9]*-*/checkpoints")]  # its own, of its phases
            hint = " (the run has not finished: resume it first)" if unfinished else ""
            raise DataError(f"{path} holds no encoder: {needed.name} is missing{hint}")
    return _parse(folder / CONFIG, weights)


def _parse(path: Path, weights: Path) -> Weights:
    try:
        facts = json.loads(path.read_text())
        version, encoder = facts["format_version"], facts["encoder"]
        if version != FORMAT_VERSION:
            raise DataError(_newer(path, version))
        action, plain = facts.get("action_predictor"), facts.get("predictor")
        predictor: PredictorConfig | ActionPredictorConfig | None = None
        if action:
            predictor = _built(ActionPredictorConfig, action, path)
        elif plain:
            predictor = _built(PredictorConfig, plain, path)
        probes = tuple(_built(ProbeConfig, probe, path) for probe in facts.get("probes", ()))
        built = None if encoder is None else _built(EncoderConfig, encoder, path)
        store = SafetensorsStore(weights)
        _require_possible(path, [part for part in (built, predictor, *probes) if part is not None], len(store.names()))
        _require_facts(path, facts, 3 if built is None else built.channels)
        return Weights(str(weights), store, built, predictor, probes, facts)
    except DataError:
        raise
    except _MALFORMED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} does not describe an encoder of this package ({reason})") from error


def _require_possible(path: Path, parts: Sequence[_Part], tensors: int) -> None:
    """Raise DataError for what no module can be built of, before one is: a few bytes can ask for a tower of blocks."""
    for part in parts:
        for name, count in (("depth", part.depth), ("mask_tokens", getattr(part, "mask_tokens", 1))):
            if not 0 < count <= max(tensors, _FEW):
                raise DataError(f"{path} has {name} {count} in the {_title(part)}, and {tensors} tensors lie there")
        if not 0 < part.mlp_ratio < math.inf:
            raise DataError(f"{path} has mlp_ratio {part.mlp_ratio} in the {_title(part)}, expected a number above 0")


def _title(part: _Part) -> str:
    return type(part).__name__.removesuffix("Config").lower()


def _require_facts(path: Path, facts: Mapping[str, Any], channels: int) -> None:
    """Raise DataError unless what users of the encoder rely on has the right form; what is not told is as usual."""
    for name in ("normalisation", "clip", "source"):
        if not isinstance(facts.get(name, {}), dict):
            raise DataError(f"{path} has {name} {_short(facts[name])}, expected an object")
    if "normalisation" in facts:
        for name in ("mean", "std"):
            _require_numbers(path, name, facts["normalisation"].get(name), {3, channels})
    stride = facts.get("clip", {}).get("stride", 1)
    if not isinstance(stride, int) or stride < 1:
        raise DataError(f"{path} has clip stride {_short(stride)}, expected a whole number from 1")
    for name in ("family", "licence", "file", "format"):
        value = facts.get("source", {}).get(name)
        if not isinstance(value, str | None):
            raise DataError(f"{path} has source {name} {_short(value)}, expected a text")
    classes = facts.get("classes")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(label, str) for label in classes)):
        raise DataError(f"{path} has classes {_short(classes)}, expected a list of names")


def _require_numbers(path: Path, name: str, values: object, lengths: set[int]) -> None:
    known = isinstance(values, list) and len(values) in lengths
    for value in values if known and isinstance(values, list) else ():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        known = known and number and (name == "mean" or value > 0)
    if not known:
        count = " or ".join(map(str, sorted(lengths)))
        above = " above 0" if name == "std" else ""
        raise DataError(f"{path} has {name} {_short(values)} in normalisation, expected {count} numbers{above}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _built(kind: type[T], values: Mapping[str, Any], path: Path) -> T:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if set(values) - known:
        raise DataError(_newer(path, FORMAT_VERSION))
    try:
        return resolve(kind, [make_layer(kind, values, str(path))]).build()
    except ConfigError as error:
        raise DataError(f"{path} does not describe an encoder of this package: {error}") from error


def _newer(path: Path, version: object) -> str:
    return f"{path} has format version {version}, this package reads {FORMAT_VERSION}: update jepa-video"
