"""A stack of transformer blocks, and everything that is done to the blocks alike: stochastic depth, activations
computed again.

Blocks themselves are pure functions of their inputs. What is random about them is drawn here, outside, so that a block
compiles to one graph without random numbers, and computing it again in the backward pass needs no state of a generator.

Stochastic depth (arXiv 1603.09382) leaves out a branch of a block for some clips. Which clips may not depend on how the
batch of a step is divided among processes and parts. So a stack that knows which rows of the batch of all it is given
draws for the batch of all, and takes its rows: some hundred numbers a block more.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jepa.models.blocks import Block
from jepa.models.rope import Rotation


@dataclass(frozen=True)
class Rows:
    """Which rows of a step's batch a forward pass is given: `count` from `first` on, of `total`."""

    first: int
    count: int
    total: int

    def __post_init__(self) -> None:
        if self.first < 0 or self.count < 1 or self.first + self.count > self.total:
            raise ValueError(f"rows {self.first} to {self.first + self.count} of a batch of {self.total}")


class Stack(nn.ModuleList):
    """Blocks that run one after the other; its parameter names are those of a list."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__(blocks)
        self.rows: Rows | None = None
        """Of the batch of a whole step, which are given; none: all of them."""
        self.recomputed = False
        """Keep only the input of each block for the backward pass, and compute the rest again."""

    def after_each(
        self, x: Float[Tensor, "B N D"], rotation: Rotation | None = None, seen: Bool[Tensor, "N N"] | None = None
    ) -> Iterator[Tensor]:
        """Tokens (B, N, D) after each of the blocks, which are run as they are asked for.

        Args:
            rotation: of the tokens.
            seen: which tokens (columns) each token (rows) attends to; none for all.
        """
        again = self.recomputed and torch.is_grad_enabled()
        for block in self:
            assert isinstance(block, Block)
            survival = self._survival(block, x) if block.drop_path and self.training else None
            if again:
                x = checkpoint(block, x, rotation, seen, survival, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, rotation, seen, survival)
            yield x

    def forward(
        self, x: Float[Tensor, "B N D"], rotation: Rotation | None = None, seen: Bool[Tensor, "N N"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Tokens after the last block; arguments as of `after_each`."""
        for tokens in self.after_each(x, rotation, seen):
            x = tokens
        return x

    def _survival(self, block: Block, x: Tensor) -> Tensor:
        """Factors of the attention and the MLP branch of each clip, (2, B, 1, 1): 0, or 1 / the rate of survival."""
        rows = self.rows or Rows(0, len(x), len(x))
        if rows.count != len(x):
            raise ValueError(f"{len(x)} clips for a stack that was told of {rows.count}: call set_rows")
        keep = 1.0 - block.drop_path
        drawn = [torch.empty(rows.total, 1, 1, device=x.device).bernoulli_(keep) for _ in range(2)]
        survival = torch.stack(drawn)[:, rows.first : rows.first + rows.count]
        return survival / keep if keep else survival


def make_blocks(
    depth: int, width: int, heads: int, mlp_ratio: float, drop_path: float, layer_scale: float | None = None
) -> Stack:
    """A stack of blocks whose stochastic depth rate rises linearly from 0 to `drop_path`."""
    rates = [drop_path * number / max(depth - 1, 1) for number in range(depth)]
    return Stack([Block(width, heads, mlp_ratio, rate, layer_scale) for rate in rates])


def stacks(module: nn.Module) -> Iterator[Stack]:
    """All stacks inside a module."""
    return (part for part in module.modules() if isinstance(part, Stack))


def set_rows(module: nn.Module, first: int, count: int, total: int) -> None:
    """Tell the stacks inside that the clips to come are rows `first` to `first` + `count` of a batch of `total`.

    What is random in their forward pass is then that of the same rows of a forward pass of the whole batch, if the
    generator of torch is in the same state: seed it alike in all processes, and again before each part of a step.

    Raises:
        ValueError: there are no such rows.
    """
    rows = Rows(first, count, total)
    for stack in stacks(module):
        stack.rows = rows


def checkpoint_activations(module: nn.Module, on: bool = True) -> None:
    """Compute the activations inside each block again in the backward pass in place of keeping them, or not.

    Gradients are the same to the last bit. Kept are the inputs of the blocks: of a block of D channels, with an MLP of
    4 D, less than a tenth.
    """
    for stack in stacks(module):
        stack.recomputed = on
