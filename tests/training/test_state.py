"""The state of a run on its way back: what is read is shared by the processes, and nothing of it is kept."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from jepa.checkpoints import read
from jepa.checkpoints.store import CheckpointStore
from jepa.errors import DataError
from jepa.training import state
from jepa.training.config import PretrainConfig
from jepa.training.data import open_data
from jepa.training.module import Pretraining
from jepa.training.start import continue_from
from jepa.training.trainer import build_module

Configure = Callable[..., PretrainConfig]


class Remembers:
    """A companion that keeps what it is given."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {"sums": torch.ones(4)}

    def state_dict(self) -> dict[str, Any]:
        return self.given

    def load_state_dict(self, given: dict[str, Any], /) -> None:
        self.given = given


@pytest.fixture
def module(micro: Configure, monkeypatch: pytest.MonkeyPatch) -> Pretraining:
    config = micro()
    made = build_module(config, open_data(config)[0])
    optimizer = made.configure_optimizers()
    monkeypatch.setattr(state, "_optimizer", lambda module: optimizer)
    return made


def test_a_file_is_mapped_and_not_kept(module: Pretraining, monkeypatch: pytest.MonkeyPatch) -> None:
    store, companion = CheckpointStore(module.config.out / "checkpoints"), Remembers()
    saved = store.save(3, state.capture(module, {"one": companion}), state.facts(module))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for parameter in module.parameters():
        parameter.data.zero_()
    maps, real = [], read.load_state

    def load(*args: Any, **options: Any) -> dict[str, Any]:
        content = real(*args, **options)
        maps.append((options["lazy"], content["callbacks"]["one"]["sums"]))
        return content

    monkeypatch.setattr(read, "load_state", load)
    state.restore(module, store, saved, {"one": companion})
    ((lazy, mapped),) = maps
    assert lazy
    assert torch.equal(companion.given["sums"], torch.ones(4))
    assert companion.given["sums"].data_ptr() != mapped.data_ptr(), "the file would stay mapped"
    assert module.step == 3
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_start_that_is_damaged_is_refused(module: Pretraining) -> None:
    store = CheckpointStore(module.config.out / "checkpoints")
    path = store.save(3, state.capture(module, {}), state.facts(module)).path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)  # which sees nothing
    with pytest.raises(DataError, match=r"is damaged \(.* has another digest\)") as caught:
        continue_from(module, store.folder / "last.ckpt")
    assert "\n" not in str(caught.value)
