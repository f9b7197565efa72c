"""Token tables against the encoder called clip by clip, and means against a loop."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jepa.checkpoints.load import FrozenEncoder, random_encoder
from jepa.data.collate import stack
from jepa.data.evaluation_batches import evaluation_batches
from jepa.data.frames import Frames
from jepa.data.loader_config import LoaderConfig
from jepa.data.transforms import centre_crop
from jepa.data.windows import WindowConfig, segment_windows
from jepa.errors import DataError
from jepa.eval.clips import open_evaluation_data
from jepa.eval.features import TokenTable, empty_table, token_table, view_of
from jepa.eval.pixels import PixelsConfig, pixel_table
from jepa.models.encoder import EncoderConfig
from jepa.tokens import TokenGrid

CONFIG = EncoderConfig(width=24, depth=2, heads=2, patch=16, frames=4, size=32)
LOADER = LoaderConfig(batch_size=5, workers=0)


def make_encoder() -> FrozenEncoder:
    return random_encoder(CONFIG, seed=0, facts={"clip": {"stride": 3}})


def test_step_means_equal_a_loop() -> None:
    table = TokenTable(torch.randn(3, 2 * 12, 5), TokenGrid(2, 2, 3))  # two levels
    expected = []
    for clip in table.tokens:
        means = [clip[start : start + 6].mean(0) for start in range(0, 24, 6)]
        expected.append(torch.cat(means))
    torch.testing.assert_close(table.step_means(), torch.stack(expected))


def test_table_equals_the_encoder_clip_by_clip(tiny_shards: Path) -> None:
    encoder, data = make_encoder(), open_evaluation_data(tiny_shards, limit=7)
    view = view_of(encoder)
    assert view.window == WindowConfig(frames=4, stride=3)
    table = token_table(encoder, data.test, view, loader=LOADER)
    assert table.tokens.shape == (7, 8, 24)
    assert table.grid.shape == (2, 2, 2)
    for row, index in enumerate(data.test.indices):
        (batch,) = evaluation_batches(
            data.test.source, window=view.window, size=32, batch_size=1, loader=LOADER, indices=[index]
        )
        torch.testing.assert_close(table.tokens[row], encoder(encoder.preprocess(batch.clips))[0])


def test_levels_follow_one_another_along_the_sequence(tiny_shards: Path) -> None:
    encoder, data = make_encoder(), open_evaluation_data(tiny_shards, limit=3)
    both = token_table(encoder, data.test, view_of(encoder), loader=LOADER, levels=(0, 1))
    last = token_table(encoder, data.test, view_of(encoder), loader=LOADER)
    torch.testing.assert_close(both.tokens[:, 8:], last.tokens)
    assert both.step_means().shape == (3, 2 * 2 * 24)


def test_segments_stand_side_by_side_in_the_row_of_their_video(tiny_shards: Path) -> None:
    encoder, data = make_encoder(), open_evaluation_data(tiny_shards, limit=5)
    view = replace(view_of(encoder, WindowConfig(frames=4, stride=1)), segments=3)
    table = token_table(encoder, data.test, view, loader=LOADER)
    assert table.tokens.shape == (5, 3 * 8, 24)
    assert table.step_means().shape == (5, 3 * 2 * 24)
    frames = Frames(data.test.source, short_side=40, budget_gb=0)
    for row, (index, info) in enumerate(zip(data.test.indices, data.test.infos, strict=True)):
        for number, window in enumerate(segment_windows(info, view.window, 3)):
            clip = stack([centre_crop(frames.window(index, window), 32)])
            expected = encoder(encoder.preprocess(clip))[0]
            torch.testing.assert_close(table.tokens[row, 8 * number : 8 * number + 8], expected)
    pixels = pixel_table(data.test, view, loader=LOADER, config=PixelsConfig(size=8), memory_gb=1, what="pixels")
    assert pixels.shape == (5, 3 * 3 * 7 * 64)


def test_large_tables_lie_in_a_file_and_behave_the_same(tiny_shards: Path) -> None:
    encoder, data = make_encoder(), open_evaluation_data(tiny_shards, limit=6)
    held = token_table(encoder, data.test, view_of(encoder), loader=LOADER)
    mapped = token_table(encoder, data.test, view_of(encoder), loader=LOADER, memory_gb=0)
    torch.testing.assert_close(mapped.tokens, held.tokens)
    assert empty_table((2, 3), 0).shape == (2, 3)


def test_tokens_that_are_not_finite_are_refused(tiny_shards: Path) -> None:
    encoder = make_encoder()
    encoder.encoder.norm.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="not finite"):
        token_table(encoder, open_evaluation_data(tiny_shards, limit=3).test, view_of(encoder), loader=LOADER)
