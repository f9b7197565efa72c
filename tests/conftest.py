"""What all tests share: one thread, checked shapes, a private cache, and small things that are made once a session."""

import os

# Before torch is imported: the tests run in several processes, and threads would only fight over the cores.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from jaxtyping import install_import_hook

torch.set_num_threads(1)
# A busy machine is no failure: no test is decided by a clock.
settings.register_profile("jepa", deadline=None)
settings.load_profile("jepa")
# Every annotated shape in these modules is checked in every call of every test. (`objectives.build` is left out: its
# protocol has no run-time check.)
CHECKED = [
    "models",
    "masks",
    "tokens",
    *(
        f"objectives.{name}"
        for name in ("latent", "dense", "pixels", "targets", "distance", "losses", "diagnostics", "watch")
    ),
]
install_import_hook([f"jepa.{name}" for name in CHECKED], "beartype.beartype")

Once = Callable[[str, Callable[[Path], None]], Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """`once(name, make)`: the folder that `make(folder)` filled, made by one of the processes and shared by all."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def shared(name: str, make: Callable[[Path], None]) -> Path:
        folder, stamp = root / f"shared-{name}", root / f"shared-{name}.made"
        with FileLock(root / f"shared-{name}.lock"):
            if not stamp.exists():
                make(folder)
                stamp.touch()
        return folder

    return shared


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is read from or left in the user's cache."""
    os.environ["JEPA_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_shards(once: Once) -> Path:
    """A synthetic data set of 24 train and 12 test clips, 16 frames of 40 x 40 pixels."""
    from jepa.data.synthetic.generate import generate
    from jepa.data.synthetic.world import WorldConfig

    return once(
        "shards", lambda folder: generate(WorldConfig(), folder, clips=36, test_fraction=1 / 3, seed=0, workers=1)
    )


@pytest.fixture(scope="session")
def tiny_run(once: Once, tiny_shards: Path) -> Path:
    """The run folder of four steps of nano pretraining on `tiny_shards`, made by the command line."""
    from jepa.cli import main

    def make(folder: Path) -> None:
        options = f"--data {tiny_shards} --out {folder} --max-steps 4 --loader.batch_size 4 --loader.workers 0"
        code = main(["pretrain", "--config", "demo", *options.split()])
        assert code == 0, f"jepa pretrain ended with {code}"

    return once("run", make)


@pytest.fixture
def micro(tiny_shards: Path, tmp_path: Path) -> Callable[..., Any]:
    """`micro(optim={"steps": 3})`: tests/micro.yaml with changes, writing to a temporary folder."""
    from jepa.config import make_layer, read_layer, resolve
    from jepa.training.config import PretrainConfig

    base = read_layer(PretrainConfig, Path(__file__).parent / "micro.yaml")

    def configure(**changes: object) -> PretrainConfig:
        paths = {"data": str(tiny_shards), "out": str(tmp_path / "run")}
        return resolve(PretrainConfig, [base, make_layer(PretrainConfig, paths | changes, "test")]).build()

    return configure
