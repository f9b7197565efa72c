"""A run that was interrupted, anywhere and by anything, ends bit by bit like one that was not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jepa import config as configuration
from jepa.checkpoints.io import load_state
from jepa.commands.order import Config as OrderConfig
from jepa.commands.order import rows as order_rows
from jepa.data.synthetic.generate import generate
from jepa.data.synthetic.world import WorldConfig
from jepa.errors import ConfigError, InterruptedRun
from jepa.rng import generator
from jepa.training.config import PretrainConfig
from jepa.training.metrics import CLOCKED, MetricsFile
from jepa.training.order_file import OrderFile
from jepa.training.trainer import pretrain

DuringStep = Callable[..., None]
Configure = Callable[..., PretrainConfig]


def outcome(out: Path) -> dict[str, torch.Tensor]:
    """Every tensor that training has touched: weights, and AdamW's moments."""
    state = load_state(out / "checkpoints" / "last.ckpt")
    tensors: dict[str, torch.Tensor] = dict(state["state_dict"])
    for parameter, moments in state["optimizer"]["state"].items():
        tensors |= {f"{parameter}.{name}": value for name, value in moments.items()}
    return tensors


def rows(out: Path) -> list[dict[str, float]]:
    return [
        {name: value for name, value in row.items() if name not in CLOCKED}
        for row in MetricsFile(out / "metrics.csv").read()
    ]


def assert_same(one: Path, other: Path) -> None:
    expected, found = outcome(one), outcome(other)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    saved, again = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert all(torch.equal(saved[name], again[name]) for name in saved)


@pytest.fixture(scope="module")
def whole(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted run."""
    base = configuration.read_layer(PretrainConfig, Path(__file__).parents[1] / "micro.yaml")
    out = tmp_path_factory.mktemp("whole") / "run"
    paths = configuration.make_layer(PretrainConfig, {"data": str(tiny_shards), "out": str(out)}, "test")
    pretrain(configuration.resolve(PretrainConfig, [base, paths]).build())
    return out


@pytest.mark.parametrize("cut", [1, 3, 4, 7])
def test_cut_by_max_steps(micro: Configure, whole: Path, cut: int) -> None:
    config = micro()
    pretrain(replace(config, max_steps=cut))
    pretrain(replace(config, resume=True))
    assert_same(whole, config.out)
    assert [row for row in rows(config.out) if row["step"] != cut or row in rows(whole)] == rows(whole)


def test_cut_several_times(micro: Configure, whole: Path) -> None:
    config = micro()
    for steps in (2, 5, 6, 8):
        pretrain(replace(config, max_steps=steps, resume=True))
    assert_same(whole, config.out)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_stopped_by_a_signal(
    micro: Configure,
    whole: Path,
    number: signal.Signals,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    during_step: DuringStep,
) -> None:
    config = micro()
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        during_step(patch, 5, lambda: os.kill(os.getpid(), number))
        with pytest.raises(InterruptedRun, match="after step 5 of 8") as caught:
            pretrain(config)
    assert caught.value.exit_code == code
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    # Exactly what the message says.
    assert f"jepa pretrain --config {config.out}/config.yaml --resume" in str(caught.value)
    assert not (config.out / "model.safetensors").exists()
    pretrain(replace(configuration.load(PretrainConfig, config.out / "config.yaml"), resume=True))
    assert_same(whole, config.out)
    assert rows(config.out) == rows(whole)


def test_ctrl_c_twice_ends_at_once(micro: Configure, monkeypatch: pytest.MonkeyPatch, during_step: DuringStep) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    config = micro()
    before = signal.getsignal(signal.SIGINT)
    during_step(monkeypatch, 5, twice)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config)
    assert signal.getsignal(signal.SIGINT) == before
    assert load_state(config.out / "checkpoints" / "last.ckpt")["jepa"]["step"] == 3


def test_crashed_between_checkpoints(
    micro: Configure, whole: Path, monkeypatch: pytest.MonkeyPatch, during_step: DuringStep
) -> None:
    def crash() -> None:
        raise RuntimeError("the power went out")

    config = micro()
    with monkeypatch.context() as patch:
        during_step(patch, 6, crash)
        with pytest.raises(RuntimeError, match="power"):
            pretrain(config)
    assert [row["step"] for row in rows(config.out)] == [1, 2, 4]  # beyond the checkpoint of step 3
    pretrain(replace(config, resume=True))
    assert_same(whole, config.out)
    assert rows(config.out) == rows(whole)


def test_crashed_before_the_first_checkpoint(
    micro: Configure,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    during_step: DuringStep,
) -> None:
    def crash() -> None:
        raise RuntimeError("the power went out")

    config = micro()
    with monkeypatch.context() as patch:
        during_step(patch, 3, crash)
        with pytest.raises(RuntimeError, match="power"):
            pretrain(config)
    with caplog.at_level("INFO", "jepa"):
        pretrain(replace(config, resume=True))
    assert "nothing to resume" in caplog.text
    assert_same(whole, config.out)
    assert rows(config.out) == rows(whole)


def test_killed_between_the_last_checkpoint_and_the_model(micro: Configure, whole: Path) -> None:
    config = micro()
    pretrain(config)
    (config.out / "model.safetensors").unlink()
    pretrain(replace(config, resume=True))
    assert_same(whole, config.out)
    assert rows(config.out) == rows(whole)


def test_a_finished_run_says_so_and_is_left_alone(micro: Configure, caplog: pytest.LogCaptureFixture) -> None:
    config = micro()
    first = pretrain(config)
    before = {path: path.stat().st_mtime_ns for path in config.out.rglob("*")}
    with caplog.at_level("INFO", "jepa"):
        assert pretrain(replace(config, resume=True)) == first
    assert "is finished: 8 of 8 steps" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in config.out.rglob("*")} == before


def test_another_number_of_workers(micro: Configure, whole: Path) -> None:
    config = micro(max_steps=3)
    pretrain(config)
    more = replace(config, max_steps=None, resume=True, loader=replace(config.loader, workers=2, prefetch=1))
    pretrain(more)
    assert_same(whole, config.out)


def test_other_data_is_refused(micro: Configure, tmp_path: Path) -> None:
    config = micro(max_steps=3)
    pretrain(config)
    generate(WorldConfig(), tmp_path / "other", clips=8, test_fraction=0.25, seed=1, workers=0)
    with pytest.raises(ConfigError, match="cannot resume on other data"):
        pretrain(replace(config, data=tmp_path / "other", max_steps=None, resume=True))


def start(config: PretrainConfig, *options: str, start_new_session: bool = False) -> subprocess.Popen[str]:
    """A real process, told apart from its parent; returns after its first optimizer step."""
    file = config.out.parent / "start.yaml"
    file.write_text(configuration.to_yaml(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "jepa", "pretrain", "--config", str(file), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    )
    while not MetricsFile(config.out / "metrics.csv").read():
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    return process


def test_ctrl_c_in_a_real_process(micro: Configure) -> None:
    config = micro(optim={"steps": 100_000})
    process = start(config)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert f"--config {config.out}/config.yaml --resume" in err.splitlines()[-1]
    state = load_state(config.out / "checkpoints" / "last.ckpt")
    assert state["jepa"]["position"] == 4 * state["jepa"]["step"] > 0


@pytest.mark.slow
def test_a_scheduler_that_signals_every_process_of_the_job(micro: Configure) -> None:
    config = micro(optim={"steps": 100_000})
    config = replace(config, loader=replace(config.loader, workers=2, cache_gb=0))
    process = start(config, start_new_session=True)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "Traceback" not in err
    assert "state saved; continue with" in err.splitlines()[-1]
    state = load_state(config.out / "checkpoints" / "last.ckpt")
    assert state["jepa"]["position"] == 4 * state["jepa"]["step"] > 0


@pytest.mark.slow
def test_killed_at_random_moments(micro: Configure, whole: Path) -> None:
    config = micro(run={"device": "cpu", "threads": 1, "checkpoint_every": 5}, optim={"steps": 300, "warmup_steps": 2})
    pretrain(replace(config, out=config.out.parent / "whole"))
    for delay in (0.0, 0.3, 0.9):
        process = start(config, "--resume")
        time.sleep(delay)
        process.kill()
        process.communicate(timeout=30)
    pretrain(replace(config, resume=True))
    assert_same(config.out.parent / "whole", config.out)


@pytest.mark.slow
def test_killed_ten_times_a_run_consumes_the_same_clips(micro: Configure, tiny_shards: Path, tmp_path: Path) -> None:
    """SIGKILL at ten random moments, each time resumed with another number of workers."""
    images = {"data": str(tiny_shards), "share": 0.25, "batch_size": 2, "size": 24}
    config = micro(
        run={"device": "cpu", "threads": 1, "checkpoint_every": 7, "record_order": True},
        optim={"steps": 600, "warmup_steps": 2},
        images=images,
    )
    count = config.steps.consumed(600)
    expected = [
        {name: value for name, value in row.items() if name not in ("shard", "rank")}
        for row in order_rows(OrderConfig(data=tiny_shards, count=count, **shared(config)))
    ]
    rng, file = generator(0, 0, "kill"), config.out / "order.jsonl"
    seen: list[int] = []
    for number in range(10):
        before = file.stat().st_ino if file.exists() else None
        process = start(config, "--resume", "--loader.workers", str(number % 3))
        # From when it is cut back, and training begins, to some thirty steps on; and anywhere in a step.
        begin, clips = None, int(rng.integers(100)) if number else 0
        while begin is None or len(OrderFile(file).read()) < begin + clips:
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.02)
            if begin is None and file.exists() and file.stat().st_ino != before:
                begin = len(OrderFile(file).read())
        time.sleep(rng.uniform(0.0, 0.05))
        process.kill()
        process.wait(timeout=30)
        for stream in (process.stdout, process.stderr):  # not to their end: processes it has started still hold them
            assert stream is not None
            stream.close()
        consumed = OrderFile(file).read()
        assert consumed == expected[: len(consumed)]
        seen.append(len(consumed))
    assert len(set(seen)) > 5, "the moments differ"
    assert max(seen) < count, "killed before the end"
    pretrain(replace(config, resume=True))
    assert OrderFile(file).read() == expected
    whole = replace(config, out=tmp_path / "whole", run=replace(config.run, record_order=False))
    pretrain(whole)
    assert_same(whole.out, config.out)


def shared(config: PretrainConfig) -> dict[str, Any]:
    """What decides the clips of a run."""
    return {name: getattr(config, name) for name in ("seed", "model", "clip", "images", "loader")}
