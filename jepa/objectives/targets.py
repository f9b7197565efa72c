"""What latent objectives predict: tokens of the target encoder, or those of a teacher.

A teacher is a frozen encoder of any architecture, as a rule a larger one that was trained before (distillation in
V-JEPA 2.1, arXiv 2603.14482, appendix; arXiv 2509.24317). It must cut clips into the same tokens. The moving average of
the student still follows it: here it makes no targets, but it is the encoder to be used afterwards.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from jepa.errors import ConfigError
from jepa.models.encoder import Encoder
from jepa.models.jepa import JEPA, normalised_levels


class Teacher:
    """A frozen encoder that makes targets.

    On purpose no module: what holds it does not train it, save it, count its parameters or move it to a device. It
    follows the clips to theirs.
    """

    def __init__(self, encoder: Encoder, levels: int = 1) -> None:
        """
        Args:
            encoder: taken as it is, in evaluation mode and without gradients from now on.
            levels: L, how many of its supervised levels to predict, from the last; 1 for its output.

        Raises:
            ConfigError: it has fewer supervised levels.
        """
        known = len(encoder.config.levels)
        if 1 < levels > known:
            raise ConfigError(
                f"{levels} levels wanted of a teacher with {known} supervised ones: set model.fused_levels to 1"
                f"{f' or up to {known}' if known > 1 else ''}"
            )
        self.encoder = encoder.eval().requires_grad_(False)
        self.levels = levels

    @property
    def width(self) -> int:
        """E, the values of a token: its width times the levels."""
        return self.encoder.config.width * self.levels

    @torch.no_grad()
    def __call__(self, clips: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B N E"]:
        """Tokens of the whole clips, each level LayerNormed by itself."""
        if next(self.encoder.parameters()).device != clips.device:
            self.encoder.to(clips.device)
        return normalised_levels(self.encoder.hierarchy(clips, self.levels), self.levels)


def encode_targets(jepa: JEPA, clips: Float[Tensor, "B C T H W"], teacher: Teacher | None) -> Float[Tensor, "B N E"]:
    """Targets for all tokens: of the teacher, if there is one, else of the target encoder."""
    return jepa.encode_target(clips) if teacher is None else teacher(clips)
