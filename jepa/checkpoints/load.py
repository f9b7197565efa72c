"""Loading encoders for use, and weights for further training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from jepa.checkpoints.folder import IMAGENET_MEAN, IMAGENET_STD, SavedModel, encoder_prefix, open_folder
from jepa.errors import DataError
from jepa.models.encoder import Encoder, EncoderConfig
from jepa.models.jepa import JEPA
from jepa.rng import derive
from jepa.tokens import TokenGrid

_SHIPPED = Path(__file__).parent / "shipped"


class FrozenEncoder(nn.Module):
    """An encoder for use: evaluation mode, no gradients, and the facts of its training.

    `encoder(clips)` maps normalised clips (B, C, T, H, W) to tokens (B, N, D); `encoder.preprocess` makes
    normalised clips from uint8 ones.
    """

    def __init__(self, encoder: Encoder, facts: Mapping[str, Any], checkpoint_hash: str) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.facts = dict(facts)
        self.checkpoint_hash = checkpoint_hash
        normalisation = self.facts.get("normalisation", {"mean": IMAGENET_MEAN, "std": IMAGENET_STD})
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(normalisation["mean"]).reshape(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(normalisation["std"]).reshape(1, -1, 1, 1, 1), persistent=False)

    @property
    def config(self) -> EncoderConfig:
        return self.encoder.config

    @property
    def width(self) -> int:
        """D, the width of a token."""
        return self.config.width

    @property
    def window_stride(self) -> int:
        """Frames between two frames of a clip, as in pretraining."""
        return int(self.facts.get("clip", {}).get("stride", 1))

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stays in evaluation mode."""
        return super().train(False)

    def grid_of(self, clips: Tensor) -> TokenGrid:
        """Token grid of these clips."""
        return self.encoder.grid_of(clips)

    def preprocess(self, clips: UInt8[Tensor, "B C T H W"]) -> Float[Tensor, "B C T H W"]:
        """uint8 RGB clips to normalised floats."""
        return (clips.to(self.mean.dtype) / 255 - self.mean) / self.std

    @torch.no_grad()
    def forward(self, clips: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B N D"]:
        """Tokens of normalised clips. Raises ConfigError when their size does not divide into tubelets."""
        tokens: Tensor = self.encoder(clips)
        return tokens

    @torch.no_grad()
    def levels(self, clips: Float[Tensor, "B C T H W"], levels: Sequence[int]) -> list[Float[Tensor, "B N D"]]:
        """Tokens after the blocks with these 0-based numbers; negative ones count from the end."""
        return self.encoder.levels(clips, levels)


def load_encoder(path: str | Path, *, weights: Literal["target", "context"] | None = None) -> FrozenEncoder:
    """Load a frozen encoder.

    Args:
        path: a run folder, a folder with `model.safetensors` and `config.json`, that weights file, or the name of a
            shipped encoder (see `shipped`).
        weights: the EMA target encoder or the context encoder; by default the one its training meant to be used.

    Raises:
        DataError: nothing there, or it holds no encoder.
    """
    model = open_folder(_resolve(path))
    prefix = {"target": "target_encoder", "context": "encoder", None: encoder_prefix(model.facts)}[weights]
    encoder = Encoder(model.encoder)
    _load_strictly(encoder, model, f"{prefix}.")
    return FrozenEncoder(encoder, model.facts, model.digest())


def random_encoder(config: EncoderConfig, *, seed: int, facts: Mapping[str, Any] | None = None) -> FrozenEncoder:
    """The same architecture with random weights: what a probe must beat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, 0, "random encoder"))
        encoder = Encoder(config)
    return FrozenEncoder(encoder, facts or {}, f"random-{seed}")


def shipped() -> list[str]:
    """Names of the encoders that come with the package."""
    return sorted(folder.name for folder in _SHIPPED.glob("*") if folder.is_dir()) if _SHIPPED.is_dir() else []


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
    model = open_folder(_resolve(path))
    prefix = f"{encoder_prefix(model.facts)}."
    _load_strictly(jepa.target_encoder, model, prefix)
    _load_strictly(jepa.encoder, model, prefix)
    own, saved = jepa.predictor.state_dict(), model.tensors("predictor.")
    fitting = {name: tensor for name, tensor in saved.items() if name in own and own[name].shape == tensor.shape}
    unused = sorted(f"predictor.{name}" for name in saved.keys() - fitting.keys())
    jepa.predictor.load_state_dict(fitting, strict=False)
    loaded = [f"target_encoder.{name}" for name in jepa.target_encoder.state_dict()]
    loaded += [f"encoder.{name}" for name in jepa.encoder.state_dict()]
    loaded += [f"predictor.{name}" for name in fitting]
    fresh = sorted(set(jepa.state_dict()) - set(loaded))
    return LoadReport(tuple(loaded), tuple(fresh), tuple(unused), model.digest())


def weights_digest(path: str | Path) -> str | None:
    """Digest of the weights that `load_weights` would take from `path`; none if there are none (any more)."""
    try:
        return open_folder(_resolve(path)).digest()
    except DataError:
        return None


def is_shipped(path: str | Path) -> bool:
    """Whether this names a shipped encoder; a file or folder of the same name comes first."""
    return str(path) in shipped() and not Path(path).exists()


def _resolve(path: str | Path) -> Path:
    return _SHIPPED / str(path) if is_shipped(path) else Path(path)


def _size(config: EncoderConfig) -> str:
    return f"width {config.width}, depth {config.depth}, patch {config.patch}"


def _load_strictly(encoder: Encoder, model: SavedModel, prefix: str) -> None:
    tensors, own = model.tensors(prefix), encoder.state_dict()
    if not tensors:
        raise DataError(
            f"{model.weights} holds no tensors named {prefix}*: it is no encoder, or was saved without this one"
        )
    wrong = sorted(
        name
        for name in tensors.keys() | own.keys()
        if name not in tensors or name not in own or tensors[name].shape != own[name].shape
    )
    if wrong:
        raise DataError(
            f"{model.weights} does not fit the encoder: {len(wrong)} tensors differ in name or shape, first {wrong[0]}"
            f"; it holds {_size(model.encoder)}, wanted {_size(encoder.config)}"
        )
    encoder.load_state_dict(tensors)
