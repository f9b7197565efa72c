"""Runs of several real processes on one machine, started, hurt and waited for.

A process that starts from nothing imports for seconds. So all but those of `torchrun` itself are forked by a server
that has imported everything (`multiprocessing`'s), with the environment that torchrun would give them.
"""

import json
import multiprocessing
import os
import runpy
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from jepa.checkpoints.store import CheckpointStore
from jepa.training.order_file import OrderFile

HERE = Path(__file__).parent
MICRO = HERE.parent / "micro.yaml"
PATIENCE = 240.0
"""Seconds after which a process that is still there hangs; no test is decided by less."""
Mischief = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Ended:
    """A process that is gone."""

    code: int
    """Exit code; minus the signal that has killed it."""
    out: str
    err: str


class Crew:
    """The processes of one launch."""

    def __init__(self, processes: Sequence[Any], folder: Path) -> None:
        self.processes, self.folder = processes, folder
        """The folder has what they say, and a line for each of their steps."""

    def signal(self, number: signal.Signals, ranks: Sequence[int] | None = None) -> None:
        for rank in range(len(self.processes)) if ranks is None else ranks:
            os.kill(self.processes[rank].pid, number)

    def steps(self, rank: int = 0) -> list[dict[str, Any]]:
        """What `worker.trace` has written of the steps of a process by now."""
        return steps_in(self.folder, rank)

    def reach(self, steps: int) -> None:
        """Wait until so many steps are done."""
        end = time.monotonic() + PATIENCE
        while len(self.steps()) < steps:
            assert all(process.exitcode is None for process in self.processes), self.end()
            assert time.monotonic() < end
            time.sleep(0.01)

    def wait(self, rank: int) -> Ended:
        """Wait for one process to end."""
        self.processes[rank].join(PATIENCE)
        assert self.processes[rank].exitcode is not None, f"rank {rank} hangs: {self._read(rank, 'err')}"
        return Ended(self.processes[rank].exitcode, self._read(rank, "out"), self._read(rank, "err"))

    def end(self) -> list[Ended]:
        """Wait for all to end."""
        return [self.wait(rank) for rank in range(len(self.processes))]

    def done(self) -> "Crew":
        """Wait for all to end well."""
        for rank, ended in enumerate(self.end()):
            assert ended.code == 0, f"rank {rank}: {ended.err}"
        return self

    def kill(self) -> None:
        for process in self.processes:
            if process.exitcode is None:
                process.kill()
                process.join()

    def _read(self, rank: int, kind: str) -> str:
        return (self.folder / f"rank-{rank}.{kind}").read_text()


Launch = Callable[..., Crew]
Once = Callable[[str, Callable[[Path], None]], Path]


def steps_in(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    """The steps that a process has told of; a kill may have cut the last line."""
    path = folder / f"rank-{rank}.trace"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ranks_of(world: int) -> list[dict[str, str]]:
    """What torchrun puts into the environment of each process; nothing for one."""
    if world == 1:
        return [{}]
    common = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [
        {name: str(value) for name, value in (common | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        for rank in range(world)
    ]


@pytest.fixture(scope="session")
def launch(tiny_shards: Path) -> Iterator[Launch]:
    """`launch(out, "--run.strategy fsdp", world=2)`: start `jepa pretrain` with tests/micro.yaml in processes.

    `mischief` is what `worker.py` does to some of them: {rank: [(name, arguments)]}.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jepa.training.trainer", "jepa.commands.pretrain", "torch.utils.tensorboard"])
    crews: list[Crew] = []

    def start(
        out: Path,
        options: str = "",
        *,
        world: int = 1,
        mischief: Mapping[int, Sequence[Mischief]] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Crew:
        folder = next(path for n in range(1, 100) if not (path := out.with_name(f"{out.name}.start-{n}")).exists())
        folder.mkdir(parents=True)
        command = f"pretrain --config {MICRO} --data {tiny_shards} --out {out} {options}".split()
        processes = []
        for rank, variables in enumerate(ranks_of(world)):
            job = {
                "command": command,
                "environ": {"JEPA_CACHE": os.environ["JEPA_CACHE"], **variables, **(environ or {})},
                "mischief": (mischief or {}).get(rank, ()),
                "stdout": str(folder / f"rank-{rank}.out"),
                "stderr": str(folder / f"rank-{rank}.err"),
                "trace": str(folder / f"rank-{rank}.trace"),
            }
            target = {"args": (str(HERE / "worker.py"), {"JOB": job}, "worker")}
            processes.append(context.Process(target=runpy.run_path, **target))
            processes[-1].start()
        crews.append(Crew(processes, folder))
        return crews[-1]

    yield start
    for crew in crews:
        crew.kill()


@dataclass(frozen=True)
class Whole:
    """A run that nothing has interrupted."""

    out: Path
    options: str
    """With which it was launched."""
    first: Path
    """Folder of its launch."""

    @property
    def steps(self) -> list[dict[str, Any]]:
        return steps_in(self.first)


@pytest.fixture(scope="session")
def mixed(tiny_shards: Path) -> str:
    """Options of all these runs: images beside the videos, to tests/micro.yaml, which has dropout of paths."""
    return (
        f"--images.data {tiny_shards} --images.share 0.5 --images.batch_size 4 --images.size 24 "
        "--run.record_order true --run.timeout 120"
    )


def whole_run(launch: Launch, once: Once, options: str, name: str, world: int) -> Whole:
    folder = once(f"ranks-{name}", lambda made: _done(launch, made / "run", options, world))
    return Whole(folder / "run", options, folder / "run.start-1")


def _done(launch: Launch, out: Path, options: str, world: int) -> None:
    launch(out, options, world=world).done()


@pytest.fixture(scope="session")
def single(launch: Launch, once: Once, mixed: str) -> Whole:
    """A run of one process."""
    return whole_run(launch, once, mixed, "single", 1)


@pytest.fixture(scope="session")
def pair(launch: Launch, once: Once, mixed: str) -> Whole:
    """The same run by two processes with a copy of the model each."""
    return whole_run(launch, once, mixed, "pair", 2)


@pytest.fixture(scope="session")
def divided(launch: Launch, once: Once, mixed: str) -> Whole:
    """The same run by two processes that have divided the model."""
    return whole_run(launch, once, f"{mixed} --run.strategy fsdp", "divided", 2)


def tensors(out: Path) -> dict[str, Tensor]:
    """Every tensor that training has touched: weights, moments, and the result."""
    store = CheckpointStore(out / "checkpoints")
    newest = store.newest()
    assert newest is not None
    state = store.load(newest)
    found = {f"state/{name}": tensor for name, tensor in state["state_dict"].items()}
    for name, moments in state["optimizer"]["state"].items():
        found |= {f"moments/{name}/{kind}": value for kind, value in moments.items()}
    return found | {f"model/{name}": tensor for name, tensor in load_file(out / "model.safetensors").items()}


def _assert_same(one: Path, other: Path) -> None:
    expected, found = tensors(one), tensors(other)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert OrderFile(other / "order.jsonl").read() == OrderFile(one / "order.jsonl").read()


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Path, Path], None]:
    """`assert_same(one, other)`: two run folders hold the same, bit by bit, and have seen the same clips."""
    return _assert_same


def _assert_close(one: Path, other: Path) -> None:
    expected, found = tensors(one), tensors(other)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if not name.startswith("moments/"):  # AdamW divides by them: where a gradient is nearly 0, rounding decides
            torch.testing.assert_close(found[name], value, rtol=0, atol=2e-4, msg=lambda text, n=name: f"{n}: {text}")
    assert OrderFile(other / "order.jsonl").read() == OrderFile(one / "order.jsonl").read()


@pytest.fixture(scope="session")
def assert_close() -> Callable[[Path, Path], None]:
    """`assert_close(one, other)`: two run folders hold the same up to rounding, and have seen the same clips."""
    return _assert_close
