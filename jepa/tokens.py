"""Token geometry: the only place that divides by tubelet and patch size.

A clip of T frames and H x W pixels is cut into tubelets of `tubelet` frames and `patch` x `patch`
pixels. Their embeddings, the tokens, form a grid of steps x rows x columns, flattened time-major, then
row, then column: token id = (step * rows + row) * columns + column. An image is a grid with one step.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jepa.errors import ConfigError


@dataclass(frozen=True)
class TokenGrid:
    """Token layout of a clip."""

    steps: int
    rows: int
    columns: int

    @classmethod
    def of_clip(cls, frames: int, height: int, width: int, *, tubelet: int, patch: int) -> "TokenGrid":
        """Grid of a clip of `frames` x `height` x `width` pixels.

        Raises:
            ConfigError: a size is not a positive multiple of the tubelet or patch size.
        """
        for name, value, unit in (("frames", frames, tubelet), ("height", height, patch), ("width", width, patch)):
            if value < unit or value % unit:
                raise ConfigError(f"clip {name} is {value}, expected a positive multiple of {unit}")
        return cls(frames // tubelet, height // patch, width // patch)

    @classmethod
    def of_image(cls, height: int, width: int, *, patch: int) -> "TokenGrid":
        """Grid of an image of `height` x `width` pixels, which fills one tubelet of any length. Raises ConfigError."""
        return cls.of_clip(1, height, width, tubelet=1, patch=patch)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.steps, self.rows, self.columns

    @property
    def count(self) -> int:
        """N, the number of tokens."""
        return self.steps * self.rows * self.columns

    def coordinates(self, ids: Int[Tensor, "*shape"]) -> tuple[Tensor, Tensor, Tensor]:
        """Step, row and column of each token id; three tensors shaped like `ids`."""
        face = self.rows * self.columns
        return ids // face, ids % face // self.columns, ids % self.columns


@dataclass(frozen=True)
class Mask:
    """Which tokens of each clip are seen and which are predicted; token ids, int64, sorted (the target within a block).

    Raises:
        ValueError: the target cannot be divided into its blocks.
    """

    context: Int[Tensor, "B K"]
    target: Int[Tensor, "B M"]
    blocks: int = 1
    """Of which the target consists, M / blocks tokens each, side by side: each is predicted by itself (I-JEPA).
    A token may be in several."""

    def __post_init__(self) -> None:
        if self.blocks < 1 or self.target.shape[-1] % self.blocks:
            raise ValueError(f"got {self.target.shape[-1]} target ids for {self.blocks} blocks, expected a multiple")

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Mask":
        context, target = (ids.to(device, non_blocking=non_blocking) for ids in (self.context, self.target))
        return Mask(context, target, self.blocks)

    def pin_memory(self) -> "Mask":
        return Mask(self.context.pin_memory(), self.target.pin_memory(), self.blocks)


def gather(tokens: Float[Tensor, "B N D"], ids: Int[Tensor, "B K"]) -> Float[Tensor, "B K D"]:
    """The tokens with the given ids, clip by clip."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def tubelet_pixels(channels: int, *, tubelet: int, patch: int) -> int:
    """P, the number of values in a tubelet."""
    return channels * tubelet * patch * patch


def tubelets(
    clips: Float[Tensor, "B C T H W"], *, tubelet: int, patch: int, ids: Int[Tensor, "B K"] | None = None
) -> Float[Tensor, "B K P"]:
    """Pixels of each token, or of those with the given ids, flattened to P = C * tubelet * patch * patch values.

    The order of the P values is that of a Conv3d kernel, so the tubelet embedding is one matrix product.
    """
    batch, channels, frames, height, width = clips.shape
    grid = TokenGrid.of_clip(frames, height, width, tubelet=tubelet, patch=patch)
    pixels = clips.reshape(batch, channels, grid.steps, tubelet, grid.rows, patch, grid.columns, patch)
    pixels = pixels.permute(0, 2, 4, 6, 1, 3, 5, 7)
    if ids is None:
        return pixels.reshape(batch, grid.count, -1)
    # Indexing the view copies the wanted tokens only.
    clip = torch.arange(batch, device=ids.device).unsqueeze(1)
    return pixels[clip, *grid.coordinates(ids)].flatten(2)


def untubelets(
    pixels: Float[Tensor, "B N P"], grid: TokenGrid, *, tubelet: int, patch: int, channels: int = 3
) -> Float[Tensor, "B C T H W"]:
    """Inverse of `tubelets`."""
    batch = pixels.shape[0]
    blocks = pixels.reshape(batch, grid.steps, grid.rows, grid.columns, channels, tubelet, patch, patch)
    frames = blocks.permute(0, 4, 1, 5, 2, 6, 3, 7)
    return frames.reshape(batch, channels, grid.steps * tubelet, grid.rows * patch, grid.columns * patch)
