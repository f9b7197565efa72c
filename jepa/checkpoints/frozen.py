"""An encoder for use: frozen, in evaluation mode, with the facts of its training."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from jepa.models.catalog import IMAGENET_MEAN, IMAGENET_STD
from jepa.models.encoder import Encoder, EncoderConfig
from jepa.rng import derive
from jepa.tokens import TokenGrid


class FrozenEncoder(nn.Module):
    """An encoder for use: evaluation mode, no gradients, and the facts of its training.

    `encoder(clips)` maps normalised clips (B, C, T, H, W) to tokens (B, N, D); `encoder.preprocess` makes
    normalised clips from uint8 ones. An image is a clip of one frame.
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


def random_encoder(config: EncoderConfig, *, seed: int, facts: Mapping[str, Any] | None = None) -> FrozenEncoder:
    """The same architecture with random weights: what a probe must beat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, 0, "random encoder"))
        encoder = Encoder(config)
    return FrozenEncoder(encoder, facts or {}, f"random-{seed}")
