"""Run folders as pretraining and probing leave them, with plausible numbers and without any training."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

MOTIONS = ("bounce", "roll left", "roll right", "orbit", "pendulum", "spring", "collide", "topple")
SHAPES = ("circle", "square", "triangle")
COLUMNS = ("step", "position", "loss", "lr", "weight_decay", "momentum", "grad_norm", "feature_std", "effective_rank",
           "clips_per_second")  # fmt: skip

Make = Callable[..., Path]


def write_metrics(folder: Path, steps: int = 3000, every: int = 20, seed: int = 0) -> None:
    """metrics.csv of a run whose loss falls and whose rank rises."""
    rng = np.random.default_rng(seed)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for step in range(every, steps + 1, every):
            done = step / steps
            rate = 5e-4 * min(done / 0.1, 1) * (0.5 + 0.5 * np.cos(np.pi * done))
            writer.writerow([
                step, step * 32, 0.35 + 0.4 * np.exp(-4 * done) + rng.normal(0, 0.012), rate, 0.04,
                0.998 + 0.002 * done, 0.8 + rng.exponential(0.2), 0.55 + 0.3 * done + rng.normal(0, 0.01),
                12 + 30 * done**0.5 + rng.normal(0, 0.4), 260 + rng.normal(0, 6),
            ])  # fmt: skip


def write_results(folder: Path, seed: int = 0) -> None:
    """results.jsonl and predictions of four encoders, two tasks and three probes."""
    rng = np.random.default_rng(seed)
    levels = {"pretrained": 0.64, "reconstruction": 0.52, "random": 0.22, "pixels": 0.4}
    (folder / "predictions").mkdir(exist_ok=True)
    lines = []
    for task, classes in (("motion", MOTIONS), ("shape", SHAPES)):
        chance = 1 / len(classes)
        for encoder, level in levels.items():
            for probe, factor in (("linear", 0.9), ("attentive", 1.0), ("knn", 0.6)):
                truth = rng.integers(len(classes), size=1000)
                right = rng.random(1000) < max(level * factor, chance)
                near = np.where(rng.random(1000) < 0.6, truth ^ 1, rng.integers(len(classes), size=1000))
                predicted = np.where(right, truth, near % len(classes))
                value = float((truth == predicted).mean())
                half = 1.96 * (value * (1 - value) / 1000) ** 0.5
                lines.append({
                    "task": task, "encoder": encoder, "probe": probe, "metric": "accuracy", "value": value,
                    "low": value - half, "high": value + half, "count": 1000, "seed": 0, "config_hash": "c0ffee",
                    "checkpoint_hash": "ab12cd34ef56", "classes": len(classes), "chance": chance,
                    "settings": {"lr": 0.001, "weight_decay": 0.01}, "data": "synthetic",
                })  # fmt: skip
                name = f"{task}-{encoder}-{probe}.json"
                content = {"classes": classes, "truth": truth.tolist(), "predicted": predicted.tolist()}
                (folder / "predictions" / name).write_text(json.dumps(content))
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_config(folder: Path, target: str = "ema", data: str = "gone") -> None:
    (folder / "config.yaml").write_text(
        f"# jepa pretrain --config {folder}/config.yaml --resume\ndata: {data}\nseed: 0\n"
        "model:\n  size: nano\n  patch: 8\n  tubelet: 2\nclip:\n  frames: 16\n  stride: 1\n  size: 32\n  fps: null\n"
        f"objective:\n  target: {target}\nmasks:\n  collation: fixed\noptim:\n  learning_rate: 5.0e-04\n"
    )
    environment = {
        "time": "2026-01-31T12:00:00+0000", "command": "jepa demo --out runs/demo", "jepa": "0.1.0",
        "git_commit": "0123456789abcdef", "python": "3.12.1", "packages": {"torch": "2.10.0", "lightning": "2.6.6"},
        "platform": "Linux", "cpus": 2, "threads": 1, "gpus": [],
    }  # fmt: skip
    (folder / "environment.json").write_text(json.dumps(environment))


@pytest.fixture
def make_run(tmp_path: Path) -> Make:
    """A function that makes a run folder: everything but weights and videos."""

    def make(name: str = "demo", *, stage: bool = True, seed: int = 0) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        write_metrics(folder, seed=seed)
        write_config(folder)
        write_results(folder, seed)
        if stage:
            first = folder / "stages" / "reconstruction"
            first.mkdir(parents=True)
            write_metrics(first, steps=1500, seed=seed + 1)
            write_config(first, target="pixels")
        return folder

    return make
