"""Extraction against the encoder applied by hand, and against itself after interruptions."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from jepa.checkpoints.load import FrozenEncoder
from jepa.data.decode import decode
from jepa.data.frames import stored_side
from jepa.data.source import open_source
from jepa.data.transforms import centre_crop
from jepa.data.windows import WindowConfig
from jepa.errors import ConfigError, DataError
from jepa.features import extract as extraction
from jepa.features.extract import ExtractConfig, Pool, extract, pool_tokens
from jepa.features.plan import make_plan, window_of
from jepa.features.readers import FeatureSet
from jepa.tokens import TokenGrid


def config(**changes: object) -> ExtractConfig:
    return ExtractConfig(**{"dtype": "float32", "workers": 0, "batch_size": 3, **changes})  # type: ignore[arg-type]


def run(encoder: FrozenEncoder, videos: Path, out: Path, **changes: object) -> extraction.Extraction:
    return extract(encoder, open_source(videos), out, config(**changes), encoder_path="nowhere")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("pool", "axes"), [("none", ()), ("steps", (1,)), ("mean", (0, 1))])
def test_rows_are_the_pooled_tokens_of_their_window(
    encoder: FrozenEncoder, videos: Path, tmp_path: Path, pool: Pool, axes: tuple[int, ...]
) -> None:
    run(encoder, videos, tmp_path / "out", pool=pool)
    features = FeatureSet(tmp_path / "out")
    for number, row in enumerate(features.rows):
        frames = decode(videos / f"{Path(row.path).stem}.mp4", range(row.start, row.end), short_side=stored_side(16))
        clip = torch.from_numpy(centre_crop(frames, 16).copy()).permute(3, 0, 1, 2)[None]
        tokens = encoder(encoder.preprocess(clip))[0].numpy().reshape(4, 4, 24)
        expected = tokens.mean(axes) if axes else tokens.reshape(16, 24)
        np.testing.assert_allclose(features[number], expected, atol=1e-5)


def test_tiles_cover_each_video_and_the_index_says_where(encoder: FrozenEncoder, videos: Path, tmp_path: Path) -> None:
    result = run(encoder, videos, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "index.parquet").to_pydict()
    spans: dict[str, list[tuple[int, int]]] = {}
    for key, start, end in zip(table["key"], table["start"], table["end"], strict=True):
        spans.setdefault(Path(key).stem, []).append((start, end))
    assert spans == {
        "a": [(0, 8), (8, 16), (12, 20)],
        "b": [(0, 8), (1, 9)],
        "c": [(0, 8), (8, 16), (16, 24), (24, 32)],
    }
    assert table["start_seconds"] == [start / 8 for start in table["start"]]
    assert table["end_seconds"] == [end / 8 for end in table["end"]]
    assert [Path(video.key).stem for video in result.skipped] == ["short"]
    facts = json.loads((tmp_path / "out" / "extract.json").read_text())
    assert facts["settings"]["checkpoint"] == "random-0"
    assert len(facts["skipped"]) == 1


def test_centre_windows_level_and_stride(encoder: FrozenEncoder, videos: Path, tmp_path: Path) -> None:
    run(encoder, videos, tmp_path / "out", windows="centre", stride=2, level=0, pool="none")
    features = FeatureSet(tmp_path / "out")
    assert [(Path(row.key).stem, row.start, row.end) for row in features.rows] == [("a", 2, 17), ("c", 8, 23)]
    frames = decode(videos / "a.mp4", range(2, 17, 2), short_side=stored_side(16))
    clip = torch.from_numpy(centre_crop(frames, 16).copy()).permute(3, 0, 1, 2)[None]
    expected = encoder.levels(encoder.preprocess(clip), [0])[0][0].numpy()
    np.testing.assert_allclose(features[0], expected, atol=1e-5)
    assert not np.allclose(features[0], encoder(encoder.preprocess(clip))[0].numpy(), atol=1e-2)


@pytest.mark.parametrize("shards_before", [0, 1, 2])
def test_an_interrupted_extraction_continues_to_the_same_files(
    encoder: FrozenEncoder, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards_before: int
) -> None:
    run(encoder, videos, tmp_path / "whole", shard_size=4)
    write, written = extraction.write_shard, []

    def interrupted(folder: Path, shard: int, *rest: object) -> None:
        if shard == shards_before:
            raise KeyboardInterrupt
        write(folder, shard, *rest)  # type: ignore[arg-type]

    def counted(folder: Path, shard: int, *rest: object) -> None:
        written.append(shard)
        write(folder, shard, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(extraction, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(encoder, videos, tmp_path / "parts", shard_size=4)
    with pytest.raises(DataError, match="unfinished"):
        FeatureSet(tmp_path / "parts")
    monkeypatch.setattr(extraction, "write_shard", counted)
    result = run(encoder, videos, tmp_path / "parts", shard_size=4, batch_size=3)
    assert written == list(range(shards_before, 3))
    assert result.new_rows == 9 - 4 * shards_before
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_finished_extraction_is_left_alone(encoder: FrozenEncoder, videos: Path, tmp_path: Path) -> None:
    run(encoder, videos, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert run(encoder, videos, tmp_path / "out", batch_size=7).new_rows == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(("changes", "message"), [({"pool": "steps"}, "pool mean"), ({"level": 0}, "level -1")])
def test_other_settings_in_the_same_folder_are_named(
    encoder: FrozenEncoder, videos: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    run(encoder, videos, tmp_path / "out")
    with pytest.raises(ConfigError, match=message):
        run(encoder, videos, tmp_path / "out", **changes)


def test_a_folder_with_other_files_is_refused(encoder: FrozenEncoder, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no extract\.json"):
        run(encoder, videos, videos)


def test_a_damaged_shard_is_named(encoder: FrozenEncoder, videos: Path, tmp_path: Path) -> None:
    run(encoder, videos, tmp_path / "out")
    shard = tmp_path / "out" / "features-000000.safetensors"
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(DataError, match="features-000000"):
        run(encoder, videos, tmp_path / "out")
    with pytest.raises(DataError, match="features-000000"):
        FeatureSet(tmp_path / "out")[0]


def test_values_that_do_not_fit_are_an_error(encoder: FrozenEncoder, videos: Path, tmp_path: Path) -> None:
    encoder.encoder.norm.weight.mul_(1e6)
    with pytest.raises(DataError, match="float16"):
        run(encoder, videos, tmp_path / "out", dtype="float16", pool="none")


@pytest.mark.parametrize("changes", [{"level": 2}, {"level": -3}])
def test_a_level_outside_the_encoder_is_refused(
    encoder: FrozenEncoder, videos: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match="2 blocks"):
        run(encoder, videos, tmp_path / "out", **changes)


def test_nothing_long_enough_is_an_error(encoder: FrozenEncoder, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no video to extract from"):
        run(encoder, videos, tmp_path / "out", stride=10)


def test_reader_agrees_with_the_files(encoder: FrozenEncoder, videos: Path, tmp_path: Path) -> None:
    run(encoder, videos, tmp_path / "out", shard_size=4, dtype="float16")
    features = FeatureSet(tmp_path / "out")
    shards = [load_file(path)["features"] for path in sorted((tmp_path / "out").glob("*.safetensors"))]
    assert [len(shard) for shard in shards] == [4, 4, 1]
    whole = np.concatenate(shards)
    assert whole.dtype == np.float16
    np.testing.assert_array_equal(features.array(), whole)
    np.testing.assert_array_equal(np.stack(list(features)), whole)
    np.testing.assert_array_equal(features[-1], whole[-1])
    key = features.keys()[1]
    np.testing.assert_array_equal(features.of(key), whole[3:5])
    assert features.numbers(key) == [3, 4]
    with pytest.raises(IndexError):
        features[9]
    with pytest.raises(KeyError):
        features.of("absent")


def test_clips_follow_the_frame_rate_of_pretraining(encoder: FrozenEncoder, videos: Path) -> None:
    encoder.facts["clip"] = {"stride": 1, "fps": 4.0}
    plan = make_plan(open_source(videos), window_of(encoder), tiles=False)
    assert plan.windows[0] == tuple(range(2, 18, 2))  # 8 frames a second, every second one
    assert window_of(encoder, stride=3).fps is None


@pytest.mark.parametrize(
    ("trained", "given", "expected"),
    [("repeat", None, "repeat"), ("error", None, "error"), ("error", "repeat", "repeat"), ("repeat", "error", "error")],
)
def test_short_videos_are_padded_as_in_pretraining_unless_said(
    encoder: FrozenEncoder, videos: Path, tmp_path: Path, trained: str, given: str | None, expected: str
) -> None:
    encoder.facts["clip"]["short"] = trained
    result = run(encoder, videos, tmp_path / "out", short=given, windows="centre")
    spans = {Path(row.key).stem: (row.start, row.end) for row in FeatureSet(tmp_path / "out").rows}
    assert spans.get("short") == {"repeat": (0, 4), "error": None}[expected]
    assert [Path(video.key).stem for video in result.skipped] == ([] if expected == "repeat" else ["short"])
    assert window_of(encoder, stride=2, short="repeat") == WindowConfig(8, 2, None, "repeat")


def test_pooling_by_hand() -> None:
    tokens = torch.arange(2 * 6 * 1.0).reshape(2, 6, 1)
    grid = TokenGrid(steps=3, rows=1, columns=2)
    assert pool_tokens(tokens, grid, "steps").flatten().tolist() == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5]
    assert pool_tokens(tokens, grid, "mean").flatten().tolist() == [2.5, 8.5]
