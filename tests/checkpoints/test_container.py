"""Files of strangers: what is weights is read, what is not is refused in one line, and nothing is ever run."""

import contextlib
import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import jepa
from jepa.checkpoints.container import read_container
from jepa.cli import main
from jepa.errors import DataError


def training_state() -> dict[str, Any]:
    """What a training loop saves: weights, optimizer, scaler, counters, numbers of NumPy."""
    model = nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    return {
        "encoder": model.state_dict(),
        "opt": optimizer.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "epoch": 3,
        "loss": np.float64(0.5),
        "lr": np.float32(0.25),
        "world_size": np.int64(128),
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_state_is_read_without_running_anything(tmp_path: Path, zipped: bool) -> None:
    state = training_state()
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    content = read_container(tmp_path / "x.pt")
    assert content.keys() == state.keys()
    assert torch.equal(content["encoder"]["weight"], state["encoder"]["weight"])
    assert (content["loss"], content["lr"], content["world_size"]) == (0.5, 0.25, 128)


def test_the_files_of_old_numpy_too(tmp_path: Path) -> None:
    """NumPy 1 calls the maker of its numbers by another name."""
    torch.save({"loss": np.float64(0.5)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    raw = (tmp_path / "x.pt").read_bytes()
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    assert new in raw
    (tmp_path / "x.pt").write_bytes(raw.replace(new, old))
    assert read_container(tmp_path / "x.pt") == {"loss": 0.5}


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_not_run(
    tmp_path: Path, zipped: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    ran, path = tmp_path / "ran", tmp_path / "x.pt"
    torch.save({"encoder": Payload(f"touch {ran}")}, path, _use_new_zipfile_serialization=zipped)
    assert main(["convert", str(path), str(tmp_path / "out"), "--to", "jepa"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "reading it would run `posix.system`, which is refused" in line
    with pytest.raises(DataError, match="is refused"):
        jepa.load_encoder(path)
    assert not ran.exists()
    assert not (tmp_path / "out").exists()
    torch.load(path, weights_only=False)
    assert ran.exists(), "the payload works, so that this test can fail"


WEIGHT = torch.zeros(3)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "place",
    [
        lambda payload: payload,
        lambda payload: [WEIGHT, payload],
        lambda payload: {"encoder": {"norm.bias": WEIGHT, "x": payload}},
        lambda payload: {"encoder": {"norm.bias": WEIGHT}, "opt": payload},
        lambda payload: {"encoder": {"norm.bias": WEIGHT}, "opt": {"state": [(0, payload)]}},
        lambda payload: {"classifiers": [{"linear.weight": WEIGHT}, payload]},
    ],
    ids=["top", "list", "state", "opt", "deep", "probe"],
)
def test_code_in_any_place_is_not_run(tmp_path: Path, place: Callable[[Payload], object], zipped: bool) -> None:
    ran, path = tmp_path / "ran", tmp_path / "x.pt"
    torch.save(place(Payload(f"touch {ran}")), path, _use_new_zipfile_serialization=zipped)
    for action in (jepa.load_encoder, jepa.load_predictor, jepa.load_probe, read_container):
        with pytest.raises(DataError, match=r"`posix.system`, which is refused"):
            action(path)
    assert not ran.exists()
    torch.load(path, weights_only=False)
    assert ran.exists()


@pytest.mark.parametrize("first", ["pickle", "\udc80"])
def test_code_in_a_tar_is_not_run(tmp_path: Path, first: str) -> None:
    """The format of torch before 0.1.10, also where its first name begins as a pickle does."""
    ran, path = tmp_path / "ran", tmp_path / "x.pt"
    attack = pickle.dumps(Payload(f"touch {ran}"), protocol=2)
    with tarfile.open(path, "w", encoding="ascii", errors="surrogateescape", format=tarfile.GNU_FORMAT) as tar:
        for name in dict.fromkeys((first, "sys_info", "pickle", "storages", "tensors")):
            member = tarfile.TarInfo(name)
            member.size = len(attack)
            tar.addfile(member, io.BytesIO(attack))
    with pytest.raises(DataError, match=r"is no encoder: it is binary|weights_only=True|no weights file"):
        jepa.load_encoder(path)
    assert not ran.exists()
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    assert ran.exists()


def test_programs_are_not_run(tmp_path: Path) -> None:
    """TorchScript is a zip file too, with code beside its weights."""
    torch.save({"encoder": {"norm.bias": WEIGHT}}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt", "a") as file:
        file.writestr("x/constants.pkl", pickle.dumps(()))
    with pytest.raises(DataError, match="TorchScript"):
        jepa.load_encoder(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"  <html>", "a web page"),
        (b"just text", "it is text"),
        (b"\x00\x01\x02\x03", "binary of an unknown kind"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "pointer of Git LFS"),
        (b"PK\x03\x04 not a zip", "damaged or no weights file"),
        (b"\x80\x02 not a pickle", "damaged or no weights file"),
    ],
)
def test_what_is_no_weights(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        jepa.load_encoder(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "an empty dictionary"),
        ([1, 2], "a list"),
        (torch.zeros(3), "a Tensor"),
        ({"epoch": 3, "loss": 0.5}, "holds no encoder, predictor or classifiers: it has epoch, loss"),
        ({"predictor": {"x": torch.zeros(1)}}, "a predictor but no encoder"),
        ({"encoder": {"x": torch.zeros(1)}}, "holds no patch_embed.proj.weight: it is no model of a known kind"),
    ],
)
def test_what_holds_no_model(tmp_path: Path, content: object, words: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(DataError, match=words):
        jepa.load_encoder(tmp_path / "x.pt")


@pytest.mark.parametrize("zipped", [True, False])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_cut_or_changed_file_is_one_line(tmp_path: Path, zipped: bool, data: st.DataObject) -> None:
    path = tmp_path / "x.pt"
    torch.save(training_state(), path, _use_new_zipfile_serialization=zipped)
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        del raw[place:]
    else:
        raw[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    with contextlib.suppress(DataError):  # any other error fails; a changed weight cannot be noticed
        read_container(path)
