"""Loading encoders, predictors and probes for use, and weights for further training; from any source that
`open_weights` knows."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from jepa.checkpoints.blank import blank, filled, make_predictor
from jepa.checkpoints.frozen import FrozenEncoder as FrozenEncoder
from jepa.checkpoints.frozen import random_encoder as random_encoder
from jepa.checkpoints.source import open_weights
from jepa.checkpoints.source import shipped as shipped
from jepa.checkpoints.weights import Hints, Weights, listed, misfit, not_finite, require_fit
from jepa.config import nearest
from jepa.errors import ConfigError, DataError
from jepa.logs import get_logger
from jepa.models.action_predictor import ActionPredictor
from jepa.models.catalog import CATALOG
from jepa.models.encoder import Encoder, EncoderConfig, differences
from jepa.models.jepa import JEPA
from jepa.models.place import PositionKind
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.models.probes import Probe, build_probe

log = get_logger(__name__)


def load_encoder(
    path: str | Path,
    *,
    weights: Literal["target", "context"] | None = None,
    heads: int | None = None,
    frames: int | None = None,
    size: int | None = None,
    positions: PositionKind | None = None,
    levels: tuple[int, ...] | None = None,
) -> FrozenEncoder:
    """Load a frozen encoder.

    Args:
        path: a run folder, finished or not; a folder with `model.safetensors` and `config.json`, ours or HuggingFace's,
            or that weights file; an official `.pt` or `.pth.tar` file; the name of a shipped encoder (see `shipped`);
            or `owner/name` on the HuggingFace hub (extra `hf`).
        weights: the EMA target encoder or the context encoder; by default the one its training meant to be used.
        heads: attention heads, where an official file of an unusual width leaves them open.
        frames: of the clips it is to be used with, by default those of training; the encoder takes any all the same.
        size: height and width in pixels of these clips, likewise.
        positions: kind of positions, where an official file leaves it open.
        levels: 0-based numbers of the supervised blocks, where an official file of an unusual depth leaves them open.

    Raises:
        DataError: nothing there, or it holds no encoder; a tensor is unknown, missing or of another shape; the file
            wants to run code.
        ConfigError: an architecture that cannot be; or heads, positions or levels for a source that describes itself.
    """
    hints = Hints(heads=heads, frames=frames, size=size, positions=positions, levels=levels)
    opened = open_weights(path, hints, predictor=False)
    prefix = {"target": "target_encoder", "context": "encoder", None: opened.evaluated}[weights]
    config = _encoder_config(opened)
    if opened.report.assumed:
        log.warning("%s does not say %s: assumed", opened.where, ", ".join(opened.report.assumed))
    encoder = blank(lambda: Encoder(config), opened.where)
    tensors = _fitting(encoder, opened, f"{prefix}.")
    _warn_of_broken(tensors, opened)
    return FrozenEncoder(filled(encoder, tensors), opened.facts, opened.digest(f"{prefix}."))


def load_predictor(
    path: str | Path,
    *,
    heads: int | None = None,
    predictor_heads: int | None = None,
    frames: int | None = None,
    size: int | None = None,
    positions: PositionKind | None = None,
    levels: tuple[int, ...] | None = None,
) -> Predictor | ActionPredictor:
    """Load the predictor that was trained with an encoder, frozen; for V-JEPA 2-AC its `ActionPredictor`.

    Its mask tokens are numbered as in the file. In V-JEPA 2 a default run trains only token 0, while other loaders take
    token 1 unless told otherwise; `jepa convert` prints their norms.

    Args:
        path: as for `load_encoder`.
        heads: of the encoder, as for `load_encoder`.
        predictor_heads: of the predictor, where an official file of an unusual width leaves them open.
        frames: as for `load_encoder`.
        size: as for `load_encoder`.
        positions: as for `load_encoder`.
        levels: as for `load_encoder`.

    Raises:
        DataError: as `load_encoder`; or there is no predictor.
        ConfigError: as `load_encoder`.
    """
    opened = open_weights(path, Hints(heads, predictor_heads, frames, size, positions, levels))
    predictor, encoder, tensors = opened.predictor, _encoder_config(opened), opened.tensors("predictor.")
    if predictor is None or not tensors:
        raise DataError(f"{opened.where} holds no predictor")
    module = blank(lambda: make_predictor(predictor, encoder, tensors), opened.where)
    require_fit(tensors, module.state_dict(), opened.where, "predictor")
    _warn_of_broken(tensors, opened)
    return filled(module, tensors)


def load_probe(path: str | Path, *, number: int = 0, heads: int | None = None) -> Probe:
    """Load a trained attentive probe, frozen: tokens (B, N, D) to class scores.

    Args:
        path: an official file of probes, a HuggingFace folder of `VJEPA2ForVideoClassification` or its name on the hub,
            or a folder of `jepa convert`.
        number: which of several probes; a file may hold one per setting of the optimizer.
        heads: attention heads, 16 in official files if not given.

    Raises:
        DataError: nothing there, or no probe of this number.
        ConfigError: as `load_encoder`.
    """
    opened = open_weights(path, Hints(heads=heads))
    config = opened.probe(number)
    tensors = opened.tensors(f"probes.{number}.")
    module = blank(lambda: build_probe(config), opened.where)
    require_fit(tensors, module.state_dict(), opened.where, "probe")
    _warn_of_broken(tensors, opened)
    return filled(module, tensors)


def create_encoder(name: str, *, seed: int = 0, **overrides: Any) -> FrozenEncoder:
    """A frozen encoder of a published or shipped architecture, with random weights.

    Args:
        name: one of `list_encoders()`.
        seed: of the weights.
        overrides: fields of `EncoderConfig` that differ, e.g. `frames=16`.

    Raises:
        ConfigError: an unknown name or field, or an architecture that cannot be.
    """
    if name in CATALOG:
        entry = CATALOG[name]
        config, facts = entry.encoder, {"normalisation": {"mean": entry.mean, "std": entry.std}}
    elif name in shipped():
        log.warning("%s with random weights; jepa.load_encoder has the trained ones", name)
        opened = open_weights(name)
        config, facts = _encoder_config(opened), {"normalisation": opened.facts["normalisation"]}
    else:
        raise ConfigError(f"unknown encoder '{name}'{nearest(name, list_encoders())}")
    known = [field.name for field in fields(EncoderConfig)]
    for field in overrides:
        if field not in known:
            raise ConfigError(f"encoders have no '{field}'{nearest(field, known)}")
    return random_encoder(replace(config, **overrides), seed=seed, facts=facts)


def list_encoders() -> list[str]:
    """Names of the architectures that `create_encoder` knows: the published ones, and the shipped encoders."""
    return [*CATALOG, *shipped()]


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did, as names of tensors."""

    loaded: tuple[str, ...]
    """Of the model, taken from the file."""
    fresh: tuple[str, ...]
    """Of the model, left at their initial values."""
    unused: tuple[str, ...]
    """Of the file's predictor, with no place in the model."""
    digest: str
    """Of the weights file."""


def load_weights(jepa: JEPA, path: str | Path) -> LoadReport:
    """Start a model from saved weights.

    Both encoders start from the saved evaluation encoder; the predictor takes what fits in name and shape (its output
    layer does not when the kind of target changes) and keeps its initial values elsewhere.

    Args:
        jepa: the model, changed in place.
        path: as for `load_encoder`.

    Raises:
        DataError: no encoder there, or one of another architecture.
    """
    opened = open_weights(path)
    _require_same_function(opened, jepa)
    tensors = _fitting(jepa.target_encoder, opened, f"{opened.evaluated}.")
    jepa.target_encoder.load_state_dict(tensors)
    jepa.encoder.load_state_dict(_fitting(jepa.encoder, opened, f"{opened.evaluated}."))
    own, saved = jepa.predictor.state_dict(), opened.tensors("predictor.")
    _warn_of_broken({**tensors, **{f"predictor.{name}": tensor for name, tensor in saved.items()}}, opened)
    # With other heads the same matrices would mean something else.
    alike = isinstance(opened.predictor, PredictorConfig) and opened.predictor.heads == jepa.predictor.config.heads
    shapes = {name: tensor.shape for name, tensor in own.items()} if alike else {}
    fitting = {name: tensor for name, tensor in saved.items() if shapes.get(name) == tensor.shape}
    unused = sorted(f"predictor.{name}" for name in saved.keys() - fitting.keys())
    jepa.predictor.load_state_dict(fitting, strict=False)
    loaded = [f"target_encoder.{name}" for name in jepa.target_encoder.state_dict()]
    loaded += [f"encoder.{name}" for name in jepa.encoder.state_dict()]
    loaded += [f"predictor.{name}" for name in fitting]
    fresh = sorted(set(jepa.state_dict()) - set(loaded))
    return LoadReport(tuple(loaded), tuple(fresh), tuple(unused), opened.digest())


def encoder_digest(path: str | Path) -> str | None:
    """`checkpoint_hash` of the encoder that `load_encoder` would load; none if there is none (any more)."""
    try:
        opened = open_weights(path, predictor=False)
        return opened.digest(f"{opened.evaluated}.")
    except DataError:
        return None


def weights_digest(path: str | Path) -> str | None:
    """Digest of the weights that `load_weights` would take from `path`; none if there are none (any more)."""
    try:
        return open_weights(path).digest()
    except DataError:
        return None


def _encoder_config(opened: Weights) -> EncoderConfig:
    if opened.encoder is None:
        raise DataError(f"{opened.where} holds no encoder, only {len(opened.probes)} probes: see jepa.load_probe")
    return opened.encoder


def _require_same_function(opened: Weights, jepa: JEPA) -> None:
    """Raise DataError if shapes fit, but the encoder was trained to compute something else."""
    saved, own = _encoder_config(opened), jepa.encoder.config
    fits = (saved.width, saved.depth, saved.patch, saved.tubelet) == (own.width, own.depth, own.patch, own.tubelet)
    if fits and (other := differences(saved, own)):
        raise DataError(
            f"{opened.where} does not fit the encoder: it has {'; '.join(other)}; set model.* to what it has, since "
            "its weights would mean something else"
        )


def _warn_of_broken(tensors: Mapping[str, Tensor], opened: Weights) -> None:
    """Log one warning if there are values that are no numbers; what they spoil is for the user to know."""
    if broken := not_finite(tensors):
        log.warning("%s holds NaN or infinity in %d tensors: %s", opened.where, len(broken), listed(broken))


def _size(config: EncoderConfig) -> str:
    return f"width {config.width}, depth {config.depth}, patch {config.patch}"


def _fitting(encoder: Encoder, opened: Weights, prefix: str) -> Mapping[str, Tensor]:
    """The tensors of an encoder. Raises DataError unless they are those of this one in name and shape."""
    tensors, own = opened.tensors(prefix), encoder.state_dict()
    if not tensors:
        raise DataError(
            f"{opened.where} holds no tensors named {prefix}*: it is no encoder, or was saved without this one"
        )
    if other := misfit(tensors, own):
        raise DataError(
            f"{opened.where} does not fit the encoder: {other}; it holds {_size(_encoder_config(opened))}, wanted "
            f"{_size(encoder.config)}"
        )
    return tensors
