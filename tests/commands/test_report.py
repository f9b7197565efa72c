"""`jepa report` as a user calls it."""

import json
from pathlib import Path

import pytest

from jepa.cli import main


def test_the_page_is_named_on_stdout(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["report", str(tiny_run), "--out", str(page)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(page)
    assert main(["report", str(tiny_run), str(tiny_run), "--out", str(page), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["page"], facts["runs"]) == (str(page), [str(tiny_run)] * 2)


def test_metrics_alone_are_enough(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n1,0.5\n2,0.4\n")
    assert main(["report", str(tmp_path)]) == 0
    assert "<svg" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("words", "code", "message"), [((), 2, "jepa report RUN"), (("nowhere",), 3, "nowhere")])
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, message: str
) -> None:
    assert main(["report", *words]) == code
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
