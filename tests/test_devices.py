"""One spelling of the device, whatever GPU there is."""

import pytest
import torch

from jepa.cli import load_command
from jepa.config import options
from jepa.devices import DeviceName, choose_device, exact_device
from jepa.errors import ConfigError


@pytest.fixture
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with these GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in request.param)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in request.param)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("machine", "wanted", "expected"),
    [
        ((), "auto", "cpu"),
        ((), "cpu", "cpu"),
        (("cuda",), "auto", "cuda"),
        (("cuda",), "gpu", "cuda"),
        (("cuda",), "cpu", "cpu"),
        (("mps",), "auto", "mps"),
        (("mps",), "gpu", "mps"),
    ],
    indirect=["machine"],
)
def test_the_device_is_the_gpu_if_there_is_one(wanted: DeviceName, expected: str) -> None:
    assert choose_device(wanted).type == expected


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("machine", [()], indirect=True)
def test_a_gpu_that_is_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match=r"--device is gpu, but torch sees none .* set --device to cpu or auto"):
        choose_device("gpu", "--device")


def test_float64_is_computed_where_there_is_float64() -> None:
    assert [exact_device(torch.device(name)).type for name in ("cpu", "cuda", "mps")] == ["cpu", "cuda", "cpu"]


def test_every_verb_spells_it_alike() -> None:
    keys = {"probe": "device", "extract": "device", "pretrain": "run.device"}
    kinds = [options(load_command(verb).Config)[key].hint for verb, key in keys.items()]
    assert kinds == [DeviceName] * 3
