"""Official files: the containers of V-JEPA 1, 2, 2.1, 2-AC and I-JEPA, and of their attentive probes.

A container is a dictionary of state dicts: `encoder`, `predictor`, `target_encoder` (`ema_encoder` in the distilled 2.1
models), beside optimizer, scaler and counters, which are left where they are; a file of probes has `classifiers`, a
list. Tensors are called as ours behind the prefixes of the wrappers they were trained in, with three exceptions:

- I-JEPA's patch embedding is 2-D (ours has a time axis of 1), and its one mask token is called `mask_token`;
- `pos_embed` and `predictor_pos_embed` are tensors there and computed here;
- modality vectors and heads of 2.1 are just further tensors.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from jepa.checkpoints import architecture
from jepa.checkpoints.architecture import Tensors
from jepa.checkpoints.blank import require_parts
from jepa.checkpoints.container import read_container
from jepa.checkpoints.families import FAMILIES, Evaluated, facts_of, family_of
from jepa.checkpoints.weights import Hints, MemoryStore, Report, Weights, listed, norms_of, require_values
from jepa.errors import ConfigError, DataError
from jepa.models.action_predictor import ActionPredictorConfig
from jepa.models.encoder import EncoderConfig
from jepa.models.positions import sincos_positions
from jepa.models.predictor import PredictorConfig

ENCODERS = ("ema_encoder", "target_encoder", "encoder")
"""Keys of encoders in a container, the one to evaluate first."""
TARGET = {"ema_encoder": "target_encoder"}
"""What the distilled models call the encoder that others call the target encoder."""
PROBES = ("classifiers", "classifier")
_WRAPPERS = ("module.", "backbone.", "_orig_mod.")


def open_official(path: Path, hints: Hints, *, predictor: bool = True) -> Weights:
    """Read an official file, or the bare state dict of an encoder; without its `predictor` nothing is asked of that.

    Raises:
        DataError: as `read_container`; or it holds no model of a known kind, or one that does not fit in name or shape.
        ConfigError: with these hints its architecture cannot be.
    """
    content = read_container(path)
    where = str(path)
    parts = {
        key: _bare(_state(content[key], key, where), where)
        for key in (*ENCODERS, "predictor")
        if isinstance(content.get(key), Mapping)
    }
    probes = [_bare(state, where) for state in _probe_states(content, where)]
    if not parts and not probes and all(isinstance(value, Tensor) for value in content.values()):
        parts = {"target_encoder": _bare(_state(content, "", where), where)}
    if not parts and not probes:
        raise DataError(f"{where} holds no encoder, predictor or classifiers: it has {listed(map(str, content))}")
    for state in (*parts.values(), *probes):
        require_values(state, where)
    try:
        return _assemble(where, parts, probes, hints, predictor)
    except ConfigError as error:
        if hints.given():
            raise
        raise DataError(f"{where} is no model of a known kind: {error}") from error


def _assemble(
    where: str, parts: dict[str, dict[str, Tensor]], probes: list[dict[str, Tensor]], hints: Hints, whole: bool
) -> Weights:
    encoders = [key for key in ENCODERS if key in parts]
    if parts and not encoders:
        raise DataError(f"{where} holds a predictor but no encoder, which tells how to place its tokens")
    encoder: EncoderConfig | None = None
    predictor: PredictorConfig | ActionPredictorConfig | None = None
    dropped: dict[str, str] = {}
    if "ema_encoder" in parts and parts.pop("target_encoder", None) is not None:
        dropped["target_encoder"] = "the teacher of a distilled model: ema_encoder is the model"
    assumed: list[str] = []
    ours: dict[str, dict[str, Tensor]] = {}
    if encoders:
        saved = parts.get("predictor")
        known = None if saved is None else architecture.mask_tokens_of(_unpacked(saved, where))
        encoder, assumed = architecture.encoder_of(parts[encoders[0]], hints, where, known)
        if assumed and (exact := architecture.named(encoder, Path(where).name)) is not encoder:
            encoder = replace(exact, frames=hints.frames or exact.frames, size=hints.size or exact.size)
            assumed = []
        if saved is not None and whole:
            predictor = architecture.predictor_of(_unpacked(saved, where), encoder, hints, where)
        for key, state in parts.items():
            if key == "predictor" and not whole:
                continue
            ours[TARGET.get(key, key)], gone = _ours(key, state, encoder, where)
            dropped |= {f"{key}.{tensor}": why for tensor, why in gone.items()}
    configs = tuple(architecture.probe_of(state, hints, where) for state in probes)
    ours |= {f"probes.{number}": state for number, state in enumerate(probes)}
    require_parts(where, ours, encoder, predictor, configs)
    tensors = {f"{part}.{name}": tensor for part, state in ours.items() for name, tensor in state.items()}
    report = Report(len(tensors), dropped, norms_of(tensors), tuple(assumed))
    # Some files hold one encoder, which is then the one to use whatever it is called.
    evaluate: Evaluated = "context" if encoders == ["encoder"] else "target"
    facts = facts_of(Path(where).name, "official", encoder, predictor, evaluate)
    return Weights(where, MemoryStore(tensors), encoder, predictor, configs, facts, report)


def official_container(weights: Weights) -> dict[str, Any]:
    """The dictionary that the official code loads, of the parts that are there.

    Raises:
        ConfigError: no official class computes what this architecture does.
    """
    content: dict[str, Any] = {}
    if weights.encoder is not None:
        name, why = family_of(weights.encoder, weights.predictor)
        if name is None:
            raise ConfigError(f"{weights.where} fits no official model: {why}")
        prefix = FAMILIES[name].prefix
        for part in weights.parts():
            if part != "probes":
                theirs = _theirs(part, weights.tensors(f"{part}."), weights.encoder)
                key = "ema_encoder" if part == "target_encoder" and _distilled(weights) else part
                content[key] = {f"{prefix}{tensor}": value for tensor, value in theirs.items()}
    if weights.probes:
        content["classifiers"] = [
            {
                f"module.{name}": value.contiguous().clone()
                for name, value in weights.tensors(f"probes.{number}.").items()
            }
            for number in range(len(weights.probes))
        ]
    return content


def _bare(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Without the prefixes of wrappers."""
    found: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for full, tensor in state.items():
        name = full
        while name.startswith(_WRAPPERS):
            name = name.split(".", 1)[1]
        if name in found:
            raise DataError(f"{where} holds two tensors for one: {listed([origin[name], full])}")
        found[name], origin[name] = tensor, full
    return found


def _state(value: Mapping[Any, Any], key: str, where: str) -> Mapping[str, Tensor]:
    """The tensors of a part. Raises DataError, naming the entry, if it holds anything else: no part just vanishes."""
    if not value:
        raise DataError(f"{where} holds nothing in {key}")
    for name, entry in value.items():
        if not isinstance(name, str) or not isinstance(entry, Tensor):
            full = f"{key}.{name}" if key else str(name)
            raise DataError(f"{where} has {listed([full])} of type {type(entry).__name__}, expected a tensor by name")
    return value


def _probe_states(content: Mapping[str, Any], where: str) -> list[Mapping[str, Tensor]]:
    for key in PROBES:
        value = content.get(key)
        several = value if isinstance(value, list) else [value]
        if several and all(isinstance(one, Mapping) for one in several):
            return [_state(one, f"{key}.{number}", where) for number, one in enumerate(several)]
    return []


def _unpacked(predictor: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """A predictor with I-JEPA's single mask token under our name."""
    if {"mask_token", "mask_tokens.0"} <= predictor.keys():
        raise DataError(f"{where} holds two tensors for one: mask_token, mask_tokens.0")
    return {"mask_tokens.0" if name == "mask_token" else name: tensor for name, tensor in predictor.items()}


def _ours(part: str, state: Tensors, encoder: EncoderConfig, where: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by our names, and what is left out with the reason."""
    found, dropped = _unpacked(state, where), {}
    if part == "predictor":
        table = found.pop("predictor_pos_embed", None)
        if table is not None:
            architecture.require_table(table, encoder, architecture.inner_width(found, where), where)
            dropped["predictor_pos_embed"] = architecture.why_dropped(encoder.positions)
        return found, dropped
    if found.pop("pos_embed", None) is not None:
        dropped["pos_embed"] = architecture.why_dropped(encoder.positions)
    embedding = found.get("patch_embed.proj.weight")
    if embedding is not None and embedding.ndim == 4:
        found["patch_embed.proj.weight"] = embedding.unsqueeze(2)
    return found, dropped


def _theirs(part: str, state: Tensors, encoder: EncoderConfig) -> dict[str, Tensor]:
    """Tensors by official names, as copies that stand alone in a file."""
    found = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    image = encoder.positions == "sincos2d"
    if image and "mask_tokens.0" in found:
        found["mask_token"] = found.pop("mask_tokens.0")
    if image and part != "predictor":
        found["patch_embed.proj.weight"] = found["patch_embed.proj.weight"].squeeze(2)
    if encoder.positions != "rope":
        name = "predictor_pos_embed" if part == "predictor" else "pos_embed"
        like = found["predictor_norm.weight" if part == "predictor" else "norm.weight"]
        grid = replace(encoder, interpolate_from=encoder.size).places.base
        assert grid is not None
        found[name] = sincos_positions(grid, like.shape[0], encoder.positions).unsqueeze(0).to(like.dtype)
    return found


def _distilled(weights: Weights) -> bool:
    encoder, predictor = weights.encoder, weights.predictor
    one = isinstance(predictor, PredictorConfig) and predictor.fused_levels == 1 and predictor.context_head
    return one and encoder is not None and len(encoder.levels) > 1
