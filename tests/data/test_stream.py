import itertools
import logging
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa.data.collate import stack
from jepa.data.evaluation_batches import evaluation_batches
from jepa.data.frames import Frames
from jepa.data.loader_config import LoaderConfig
from jepa.data.order import Order
from jepa.data.source import Source, open_source
from jepa.data.stream import train_loader
from jepa.data.transforms import AugmentConfig, centre_crop
from jepa.data.windows import WindowConfig, centre_window, tile_windows
from jepa.data.workers import Loader
from jepa.errors import ConfigError, DataError
from jepa.masks.build import MaskSampler, MasksConfig
from jepa.tokens import TokenGrid
from jepa.types import ClipBatch

GRID = TokenGrid(2, 4, 4)
WINDOW = WindowConfig(frames=4, stride=2)
AUGMENT = AugmentConfig(size=32)


@pytest.fixture(scope="module")
def source(video_folder: Path) -> Source:
    return open_source(video_folder)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> LoaderConfig:
    return LoaderConfig(batch_size=4, workers=0, cache=tmp_path_factory.mktemp("cache"))


def batches(source: Source, config: LoaderConfig, **changes: Any) -> Loader[ClipBatch]:
    arguments: dict[str, Any] = {
        "window": WINDOW, "augment": AUGMENT, "seed": 7, "first_step": 0, "last_step": 4, "grid": GRID,
        "draw_masks": MaskSampler(MasksConfig(), GRID, seed=7),
    }  # fmt: skip
    return train_loader(source, loader=config, **{**arguments, **changes})


def assert_same(ours: ClipBatch, theirs: ClipBatch) -> None:
    assert ours.keys == theirs.keys
    assert torch.equal(ours.positions, theirs.positions)
    assert torch.equal(ours.clips, theirs.clips)
    for mine, other in zip(ours.masks, theirs.masks, strict=True):
        assert torch.equal(mine.context, other.context)
        assert torch.equal(mine.target, other.target)


def joined(ranks: list[ClipBatch]) -> ClipBatch:
    """The global batch from the batches of its ranks."""
    masks = [
        replace(
            ranks[0].masks[i],
            context=torch.cat([batch.masks[i].context for batch in ranks]),
            target=torch.cat([batch.masks[i].target for batch in ranks]),
        )
        for i in range(len(ranks[0].masks))
    ]
    keys = tuple(itertools.chain.from_iterable(batch.keys for batch in ranks))
    positions = torch.cat([batch.positions for batch in ranks])
    return ClipBatch(torch.cat([batch.clips for batch in ranks]), tuple(masks), GRID, positions, keys)


@pytest.mark.parametrize(("world_size", "workers"), [*itertools.product([1, 2, 4], [0, 1, 2])])
def test_the_global_sequence_depends_on_neither_ranks_nor_workers(
    source: Source, config: LoaderConfig, world_size: int, workers: int
) -> None:
    reference = list(batches(source, config))
    own = replace(config, workers=workers)
    ranks = [list(batches(source, own, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len(reference) == 4
    for expected, parts in zip(reference, zip(*ranks, strict=True), strict=True):
        assert_same(joined(list(parts)), expected)


def test_a_restart_continues_the_sequence(source: Source, config: LoaderConfig) -> None:
    whole = list(batches(source, config, last_step=7))
    for ours, theirs in zip(batches(source, config, first_step=3, last_step=7), whole[3:], strict=True):
        assert_same(ours, theirs)
    assert len(batches(source, config, first_step=3, last_step=7)) == 4


def test_a_batch_is_what_the_order_says(source: Source, config: LoaderConfig) -> None:
    order = Order(12, 7)
    for step, batch in enumerate(batches(source, config, last_step=6)):
        assert batch.positions.tolist() == list(range(4 * step, 4 * step + 4))
        assert batch.keys == tuple(source.info(order.sample(n)[1]).key for n in batch.positions.tolist())
        assert batch.clips.shape == (4, 3, 4, 32, 32)
        assert batch.clips.dtype == torch.uint8
        assert batch.clips.is_contiguous()
        assert batch.grid == GRID


def test_epochs_see_other_windows_and_crops(source: Source, config: LoaderConfig) -> None:
    seen = {key: [] for key in (source.info(i).key for i in range(12))}
    for batch in batches(source, config, last_step=9):
        for key, clip in zip(batch.keys, batch.clips, strict=True):
            seen[key].append(clip.numpy().tobytes())
    assert all(len(clips) == len(set(clips)) == 3 for clips in seen.values())


def test_cached_and_decoded_frames_give_the_same_batches(source: Source, config: LoaderConfig) -> None:
    on_demand = batches(source, replace(config, cache_gb=0), last_step=2)
    for ours, theirs in zip(on_demand, batches(source, config, last_step=2), strict=True):
        assert_same(ours, theirs)


def test_the_global_generator_of_torch_is_left_alone(source: Source, config: LoaderConfig) -> None:
    before = torch.get_rng_state()
    next(iter(batches(source, config)))
    assert torch.equal(torch.get_rng_state(), before)


def test_settings_that_cannot_work(source: Source, config: LoaderConfig) -> None:
    message = f"batch_size 64 is larger than the data set (12 clips in {source.name}): lower loader.batch_size or add"
    with pytest.raises(ConfigError, match=re.escape(message)):
        batches(source, replace(config, batch_size=64))
    with pytest.raises(ConfigError, match="batch_size 4 does not divide among 3 processes"):
        batches(source, config, world_size=3)
    with pytest.raises(ConfigError, match=r"loader.workers is -1, expected 0 or more"):
        LoaderConfig(workers=-1)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_arrives_as_one_line(
    video_folder: Path, config: LoaderConfig, tmp_path: Path, workers: int
) -> None:
    copies = [Path(shutil.copy(video_folder / f"clip-0{number}.mp4", tmp_path)) for number in range(4)]
    loader = batches(open_source(tmp_path), replace(config, workers=workers, cache_gb=0))
    for copy in copies:
        copy.write_bytes(copy.read_bytes()[:-9])
    with pytest.raises(DataError) as caught:
        list(loader)
    assert re.fullmatch(r"[^\n]*/clip-0\d\.mp4 changed while it was in use: \d+ bytes before", str(caught.value))


def test_short_videos_are_refused_before_the_first_batch(source: Source, config: LoaderConfig) -> None:
    with pytest.raises(DataError, match=r"^2 of 12 videos give no clip; the first: video clip-00\.mp4 has 8 frames"):
        batches(source, config, window=WindowConfig(frames=10, stride=1))
    assert len(batches(source, config, window=WindowConfig(frames=10, stride=1, short="repeat")))


def refuse(number: int) -> int:
    raise KeyError(number)


def test_a_bug_in_a_worker_stays_a_traceback() -> None:
    with pytest.raises(KeyError):
        list(Loader(refuse, range(2)))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
def test_evaluation_reads_every_clip_once_in_order(
    source: Source, config: LoaderConfig, workers: int, cache_gb: float
) -> None:
    own = replace(config, workers=workers, cache_gb=cache_gb)
    found = list(evaluation_batches(source, window=WINDOW, size=32, batch_size=5, loader=own))
    assert [len(batch.clips) for batch in found] == [5, 5, 2]
    assert [index for batch in found for index in batch.indices] == list(range(12))
    frames = Frames(source, short_side=40, budget_gb=0)
    for batch in found:
        for clip_CTHW, index, window in zip(batch.clips, batch.indices, batch.windows, strict=True):
            assert window == centre_window(source.info(index), WINDOW)
            expected_THWC = centre_crop(frames.window(index, window), 32)
            assert (clip_CTHW.permute(1, 2, 3, 0).numpy() == expected_THWC).all()


def test_evaluation_of_chosen_videos_and_of_all_their_windows(source: Source, config: LoaderConfig) -> None:
    arguments: dict[str, Any] = {"window": WINDOW, "size": 32, "batch_size": 4, "loader": config}
    chosen = list(evaluation_batches(source, indices=[9, 2, 2], **arguments))
    assert [batch.indices for batch in chosen] == [(9, 2, 2)]
    tiles = list(evaluation_batches(source, indices=[11, 0], tiles=True, **arguments))
    found = [(i, w) for batch in tiles for i, w in zip(batch.indices, batch.windows, strict=True)]
    assert found == [(i, w) for i in (11, 0) for w in tile_windows(source.info(i), WINDOW)]
    assert list(evaluation_batches(source, indices=[], **arguments)) == []


def test_stack_takes_views() -> None:
    clips = [np.random.default_rng(n).integers(0, 256, (4, 6, 8, 3), np.uint8)[::2, :, ::-1] for n in range(3)]
    stacked = stack(clips)
    assert stacked.is_contiguous()
    assert (stacked.numpy() == np.stack(clips).transpose(0, 4, 1, 2, 3)).all()


def test_small_cached_clips_cost_little(source: Source, config: LoaderConfig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "jepa"):
        loader = batches(source, replace(config, batch_size=12), first_step=0, last_step=20)
    assert "frames from" in caplog.text
    times = [time.perf_counter() for _ in loader]
    assert min(np.diff(times)) / 12 < 1e-3
