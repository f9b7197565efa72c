"""The files: H.264 that decodes to about the same pixels, shards that hold the clips, folders never mixed."""

import io
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from jepa.data.decode import decode, probe
from jepa.data.source import open_source
from jepa.data.synthetic import generate as generate_module
from jepa.data.synthetic.generate import RECIPE, generate, video_info
from jepa.data.synthetic.video import encode_h264
from jepa.data.synthetic.world import WorldConfig, make_clip
from jepa.errors import ConfigError

CONFIG = WorldConfig()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "data"
    generate(CONFIG, out, clips=20, test_fraction=0.25, seed=4)
    return out


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("world", ["easy", "hard"])
def test_encoding_keeps_the_pixels_and_the_facts(world: str) -> None:
    config = WorldConfig(world="easy" if world == "easy" else "hard", frames=11, size=48, fps=12)
    frames = make_clip(config, 0, 3, "train").frames
    video = encode_h264(frames, config.fps)
    assert video == encode_h264(frames, config.fps)
    assert probe(video) == video_info(config)  # the facts in the index need no probing
    decoded = decode(video, range(11), backend="pyav")
    assert np.abs(decoded.astype(int) - frames).mean() < 6  # half of that is 4:2:0 chroma
    assert np.abs(decoded.astype(int).mean(axis=-1) - frames.mean(axis=-1)).mean() < 3
    wrong = np.abs(decoded.astype(int) - frames[::-1]).mean()
    assert wrong > 2 * np.abs(decoded.astype(int) - frames).mean()


@pytest.mark.parametrize("shape", [(4, 41, 40, 3), (4, 40, 40), (0, 40, 40, 3), (4, 40, 40, 4)])
def test_encoding_refuses_other_arrays(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="frames"):
        encode_h264(np.zeros(shape, np.uint8), 8)


@pytest.mark.parametrize(("split", "count"), [("train", 15), ("test", 5)])
def test_shards_hold_the_clips(data: Path, split: str, count: int) -> None:
    source = open_source(data, split)
    assert len(source) == count
    for index in (0, count - 1):
        clip = make_clip(CONFIG, 4, index, "train" if split == "train" else "test")
        info = source.info(index)
        assert (info.frames, info.fps, info.height, info.width) == (16, 8.0, 40, 40)
        assert dict(info.labels) == clip.labels
        decoded = decode(source.read(index), range(16), backend="pyav")
        assert np.abs(decoded.astype(int) - clip.frames).mean() < 5
        with np.load(io.BytesIO(source.extra(index, "masks.npz"))) as masks:
            np.testing.assert_array_equal(masks["instances"], clip.instances)
            np.testing.assert_array_equal(masks["positions"], clip.positions)


def test_a_data_set_is_made_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(data)
    monkeypatch.setattr(generate_module, "make_clip", None)  # any attempt to make a clip would fail
    again = generate(CONFIG, data, clips=20, test_fraction=0.25, seed=4)
    assert not again.created
    assert (again.train, again.test) == (15, 5)
    assert content(data) == before


def test_another_data_set_in_the_folder_is_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match="seed 4 instead of 5"):
        generate(CONFIG, data, clips=20, test_fraction=0.25, seed=5)
    with pytest.raises(ConfigError, match="world 'easy' instead of 'hard'"):
        generate(WorldConfig(world="hard"), data, clips=20, test_fraction=0.25, seed=4)


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty and no synthetic data set"):
        generate(CONFIG, tmp_path, clips=4, test_fraction=0.5)
    (tmp_path / RECIPE).write_text("[1]")
    with pytest.raises(ConfigError, match="not empty and no synthetic data set"):
        generate(CONFIG, tmp_path, clips=4, test_fraction=0.5)
    with pytest.raises(ConfigError, match="is a file"):
        generate(CONFIG, tmp_path / "thesis.tex", clips=4, test_fraction=0.5)
    with pytest.raises(ConfigError, match="cannot be"):
        generate(CONFIG, tmp_path / "thesis.tex" / "data", clips=4, test_fraction=0.5)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_interrupted_data_set_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def fail_in_the_test_split(config: WorldConfig, seed: int, index: int, split: str) -> object:
        if split == "test":
            raise KeyboardInterrupt
        made.append(index)
        return make_clip(config, seed, index, "train")

    with monkeypatch.context() as patch:
        patch.setattr(generate_module, "make_clip", fail_in_the_test_split)
        with pytest.raises(KeyboardInterrupt):
            generate(CONFIG, tmp_path / "data", clips=4, test_fraction=0.25)
    assert made
    assert not list((tmp_path / "data").iterdir())
    assert generate(CONFIG, tmp_path / "data", clips=4, test_fraction=0.25).created


def test_without_test_split(tmp_path: Path) -> None:
    made = generate(CONFIG, tmp_path, clips=2, test_fraction=0.0)
    assert (made.train, made.test) == (2, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"train", RECIPE}


@pytest.mark.parametrize(("clips", "fraction"), [(0, 0.0), (1, 0.2), (2, 0.9), (10, 1.0), (10, -0.1), (10, 0.01)])
def test_impossible_splits_are_refused(tmp_path: Path, clips: int, fraction: float) -> None:
    with pytest.raises(ConfigError, match="test_fraction"):
        generate(CONFIG, tmp_path, clips=clips, test_fraction=fraction)


def test_a_data_set_with_a_split_gone_is_refused(tmp_path: Path) -> None:
    generate(CONFIG, tmp_path, clips=2, test_fraction=0.5)
    (tmp_path / "test").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="folder test is gone"):
        generate(CONFIG, tmp_path, clips=2, test_fraction=0.5)


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def make(out: Path, seed: int = 0) -> bool:
    return generate(CONFIG, out, clips=2, test_fraction=0.5, seed=seed).created


@pytest.mark.parametrize("left", [("train",), ("train", "test")])
def test_what_a_killed_run_left_is_made_again(
    tmp_path: Path, left: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path)
    before = content(tmp_path)
    (tmp_path / RECIPE).unlink()
    partial = tmp_path / f".partial-{dead_process()}"
    partial.mkdir()
    for split in {"train", "test"} - set(left):
        (tmp_path / split).rename(partial / split)
    (tmp_path / "train/shard-000000.tar").write_bytes(b"cut")
    with caplog.at_level("WARNING"):
        assert make(tmp_path)
    assert "a stopped run left" in caplog.text
    assert content(tmp_path) == before  # and no working folder
    assert not make(tmp_path)


def test_left_overs_are_not_taken_from_a_process_at_work(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / RECIPE).unlink()
    (tmp_path / f".partial-{os.getppid()}").mkdir()
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=f"another process .* delete .*partial-{os.getppid()}"):
        make(tmp_path)
    assert content(tmp_path) == before


def test_folders_that_only_look_left_over_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / RECIPE).unlink()
    with pytest.raises(ConfigError, match="no synthetic data set"):
        make(tmp_path, seed=1)
    (tmp_path / "test/thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="no synthetic data set"):
        make(tmp_path)
    assert (tmp_path / "test/thesis.tex").read_text() == "years of work"


def test_a_damaged_shard_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path)
    before = content(tmp_path)
    shard = tmp_path / "test/shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:1000])
    (tmp_path / "test/thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"cut off .*; move .*thesis\.tex away"):
        make(tmp_path)
    (tmp_path / "test/thesis.tex").unlink()
    with caplog.at_level("WARNING"):
        assert make(tmp_path)
    assert "cut off or only partly copied: making the data set again" in caplog.text
    assert content(tmp_path) == before


def test_provenance_tells_how_to_make_it_again(data: Path) -> None:
    provenance = json.loads((data / "train" / "manifest.json").read_text())["provenance"]
    assert {"world", "frames", "size", "fps", "seed", "split", "encoder", "versions"} <= set(provenance)
    assert provenance["seed"] == 4


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate_module, "_CLIPS_PER_WORKER", 1)
    folders = []
    for workers in (1, 2):
        folders.append(tmp_path / str(workers))
        generate(CONFIG, folders[-1], clips=90, test_fraction=0.3, workers=workers)
    assert content(folders[0]) == content(folders[1])
