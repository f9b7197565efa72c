"""The probe that looks on: it sees what `jepa probe` sees, and the training does not notice."""

import logging
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from torch import Tensor, nn

from jepa.checkpoints.load import load_encoder
from jepa.cli import main
from jepa.errors import ConfigError, DataError
from jepa.eval.clips import choose_tasks, open_evaluation_data
from jepa.eval.features import token_table, view_of
from jepa.eval.linear import LinearConfig
from jepa.eval.metrics import accuracy
from jepa.eval.online import OnlineProbe, rows_of
from jepa.eval.probes import Features, ProbesConfig, run_probe
from jepa.eval.probes_file import ProbesFile
from jepa.models.encoder import Encoder
from jepa.training.collapse import CHANCE, KNN
from jepa.training.config import PretrainConfig
from jepa.training.online_config import OnlineConfig
from jepa.training.trainer import pretrain

Configure = Callable[..., PretrainConfig]


@pytest.fixture
def probed(micro: Configure, tiny_shards: Path) -> Callable[..., PretrainConfig]:
    """`probed(online={...}, max_steps=...)`: the micro run with a probe of `motion` every three steps."""

    def configure(online: dict[str, Any] | None = None, **changes: object) -> PretrainConfig:
        own = {"data": str(tiny_shards), "every": 3, "clips": 10, "tasks": ["motion"]} | (online or {})
        return micro(**changes, online=own)

    return configure


def probe(run: PretrainConfig) -> list[Callback]:
    return [OnlineProbe(run)]


def lines(config: PretrainConfig) -> list[dict[str, Any]]:
    """What the probe has found, but for how long it took."""
    found = ProbesFile(config.out / "probes.jsonl").read()
    assert all(line.pop("seconds") > 0 for line in found)
    return found


class Untouched(Callback):
    """Between two of these nothing is changed: random state, modes, gradients, weights."""

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        modes = [part.training for part in module.modules()]
        kept = [(name, value.clone(), value.requires_grad) for name, value in module.named_parameters()]
        gradients = [None if value.grad is None else value.grad.clone() for value in module.parameters()]
        self.seen.append((torch.get_rng_state(), modes, kept, gradients))


def test_the_training_does_not_notice(probed: Callable[..., PretrainConfig], micro: Configure, tmp_path: Path) -> None:
    config, alone = probed(), micro(out=str(tmp_path / "alone"))
    before: list[Any] = []
    after: list[Any] = []
    pretrain(config, lambda run: [Untouched(before), OnlineProbe(run), Untouched(after)])
    assert [line["step"] for line in lines(config)] == [3, 3, 6, 6, 8, 8]
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one[0], other[0])
        assert one[1] == other[1]
        for first, second in zip(one[2], other[2], strict=True):
            assert (first[0], first[2]) == (second[0], second[2])
            assert torch.equal(first[1], second[1])
        for gradient, later in zip(one[3], other[3], strict=True):
            assert (gradient is None and later is None) or torch.equal(gradient, later)
    pretrain(alone)
    weights = [load_file(run.out / "model.safetensors") for run in (config, alone)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_it_finds_what_the_probes_find(probed: Callable[..., PretrainConfig], tiny_shards: Path) -> None:
    config = probed({"every": 8, "k": 5})
    looking = OnlineProbe(config)
    pretrain(config, lambda _: [looking])
    encoder = load_encoder(config.out)
    data = open_evaluation_data(tiny_shards, seed=config.seed, limit=10)
    tables = [
        token_table(encoder, part, view_of(encoder), loader=config.loader).step_means()
        for part in (data.train, data.test)
    ]
    settings = ProbesConfig(knn=type(ProbesConfig().knn)(k=5), linear=LinearConfig((10.0, 1.0, 0.1, 0.01, 0.001)))
    [task] = choose_tasks(data, ["motion"])
    for line, kind in zip(lines(config), ("knn", "linear"), strict=True):
        answers = run_probe(kind, Features(*tables), task, settings, seed=config.seed)  # type: ignore[arg-type]
        expected = accuracy(answers.predicted, task.test_targets, len(task.classes))
        assert (line["task"], line["probe"], line["accuracy"]) == ("motion", kind, expected.value)
        assert (line["low"], line["high"], line["count"]) == (expected.low, expected.high, expected.count)
        assert looking.columns[f"online/{kind}/motion"] == expected.value
    # The names that the alarms go by.
    assert set(looking.columns) == {f"{KNN}motion", f"{CHANCE}motion", "online/linear/motion"}


def test_its_results_are_scalars_of_the_loggers(probed: Callable[..., PretrainConfig]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = probed()
    pretrain(config, probe)
    events = EventAccumulator(str(config.out / "tensorboard")).Reload()
    found = {line["step"]: line["accuracy"] for line in lines(config) if line["probe"] == "linear"}
    scalars = {event.step: event.value for event in events.Scalars("online/linear/motion")}
    assert scalars == pytest.approx(found)


def test_a_resumed_run_has_the_lines_of_one_that_was_never_stopped(
    probed: Callable[..., PretrainConfig], tmp_path: Path
) -> None:
    whole, part = probed(out=str(tmp_path / "whole")), probed(max_steps=3)
    pretrain(whole, probe)
    pretrain(part, probe)
    # What a run leaves that was killed after its checkpoint: lines of steps that it does again, and half a line.
    file = ProbesFile(part.out / "probes.jsonl")
    file.append([{"step": 6, "seconds": 1.0, "task": "motion"}])
    file.path.write_bytes(file.path.read_bytes() + b'{"step": 6, "ta')
    again = probed(resume=True)
    pretrain(again, probe)
    assert lines(again) == lines(whole)


def test_batches_have_the_shape_of_the_training_s(
    probed: Callable[..., PretrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = probed()
    shapes: list[tuple[int, ...]] = []
    tables: list[tuple[int, int]] = []
    begin = Encoder.begin

    def watched(self: Encoder, clips: Tensor, *arguments: Any) -> Any:
        shapes.append(tuple(clips.shape))
        return begin(self, clips, *arguments)

    def features(train: Tensor, test: Tensor) -> Features:
        tables.append((len(train), len(test)))
        return Features(train, test)

    monkeypatch.setattr(Encoder, "begin", watched)
    monkeypatch.setattr("jepa.eval.online.Features", features)
    pretrain(config, probe)
    # Two encoders in eight steps, two masks for one of them; three probes of 10 + 10 clips in batches of 4.
    assert len(shapes) == 8 * 3 + 3 * 6
    assert set(shapes) == {(4, 3, 4, 32, 32)}
    assert set(tables) == {(10, 10)}, "what fills the last batch up is no clip"


@pytest.mark.parametrize(
    ("processes", "device_batch", "expected"), [(1, None, 4), (2, None, 2), (1, 2, 2), (2, 1, 1), (1, 3, 2)]
)
def test_rows_of_a_part(micro: Configure, processes: int, device_batch: int | None, expected: int) -> None:
    assert rows_of(micro(run={"device_batch": device_batch}), processes) == expected


def test_clips_that_cannot_be_read_end_the_probe_and_not_the_run(
    probed: Callable[..., PretrainConfig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Iterator[Any]:
        raise DataError("clip 7 is damaged")
        yield

    monkeypatch.setattr("jepa.eval.online.evaluation_batches", broken)
    config = probed()
    with caplog.at_level(logging.WARNING):
        assert pretrain(config, probe).steps == 8
    assert [record.getMessage() for record in caplog.records if "online" in record.getMessage()] == [
        "step 3: clip 7 is damaged; the training goes on without the online probe"
    ]
    assert not lines(config)


def test_an_encoder_that_says_nothing_is_no_error(
    probed: Callable[..., PretrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def flat(self: nn.Module, clips: Tensor) -> Tensor:
        return torch.ones(len(clips), 32, 96)

    monkeypatch.setattr("jepa.checkpoints.frozen.FrozenEncoder.forward", flat)
    config = probed()
    pretrain(config, probe)
    assert all(line["accuracy"] <= 0.5 for line in lines(config))


def one_class(shards: Path, folder: Path) -> Path:
    """A folder of videos in one sub-folder."""
    videos = folder / "labelled" / "same"
    videos.mkdir(parents=True)
    with tarfile.open(next(shards.rglob("*.tar"))) as shard:
        shard.extractall(videos, [member for member in shard if member.name.endswith(".mp4")][:8], filter="data")
    return folder / "labelled"


@pytest.mark.parametrize(
    ("options", "code", "parts"),
    [
        ("--online.data DATA --online.tasks weather", 3, ("online.data: no training clip of ", "labels there: ")),
        ("--online.data ONE", 3, ("online.data: ", "one class only (same)")),
        ("--online.data NONE", 3, ("online.data: ", "none")),
        ("--online.data DATA --clip.frames 12", 3, ("online.data: ", "frames")),
        ("--online.data DATA --online.every 0", 2, ("online.every is 0, expected at least 1",)),
    ],
)
def test_wrong_labels_end_the_command_before_anything_is_written(
    options: str,
    code: int,
    parts: tuple[str, ...],
    tmp_path: Path,
    tiny_shards: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"DATA": str(tiny_shards), "ONE": str(one_class(tiny_shards, tmp_path)), "NONE": str(tmp_path / "none")}
    given = [places.get(word, word) for word in options.split()]
    run = tmp_path / "run"
    assert (
        main(["pretrain", "--config", "tests/micro.yaml", "--data", places["DATA"], "--out", str(run), *given]) == code
    )
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(part in told for part in parts), told
    assert not run.exists()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_find_what_one_finds(
    strategy: str, probed: Callable[..., PretrainConfig], micro: Configure, tiny_shards: Path, tmp_path: Path
) -> None:
    config = probed()
    pretrain(config, probe)
    options = f"--config tests/micro.yaml --data {tiny_shards} --run.strategy {strategy} --out"
    more = f"--online.data {tiny_shards} --online.every 3 --online.clips 10 --online.tasks motion"
    for out, online in (("with", more), ("without", "")):
        command = (
            f"-m torch.distributed.run --standalone --nproc-per-node 2 -m jepa pretrain {options} {tmp_path / out}"
        )
        subprocess.run([sys.executable, *command.split(), *online.split()], check=True, timeout=600)
    assert lines(replace(config, out=tmp_path / "with")) == lines(config)
    first, second = (load_file(tmp_path / out / "model.safetensors") for out in ("with", "without"))
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_values_out_of_range() -> None:
    for values, message in (
        ({"every": 0}, "online.every is 0"),
        ({"clips": 1}, "online.clips is 1, expected at least 2"),
        ({"k": 0}, "online.k is 0"),
        ({"probes": ()}, "online.probes is empty"),
    ):
        with pytest.raises(ConfigError, match=message):
            OnlineConfig(**values)


def test_a_probe_without_clips_is_refused(micro: Configure) -> None:
    with pytest.raises(ConfigError, match=r"set online\.data"):
        OnlineProbe(micro())
