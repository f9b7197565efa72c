"""The command line: help, options, precedence, exit codes, one-line errors."""

import errno
import importlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import yaml

import jepa
from jepa import cli, config
from jepa.arguments import field_docs
from jepa.cli import VERBS, main
from jepa.config import find_config, options, shipped_configs
from jepa.errors import ConfigError, DataError, DivergedError, InterruptedRun


@dataclass(frozen=True)
class Part:
    """Parts of it."""

    size: Literal["nano", "tiny"] = "nano"
    """Row of the table."""
    learning_rate: float = 1e-3
    """Peak rate."""


@dataclass(frozen=True)
class Sample:
    """A verb with every kind of option."""

    sources: list[str]
    """What to read."""
    out: Path
    """Where to write,
    100 % of it."""
    max_steps: int | None = None
    """When to stop."""
    resume: bool = False
    """Go on."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Two numbers."""
    part: Part = Part(size="tiny")
    """The part."""


class Verb:
    """Stands in for a module of `jepa.commands`, and remembers what it was run with."""

    SUMMARY = "do something"
    EXAMPLE = "jepa pack a.mp4 --out x"
    POSITIONAL = ("sources",)
    Config = Sample

    def __init__(self) -> None:
        self.config: Sample | None = None
        self.error: BaseException | None = None
        self.__doc__ = "Does something to videos.\n\nDetails."

    def run(self, config: Sample) -> int:
        self.config = config
        if self.error is not None:
            raise self.error
        print("result")
        return 0


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Verb:
    command = Verb()
    monkeypatch.setattr(cli, "load_command", lambda name: command)
    return command


def run(*arguments: str) -> int:
    return main(["pack", *arguments])


def process(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "jepa", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


# --- help ----------------------------------------------------------------------------------------------


def test_help_lists_every_verb_at_once_and_without_torch() -> None:
    code = (
        "import sys; from jepa.cli import main; main(['--help']); print(sorted(m for m in sys.modules if '.' not in m))"
    )
    seconds = []
    for _ in range(3):  # the fastest of three: another process may have had the core
        started = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        seconds.append(time.perf_counter() - started)
    for name, line in VERBS.items():
        assert f"{name} " in result.stdout
        assert line in result.stdout
    modules = result.stdout.splitlines()[-1]
    for heavy in ("torch", "numpy", "lightning", "jsonargparse", "rich"):
        assert f"'{heavy}'" not in modules
    assert min(seconds) < 0.5


def test_verbs_are_the_modules_of_commands_and_say_the_same() -> None:
    folder = Path(str(importlib.import_module("jepa.commands").__path__[0]))
    assert set(VERBS) == {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    for verb, line in VERBS.items():
        command = cli.load_command(verb)
        assert line == command.SUMMARY[:1].upper() + command.SUMMARY[1:]
        assert command.EXAMPLE.startswith(f"jepa {verb}")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_explains_with_example_and_defaults(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    text, command = capsys.readouterr().out, cli.load_command(verb)
    assert command.EXAMPLE in text
    assert "default: " in " ".join(text.split())
    for key, option in options(command.Config).items():
        assert field_docs(option.group)[key.split(".")[-1]], f"{key} has no docstring"


def test_help_shows_types_defaults_docstrings_and_positionals(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "usage: jepa pack SOURCES... [OPTIONS]",
        "Do something. Does something to videos. example: jepa pack a.mp4 --out x",
        "--out OUT Where to write, 100 % of it. (path; required)",
        "--max-steps MAX_STEPS When to stop. (int or null; default: null)",
        "--betas BETAS Two numbers. (list of 2: float, float; default: 0.9,0.95)",
        "--part.size SIZE Row of the table. (one of nano, tiny; default: tiny)",
        "part: Parts of it.",
    ):
        assert words in text
    assert verb.config is None


def test_version_and_no_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"jepa {jepa.__version__}\n"
    assert main([]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "verbs:" in output.err


# --- options -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", ["--max-steps 3", "--max_steps 3", "--max-steps=3"])
@pytest.mark.parametrize("rate", ["--part.learning_rate 1e-4", "--part.learning-rate=1e-4"])
def test_dashes_and_underscores_are_one(verb: Verb, steps: str, rate: str) -> None:
    assert run("a", *steps.split(), "--out", "x", *rate.split(), "b") == 0
    assert verb.config == Sample(["a", "b"], Path("x"), max_steps=3, part=Part("tiny", 1e-4))


@pytest.mark.parametrize(
    ("option", "value"),
    [("--resume", True), ("--resume=true", True), ("--resume=false", False), ("--resume false", False)],
)
def test_a_boolean_alone_means_true(verb: Verb, option: str, value: bool) -> None:
    assert run("--out", "x", *option.split(), "a") == 0
    assert verb.config == Sample(["a"], Path("x"), resume=value)


@pytest.mark.parametrize("value", ["0.1,0.2", "[0.1, 0.2]"])
def test_lists_are_written_with_commas(verb: Verb, value: str) -> None:
    assert run("a", "--out", "x", "--betas", value) == 0
    assert verb.config is not None
    assert verb.config.betas == (0.1, 0.2)


def test_null_undoes_a_value_of_a_file(verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("max_steps: 3")
    assert run("a", "--out", "x", "--config", str(tmp_path / "a.yaml"), "--max-steps", "null") == 0
    assert verb.config == Sample(["a"], Path("x"))


def test_defaults_then_files_in_order_then_command_line(verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("max_steps: 1\nresume: true\npart: {size: nano, learning_rate: 0.5}\nout: a\n")
    (tmp_path / "b.yaml").write_text("max_steps: 2\npart: {learning_rate: 0.25}\nsources: [c.mp4]\n")
    a, b = f"--config={tmp_path / 'a.yaml'}", f"--config={tmp_path / 'b.yaml'}"
    assert run("--part.learning_rate=0.125", a, b) == 0
    assert verb.config == Sample(["c.mp4"], Path("a"), max_steps=2, resume=True, part=Part("nano", 0.125))
    assert run(b, a, "d.mp4", "--out=x") == 0
    assert verb.config == Sample(["d.mp4"], Path("x"), max_steps=1, resume=True, part=Part("nano", 0.5))


def test_printed_configuration_reads_back(verb: Verb, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["a b", "--out", "x", "--max-steps", "7", "--part.size", "nano"]
    assert run(*options, "--print-config") == 0
    assert verb.config is None
    text = capsys.readouterr().out
    assert "max_steps: 7  # command line" in text
    (tmp_path / "printed.yaml").write_text(text)
    assert run("--config", str(tmp_path / "printed.yaml")) == 0
    assert verb.config == Sample(["a b"], Path("x"), max_steps=7, part=Part("nano"))


def test_printing_needs_no_required_options(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--print-config") == 0
    assert yaml.safe_load(capsys.readouterr().out)["part"] == {"size": "tiny", "learning_rate": 0.001}


# --- shipped configurations ----------------------------------------------------------------------------


def test_a_name_finds_the_shipped_file_of_its_verb(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("pretrain/demo", "eval/demo", "data/only"):
        path = tmp_path / "shipped" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("max_steps: 5\n")
    monkeypatch.setattr(config, "SHIPPED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()  # a folder of that name in the current one changes nothing
    assert find_config("pretrain", "demo")[0] == "pretrain/demo.yaml"
    assert find_config("probe", "demo")[0] == "eval/demo.yaml"
    assert find_config("pretrain", "only")[0] == "data/only.yaml"
    assert find_config("probe", "pretrain/demo")[0] == "pretrain/demo.yaml"
    assert run("a", "--out", "x", "--config", "data/only") == 0
    assert verb.config == Sample(["a"], Path("x"), max_steps=5)
    assert run("a", "--out", "x", "--config", "onyl") == 2
    message = capsys.readouterr().err
    assert "onyl: neither a file nor the name of a shipped configuration" in message
    assert "did you mean 'only'?; shipped: data/only, eval/demo, pretrain/demo" in message
    assert run("a", "--out", "x", "--config", "pretrain/dem") == 2
    assert "did you mean 'pretrain/demo'?" in capsys.readouterr().err


def test_demo_is_shipped_for_pretraining() -> None:
    assert "pretrain/demo" in shipped_configs()


# --- errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("a --out x --max-step 3", ["unknown option '--max-step'", "did you mean '--max-steps'?"]),
        ("a --out x --size nano", ["unknown option '--size'", "'--part.size'"]),
        ("a --out x -o y", ["unknown option '-o'"]),
        ("a --out x --max-steps many", ["--max-steps: expected int or null, got 'many'"]),
        ("a --out x --part.size huge", ["--part.size: expected one of nano, tiny, got 'huge'"]),
        ("a --out x --resume=maybe", ["--resume: expected true or false, got 'maybe'"]),
        ("a --out x --betas 1,2,3", ["--betas: expected list of 2: float, float"]),
        ("a --out", ["--out: expected a value"]),
        ("a --out --resume", ["--out: expected a value"]),
        ("a", ["missing --out", "example: jepa pack a.mp4 --out x"]),
        ("--out x", ["missing sources"]),
        ("a --out x --config absent.yaml", ["absent.yaml", "neither a file"]),
    ],
)
def test_a_usage_error_is_one_line_and_exit_2(
    verb: Verb, arguments: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments.split()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("jepa pack: error: ")
    assert output.err.count("\n") == 1
    for word in words:
        assert word in output.err
    assert verb.config is None


def test_an_unknown_key_names_file_line_key_and_the_nearest(
    verb: Verb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("out: x\npart:\n  learning_rat: 1\n")
    assert run("a", "--config", str(path)) == 2
    assert f"{path}:3: unknown key 'part.learning_rat'; did you mean 'part.learning_rate'?" in capsys.readouterr().err


def test_an_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrian"]) == 2
    assert capsys.readouterr().err == "jepa: error: unknown verb 'pretrian'; did you mean 'pretrain'?\n"


def test_arguments_that_no_verb_takes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "now"]) == 2
    assert "unexpected argument 'now'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("bad key"), 2, "jepa pack: error: bad key"),
        (DataError("bad\nvideo"), 3, "jepa pack: error: bad video"),
        (DivergedError("loss is nan"), 4, "jepa pack: error: loss is nan"),
        (InterruptedRun("saved", 143), 143, "jepa pack: saved"),
        (KeyboardInterrupt(), 130, "jepa pack: interrupted"),
        (OSError(errno.ENOSPC, "No space left", "x.tar"), 2, "jepa pack: error: disk full: x.tar"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "jepa pack: error: Permission denied: /x"),
        (RuntimeError("why\nnot"), 1, "jepa pack: internal error: RuntimeError: why"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_every_end_has_its_exit_code_and_one_line(
    verb: Verb, error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb.error = error
    assert run("a", "--out", "x") == code
    message = capsys.readouterr().err
    assert message.startswith(line)
    assert message.count("\n") == (1 if line else 0)


def test_debug_shows_the_traceback(
    verb: Verb, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verb.error = DataError("bad")
    monkeypatch.setenv("JEPA_DEBUG", "1")
    assert run("a", "--out", "x") == 3
    assert "Traceback" in capsys.readouterr().err


def test_sigterm_ends_with_143_and_runs_the_cleanup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []

    def wait(config: object) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            cleaned.append(True)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    command = SimpleNamespace(Config=Sample, run=wait, SUMMARY="s", EXAMPLE="e", POSITIONAL=("sources",))
    monkeypatch.setattr(cli, "load_command", lambda name: command)
    assert run("a", "--out", "x") == 143
    assert cleaned == [True]
    assert capsys.readouterr().err == "jepa pack: terminated\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_python_dash_m_is_the_same_command() -> None:
    result = process("synht")
    assert result.returncode == 2
    assert result.stderr == "jepa: error: unknown verb 'synht'; did you mean 'synth'?\n"


def test_a_closed_stdout_is_no_traceback() -> None:
    command = [sys.executable, "-m", "jepa", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""


def test_a_spawned_process_does_not_run_the_command_again(tmp_path: Path) -> None:
    script = tmp_path / "spawn.py"
    script.write_text(
        "import multiprocessing, runpy, sys\n"
        "sys.argv = ['jepa', '--version']\n"
        "runpy.run_module('jepa', run_name='__mp_main__')\n"  # what a spawned worker does with the main module
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == ""
