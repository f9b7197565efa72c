"""Predictor of what actions lead to (V-JEPA 2-AC, arXiv 2506.09985, section 3).

A transformer over the features of a frozen encoder, one frame after the other. At each step an action and a state (and
optionally the pose of the camera) stand as tokens before the frame's patch tokens. Attention is full inside a step and
causal between steps, so the output at the patches of step t predicts the features of step t + 1 from all steps to t.

Rotary positions in the tiled variant; tokens of actions and states are rotated by their step alone. Columns are
counted in units of rows / columns, as in the released code: on a square grid, for which weights exist, both are whole.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from jepa.errors import ConfigError
from jepa.models.blocks import Init, initialise, require_shape, rescale
from jepa.models.place import kept
from jepa.models.rope import Rotation, Variant, rotation
from jepa.models.stack import make_blocks
from jepa.tokens import TokenGrid


@dataclass(frozen=True)
class ActionPredictorConfig:
    """Architecture of an action-conditioned predictor; those of V-JEPA 2-AC by default."""

    context_width: int = 1408
    """D, width of the encoder's tokens, which are taken and predicted."""
    width: int = 1024
    """Width inside the predictor."""
    depth: int = 24
    """Number of transformer blocks."""
    heads: int = 16
    """Attention heads; must divide the width."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width."""
    actions: int = 7
    """A, numbers in an action, and in a state."""
    extrinsics: bool = False
    """A third token at each step, of the pose of the camera (A - 1 numbers); its weights exist in any case."""
    rope: Variant = "tiled"
    """Pairing of the rotary frequencies."""
    init: Init = "fixed"
    """Initial weights, as of the encoder."""

    def __post_init__(self) -> None:
        require_shape("action predictor", self.width, self.depth, self.heads)
        if self.actions < 2:
            raise ConfigError(f"action predictor has actions of {self.actions} numbers, expected at least 2")


class ActionPredictor(nn.Module):
    """Tokens of frames, actions and states to the tokens of the next frames."""

    def __init__(self, config: ActionPredictorConfig) -> None:
        super().__init__()
        self.config = config
        self.predictor_embed = nn.Linear(config.context_width, config.width)
        self.action_encoder = nn.Linear(config.actions, config.width)
        self.state_encoder = nn.Linear(config.actions, config.width)
        self.extrinsics_encoder = nn.Linear(config.actions - 1, config.width)
        self.predictor_blocks = make_blocks(config.depth, config.width, config.heads, config.mlp_ratio, 0.0)
        self.predictor_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.predictor_proj = nn.Linear(config.width, config.context_width)
        self._tables: dict[tuple[TokenGrid, torch.device], tuple[Rotation, Tensor]] = {}
        initialise(self, config.init)
        rescale(self.predictor_blocks, config.init)

    def forward(
        self,
        tokens: Float[Tensor, "B N D"],
        actions: Float[Tensor, "B T A"],
        states: Float[Tensor, "B T A"],
        grid: TokenGrid,
        extrinsics: Float[Tensor, "B T E"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Predicted tokens: those at step t are of the frame after it.

        Args:
            tokens: of the frames, in token order.
            actions: taken at each step.
            states: at each step.
            grid: token layout, of T steps.
            extrinsics: pose of the camera at each step, for a predictor that takes it.

        Raises:
            ConfigError: poses are given to a predictor that takes none, or missing.
        """
        if (extrinsics is not None) != self.config.extrinsics:
            raise ConfigError(
                f"extrinsics={self.config.extrinsics} in the predictor, but poses given: {extrinsics is not None}"
            )
        parts = [self.action_encoder(actions), self.state_encoder(states)]
        if extrinsics is not None:
            parts.append(self.extrinsics_encoder(extrinsics))
        told_BTCD = torch.stack(parts, dim=2)
        frames_BTFD = self.predictor_embed(tokens).unflatten(1, (grid.steps, -1))
        count = told_BTCD.shape[2]
        x = torch.cat([told_BTCD, frames_BTFD], dim=2).flatten(1, 2)
        where, seen = self._table(grid, x.device)
        x = self.predictor_blocks(x, where, seen)
        out: Tensor = self.predictor_proj(
            self.predictor_norm(x.unflatten(1, (grid.steps, -1))[:, :, count:].flatten(1, 2))
        )
        return out

    def _table(self, grid: TokenGrid, device: torch.device) -> tuple[Rotation, Tensor]:
        """Rotation of all tokens, and who attends to whom; made once per grid and device."""
        key, conditions = (grid, device), 3 if self.config.extrinsics else 2
        if key not in self._tables:
            with kept(self._tables):
                rotated = self._places(grid, conditions).to(device)
                self._tables[key] = rotated, causal(grid, conditions).to(device)
        return self._tables[key]

    def _places(self, grid: TokenGrid, conditions: int) -> Rotation:
        """Rotation of all tokens, the conditions of a step before its patches."""
        step, row, column = (
            axis.double().unflatten(0, (grid.steps, -1)) for axis in grid.coordinates(torch.arange(grid.count))
        )
        nowhere = step.new_zeros(grid.steps, conditions)
        column = column * (grid.rows / grid.columns)
        step = torch.cat([step[:, :1].expand(-1, conditions), step], dim=1).flatten()
        row, column = (torch.cat([nowhere, axis], dim=1).flatten() for axis in (row, column))
        return rotation(step, row, column, self.config.width // self.config.heads, self.config.rope)


def causal(grid: TokenGrid, conditions: int) -> Bool[Tensor, "N N"]:
    """Which tokens (columns) each token (rows) attends to: those of its own step and of earlier ones."""
    step = torch.arange(grid.steps).repeat_interleave(conditions + grid.rows * grid.columns)
    return step.unsqueeze(1) >= step.unsqueeze(0)
