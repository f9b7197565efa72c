"""HuggingFace folders: `VJEPA2Model`, `VJEPA2ForVideoClassification` and `IJepaModel`, read and written.

`config.json` holds the architecture, `model.safetensors` (or several, listed in `model.safetensors.index.json`) the
weights; `keymaps` the names. These classes hold one encoder: of V-JEPA 2 the target encoder, of I-JEPA, as it was
converted, the context encoder. transformers has no class for V-JEPA 1, 2.1 and 2-AC, and its pooler has the heads of
the encoder, which in ViT-g are 22, while the official probe has 16.
"""

import json
import math
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
FIXED = {"hidden_act": "gelu", "use_SiLU": False, "qkv_bias": True, "layer_norm_eps": 1e-6}
"""What our modules cannot have otherwise."""


@dataclass(frozen=True)
class _Theirs:
    """A folder, read."""

    where: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def count(self, key: str, usual: int | None = None, *, least: int = 1) -> int:
        """A whole number of the configuration. Raises DataError; KeyError if it is missing and has no usual value."""
        value = self.config[key] if usual is None else self.config.get(key, usual)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise DataError(f"{self.where}/config.json has {key} {value!r}, expected a whole number from {least}")
        return value

    def blocks(self, key: str, usual: int | None = None, *, least: int = 1) -> int:
        """A number of blocks: each has tensors, so that a small file cannot ask for a tower of them."""
        value = self.count(key, usual, least=least)
        if value > len(self.tensors):
            raise DataError(
                f"{self.where}/config.json has {key} {value}, and only {len(self.tensors)} tensors lie there"
            )
        return value

    def number(self, key: str, usual: float) -> float:
        """A number from 0, likewise."""
        value = self.config.get(key, usual)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
            raise DataError(f"{self.where}/config.json has {key} {value!r}, expected a number from 0")
        return float(value)

    def side(self, key: str, usual: int | None = None) -> int:
        """Height and width in pixels, as one number or as two that are alike."""
        value = self.config.get(key, usual)
        if isinstance(value, list):
            if len(value) != 2 or value[0] != value[1]:
                raise DataError(f"{self.where}/config.json has {key} {value}, expected a square one")
            return _Theirs(self.where, {key: value[0]}, {}).count(key)
        return self.count(key, usual)


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
        near = key == "layer_norm_eps" and isinstance(told, float) and 0 < told < 1e-5
        if told != value and not near:
            raise DataError(f"{folder}/config.json has {key} {told}, this package only {value}")
    try:
        theirs = _Theirs(str(folder), config, _tensors(folder))
        return _vjepa2(theirs) if config["model_type"] == "vjepa2" else _ijepa(theirs)
    except KeyError as error:
        raise DataError(f"{folder}/config.json does not describe a model: {error} is missing") from error
    except DataError:
        raise
    # A ConfigError is a ValueError, a RecursionError a RuntimeError; torch says by one that a shape is impossible.
    except (ValueError, TypeError, ArithmeticError, AttributeError, IndexError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{folder}/config.json does not describe a model ({reason})") from error


def is_huggingface(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is one of transformers for a model that we know."""
    return config.get("model_type") in MODEL_TYPES


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises DataError."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object")
    return content


def files_of(folder: Path) -> set[str]:
    """Names of the files that `open_huggingface` reads in this folder. Raises DataError."""
    if (folder / WEIGHTS).is_file():
        return {"config.json", WEIGHTS}
    return {"config.json", INDEX, *_places(folder).values()}


def _places(folder: Path) -> dict[str, str]:
    """The file of each tensor by the index."""
    if not (folder / INDEX).is_file():
        raise DataError(f"{folder} holds no {WEIGHTS} and no {INDEX}: download one of them too")
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise DataError(f"{folder / INDEX} lists no tensors")
    for file in places.values():
        if not isinstance(file, str) or Path(file).name != file:
            raise DataError(f"{folder / INDEX} names a file outside its folder: {file}")
    return places


def _tensors(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).is_file():
        store = SafetensorsStore(folder / WEIGHTS)
        return store.read(store.names())
    places = _places(folder)
    found: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        if not (folder / file).is_file():
            raise DataError(f"{folder} lacks {file}, which {INDEX} lists: download it too")
        store = SafetensorsStore(folder / file)
        wanted = {name for name, home in places.items() if home == file}
        if missing := wanted - set(store.names()):
            raise DataError(f"{folder / file} lacks {len(missing)} tensors that {INDEX} lists ({listed(missing)})")
        found |= store.read(wanted)  # another part may hold copies, of other values
    return found


def _vjepa2(theirs: _Theirs) -> Weights:
    classifier = any(name.startswith("vjepa2.") for name in theirs.tensors)
    named = {name.removeprefix("vjepa2."): tensor for name, tensor in theirs.tensors.items()}
    encoder = EncoderConfig(
        width=theirs.count("hidden_size"),
        depth=theirs.blocks("num_hidden_layers"),
        heads=theirs.count("num_attention_heads"),
        mlp_ratio=_ratio(theirs.count("hidden_size"), theirs.number("mlp_ratio", 4.0)),
        patch=theirs.side("patch_size", 16),
        tubelet=theirs.count("tubelet_size", 2),
        channels=theirs.count("in_chans", 3),
        frames=theirs.count("frames_per_clip", 64),
        size=theirs.side("crop_size", 256),
        rope="tiled",
        drop_path=theirs.number("drop_path_rate", 0.0),
    )
    ours = {"target_encoder": keymaps.to_ours(keymaps.VJEPA2_ENCODER, encoder.depth, named)}
    depth = theirs.blocks("pred_num_hidden_layers", 12)
    width = theirs.count("pred_hidden_size", 384)
    predictor = PredictorConfig(
        width=width,
        depth=depth,
        heads=theirs.count("pred_num_attention_heads", 12),
        mlp_ratio=_ratio(width, theirs.number("pred_mlp_ratio", 4.0)),
        mask_tokens=theirs.count("pred_num_mask_tokens", 10),
    )
    ours["predictor"] = keymaps.to_ours(keymaps.VJEPA2_PREDICTOR, depth, named)
    tokens = named.get(keymaps.MASK_TOKENS)
    if tokens is None or tokens.shape != (predictor.mask_tokens, 1, 1, width):
        shape = "lacks" if tokens is None else f"has {list(tokens.shape)} as"
        raise DataError(
            f"{theirs.where} {shape} {keymaps.MASK_TOKENS}, expected {[predictor.mask_tokens, 1, 1, width]}"
        )
    ours["predictor"] |= {f"mask_tokens.{number}": token for number, token in enumerate(tokens)}
    known = keymaps.their_names(keymaps.VJEPA2_ENCODER, encoder.depth) | {keymaps.MASK_TOKENS}
    known |= keymaps.their_names(keymaps.VJEPA2_PREDICTOR, depth)
    probes: tuple[ProbeConfig, ...] = ()
    if classifier:
        layers = theirs.blocks("num_pooler_layers", 3, least=0)
        ours["probes.0"] = keymaps.to_ours(keymaps.VJEPA2_PROBE, layers, named)
        if keymaps.QUERY_TOKENS in named:
            ours["probes.0"][keymaps.QUERY_TOKENS] = named[keymaps.QUERY_TOKENS]
        known |= keymaps.their_names(keymaps.VJEPA2_PROBE, layers) | {keymaps.QUERY_TOKENS}
        classes = named["classifier.bias"].shape[0] if "classifier.bias" in named else 1
        probes = (ProbeConfig(encoder.width, (classes,), heads=encoder.heads, depth=1 + layers),)
    return _weights(theirs, encoder, predictor, probes, ours, known)


def _ijepa(theirs: _Theirs) -> Weights:
    named = {name.removeprefix("ijepa."): tensor for name, tensor in theirs.tensors.items()}
    size, width = theirs.side("image_size"), theirs.count("hidden_size")
    encoder = EncoderConfig(
        width=width,
        depth=theirs.blocks("num_hidden_layers"),
        heads=theirs.count("num_attention_heads"),
        mlp_ratio=theirs.count("intermediate_size") / width,
        patch=theirs.side("patch_size"),
        tubelet=1,
        channels=theirs.count("num_channels", 3),
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
    if table is None or table.shape != (1, grid.count, width):
        raise DataError(f"{theirs.where} lacks {keymaps.IJEPA_POSITIONS} of {grid.count} positions")
    if grid_of(table, "sincos2d", width) != grid:
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
        facts["classes"] = [str(labels[key]) for key in sorted(labels, key=int)]
    report = Report(len(tensors), dict(dropped or {}), norms_of(tensors))
    return Weights(theirs.where, MemoryStore(tensors), encoder, predictor, probes, facts, report)


def _ratio(width: int, ratio: float) -> float:
    """Their hidden width is rounded down, ours to the nearest."""
    return int(width * ratio) / width
