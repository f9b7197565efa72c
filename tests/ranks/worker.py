"""One process of a run, and what goes wrong in it: the command line in a fork of a server that has imported it.

Started by `conftest.py`, which passes `JOB`. What is done to a run is done here, from outside; nothing in the package
knows of it.
"""

import hashlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from jepa.cli import main
from jepa.errors import DataError
from jepa.objectives.latent import LatentPrediction
from jepa.training import trainer
from jepa.training.module import Pretraining

JOB: dict[str, Any] = globals()["JOB"]
Action = Callable[[int], object]


def at_steps(steps: Sequence[int], act: Action) -> None:
    """Do something within the forward pass of these steps, counted from 0; before the first of its parts only."""
    forward, left = LatentPrediction.__call__, list(steps)

    def call(self: LatentPrediction, jepa: Any, batch: Any, *args: Any, **options: Any) -> Any:
        if batch.step in left:
            left.remove(batch.step)
            act(batch.step)
        return forward(self, jepa, batch, *args, **options)

    LatentPrediction.__call__ = call  # type: ignore[method-assign]


def signals(names: Sequence[str], steps: Sequence[int]) -> None:
    """This process gets signals."""
    at_steps(steps, lambda _: [os.kill(os.getpid(), signal.Signals[name]) for name in names])


def dies(steps: Sequence[int], checkpoint: str) -> None:
    """This process is killed, when that checkpoint has been written."""

    def act(_: int) -> None:
        while not Path(checkpoint).exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    at_steps(steps, act)


def hangs(steps: Sequence[int], seconds: float) -> None:
    """This process does nothing for a while."""
    at_steps(steps, lambda _: time.sleep(seconds))


def no_number(steps: Sequence[int]) -> None:
    """The loss of this process is not a number, and so are its gradients."""
    forward = LatentPrediction.__call__

    def call(self: LatentPrediction, jepa: Any, batch: Any, *args: Any, **options: Any) -> Any:
        output = forward(self, jepa, batch, *args, **options)
        return replace(output, loss=output.loss * torch.nan) if batch.step in steps else output

    LatentPrediction.__call__ = call  # type: ignore[method-assign]


def no_data() -> None:
    """The data is not on the machine of this process."""

    def open_data(config: Any) -> Any:
        raise DataError("/mnt/data is not a folder: mount it")

    trainer.open_data = open_data  # type: ignore[assignment]


def bad_clip(steps: Sequence[int]) -> None:
    """A clip of this process cannot be read."""

    def act(step: int) -> None:
        raise DataError(f"clip {step} cannot be read: replace it")

    at_steps(steps, act)


def signals_in_preparation(name: str) -> None:
    """This process gets a signal while it opens its data."""
    opened = trainer.open_data

    def open_data(config: Any) -> Any:
        os.kill(os.getpid(), signal.Signals[name])
        return opened(config)

    trainer.open_data = open_data


def full_disk(steps: Sequence[int], most: int) -> None:
    """From this step on no file gets larger than so many bytes, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    at_steps(steps, lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY)))


def alarms(steps: Sequence[int]) -> None:
    """A watcher of this process raises an alarm for which the run is to stop."""
    from jepa.training.checkpointing import Checkpointing

    begin = Checkpointing.on_train_start

    def on_train_start(self: Checkpointing, *args: Any) -> None:
        def act(_: int) -> None:
            self.alarm = "all tokens are the same"

        at_steps(steps, act)
        begin(self, *args)

    Checkpointing.on_train_start = on_train_start  # type: ignore[method-assign]


MISCHIEF: dict[str, Callable[..., None]] = {
    act.__name__: act
    for act in (signals, dies, hangs, no_number, no_data, bad_clip, signals_in_preparation, full_disk, alarms)
}


def digest(module: torch.nn.Module) -> str:
    """Of the weights as they are in this process."""
    whole = hashlib.blake2b(digest_size=8)
    for value in module.state_dict().values():
        whole.update((value.to_local() if isinstance(value, DTensor) else value).contiguous().numpy().tobytes())
    return whole.hexdigest()


def trace(path: Path) -> None:
    """Write a line for each step of this process: its exact loss, and what it has made of the weights."""
    train = Pretraining.training_step

    def training_step(self: Pretraining, batch: Any, index: int) -> None:
        step, before = self.step, (digest(self.jepa.encoder), digest(self.jepa.target_encoder))
        try:
            train(self, batch, index)
        finally:
            line = {
                "step": step,
                "loss": None if self.output is None else float(self.output.loss),
                "norm": self.grad_norm,
                "verdict": self.verdict.value,
                "before": before,
                "after": (digest(self.jepa.encoder), digest(self.jepa.target_encoder)),
            }
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    Pretraining.training_step = training_step  # type: ignore[method-assign]


def run() -> int:
    os.setpgid(0, 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        with Path(JOB[name]).open("ab") as file:
            os.dup2(file.fileno(), number)
    os.environ.update(JOB["environ"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    for name, arguments in JOB["mischief"]:
        MISCHIEF[name](**arguments)
    trace(Path(JOB["trace"]))
    return main(JOB["command"])


sys.exit(run())
