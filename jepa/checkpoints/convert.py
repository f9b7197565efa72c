"""From any source of weights to a portable folder, a HuggingFace folder or an official file.

Nothing is computed, tensors are renamed, cut and stacked: the way there and back gives the same bits. The target is
whole or absent: it is made beside its place and takes its name when all of it is on the disk.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from jepa.checkpoints.card import MARK, card, licence_of
from jepa.checkpoints.container import read_container
from jepa.checkpoints.folder import CONFIG, WEIGHTS, describe
from jepa.checkpoints.huggingface_files import as_json, huggingface_files, preprocessor
from jepa.checkpoints.io import sync
from jepa.checkpoints.official import official_container
from jepa.checkpoints.replacement import Found, found_at, replacing
from jepa.checkpoints.source import NO_HINTS, open_weights
from jepa.checkpoints.weights import Hints, MemoryStore, Weights, norms_of, not_finite
from jepa.errors import ConfigError, DataError
from jepa.version import __version__

Target = Literal["jepa", "huggingface", "official"]
CARD = "README.md"
OFFICIAL = (".pt", ".pth", ".pth.tar")
CONVERTED = "converted_by"
"""Key of the official files that we write."""
_OWN = {CONFIG, WEIGHTS, CARD, "preprocessor_config.json", "video_preprocessor_config.json"}
_HEAD = {"format_version", "encoder", "predictor", "action_predictor", "probes"}
"""Entries of a portable folder's configuration that are no facts."""


@dataclass(frozen=True)
class Conversion:
    """What was done."""

    source: str
    out: str
    to: Target
    parts: tuple[str, ...]
    """Encoders, predictor and probes that the target holds."""
    tensors: int
    """In the target."""
    dropped: Mapping[str, str]
    """Tensors and parts of the source that have no place in the target, with the reason."""
    assumed: tuple[str, ...]
    """What the source does not tell and was taken to be as usual."""
    mask_tokens: tuple[float, ...]
    """Norm of each mask token of the predictor; 0 for one that was never trained."""
    not_finite: tuple[str, ...]
    """Tensors of the source that hold NaN or infinity; they are converted as they are."""
    licence: str | None
    """Of the published weights of this family; none for those of an own run."""


def convert(
    source: str | Path,
    out: Path,
    to: Target,
    *,
    probe: str | Path | None = None,
    number: int = 0,
    hints: Hints = NO_HINTS,
) -> Conversion:
    """Convert weights.

    Args:
        source: as for `load_encoder`.
        out: a folder, or for `official` a file; must not exist, or be an earlier output of this function.
        to: what is to be written.
        probe: take a probe from there too; makes a `VJEPA2ForVideoClassification` of a HuggingFace folder.
        number: which of its probes.
        hints: as for `open_weights`.

    Raises:
        DataError: the source cannot be used.
        ConfigError: the target cannot hold these weights, or is in the way, or cannot be written.
    """
    place = _resolved(out)
    found = found_at(place)
    _require_free(Path(source), place, to)
    weights = open_weights(source, hints)
    if probe is not None:
        weights = _with_probe(weights, open_weights(probe, Hints(heads=hints.heads)), number)
    if not weights.report.mask_tokens:  # a portable folder is opened without reading a tensor
        names = (name for name in weights.store.names() if name.startswith("predictor.mask_tokens."))
        weights = replace(weights, report=replace(weights.report, mask_tokens=norms_of(weights.store.read(names))))
    if to == "official":
        count, dropped = _write_official(weights, place, found), dict(weights.report.dropped)
    else:
        count, dropped = _write_folder(weights, place, found, to)
    return Conversion(
        source=str(source),
        out=str(out),
        to=to,
        parts=tuple(part for part in weights.parts() if part not in dropped),
        tensors=count,
        dropped=dropped,
        assumed=weights.report.assumed,
        mask_tokens=weights.report.mask_tokens,
        not_finite=tuple(not_finite(weights.tensors())),
        licence=licence_of(weights),
    )


def _with_probe(weights: Weights, other: Weights, number: int) -> Weights:
    probe = other.probe(number)
    if weights.encoder is None or probe.width != weights.encoder.width:
        width = None if weights.encoder is None else weights.encoder.width
        raise ConfigError(
            f"the probe of {other.where} reads tokens of width {probe.width}, {weights.where} has {width}"
        )
    tensors = {name: tensor for name, tensor in weights.tensors().items() if not name.startswith("probes.")}
    tensors |= {f"probes.0.{name}": tensor for name, tensor in other.tensors(f"probes.{number}.").items()}
    return replace(weights, store=MemoryStore(tensors), probes=(probe,))


def _write_official(weights: Weights, out: Path, found: Found) -> int:
    container = official_container(weights)
    states = [state for value in container.values() for state in (value if isinstance(value, list) else [value])]
    with replacing(out, found) as fresh:
        torch.save({**container, CONVERTED: f"jepa-video {__version__}"}, fresh)
    return sum(len(state) for state in states)


def _write_folder(weights: Weights, out: Path, found: Found, to: Target) -> tuple[int, dict[str, str]]:
    dropped = dict(weights.report.dropped)
    files: dict[str, bytes] = {}
    if to == "huggingface":
        config, tensors, left_out = huggingface_files(weights)
        name, content = preprocessor(weights)
        dropped |= left_out
        files |= {CONFIG: as_json(config), name: as_json(content)}
    else:
        tensors = {name: tensor.contiguous().clone() for name, tensor in weights.tensors().items()}
        facts = {key: value for key, value in weights.facts.items() if key not in _HEAD}
        described = describe(weights.encoder, weights.predictor, weights.probes, facts)
        files[CONFIG] = json.dumps(described, indent=2).encode()
    files[CARD] = card(weights, out.name, to, dropped).encode()
    _place(out, found, files, tensors)
    return len(tensors), dropped


def _place(out: Path, found: Found, files: Mapping[str, bytes], tensors: dict[str, Tensor]) -> None:
    """Write a folder and give it the name `out` when it is complete."""
    with replacing(out, found) as fresh:
        fresh.mkdir()
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        save_file(tensors, fresh / WEIGHTS, metadata={"format": "pt"})
        (fresh / WEIGHTS).chmod((fresh / CARD).stat().st_mode)  # it would be for its owner alone
        for name in (*files, WEIGHTS):
            sync(fresh / name)


def _resolved(out: Path) -> Path:
    """Without links: one at `out` stays, and where it leads is written."""
    try:
        return out.resolve()
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{out} is a link that leads round in a circle: choose another place") from error


def _require_free(source: Path, out: Path, to: Target) -> None:
    """Raise ConfigError unless the target can be written without taking anything but our own output away."""
    if source.exists() and out.exists() and source.resolve() == out.resolve():
        raise ConfigError(f"{out} is the source itself: choose another place")
    if to == "official":
        if not out.name.endswith(OFFICIAL):
            raise ConfigError(f"--to official writes a file: let {out} end in {' or '.join(OFFICIAL)}")
        if out.exists() and not (out.is_file() and _is_own_file(out)):
            raise ConfigError(f"{out} exists and was not written by jepa convert: choose another place, or remove it")
    elif out.exists() and not (out.is_dir() and _is_own_folder(out)):
        raise ConfigError(f"{out} exists and was not written by jepa convert: choose another place, or remove it")


def _is_own_folder(out: Path) -> bool:
    names = {path.name for path in out.iterdir()}
    readme = out / CARD
    return not names or (names <= _OWN and readme.is_file() and MARK in readme.read_text("utf-8", errors="replace"))


def _is_own_file(out: Path) -> bool:
    try:
        return CONVERTED in read_container(out)
    except DataError:
        return False
