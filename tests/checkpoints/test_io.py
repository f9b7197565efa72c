"""A state file is whole or absent."""

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa.checkpoints.io import atomic_write, load_state, put_beside, require_writable
from jepa.errors import ConfigError, DataError


def save_state(content: dict[str, Any], path: Path) -> None:
    """By the two that every file of states is written by."""
    with atomic_write(path) as file:
        torch.save(content, file)


def state(value: float) -> dict[str, object]:
    return {"weights": torch.full((3, 4), value), "step": 7, "nested": {"rates": [0.1, 0.2]}}


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    save_state(state(1.5), tmp_path / "deep" / "last.ckpt")
    for lazy in (False, True):
        back = load_state(tmp_path / "deep" / "last.ckpt", lazy=lazy)
        assert torch.equal(back["weights"], torch.full((3, 4), 1.5))
        assert back["step"] == 7
        assert back["nested"] == {"rates": [0.1, 0.2]}


def test_a_failed_save_leaves_the_old_state_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_state(state(1.0), path)

    def interrupted() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(load_state(path)["weights"], torch.ones(3, 4))
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_reader_never_sees_a_half_written_file(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with atomic_write(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"half"


def test_what_a_killed_save_left_behind_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".last.ckpt.tmp").write_bytes(b"left by a kill")
    save_state(state(2.0), tmp_path / "last.ckpt")
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("stage", ["write", "fsync", "replace"])
def test_a_full_disk_is_one_line_and_keeps_the_old_state(
    tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    save_state(state(1.0), path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    target = {"write": (torch, "save"), "fsync": (os, "fsync"), "replace": (Path, "replace")}[stage]
    with monkeypatch.context() as patch:
        patch.setattr(*target, full)
        with pytest.raises(ConfigError, match=r"last\.ckpt: No space left on device"):
            save_state(state(2.0), path)
    assert torch.equal(load_state(path)["weights"], torch.ones(3, 4))
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_folder_is_tried_before_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in ("file", "file/run"):
        with pytest.raises(ConfigError, match=r"cannot write to the folder .*: part of the path is a file"):
            require_writable(tmp_path / wrong)
    with pytest.raises(ConfigError, match=r"run/last\.ckpt: part of the path is a file"):
        save_state(state(1.0), tmp_path / "file" / "run" / "last.ckpt")
    require_writable(tmp_path / "new" / "run")
    assert list((tmp_path / "new" / "run").iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_that_takes_no_bytes_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "with_name", lambda self, name: Path("/dev/full"))
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    with pytest.raises(ConfigError, match="cannot write"):
        save_state({"weights": torch.zeros(1 << 18)}, tmp_path / "last.ckpt")


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "list"])
def test_a_damaged_file_is_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "last.ckpt"
    save_state(state(1.0), path)
    content = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "text":
            path.write_text("not a checkpoint")
        case "empty":
            path.write_bytes(b"")
        case "list":
            torch.save([1, 2], path)
    with pytest.raises(DataError, match=r"last\.ckpt") as caught:
        load_state(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no checkpoint at"):
        load_state(tmp_path / "last.ckpt")


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("container", ["zip", "pickle"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, container: str) -> None:
    path, mark = tmp_path / "last.ckpt", tmp_path / "executed"
    bomb = {"weights": Bomb(mark)}
    if container == "zip":
        torch.save(bomb, path)
    else:
        path.write_bytes(pickle.dumps(bomb, protocol=2))
    with pytest.raises(DataError):
        load_state(path)
    assert not mark.exists()


class Foreign:
    """What no checkpoint may hold."""


def test_a_damaged_state_does_not_trouble_the_next_one(tmp_path: Path) -> None:
    """torch notes sparse tensors that it has still to check, and forgets the note only where loading ends well."""
    good, bad = tmp_path / "good.ckpt", tmp_path / "bad.ckpt"
    save_state(state(1.0), good)
    save_state({"sparse": torch.eye(2).to_sparse(), "foreign": Foreign()}, bad)
    with pytest.raises(DataError, match="damaged"):
        load_state(bad)
    assert load_state(good)["step"] == 7  # without a warning, which would be an error here


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_put_beside_another_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError(errno.EPERM, "no links on this disk")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    source, target = tmp_path / "a" / "model", tmp_path / "model"
    source.parent.mkdir()
    for content in (b"one", b"two", b"two"):
        with atomic_write(source) as file:
            file.write(content)
        put_beside(source, target)
        put_beside(source, target)
        assert target.read_bytes() == content
        assert target.samefile(source) == links
    with atomic_write(source) as file:  # another source later leaves it as it is
        file.write(b"three")
    assert target.read_bytes() == b"two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "model"]
