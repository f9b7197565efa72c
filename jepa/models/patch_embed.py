"""Tubelet embedding: a strided 3-D convolution, computed as one matrix product over the tubelets that are needed.

The parameter keeps the Conv3d layout of the official checkpoints (`proj.weight` [D, C, tubelet, patch, patch]).
The context encoder embeds only the tubelets it keeps, so a masked forward does not pay for the hidden ones.
"""

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.tokens import tubelets


class PatchEmbed(nn.Module):
    """Clips to tokens."""

    def __init__(self, channels: int, width: int, tubelet: int, patch: int) -> None:
        super().__init__()
        self.tubelet, self.patch = tubelet, patch
        size = (tubelet, patch, patch)
        self.proj = nn.Conv3d(channels, width, kernel_size=size, stride=size)

    def forward(
        self, clips: Float[Tensor, "B C T H W"], context: Int[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B K D"]:
        pixels = tubelets(clips, tubelet=self.tubelet, patch=self.patch, ids=context)
        return F.linear(pixels, self.proj.weight.flatten(1), self.proj.bias)
