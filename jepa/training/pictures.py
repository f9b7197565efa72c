"""What the training sees, as pictures in TensorBoard: masks on the frames of a batch, and features as colours.

    masks/videos      the frames of one clip, and below them once more for each mask configuration
    features/videos   frames of a few clips, and below each its tokens, the first three principal components as colours

After step 1, whenever a multiple of `run.pictures_every` is reached, and after the last step; with images between the
videos, for both kinds, each in its next step. Both pictures are of what a step has computed anyway: the batch, and the
output of the target encoder on its first clips, looked at as it passes. So they cost no forward, draw no random number
and change nothing: weights are bit by bit those of a run without pictures. An objective that does not ask the
target encoder in that step leaves only the masks.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from jepa.data.steps import Steps
from jepa.models.encoder import Encoder
from jepa.training.loggers import TensorBoard
from jepa.training.module import Pretraining
from jepa.types import ClipBatch
from jepa.viz.contact import enlarge, reduce, sheet, spaced
from jepa.viz.masks import draw_mask, token_map
from jepa.viz.pca import beside_frames, feature_maps

SHOWN_STEPS = 8
"""Frames in a row."""
SHOWN_CLIPS = 3
"""Clips whose features are shown."""
PCA_TOKENS = 16384
"""Tokens that the components are found from, at most, unless one clip has more."""
PCA_CLIPS = 8
"""Clips that they are of, at most. From eight on, the mean feature of each place is taken away (see `jepa.viz.pca`)."""
LEAST_SIDE = 96
"""Frames smaller than this are enlarged by a whole factor."""


class Pictures(Callback):
    """Draws them while a module trains, where there is a TensorBoard: on rank 0, if run.loggers names it."""

    def __init__(self) -> None:
        self._watching: RemovableHandle | None = None
        self._features: Tensor | None = None

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(module, Pretraining)
        config = module.config
        if _board(trainer) and is_due(module.step + 1, config.steps, config.run.pictures_every, config.last_step):
            self._features = None
            self._watching = _output(module.jepa.target_encoder).register_forward_hook(self._keep)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, Pretraining)
        board = _board(trainer)
        if self._watching is None or board is None:
            return
        self._watching.remove()
        self._watching = None
        kind = "images" if module.config.steps.at(module.step - 1)[0] else "videos"
        board.picture(f"masks/{kind}", draw_masks(batch), module.step)
        if self._features is not None and bool(self._features.isfinite().all()):
            picture = draw_features(batch, self._features.cpu().numpy())
            board.picture(f"features/{kind}", picture, module.step)
        self._features = None

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        if self._watching is not None:
            self._watching.remove()
            self._watching = None

    def _keep(self, module: nn.Module, arguments: Any, output: Tensor) -> None:
        """Copy the tokens of the first clips, those of the first part of the batch."""
        if self._features is None:
            clips = min(PCA_CLIPS, max(1, PCA_TOKENS // output.shape[1]))
            self._features = output[:clips].detach().float().clone()


def _board(trainer: Trainer) -> TensorBoard | None:
    return next((logger for logger in trainer.loggers if isinstance(logger, TensorBoard)), None)


def is_due(step: int, steps: Steps, every: int, last_step: int) -> bool:
    """Whether pictures are drawn after this step, the first being 1.

    Args:
        step: to ask about.
        steps: which kinds the steps are of.
        every: steps between two pictures; 0: none.
        last_step: of the run.
    """
    if not every or step == last_step:
        return bool(every)
    begin = max(step // every * every, 1)
    kind, before = steps.at(step - 1)
    first_kind, before_first = steps.at(begin - 1)
    # Steps of this kind before `begin`: those of the other kind are the rest.
    earlier = before_first if kind == first_kind else begin - 1 - before_first
    return before == earlier


def draw_masks(batch: ClipBatch) -> np.ndarray:
    """The masks of the first clip of a batch, as uint8 RGBA; a row of frames, and one for each mask. Of images, and of
    clips as short, several beside each other."""
    frames_BTHWC = _frames(batch, SHOWN_STEPS if batch.grid.steps == 1 else 1)
    rows = [_row(frames_BTHWC, batch)]
    for mask in batch.masks:
        drawn = [
            draw_mask(frames, *(token_map(ids[number].cpu().numpy(), batch.grid.shape) for ids in _ids(mask)))
            for number, frames in enumerate(frames_BTHWC)
        ]
        rows.append(_row(np.stack(drawn), batch))
    return sheet(rows)


def draw_features(batch: ClipBatch, tokens_BND: np.ndarray) -> np.ndarray:
    """The features of the first clips of a batch, as uint8 RGBA: under the frames of each, its tokens as colours.

    Args:
        batch: of a step.
        tokens_BND: of its first clips; all of them share one basis.
    """
    maps = feature_maps(tokens_BND, batch.grid.shape).colours
    frames_BTHWC = _frames(batch, min(len(maps), SHOWN_STEPS if batch.grid.steps == 1 else SHOWN_CLIPS))
    height, width = frames_BTHWC.shape[2:4]
    shape = (len(frames_BTHWC), -1, height, width, 3)
    colours = [enlarge(step, height, width) for clip in maps[: len(frames_BTHWC)] for step in clip]
    coloured_BSHWC = np.stack(colours).reshape(shape)
    if batch.grid.steps == 1:
        return sheet([_row(frames_BTHWC, batch), _row(coloured_BSHWC, batch)])
    pairs = zip(frames_BTHWC, coloured_BSHWC, strict=True)
    return sheet([_row(rows[None], batch) for pair in pairs for rows in pair])


def _output(encoder: Encoder) -> nn.Module:
    """What every forward of an encoder ends with: the norm of its last level."""
    last: nn.Module = encoder.norms_block[-1] if encoder.config.levels else encoder.norm
    return last


def _ids(mask: Any) -> tuple[Tensor, Tensor]:
    return mask.context, mask.target


def _frames(batch: ClipBatch, clips: int) -> np.ndarray:
    """uint8 (B, T, H, W, C) of the first clips."""
    return batch.clips[:clips].permute(0, 2, 3, 4, 1).to("cpu", torch.uint8).numpy()


def _row(frames_BTHWC: np.ndarray, batch: ClipBatch) -> Sequence[np.ndarray]:
    """Frames to show beside each other: those of the first clip, one for each step; or one of each image."""
    if batch.grid.steps == 1:
        return [_sized(frames[0]) for frames in frames_BTHWC]
    frames, steps = frames_BTHWC[0], batch.grid.steps
    beside = beside_frames(np.empty(steps), len(frames))  # of frames, or of maps that have one entry per step
    return [_sized(frames[beside[step]]) for step in spaced(steps, SHOWN_STEPS)]


def _sized(frame: np.ndarray) -> np.ndarray:
    """A frame (H, W, C) of a size that can be looked at."""
    factor = -(-LEAST_SIDE // max(frame.shape[:2]))
    return reduce(frame) if factor <= 1 else enlarge(frame, factor * frame.shape[0], factor * frame.shape[1])
