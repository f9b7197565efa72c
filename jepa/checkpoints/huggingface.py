"""HuggingFace folders: `VJEPA2Model`, `VJEPA2ForVideoClassification` and `IJepaModel`, read and written.

`config.json` holds the architecture, `model.safetensors` (or several, listed in `model.safetensors.index.json`) the
weights; `keymaps` the names. These classes hold one encoder: of V-JEPA 2 the target encoder, of I-JEPA, as it was
converted, the context encoder. transformers has no class for V-JEPA 1, 2.1 and 2-AC, and its pooler has the heads of
the encoder, which in ViT-g are 22, while the official probe has 16.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from jepa.checkpoints import keymaps
from jepa.checkpoints.architecture import grid_of, why_dropped
from jepa.checkpoints.blank import require_parts
from jepa.checkpoints.families import facts_of
from jepa.checkpoints.folder import CONFIG, WEIGHTS
from jepa.checkpoints.weights import MemoryStore, Report, SafetensorsStore, Weights, listed, norms_of
from jepa.errors import DataError
from jepa.models.encoder import EncoderConfig
from jepa.models.predictor import PredictorConfig
from jepa.models.probes import ProbeConfig

INDEX = f"{WEIGHTS}.index.json"
MODEL_TYPES = ("vjepa2", "ijepa")
FIXED = {"hidden_act": "gelu", "qkv_bias": True, "layer_norm_eps": 1e-6}
"""What our modules cannot have otherwise."""


@dataclass(frozen=True)
class _Theirs:
    """A folder, read."""

    where: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def open_huggingface(folder: Path) -> Weights:
    """Read a folder of `save_pretrained`, or a downloaded one.

    Raises:
        DataError: a file is missing or damaged, a tensor is unknown, missing or of another shape, or the configuration
            asks for something that this package lacks.
    """
    config = read_json(folder / CONFIG)
    for key, value in FIXED.items():
        told = config.get(key, value)
        # I-JEPA's class has 1e-12 by default; the published weights were trained with 1e-6.
        near = key == "layer_norm_eps" and isinstance(told, float) and told < 1e-5
        if told != value and not near:
            raise DataError(f"{folder}/config.json has {key} {told}, this package only {value}")
    theirs = _Theirs(str(folder), config, _tensors(folder))
    try:
        return _vjepa2(theirs) if config["model_type"] == "vjepa2" else _ijepa(theirs)
    except KeyError as error:
        raise DataError(f"{folder}/config.json does not describe a model: {error} is missing") from error
    except DataError:
        raise
    except (ValueError, TypeError, ArithmeticError) as error:  # a ConfigError is a ValueError
        raise DataError(f"{folder}/config.json: {error}") from error


def is_huggingface(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is one of transformers for a model that we know."""
    return config.get("model_type") in MODEL_TYPES


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises DataError."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object")
    return content


def _tensors(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).is_file():
        store = SafetensorsStore(folder / WEIGHTS)
        return store.read(store.names())
    if not (folder / INDEX).is_file():
        raise DataError(f"{folder} holds no {WEIGHTS} and no {INDEX}: download one of them too")
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise DataError(f"{folder / INDEX} lists no tensors")
    found: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        if not isinstance(file, str) or Path(file).name != file:
            raise DataError(f"{folder / INDEX} names a file outside its folder: {file}")
        if not (folder / file).is_file():
            raise DataError(f"{folder} lacks {file}, which {INDEX} lists: download it too")
        store = SafetensorsStore(folder / file)
        if missing := {name for name, home in places.items() if home == file} - set(store.names()):
            raise DataError(f"{folder / file} lacks {len(missing)} tensors that {INDEX} lists ({listed(missing)})")
        found |= store.read(store.names())
    return found


def _vjepa2(theirs: _Theirs) -> Weights:
    config = theirs.config
    classifier = any(name.startswith("vjepa2.") for name in theirs.tensors)
    named = {name.removeprefix("vjepa2."): tensor for name, tensor in theirs.tensors.items()}
    encoder = EncoderConfig(
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_ratio=_ratio(config["hidden_size"], config.get("mlp_ratio", 4.0)),
        patch=_square(config.get("patch_size", 16)),
        tubelet=config.get("tubelet_size", 2),
        channels=config.get("in_chans", 3),
        frames=config.get("frames_per_clip", 64),
        size=_square(config.get("crop_size", 256)),
        rope="tiled",
        drop_path=float(config.get("drop_path_rate", 0.0)),
    )
    ours = {"target_encoder": keymaps.to_ours(keymaps.VJEPA2_ENCODER, encoder.depth, named)}
    depth = config.get("pred_num_hidden_layers", 12)
    predictor = PredictorConfig(
        width=config.get("pred_hidden_size", 384),
        depth=depth,
        heads=config.get("pred_num_attention_heads", 12),
        mlp_ratio=_ratio(config.get("pred_hidden_size", 384), config.get("pred_mlp_ratio", 4.0)),
        mask_tokens=config.get("pred_num_mask_tokens", 10),
    )
    ours["predictor"] = keymaps.to_ours(keymaps.VJEPA2_PREDICTOR, depth, named)
    if keymaps.MASK_TOKENS in named:
        tokens = named[keymaps.MASK_TOKENS]
        ours["predictor"] |= {f"mask_tokens.{number}": token for number, token in enumerate(tokens)}
    known = keymaps.their_names(keymaps.VJEPA2_ENCODER, encoder.depth) | {keymaps.MASK_TOKENS}
    known |= keymaps.their_names(keymaps.VJEPA2_PREDICTOR, depth)
    probes: tuple[ProbeConfig, ...] = ()
    if classifier:
        layers = config.get("num_pooler_layers", 3)
        ours["probes.0"] = keymaps.to_ours(keymaps.VJEPA2_PROBE, layers, named)
        if keymaps.QUERY_TOKENS in named:
            ours["probes.0"][keymaps.QUERY_TOKENS] = named[keymaps.QUERY_TOKENS]
        known |= keymaps.their_names(keymaps.VJEPA2_PROBE, layers) | {keymaps.QUERY_TOKENS}
        classes = named["classifier.bias"].shape[0] if "classifier.bias" in named else 1
        probes = (ProbeConfig(encoder.width, (classes,), heads=encoder.heads, depth=1 + layers),)
    return _weights(theirs, encoder, predictor, probes, ours, known)


def _ijepa(theirs: _Theirs) -> Weights:
    config = theirs.config
    named = {name.removeprefix("ijepa."): tensor for name, tensor in theirs.tensors.items()}
    size, patch = _square(config["image_size"]), _square(config["patch_size"])
    encoder = EncoderConfig(
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_ratio=config["intermediate_size"] / config["hidden_size"],
        patch=patch,
        tubelet=1,
        channels=config.get("num_channels", 3),
        frames=1,
        size=size,
        positions="sincos2d",
        interpolate_from=size,
        init="flat",
    )
    ours = keymaps.to_ours(keymaps.IJEPA_ENCODER, encoder.depth, named)
    embedding = ours.get("patch_embed.proj.weight")
    if embedding is not None and embedding.ndim == 4:
        ours["patch_embed.proj.weight"] = embedding.unsqueeze(2)
    known = keymaps.their_names(keymaps.IJEPA_ENCODER, encoder.depth)
    dropped = {name: "a classifier or pooler on top" for name in named if name.startswith(("classifier.", "pooler."))}
    table, grid = named.get(keymaps.IJEPA_POSITIONS), encoder.places.base
    assert grid is not None
    if table is None or table.shape != (1, grid.count, encoder.width):
        raise DataError(f"{theirs.where} lacks {keymaps.IJEPA_POSITIONS} of {grid.count} positions")
    if grid_of(table, "sincos2d", encoder.width) != grid:
        raise DataError(f"{theirs.where} has {keymaps.IJEPA_POSITIONS} that are no sine-cosine table")
    dropped[keymaps.IJEPA_POSITIONS] = why_dropped(encoder.positions)
    return _weights(theirs, encoder, None, (), {"target_encoder": ours}, known, dropped)


def _weights(
    theirs: _Theirs,
    encoder: EncoderConfig,
    predictor: PredictorConfig | None,
    probes: tuple[ProbeConfig, ...],
    ours: Mapping[str, Mapping[str, Tensor]],
    known: Iterable[str],
    dropped: Mapping[str, str] | None = None,
) -> Weights:
    base = {"vjepa2.", "ijepa."}
    plain = {next((name.removeprefix(b) for b in base if name.startswith(b)), name) for name in theirs.tensors}
    if unknown := plain - set(known) - set(dropped or ()):
        raise DataError(f"{theirs.where} has {len(unknown)} tensors of no known name ({listed(unknown)})")
    require_parts(theirs.where, ours, encoder, predictor, probes)
    tensors = {f"{part}.{name}": tensor for part, state in ours.items() for name, tensor in state.items()}
    facts = facts_of(Path(theirs.where).name, "huggingface", encoder, predictor)
    if labels := theirs.config.get("id2label"):
        facts["classes"] = [labels[key] for key in sorted(labels, key=int)]
    report = Report(len(tensors), dict(dropped or {}), norms_of(tensors))
    return Weights(theirs.where, MemoryStore(tensors), encoder, predictor, probes, facts, report)


def _ratio(width: int, ratio: float) -> float:
    """Their hidden width is rounded down, ours to the nearest."""
    return int(width * ratio) / width


def _square(value: Any) -> int:
    if isinstance(value, int):
        return value
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        return int(value[0])
    raise DataError(f"a size of {value}, expected a square one")
