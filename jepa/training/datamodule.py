"""The clips of a run, as Lightning wants them: from the first step that is still to do to the last.

Which clips step s sees is a function of s (see `jepa.data.stream`), so resuming is: ask for the batches from step s
on. Nothing of the loader is saved. Lightning fetches ahead of the training step, and worker processes further ahead
still; both are thrown away with the process and lose nothing.
"""

import time
from collections.abc import Iterable, Iterator

import torch
from lightning.pytorch import LightningDataModule

from jepa.data.mixture import Mixture
from jepa.data.source import Source
from jepa.data.stream import Images, train_loader
from jepa.masks.build import MaskSampler
from jepa.rng import derive
from jepa.training.config import PretrainConfig
from jepa.types import ClipBatch


class Clips(LightningDataModule):
    """Batches of steps `first_step` .. `last_step` - 1."""

    def __init__(
        self, source: Source | Mixture, config: PretrainConfig, *, first_step: int, images: Mixture | None = None
    ) -> None:
        super().__init__()
        self.source = source
        self.images = images
        self.config = config
        self.first_step = first_step
        self.waited = 0.0
        """Seconds that the training process has spent waiting for batches; or making them, without workers."""

    def train_dataloader(self) -> Iterable[ClipBatch]:
        config = self.config
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return _Remaining(
            self,
            train_loader(
                self.source,
                window=config.clip.window,
                augment=config.clip.augment,
                loader=config.loader,
                seed=config.seed,
                first_step=self.first_step,
                last_step=config.last_step,
                rank=rank,
                world_size=world_size,
                grid=config.grid,
                draw_masks=MaskSampler(config.masks, config.grid, config.seed),
                images=None if self.images is None else _images(self.images, config),
            ),
        )

    def transfer_batch_to_device(self, batch: ClipBatch, device: torch.device, dataloader_idx: int) -> ClipBatch:
        """The loader has pinned its memory, so the copy can go on while the host does."""
        return batch.to(device, non_blocking=True)


def _images(mixture: Mixture, config: PretrainConfig) -> Images:
    """The steps of images of a run."""
    grid, seed = config.image_grid, derive(config.seed, 0, "images")  # other masks than those of the videos
    return Images(
        mixture,
        config.steps,
        config.images.augment(config.clip.size),
        grid,
        MaskSampler(config.images.masks, grid, seed),
        repeat=1 if config.model.image_tokenizer else config.model.tubelet,
    )


class _Remaining:
    """The loader without its length.

    Lightning restores how many batches of the "epoch" it has seen and compares that with the length of the loader;
    ours starts at the current step, so with a length it would stop early. Steps end the run, not batches.
    """

    def __init__(self, clips: Clips, batches: Iterable[ClipBatch]) -> None:
        self.clips = clips
        self.batches = batches

    def __iter__(self) -> Iterator[ClipBatch]:
        batches = iter(self.batches)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.clips.waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch
