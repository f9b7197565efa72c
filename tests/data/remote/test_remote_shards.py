"""Folders of shards behind URLs: the same samples as on the disk, through every way of starting workers."""

import json
import multiprocessing
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

from jepa.cli import main
from jepa.data.loader_config import LoaderConfig
from jepa.data.shard_writer import ShardWriter
from jepa.data.shards import ShardSource
from jepa.data.source import Source, has_split, open_source
from jepa.data.storage import RemoteOptions
from jepa.data.stream import train_loader
from jepa.data.timeline import VideoInfo
from jepa.data.transforms import AugmentConfig
from jepa.data.windows import WindowConfig
from jepa.errors import ConfigError, DataError
from jepa.masks.build import MaskSampler, MasksConfig
from jepa.tokens import TokenGrid
from jepa.training.config import PretrainConfig
from jepa.types import ClipBatch

SLOW = pytest.mark.slow
COUNT = 7
INFO = VideoInfo(frames=16, fps=12.5, height=40, width=48, duration=1.28, codec="h264", keyframes=(0, 8))
ROOT = Path(__file__).parents[3]


def video(number: int) -> bytes:
    """Stands for an encoded video; shards do not look inside."""
    return np.random.default_rng(number).bytes(2000 + 100 * number)


def write(folder: Path) -> None:
    """Three shards."""
    with ShardWriter(folder, name="tiny", samples_per_shard=3) as writer:
        for number in range(COUNT):
            writer.write(f"{number:06d}", video(number), INFO, {"number": number}, {"masks.npz": bytes([number] * 50)})


@pytest.fixture
def options(fast: RemoteOptions, tmp_path: Path) -> RemoteOptions:
    return replace(fast, cache=tmp_path / "cache", cache_gb=1e-3)


@pytest.fixture
def web(web: Any) -> Any:
    """A server of shards."""
    write(web.folder / "shards")
    return web


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    """Shards in the memory file system of fsspec."""
    write(tmp_path / "written")
    files = fsspec.filesystem("memory")
    for path in (tmp_path / "written").iterdir():
        files.pipe_file(f"/bucket/shards/{path.name}", path.read_bytes())
    yield "memory://bucket/shards"
    files.rm("/bucket", recursive=True)


def read_all(source: Source) -> list[bytes]:
    return [source.read(number) for number in (6, 0, 3, 4, 5, 1, 2)]


EXPECTED = [video(number) for number in (6, 0, 3, 4, 5, 1, 2)]


def assert_equals_local(source: Source, folder: Path) -> None:
    local = open_source(folder)
    assert (len(source), source.name, source.fingerprint) == (COUNT, "tiny", local.fingerprint)
    assert [source.info(number) for number in range(COUNT)] == [local.info(number) for number in range(COUNT)]
    assert read_all(source) == EXPECTED
    assert source.extra(2, "masks.npz") == bytes([2] * 50)


@pytest.mark.parametrize("cache_gb", [0.0, 3e-6, 1e-3])  # nothing, three chunks, everything
def test_a_web_server_gives_what_the_disk_gives(web: Any, options: RemoteOptions, cache_gb: float) -> None:
    source = open_source(f"{web.url}/shards", remote=replace(options, cache_gb=cache_gb))
    assert_equals_local(source, web.folder / "shards")
    assert options.cache
    kept = sum(path.stat().st_size for path in (options.cache / "remote/chunks").glob("*/*"))
    assert kept <= cache_gb * 10**9
    assert (kept > 0) == (cache_gb > 0)


def test_an_object_store_gives_what_the_disk_gives(bucket: str, options: RemoteOptions, tmp_path: Path) -> None:
    assert_equals_local(open_source(bucket, remote=options), tmp_path / "written")


def test_file_urls_are_local_folders(tmp_path: Path) -> None:
    write(tmp_path / "a b")
    for url in (f"file://{tmp_path}/a%20b", Path(f"file://{tmp_path}/a b")):
        assert_equals_local(open_source(url), tmp_path / "a b")
        assert not has_split(url, "test")


def test_what_was_fetched_once_is_not_fetched_again(web: Any, options: RemoteOptions) -> None:
    read_all(open_source(f"{web.url}/shards", remote=options))
    assert {path.split("/")[-1].split(".")[-1] for path, _ in web.requests} == {"json", "arrow", "tar"}
    web.requests.clear()
    assert read_all(open_source(f"{web.url}/shards", remote=options)) == EXPECTED
    assert {path for path, _ in web.requests} == {"/shards/manifest.json"}  # whether the data set has changed


def test_the_index_comes_back_if_the_cache_is_emptied(web: Any, options: RemoteOptions) -> None:
    source = open_source(f"{web.url}/shards", remote=options)
    assert options.cache
    shutil.rmtree(options.cache)
    assert read_all(source) == EXPECTED


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", *(pytest.param(name, marks=SLOW) for name in ("spawn", "forkserver"))])
def test_an_open_source_travels_to_other_processes(web: Any, options: RemoteOptions, method: Any) -> None:
    source = open_source(f"{web.url}/shards", remote=replace(options, cache_gb=0))
    assert read_all(source) == EXPECTED  # connections and indices are open now
    assert read_all(pickle.loads(pickle.dumps(source))) == EXPECTED
    with multiprocessing.get_context(method).Pool(2) as pool:
        answers = [pool.apply_async(read_all, (source,)) for _ in range(4)]
        assert [answer.get() for answer in answers] == [EXPECTED] * 4


def test_faults_on_the_way_change_nothing(web: Any, options: RemoteOptions) -> None:
    for file in (web.folder / "shards").iterdir():
        web.faults[f"shards/{file.name}"] = ["500", "reset", "short"]
    assert_equals_local(open_source(f"{web.url}/shards", remote=options), web.folder / "shards")
    assert not any(web.faults.values())


@pytest.mark.parametrize(
    ("name", "fault", "words"),
    [
        ("manifest.json", "403", "manifest.json: 403 Forbidden: from a URL, only folders of shards"),
        ("manifest.json", "500", "manifest.json: bytes 0 to 0: 500 Internal Server Error, tried 6 times"),
        ("manifest.json", "whole", "the server ignores range requests"),
        ("shard-000001.tar", "404", "shard-000001.tar: 404 Not Found"),
        ("shard-000002.arrow", "404", "shard-000002.arrow: 404 Not Found"),
        ("shard-000002.arrow", "reset", "reset by peer, tried 6 times"),
    ],
)
def test_what_is_missing_is_named_when_the_source_is_opened(
    web: Any, options: RemoteOptions, name: str, fault: str, words: str
) -> None:
    web.faults[f"shards/{name}"] = [fault] * 100
    with pytest.raises(DataError) as caught:
        open_source(f"{web.url}/shards", remote=options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["shard-000001.tar", "shard-000001.arrow"])
def test_a_file_of_another_size_is_named_when_the_source_is_opened(web: Any, options: RemoteOptions, name: str) -> None:
    path = web.folder / "shards" / name
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(DataError, match=rf"{name} has \d+ bytes, manifest\.json says \d+: it is cut off"):
        open_source(f"{web.url}/shards", remote=options)


def test_a_failed_read_names_shard_and_sample(web: Any, options: RemoteOptions) -> None:
    source = open_source(f"{web.url}/shards", remote=options)
    web.faults["shards/shard-000001.tar"] = ["500"] * 100
    with pytest.raises(
        DataError,
        match=rf"^shard {web.url}/shards/shard-000001\.tar, sample 000004: bytes .* 500 Internal .*, tried 6 times$",
    ):
        source.read(4)


def flip(content: bytes, number: int) -> bytes:
    """The content with one bit of a video turned."""
    damaged = bytearray(content)
    damaged[content.index(video(number)[:50]) + 1000] ^= 1
    return bytes(damaged)


def test_a_flipped_bit_on_the_server_is_named(web: Any, options: RemoteOptions) -> None:
    path = web.folder / "shards/shard-000001.tar"
    path.write_bytes(flip(path.read_bytes(), 4))
    source = open_source(f"{web.url}/shards", remote=options)
    assert source.read(3) == video(3)
    with pytest.raises(DataError, match=r"shard-000001\.tar, sample 000004: mp4 is damaged"):
        source.read(4)


def test_a_flipped_bit_in_the_cache_is_mended(web: Any, options: RemoteOptions) -> None:
    url = f"{web.url}/shards"
    assert read_all(open_source(url, remote=options)) == EXPECTED
    assert options.cache
    for chunk in (options.cache / "remote/chunks").glob("*/*"):
        chunk.write_bytes(bytes([chunk.read_bytes()[0] ^ 1]) + chunk.read_bytes()[1:])
    assert read_all(open_source(url, remote=options)) == EXPECTED
    web.requests.clear()
    assert read_all(open_source(url, remote=options)) == EXPECTED
    assert len({path for path, _ in web.requests}) == 1  # what was mended stays mended


def test_a_shard_that_is_replaced_during_the_run_is_noticed(web: Any, options: RemoteOptions) -> None:
    source = open_source(f"{web.url}/shards", remote=options)
    path = web.folder / "shards/shard-000001.tar"
    path.write_bytes(flip(path.read_bytes(), 5))
    with pytest.raises(DataError, match=r"shard-000001\.tar, sample 000004: changed while it was in use: ETag"):
        source.read(4)


def test_a_data_set_that_is_written_again_is_another_one(web: Any, options: RemoteOptions) -> None:
    assert read_all(open_source(f"{web.url}/shards", remote=options)) == EXPECTED
    shutil.rmtree(web.folder / "shards")
    with ShardWriter(web.folder / "shards", name="new") as writer:
        writer.write("x", video(9), INFO, {})
    source = open_source(f"{web.url}/shards", remote=options)
    assert (len(source), source.read(0)) == (1, video(9))


def test_a_manifest_cannot_write_outside_of_the_cache(web: Any, options: RemoteOptions, tmp_path: Path) -> None:
    manifest = web.folder / "shards/manifest.json"
    content = json.loads(manifest.read_text())
    content["shards"][0]["index"] = "../../../evil.arrow"
    manifest.write_text(json.dumps(content))
    before = set(tmp_path.rglob("*"))
    shutil.copy(web.folder / "shards/shard-000000.arrow", web.folder.parent / "evil.arrow")
    with pytest.raises(DataError):
        open_source(f"{web.url}/shards", remote=options)
    assert options.cache
    new = {path for path in tmp_path.rglob("*") if path not in before and options.cache not in path.parents}
    assert {path.name for path in new} <= {"evil.arrow", "cache"}


def test_a_cache_that_cannot_be_written_is_a_config_error(web: Any, options: RemoteOptions, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write .*file/remote/index"):
        open_source(f"{web.url}/shards", remote=replace(options, cache=tmp_path / "file"))


def test_splits_behind_a_url(web: Any, options: RemoteOptions) -> None:
    for split in ("train", "test"):
        shutil.copytree(web.folder / "shards", web.folder / "both" / split)
    url = f"{web.url}/both"
    assert isinstance(open_source(url, "test", options), ShardSource)
    assert [has_split(url, split) for split in ("train", "val", "test")] == [True, False, True]
    assert not has_split(f"{web.url}/shards", "test")
    with pytest.raises(DataError, match="both holds test, train but no val"):
        open_source(url, "val", options)
    with pytest.raises(DataError, match="name one of them"):
        open_source(url, None, options)
    with pytest.raises(DataError, match=r"nowhere/manifest\.json: 404 Not Found: from a URL, only folders of shards"):
        open_source(f"{web.url}/nowhere", "train", options)


def batches(source: Source, loader: LoaderConfig) -> list[ClipBatch]:
    grid = TokenGrid(2, 4, 4)
    return list(
        train_loader(
            source, window=WindowConfig(frames=4, stride=2), augment=AugmentConfig(size=32), loader=loader, seed=7,
            first_step=0, last_step=3, grid=grid, draw_masks=MaskSampler(MasksConfig(), grid, seed=7),
        )
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("workers", "method"),
    [(0, "fork"), (2, "fork"), *(pytest.param(2, name, marks=SLOW) for name in ("spawn", "forkserver"))],
)
def test_training_batches_are_those_of_the_disk(
    serve: Callable[[Path], Any], tiny_shards: Path, tmp_path: Path, workers: int, method: Any
) -> None:
    server = serve(tiny_shards)
    loader = LoaderConfig(
        batch_size=4, workers=workers, start_method=method, cache_gb=0, cache=tmp_path, remote_gb=0.01
    )
    expected = batches(open_source(tiny_shards), replace(loader, workers=0))
    got = batches(open_source(Path(server.url), remote=loader.remote), loader)
    assert [batch.keys for batch in got] == [batch.keys for batch in expected]
    assert all(torch.equal(ours.clips, theirs.clips) for ours, theirs in zip(got, expected, strict=True))


def test_pretraining_from_a_url_and_its_resumption(
    serve: Callable[[Path], Any],
    micro: Callable[..., PretrainConfig],
    tiny_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = serve(tiny_shards)
    words = ["pretrain", f"--config={ROOT}/tests/micro.yaml", "--data", server.url, "--out", str(tmp_path / "run")]
    words += ["--loader.cache", str(tmp_path / "cache"), "--loader.workers", "0"]
    assert main([*words, "--max-steps", "1"]) == 0, capsys.readouterr().err
    again = ["pretrain", "--config", str(tmp_path / "run/config.yaml"), "--resume", "--max-steps", "2"]
    assert main([*again, "--loader.remote_gb", "0"]) == 0, capsys.readouterr().err
    assert main([*again, "--max-steps", "3", "--data", f"{server.url}/nowhere"]) == 3
    assert "only folders of shards made by `jepa pack` are read" in capsys.readouterr().err.splitlines()[-1]


def test_options_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match=r"loader\.remote_gb is -1"):
        LoaderConfig(remote_gb=-1)
    with pytest.raises(ConfigError, match=r"loader\.remote_timeout is 0"):
        LoaderConfig(remote_timeout=0)
