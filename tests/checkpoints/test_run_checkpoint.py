"""Weights out of the checkpoints of a run, in whichever form they lie there."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import jepa
from jepa.checkpoints.digested import FileDigest
from jepa.checkpoints.io import load_state
from jepa.checkpoints.manifest import data_name
from jepa.checkpoints.read import read_checkpoint
from jepa.checkpoints.run_checkpoint import find_checkpoints
from jepa.checkpoints.store import CheckpointStore
from jepa.errors import DataError


@pytest.fixture
def unfinished(tiny_run: Path, tmp_path: Path) -> Path:
    """A run without its portable folder."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(tiny_run / "config.yaml", run)
    shutil.copytree(tiny_run / "checkpoints", run / "checkpoints", symlinks=True)
    return run


@pytest.fixture
def divided(unfinished: Path, together: Callable[..., list[Any]]) -> Path:
    """The same run, as if two processes had divided it."""

    def write(rank: int) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard, distribute_tensor

        mesh, state = init_device_mesh("cpu", (2,)), read_checkpoint(unfinished / "checkpoints" / "last.ckpt")
        facts = state.pop("jepa")
        weights = {
            name: distribute_tensor(tensor, mesh, [Shard(0)]) if tensor.ndim else tensor
            for name, tensor in state["state_dict"].items()
        }
        CheckpointStore(unfinished / "divided").save_sharded(facts["step"], {**state, "state_dict": weights}, facts)

    assert together(2, write) == [None, None]
    shutil.rmtree(unfinished / "checkpoints")
    (unfinished / "divided").rename(unfinished / "checkpoints")
    return unfinished


@pytest.mark.parametrize("form", ["unfinished", "divided"])
def test_an_encoder_of_a_file_or_folder(tiny_run: Path, form: str, request: pytest.FixtureRequest) -> None:
    run: Path = request.getfixturevalue(form)
    expected = jepa.load_encoder(tiny_run)
    step = expected.facts["step"]
    assert (run / "checkpoints" / data_name(step)).is_dir() == (form == "divided")
    for place in (run, run / "checkpoints" / "last.ckpt", run / "checkpoints" / data_name(step)):
        loaded = jepa.load_encoder(place)
        assert loaded.facts["step"] == step
        for name, tensor in expected.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor)
    jepa.load_predictor(run)


@pytest.mark.parametrize("form", ["unfinished", "divided"])
def test_a_kill_between_writing_and_linking_costs_nothing(form: str, request: pytest.FixtureRequest) -> None:
    run: Path = request.getfixturevalue(form)
    (run / "checkpoints" / "last.ckpt").unlink()
    assert find_checkpoints(run) == run / "checkpoints"
    assert jepa.load_encoder(run).facts["step"] == 4
    (run / "checkpoints" / data_name(4)).rename(run / "gone")
    assert find_checkpoints(run) is None


def test_a_phase_with_a_folder_is_as_far_as_one_with_a_file(divided: Path, tmp_path: Path) -> None:
    for phase in ("1-pretrain", "2-cooldown"):
        shutil.copytree(divided, tmp_path / "whole" / phase, symlinks=True)
    assert find_checkpoints(tmp_path / "whole") == tmp_path / "whole" / "2-cooldown" / "checkpoints"
    assert jepa.load_encoder(tmp_path / "whole").facts["step"] == 4


def test_a_checkpoint_of_format_1_is_refused(unfinished: Path) -> None:
    path = unfinished / "checkpoints" / "last.ckpt"
    state = load_state(path)
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    torch.save({**state, "jepa": {**state["jepa"], "format_version": 1}, "global_step": 4}, path)
    with pytest.raises(DataError, match=r"has format version 1, this package reads 2: continue with the version"):
        jepa.load_encoder(unfinished)


def flip(path: Path) -> None:
    """A bit of a tensor, which torch does not notice."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)


@pytest.fixture
def with_a_damaged_one(unfinished: Path) -> Path:
    """The run with a newer checkpoint, of step 5, a bit of which has flipped."""
    state = load_state(unfinished / "checkpoints" / "last.ckpt")
    facts = state.pop("jepa")
    flip(CheckpointStore(unfinished / "checkpoints").save(5, state, facts).path)
    return unfinished


def test_of_an_unfinished_run_the_newest_whole_one_is_taken(
    with_a_damaged_one: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        assert jepa.load_encoder(with_a_damaged_one).facts["step"] == 4
    assert "the checkpoint of step 5 cannot be used, that of step 4 is" in caplog.text


def test_a_damaged_one_that_is_asked_for_is_refused(with_a_damaged_one: Path) -> None:
    folder = with_a_damaged_one / "checkpoints"
    for place in (folder / "last.ckpt", folder / data_name(5)):
        with pytest.raises(DataError, match=r"step-000000005.ckpt has another digest\): restore it") as caught:
            jepa.load_encoder(place)
        assert "\n" not in str(caught.value)
    assert jepa.load_encoder(folder / data_name(4)).facts["step"] == 4


def test_all_bytes_are_compared_once(unfinished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared, of = [], FileDigest.of
    monkeypatch.setattr(FileDigest, "of", lambda path: compared.append(path.name) or of(path))
    jepa.load_encoder(unfinished)
    assert compared == [data_name(4)]
    compared.clear()
    jepa.load_encoder(unfinished / "checkpoints" / "last.ckpt")
    assert compared == [data_name(4)]
