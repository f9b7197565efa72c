"""The real loader, with real processes: the global sequence is the same however it is made, and the one of the plan."""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jepa.data.loader_config import LoaderConfig
from jepa.data.mixture import Mixture, open_mixture
from jepa.data.steps import Steps
from jepa.data.stream import Images, train_loader
from jepa.data.transforms import AugmentConfig
from jepa.data.windows import WindowConfig
from jepa.data.workers import StartMethod
from jepa.masks.build import MaskSampler, MasksConfig
from jepa.masks.config import IMAGE
from jepa.tokens import TokenGrid
from jepa.types import ClipBatch

GRID, IMAGE_GRID = TokenGrid(2, 4, 4), TokenGrid(1, 3, 3)
STEPS = Steps(8, 4, Fraction(1, 3))
LAST = 10
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture(scope="module")
def videos(tiny_shards: Path, video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    """Shards and plain files, 7 to 3."""
    file = tmp_path_factory.mktemp("mixture") / "mix.yaml"
    file.write_text(
        f"sources: [{{data: '{tiny_shards}', proportion: 0.7}}, {{data: '{video_folder}', proportion: 0.3}}]"
    )
    return open_mixture(file)


@pytest.fixture(scope="module")
def images(video_folder: Path) -> Images:
    masks = MaskSampler(MasksConfig(kinds=(IMAGE,)), IMAGE_GRID, seed=8)
    return Images(open_mixture(video_folder), STEPS, AugmentConfig(size=24), IMAGE_GRID, masks, repeat=2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def batches(
    videos: Mixture, images: Images, cache: Path, first: int, last: int, world_size: int, **loader: Any
) -> list[list[ClipBatch]]:
    """The batches of every rank, rank by rank."""
    config = LoaderConfig(batch_size=8, cache=cache, window_shards=1, clips_per_video=2, **loader)
    loaders = [
        train_loader(
            videos,
            window=WindowConfig(frames=4, stride=2),
            augment=AugmentConfig(size=32),
            loader=config,
            seed=7,
            first_step=first,
            last_step=last,
            rank=rank,
            world_size=world_size,
            grid=GRID,
            draw_masks=MaskSampler(MasksConfig(), GRID, seed=7),
            images=images,
        )
        for rank in range(world_size)
    ]
    return [list(loader) for loader in loaders]


def sequence(ranks: list[list[ClipBatch]]) -> Iterator[tuple[Any, ...]]:
    """Everything about every clip, in the global order."""
    for parts in zip(*ranks, strict=True):
        for batch in parts:
            for row, clip in enumerate(batch.clips):
                masks = [(mask.context[row].tolist(), mask.target[row].tolist()) for mask in batch.masks]
                yield (
                    batch.grid, int(batch.positions[row]), batch.sources[row], batch.keys[row], batch.windows[row],
                    clip.numpy().tobytes(), masks,
                )  # fmt: skip


@pytest.fixture(scope="module")
def reference(videos: Mixture, images: Images, cache: Path) -> list[tuple[Any, ...]]:
    """The first steps in one process, each clip decoded by itself."""
    return list(sequence(batches(videos, images, cache, 0, LAST, 1, workers=0, cache_gb=0)))


def test_the_reference_has_both_kinds_and_both_sources(reference: list[tuple[Any, ...]]) -> None:
    assert len(reference) == STEPS.consumed(LAST) == 7 * 8 + 3 * 4
    assert {grid for grid, *_ in reference} == {GRID, IMAGE_GRID}
    assert len({source for grid, _, source, *_ in reference if grid == GRID}) == 2
    assert len({clip for *_, clip, _ in reference}) == len(reference)


def test_an_image_is_one_frame_that_fills_a_tubelet(videos: Mixture, images: Images, cache: Path) -> None:
    (rank,) = batches(videos, images, cache, 0, LAST, 1, workers=0)
    (picture, *_) = [batch for batch in rank if batch.grid == IMAGE_GRID]
    assert picture.clips.shape == (4, 3, 2, 24, 24)
    assert torch.equal(picture.clips[:, :, 0], picture.clips[:, :, 1])
    assert [len(window) for window in picture.windows] == [1] * 4
    (mask,) = picture.masks
    assert mask.context.shape[0] == 4
    assert int(mask.target.max()) < IMAGE_GRID.count


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (2, 0), (4, 0), (1, 1), (2, 3)])
def test_ranks_and_workers_change_nothing(
    videos: Mixture, images: Images, cache: Path, reference: list[tuple[Any, ...]], world_size: int, workers: int
) -> None:
    found = batches(videos, images, cache, 0, LAST, world_size, workers=workers, start_method="fork")
    assert list(sequence(found)) == reference


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_start_methods_change_nothing(
    videos: Mixture,
    images: Images,
    cache: Path,
    reference: list[tuple[Any, ...]],
    world_size: int,
    workers: int,
    method: StartMethod,
) -> None:
    found = batches(videos, images, cache, 0, LAST, world_size, workers=workers, start_method=method, cache_gb=0)
    assert list(sequence(found)) == reference


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, LAST - 1), max_size=3, unique=True).map(sorted),
    settings=st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([0, 1, 3])), min_size=4, max_size=4),
)
def test_restarts_with_other_ranks_and_workers_change_nothing(
    videos: Mixture,
    images: Images,
    cache: Path,
    reference: list[tuple[Any, ...]],
    cuts: list[int],
    settings: list[tuple[int, int]],
) -> None:
    found = []
    for (first, last), (world_size, workers) in zip(itertools.pairwise([0, *cuts, LAST]), settings, strict=False):
        part = batches(videos, images, cache, first, last, world_size, workers=workers, start_method="fork")
        found += list(sequence(part))
    assert found == reference
