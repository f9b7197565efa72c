"""Log lines and progress: plain lines elsewhere than on a terminal, noise muted, nothing left behind."""

import io
import logging
import re
import subprocess
import sys
import warnings

import pytest

from jepa import logs
from jepa.logs import configured, for_rank, get_logger, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_line_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with configured():
        get_logger("jepa.test").info("read %d\nclips", 3)
        get_logger("jepa.test").warning("slow")
        get_logger("jepa.test").debug("details")
        logging.getLogger("somebody").info("chatter")
        logging.getLogger("somebody").warning("The 'train_dataloader' does not have many workers")
    get_logger("jepa.test").info("after")
    output = capsys.readouterr()
    assert output.out == ""
    first, second = output.err.splitlines()
    assert first.split(" ", 1)[1] == "read 3 clips"
    assert second.split(" ", 1)[1] == "warning: slow"


def test_another_rank_says_warnings_alone_and_who_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    log = get_logger("jepa.test")
    with configured():
        with for_rank(3):
            log.info("how it goes")
            log.warning("slow")
        with for_rank(0):
            log.info("how it goes")
            log.warning("slow")
        log.info("after")
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["warning: rank 3: slow", "how it goes", "warning: slow", "after"]


def test_another_rank_has_no_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    for rank in (0, 1):
        with for_rank(rank), progress(None, "training", 3) as bar:
            assert (bar._bar is None) == bool(rank)


def test_colours_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """https://no-color.org: no escape that sets a colour (moving the cursor is none), and without it there are some."""
    shown = {}
    for asked in (True, False):
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("NO_COLOR", "1") if asked else monkeypatch.delenv("NO_COLOR", raising=False)
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress(None, "training", 3) as bar:
            bar.advance(2, note="loss 0.5")
        shown[asked] = terminal.getvalue()
    assert all("loss 0.5" in text for text in shown.values())
    colour = re.compile(r"\x1b\[[\d;]*\b(3\d|4[0-7]|9\d)\b[\d;]*m")
    assert not colour.search(shown[True])
    assert colour.search(shown[False])


def test_logger_names_lie_below_jepa() -> None:
    assert get_logger("jepa.data.stream").name == "jepa.data.stream"
    assert get_logger("__main__").name == "jepa.__main__"


def test_configuring_twice_and_leaving_changes_nothing_for_others() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, list(warnings.filters))
    with configured(), configured():
        pass
    assert (list(root.handlers), root.level, list(warnings.filters)) == before


def test_python_warnings_become_one_log_line() -> None:
    code = (
        "import warnings; from jepa.logs import configured\n"
        "with configured():\n"
        "    for _ in range(2): warnings.warn('careful\\nnow')\n"
        "    warnings.warn('old', DeprecationWarning)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert len(result.stderr.splitlines()) == 1
    assert "warning: careful now (UserWarning, " in result.stderr


def test_progress_prints_a_plain_line_at_most_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    with configured():
        for _ in progress(range(60), "packing"):
            now[0] += 1.0
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == "packing 10/60 (17%), 1.0/s, 50 s left"
    assert len(lines) == 6
    assert lines[-1] == "packing 60/60 (100%), 1.0/s"


def test_short_progress_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with configured(), progress(None, "packing", total=3) as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""
    assert bar.done == 3


def test_progress_shows_a_note(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(logs, "PLAIN_SECONDS", 0.0)
    with configured(), progress(None, "training") as bar:
        bar.advance(1, note="loss 0.5")
    assert capsys.readouterr().err.splitlines()[0].endswith("loss 0.5")


def test_on_a_terminal_progress_is_a_bar_without_colour_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with configured(), progress(None, "packing", total=4) as bar:
        bar.advance(2, note="now [here]")
        get_logger("jepa.test").info("a line between")
        bar.advance(2)
    text = terminal.getvalue()
    assert "packing" in text
    assert "4/4" in text
    assert "now [here]" in text
    assert "a line between" in text
    assert "\x1b[3" not in text  # no colour codes


def test_progress_without_items_cannot_be_iterated() -> None:
    with pytest.raises(TypeError, match="use it as a context"):
        list(progress(None, "packing"))


def test_what_an_earlier_process_did_counts_but_not_in_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    with configured(), progress(None, "packing", 20000, before=9990) as bar:
        now[0] += 10.0
        bar.advance(10)
    assert capsys.readouterr().err.split(" ", 1)[1].strip() == "packing 10000/20000 (50%), 1.0/s, 2 h 47 min left"


def test_a_long_run_does_not_fill_the_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A week, one step a second."""
    now = [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    with configured(), progress(None, "packing", 604_800) as bar:
        for _ in range(604_800 // 5):
            now[0] += 5.0
            bar.advance(5)
    lines = capsys.readouterr().err.splitlines()
    assert 900 < len(lines) < 1500
