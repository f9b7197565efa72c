"""The loader that the authors of V-JEPA 2 published, from the package `cc-vjepa2` (extra `bench`), on the same files.

It is called as their training script calls it: decord on whole files with as many threads as decord likes, random
resized crop and flip in float32 with torch, normalisation, masks drawn in the collation, workers of torch's
DataLoader. It chooses its frames from numpy's global generator, so it reads other windows than ours, of the same
length and from the same videos. What it does not do: check files, keep an order that can be resumed.
"""

import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from jepa.bench.laps import Lap, timed_steps
from jepa.bench.loaders import PATCH, TUBELET, Work
from jepa.data.draws import Draw
from jepa.data.transforms import AugmentConfig
from jepa.masks.config import LONG_RANGE, SHORT_RANGE

NEEDS = "vjepa2.datasets.video_dataset", "vjepa2.datasets.utils.video.transforms_builder"
MASKS = "vjepa2.masks.multiseq_multiblock3d"


def missing() -> str | None:
    """Why it cannot be called, in one line; None if it can."""
    try:
        for name in (*NEEDS, MASKS):
            importlib.import_module(name)
    except (ImportError, OSError) as error:
        return f"{error} (`pip install 'jepa-video[bench]'`)"
    return None


class OfficialLoader:
    """Their loader over the videos of a lap. With workers it is started at once, and they live as long as it does."""

    def __init__(self, files: Sequence[Path], clips: Sequence[Draw], work: Work, workers: int, folder: Path) -> None:
        """Build it.

        Args:
            files: the videos, by index.
            clips: a lap; every video comes as often as there.
            folder: where its list is written.
        """
        self.work, self.workers = work, workers
        paths = [files[clip.index] for clip in clips]
        beside = (work.skip + work.ahead(workers)) * work.batch if workers else 0
        table = folder / f"official-{paths[0].parent.name}-{workers}.csv"
        table.write_text("".join(f"{path} 0\n" for path in islice(cycle(paths), len(paths) + beside)))
        with _quiet():
            self.loader = self._build(table)
            if workers:
                for _ in self.loader:  # to the end: see `lap`
                    pass

    def _build(self, table: Path) -> Any:
        datasets, transforms, masks = (importlib.import_module(name) for name in (*NEEDS, MASKS))
        work, crop = self.work, AugmentConfig(size=self.work.size)
        kinds = [
            {
                "num_blocks": kind.blocks,
                "spatial_scale": kind.spatial,
                "temporal_scale": kind.temporal,
                "aspect_ratio": kind.aspect,
            }
            for kind in (SHORT_RANGE, LONG_RANGE)
        ]
        frames = [work.window.frames]
        collator = masks.MaskCollator(kinds, frames, (work.size, work.size), (PATCH, PATCH), TUBELET)
        transform = transforms.make_transforms(
            random_resize_aspect_ratio=crop.ratio, random_resize_scale=crop.scale, crop_size=work.size
        )
        _, loader, _ = datasets.make_videodataset(
            [str(table)],
            work.batch,
            dataset_fpcs=frames,
            frame_step=work.window.stride,
            transform=transform,
            collator=collator,
            num_workers=self.workers,
            pin_mem=False,
        )
        return loader

    def lap(self) -> Lap:
        """Read a lap, and then what its workers have ahead: else they would be at it during the laps of others."""
        iterator = iter(self.loader)
        lap = timed_steps(iterator, self.work.skip if self.workers else 0, self.work.steps, self.work.batch)
        for _ in iterator:
            pass
        return lap


@contextmanager
def _quiet() -> Iterator[None]:
    """It logs to the root logger what it makes; here that would stand among the figures."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)
