"""What people get wrong, verb by verb: one line that says so on stderr, nothing on stdout, the documented exit code.

Through the command line, as a user meets it. Log lines (they start with the time) may come before the error line.
"""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from jepa.checkpoints.folder import CONFIG, WEIGHTS, save_folder
from jepa.cli import VERBS, main
from jepa.data.synthetic.video import encode_h264
from jepa.models.build import ModelConfig, build_jepa

ROOT = Path(__file__).parents[1]
CONFIGURATION, DATA = 2, 3
READERS = ("pack", "pretrain", "probe", "extract")
"""Verbs that read videos."""
LOADERS = ("probe", "extract", "pretrain")
"""Verbs that load an encoder (pretrain: to start from)."""


def video(frames: int) -> bytes:
    return encode_h264(np.random.default_rng(frames).integers(0, 255, (frames, 32, 32, 3), np.uint8), 8)


@dataclass(frozen=True)
class Bench:
    """Good things to use and a folder of bad ones."""

    good: Path
    """Shards with labels."""
    encoder: Path
    """A run folder with weights: clips of 4 frames at stride 2 span 7."""
    bad: Path
    out: Path

    def arguments(
        self, verb: str, *, data: Path | None = None, encoder: Path | None = None, out: Path | None = None
    ) -> list[str]:
        """A command that is right but for what is given."""
        words: dict[str, list[object]] = {
            "pack": ["pack", data or self.bad / "fine", "--out", out or self.out, "--workers=0"],
            "pretrain": [
                "pretrain", f"--config={ROOT}/tests/micro.yaml", "--data", data or self.good, "--out", out or self.out,
                *(["--init", encoder] if encoder else []),
            ],
            "probe": [
                "probe", "--encoder", encoder or self.encoder, "--data", data or self.good, "--out", out or self.out,
                "--loader.workers=0",
            ],
            "extract": [
                "extract", "--encoder", encoder or self.encoder, "--data", data or self.good, "--out", out or self.out,
                "--workers=0",
            ],
            "report": ["report", encoder or self.encoder, *(["--out", out] if out else [])],
            "synth": ["synth", "--out", out or self.out, "--clips", "20"],
        }  # fmt: skip
        return [str(word) for word in words[verb]]


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> Path:
    """The bad things; `fine` is a good folder of videos."""
    root = tmp_path_factory.mktemp("bad")
    for folder in ("empty", "text", "cut", "fine", "short/x", "short/y", "one_short"):
        (root / folder).mkdir(parents=True)
    (root / "file").write_text("not a folder")
    (root / "text" / "a.mp4").write_text("not a video\n" * 100)
    whole = video(20)
    (root / "cut" / "a.mp4").write_bytes(whole[: len(whole) // 2])
    for number in range(4):
        (root / "fine" / f"{number}.mp4").write_bytes(whole)
        (root / "one_short" / f"{number}.mp4").write_bytes(video(3) if number == 2 else whole)
        for name in "xy":
            (root / "short" / name / f"{number}.mp4").write_bytes(video(3))
    shutil.copytree(tiny_shards, root / "cut_shards")
    for tar in (root / "cut_shards").rglob("*.tar"):
        tar.write_bytes(tar.read_bytes()[:-512])
    return root


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run` is an encoder, nothing else is."""
    root = tmp_path_factory.mktemp("encoders")
    jepa = build_jepa(ModelConfig(size="nano", patch=8, predictor_depth=1), frames=4, size=32)
    save_folder(root / "run", jepa, facts={"evaluate": "target", "clip": {"stride": 2}})
    (root / "notes.txt").write_text("not weights")
    (root / "folder").mkdir()
    for name in ("text", "others", "half"):
        (root / name).mkdir()
        shutil.copy(root / "run" / CONFIG, root / name)
    (root / "text" / WEIGHTS).write_text("not weights")
    save_file({"mean": torch.zeros(2)}, root / "others" / WEIGHTS)
    (root / "half" / WEIGHTS).write_bytes((root / "run" / WEIGHTS).read_bytes()[:5000])
    save_file({"mean": torch.zeros(2)}, root / "alone.safetensors")
    return root


@pytest.fixture
def bench(tiny_shards: Path, bad: Path, encoders: Path, tmp_path: Path) -> Bench:
    return Bench(tiny_shards, encoders / "run", bad, tmp_path / "out")


def fails(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The error line of a command that must end with this code and say one line."""
    verb = arguments[0]
    assert main(arguments) == code, capsys.readouterr().err
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    *log, last = printed.err.splitlines()
    assert last.startswith(f"jepa {verb}: error: ")
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in log), printed.err
    return last


def test_the_codes_are_the_documented_ones() -> None:
    table = dict(re.findall(r"^\| (\d+) \| (.*) \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE))
    assert table[str(CONFIGURATION)].startswith("usage or configuration")
    assert table[str(DATA)].startswith("data or weights")


@pytest.mark.parametrize("verb", READERS)
@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("nowhere", "no such file or folder: {path}"),
        ("empty", "no videos in {path}"),
        ("text", "{path}/a.mp4: no video that FFmpeg can read"),
        ("text/a.mp4", "{path}: no video that FFmpeg can read"),
        ("cut", "{path}/a.mp4: the index (moov) of this mp4 file is missing or damaged"),
        ("cut/a.mp4", "{path}: the index (moov) of this mp4 file is missing or damaged"),
    ],
)
def test_data_that_cannot_be_read(
    bench: Bench, verb: str, data: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bench.bad / data
    assert words.format(path=path) in fails(bench.arguments(verb, data=path), DATA, capsys)
    assert not list(bench.out.glob("*")), "nothing is left behind"


@pytest.mark.parametrize("verb", ["pretrain", "probe", "extract"])
def test_videos_shorter_than_a_clip(bench: Bench, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(bench.arguments(verb, data=bench.bad / "short"), DATA, capsys)
    assert "has 3 frames, a clip of 4 frames at stride 2 needs 7" in line


def test_one_short_video_among_good_ones_is_named_before_training(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fails(bench.arguments("pretrain", data=bench.bad / "one_short"), DATA, capsys)
    assert "video 2.mp4 has 3 frames" in line
    assert "clip.short: repeat" in line
    assert not (bench.out / "checkpoints").exists()


@pytest.mark.parametrize("verb", ["pretrain", "probe", "extract"])
def test_shards_that_were_cut(bench: Bench, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(bench.arguments(verb, data=bench.bad / "cut_shards"), DATA, capsys)
    assert "shard-000000.tar has" in line
    assert "cut off or only partly copied" in line


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_key(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("# mine\nnonsense: 1\n")
    assert f"{path}:2: unknown key 'nonsense'" in fails([verb, "--config", str(path)], CONFIGURATION, capsys)
    assert "unknown option '--nonsense'" in fails([verb, "--nonsense", "1"], CONFIGURATION, capsys)


def test_a_misspelt_key_is_told_its_name(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("optim:\n  learning_rat: 1e-3\n")
    command = bench.arguments("pretrain")
    line = fails([*command, "--config", str(path)], CONFIGURATION, capsys)
    assert f"{path}:2: unknown key 'optim.learning_rat'; did you mean 'optim.learning_rate'?" in line
    line = fails([*command, "--optim.learning_rat=1e-3"], CONFIGURATION, capsys)
    assert "unknown option '--optim.learning_rat'; did you mean '--optim.learning_rate'?" in line


def test_a_batch_larger_than_the_data(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails([*bench.arguments("pretrain"), "--loader.batch_size", "25"], CONFIGURATION, capsys)
    assert "batch_size 25 is larger than the data set (24 clips" in line


@pytest.mark.parametrize("verb", ["pack", "pretrain", "probe", "extract", "report", "synth"])
@pytest.mark.parametrize("place", ["file/below", "/proc/jepa", "locked/below"])
def test_an_output_that_cannot_be_written(
    bench: Bench, verb: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if place.startswith("/proc") and not Path("/proc").is_dir():
        pytest.skip("no /proc")
    if place.startswith("locked") and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    root = bench.bad if place.startswith("file") else tmp_path
    assert str(root / place) in fails(bench.arguments(verb, out=root / place), CONFIGURATION, capsys)


@pytest.mark.parametrize("verb", ["pack", "pretrain", "probe", "extract", "synth"])
def test_an_output_folder_that_is_a_file(bench: Bench, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(bench.bad / "file") in fails(bench.arguments(verb, out=bench.bad / "file"), CONFIGURATION, capsys)
    assert (bench.bad / "file").read_text() == "not a folder"


@pytest.mark.parametrize("verb", LOADERS)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "no encoder at {path}"),
        ("notes.txt", "{path} is no encoder"),
        ("folder", "{path} holds no encoder: model.safetensors is missing"),
        ("alone.safetensors", "{path} holds no encoder: config.json is missing"),
        ("text", "{path}/model.safetensors cannot be read as safetensors"),
        ("text/model.safetensors", "{path} cannot be read as safetensors"),
        ("half", "{path}/model.safetensors cannot be read as safetensors"),
        ("others", "{path}/model.safetensors holds no tensors named"),
    ],
)
def test_a_file_that_is_no_encoder(
    bench: Bench, encoders: Path, verb: str, name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = encoders / name
    assert words.format(path=path) in fails(bench.arguments(verb, encoder=path), DATA, capsys)


def test_weights_of_another_architecture(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    command = bench.arguments("pretrain", encoder=bench.encoder)
    line = fails([*command, "--model.patch", "16"], DATA, capsys)
    assert f"{bench.encoder}/model.safetensors does not fit the encoder: 1 tensors differ" in line


@pytest.mark.parametrize(
    ("name", "words"),
    [("nowhere", "no such run folder"), ("notes.txt", "is no run folder"), ("folder", "is no run folder")],
)
def test_a_report_of_what_is_no_run(
    bench: Bench, encoders: Path, name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fails(bench.arguments("report", encoder=encoders / name), DATA, capsys)
    assert words in line
    assert str(encoders / name) in line
