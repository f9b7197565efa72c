"""JEPA: context encoder, target encoder, predictor.

The target encoder starts as a copy of the context encoder, takes no gradient, and follows it as an exponential
moving average (or stays frozen, as a teacher).
"""

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.models.encoder import Encoder
from jepa.models.predictor import Predictor
from jepa.tokens import Mask, TokenGrid


class JEPA(nn.Module):
    """The three networks and the four things an objective asks of them."""

    def __init__(self, encoder: Encoder, predictor: Predictor) -> None:
        super().__init__()
        self.encoder = encoder
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False).eval()
        self.predictor = predictor

    def encode_context(self, clips: Float[Tensor, "B C T H W"], context: Int[Tensor, "B K"]) -> Float[Tensor, "B K D"]:
        """Tokens of the visible positions, with gradient."""
        tokens: Tensor = self.encoder(clips, context)
        return tokens

    @torch.no_grad()
    def encode_target(self, clips: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B N D"]:
        """LayerNormed (without scale and shift) tokens of the whole clip, without gradient."""
        tokens: Tensor = self.target_encoder(clips)
        return F.layer_norm(tokens, tokens.shape[-1:])

    def predict(
        self, context: Float[Tensor, "B K D"], mask: Mask, grid: TokenGrid, number: int = 0
    ) -> Float[Tensor, "B M E"]:
        """Predictions at the target positions of the `number`-th mask configuration."""
        prediction: Tensor = self.predictor(context, mask, grid, number)
        return prediction

    def train(self, mode: bool = True) -> "JEPA":
        """As in torch, but the target encoder always stays in evaluation mode: targets are deterministic."""
        super().train(mode)
        self.target_encoder.eval()
        return self
