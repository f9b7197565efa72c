"""Tokens of every clip, computed once per encoder and kept for all probes and tasks.

The encoder is frozen, so its output is data: 4000 clips of 64 tokens of width 96 are 98 MB in float32. What
exceeds a budget goes to an unnamed temporary file, mapped into memory. Each clip is the centre window of its
video at the frames, stride, padding and size the encoder was trained with, centre-cropped: evaluation adds no
randomness. With segments, a video gives several clips, and its row holds the tokens of all of them.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jepa.checkpoints.load import FrozenEncoder
from jepa.data.evaluation_batches import EvaluationBatch, evaluation_batches
from jepa.data.loader_config import LoaderConfig
from jepa.data.windows import WindowConfig
from jepa.errors import DataError
from jepa.eval.clips import ClipSet
from jepa.logs import progress
from jepa.tokens import TokenGrid

_ROWS = 1024  # clips handled at a time where a whole table would need a second copy


@dataclass(frozen=True)
class ClipView:
    """How a clip is cut out of a video."""

    window: WindowConfig
    size: int
    """Height and width in pixels."""
    segments: int = 1
    """Clips of a video; their features stand side by side."""


@dataclass(frozen=True)
class TokenTable:
    """Tokens of some clips, from one or several levels of an encoder."""

    tokens: Tensor
    """float32 (videos, segments * levels * N, D), segment by segment, in each level by level."""
    grid: TokenGrid
    """Layout of the N tokens of a level."""

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def step_means(self) -> Tensor:
        """Mean token of each time step, steps (levels, segments) side by side: (videos, segments * levels * steps * D).

        The mean over all tokens would throw the order in time away, and with it most of what motion is.
        """
        face = self.grid.rows * self.grid.columns
        parts = [part.unflatten(1, (-1, face)).mean(2).flatten(1) for part in self.tokens.split(_ROWS)]
        return torch.cat(parts)

    def places(self, segments: int) -> Tensor:
        """What stands at each place of each segment, its levels side by side: (videos, segments * N, levels * D).

        A view where there is one level; else a copy.
        """
        by_level: Tensor = self.tokens.unflatten(1, (segments, -1, self.grid.count))
        return by_level.transpose(2, 3).flatten(3).flatten(1, 2)


def view_of(encoder: FrozenEncoder, window: WindowConfig | None = None, size: int | None = None) -> ClipView:
    """The encoder's own window and size, unless others are given."""
    own = WindowConfig.of_facts(encoder.config.frames, encoder.facts.get("clip", {}))
    return ClipView(window or own, size or encoder.config.size)


def evaluation_clips(
    clips: ClipSet, view: ClipView, loader: LoaderConfig, what: str
) -> Iterator[tuple[slice, EvaluationBatch]]:
    """Batches of clips, `view.segments` for each video, with the rows of a table that their videos take."""
    batches = evaluation_batches(
        clips.source,
        window=view.window,
        size=view.size,
        batch_size=loader.batch_size,
        loader=loader,
        indices=clips.indices,
        segments=view.segments,
    )
    row = 0
    with progress(None, what, total=len(clips)) as bar:
        for batch in batches:
            count = len(batch.indices) // view.segments
            yield slice(row, row + count), batch
            row += count
            bar.advance(count)
    if row != len(clips):
        raise DataError(f"{clips.source.name} gave {row} clips, expected {len(clips)}")


@torch.inference_mode()
def token_table(
    encoder: FrozenEncoder,
    clips: ClipSet,
    view: ClipView,
    *,
    loader: LoaderConfig,
    levels: Sequence[int] = (),
    memory_gb: float = 2.0,
    what: str = "encoding",
) -> TokenTable:
    """Encode every clip on the device of the encoder.

    Args:
        encoder: frozen encoder.
        clips: what to encode.
        view: window and size of the clips.
        loader: batch size, workers and cache.
        levels: 0-based blocks whose tokens are kept, concatenated along the sequence; the encoder's output if none.
        memory_gb: tables above this go to a memory-mapped temporary file.
        what: description of the progress.

    Raises:
        DataError: tokens that are not finite.
    """
    device = encoder.mean.device
    tokens_BND: Tensor | None = None
    grid: TokenGrid | None = None
    for rows, batch in evaluation_clips(clips, view, loader, what):
        pixels = encoder.preprocess(batch.clips.to(device))
        found = torch.cat(encoder.levels(pixels, levels), dim=1) if levels else encoder(pixels)
        found = found.unflatten(0, (-1, view.segments)).flatten(1, 2)
        if tokens_BND is None:
            grid = encoder.grid_of(pixels)
            tokens_BND = empty_table((len(clips), *found.shape[1:]), memory_gb)
        tokens_BND[rows] = found.float().cpu()
        if not tokens_BND[rows].isfinite().all():
            raise DataError(
                f"the encoder gives tokens that are not finite (first on clip {clips.infos[rows.start].key})"
            )
    if tokens_BND is None or grid is None:
        raise DataError(f"{clips.source.name} has no clips to encode")
    return TokenTable(tokens_BND, grid)


def empty_table(shape: Sequence[int], memory_gb: float) -> Tensor:
    """An uninitialised float32 tensor: in memory, or above `memory_gb` in a mapped temporary file that has no name."""
    if 4 * int(np.prod(shape)) <= memory_gb * 2**30:
        return torch.empty(tuple(shape))
    with tempfile.TemporaryFile(prefix="jepa-tokens-") as file:
        # The mapping keeps the file alive; the system frees it with the last reference, also after a kill.
        return torch.from_numpy(np.memmap(file, np.float32, mode="w+", shape=tuple(shape)))
