"""JEPA: context encoder, target encoder, predictor.

The target encoder starts as a copy of the context encoder, takes no gradient, and follows it as an exponential
moving average.
"""

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.errors import ConfigError
from jepa.models.encoder import Encoder
from jepa.models.predictor import Predictor
from jepa.tokens import Mask, TokenGrid


class JEPA(nn.Module):
    """The three networks and the things an objective asks of them.

    L, the number of levels, is that of the predictor: 1, or those that it fuses (V-JEPA 2.1).
    """

    def __init__(self, encoder: Encoder, predictor: Predictor) -> None:
        super().__init__()
        if 1 < predictor.config.fused_levels != len(encoder.config.levels):
            raise ConfigError(
                f"the predictor fuses {predictor.config.fused_levels} levels of an encoder with "
                f"{len(encoder.config.levels)} supervised ones"
            )
        self.encoder = encoder
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False).eval()
        self.predictor = predictor

    @property
    def levels(self) -> int:
        """L, the levels of a token that the predictor takes and the targets have."""
        return self.predictor.config.fused_levels

    def encode_context(self, clips: Float[Tensor, "B C T H W"], context: Int[Tensor, "B K"]) -> Float[Tensor, "B K LD"]:
        """Tokens of the visible positions, their levels side by side, with gradient."""
        return self.encoder.hierarchy(clips, self.levels, context)

    @torch.no_grad()
    def encode_target(self, clips: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B N LD"]:
        """Tokens of the whole clip, each level LayerNormed by itself (without scale and shift), without gradient."""
        return normalised_levels(self.target_encoder.hierarchy(clips, self.levels), self.levels)

    def predict(
        self, context: Float[Tensor, "B K LD"], mask: Mask, grid: TokenGrid, number: int = 0, image: bool = False
    ) -> Float[Tensor, "B M E"]:
        """Predictions at the target positions of the `number`-th mask configuration."""
        prediction: Tensor = self.predictor(context, mask, grid, self._token(number), image)
        return prediction

    def predict_both(
        self, context: Float[Tensor, "B K LD"], mask: Mask, grid: TokenGrid, number: int = 0, image: bool = False
    ) -> tuple[Float[Tensor, "B M E"], Float[Tensor, "B K E"]]:
        """Predictions at the target and at the context positions. Raises ConfigError as `Predictor.both`."""
        return self.predictor.both(context, mask, grid, self._token(number), image)

    def _token(self, number: int) -> int:
        """Mask token of a mask configuration: its own, or, where there are fewer, counted round."""
        return number % self.predictor.config.mask_tokens

    def train(self, mode: bool = True) -> "JEPA":
        """As in torch, but the target encoder always stays in evaluation mode: targets are deterministic."""
        super().train(mode)
        self.target_encoder.eval()
        return self


def normalised_levels(tokens: Float[Tensor, "B N LD"], levels: int) -> Float[Tensor, "B N LD"]:
    """Each of the `levels` parts of each token LayerNormed by itself, without scale and shift."""
    parts = tokens.unflatten(-1, (levels, -1))
    return F.layer_norm(parts, parts.shape[-1:]).flatten(-2)
