"""The page as a whole: complete, self-contained, safe, for whatever a run folder holds."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jepa.errors import ConfigError, DataError
from jepa.report.charts import objective_of
from jepa.report.collect import read_run
from jepa.report.page import write_report

SECTIONS = ["results", "curves", "masks", "features", "confusion", "configuration", "environment", "reproduce"]
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Document(HTMLParser):
    """Tags, addresses and text of a page; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                self.addresses.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def document(path: str | Path) -> Document:
    text = Path(path).read_text(encoding="utf-8")
    found = Document(text)
    assert text.startswith("<!doctype html>")
    assert len(found.ids) == len(set(found.ids))
    assert set(SECTIONS) <= set(found.ids)
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in found.addresses)
    assert {address[1:] for address in found.addresses if address.startswith("#")} <= set(found.ids)
    assert not {"script", "link", "iframe", "object", "form"} & set(found.tags)
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, re.S))
    assert "prefers-color-scheme:dark" in styles
    assert not re.search(r"@import|https?:|url\((?!#)", styles)
    return found


def test_a_whole_run_fills_every_section(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    report = write_report([folder])
    assert report.page == str(folder / "report.html")
    found = document(report.page)
    text = " ".join(found.words)
    for line in map(json.loads, (folder / "results.jsonl").read_text().splitlines()):
        assert f"{100 * line['value']:.1f}" in text
        assert f"{100 * line['low']:.1f} – {100 * line['high']:.1f}" in text
    assert "jepa demo --out runs/demo" in text
    assert "masked reconstruction of pixels" in text
    assert "Most frequent mistakes" in text
    assert "learning_rate: 5.0e-04" in text
    assert "Constant: weight decay 0.04" in text
    assert found.tags.count("svg") > 24 + 2 * 6  # bars, curves of two stages


@pytest.mark.parametrize("kept", ["metrics.csv", "config.yaml", "results.jsonl", "environment.json", "predictions"])
def test_any_part_alone_gives_a_page(make_run: Callable[..., Path], tmp_path: Path, kept: str) -> None:
    folder, alone = make_run(), tmp_path / "alone"
    alone.mkdir()
    if kept == "predictions":
        shutil.copytree(folder / kept, alone / kept)
        kept = "checkpoints"
        (alone / kept).mkdir()
    else:
        shutil.copy(folder / kept, alone / kept)
    report = write_report([alone])
    text = " ".join(document(report.page).words)
    for name in {"metrics.csv", "config.yaml", "results.jsonl", "environment.json"} - {kept}:
        assert f"{name} is missing" in text
    assert "No feature maps" in text


def test_texts_of_a_run_are_never_markup(make_run: Callable[..., Path]) -> None:
    folder = make_run("<b onload='x'>&amp;")
    bad = "</style></script><script>alert(\"1\")</script><img src='x'>"
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    lines[0] |= {"task": bad, "encoder": bad, "probe": bad, "settings": {bad: bad}}
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    predictions = json.dumps({"classes": [bad, "b"], "truth": [0, 1], "predicted": [1, 0]})
    (folder / "predictions" / "motion-pretrained-attentive.json").write_text(predictions)
    (folder / "config.yaml").write_text(f"objective:\n  target: '{bad.replace(chr(39), '')}'\n")
    (folder / "environment.json").write_text(json.dumps({"command": bad, bad: bad}))
    metrics = (folder / "metrics.csv").read_text()
    (folder / "metrics.csv").write_text(metrics.replace("grad_norm", '"<i id=""a"">"'))
    found = document(write_report([folder]).page)
    assert "script" not in found.tags
    assert "i" not in found.tags
    assert "img" not in found.tags
    assert bad in "".join(found.words)


def test_runs_stand_side_by_side(make_run: Callable[..., Path], tmp_path: Path) -> None:
    first, second = make_run("first", stage=False), make_run("second", stage=False, seed=3)
    report = write_report([first, second])
    assert report.page == str(first / "report.html")
    assert not (second / "report.html").exists()
    text = " ".join(document(report.page).words)
    for run in (first, second):
        best = [json.loads(line)["value"] for line in (run / "results.jsonl").read_text().splitlines()]
        assert all(f"{100 * value:.1f}" in text for value in best)


def test_each_data_set_has_its_own_table(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    lines.append(lines[0] | {"value": 0.987, "count": 77, "data": "elsewhere"})
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = Path(write_report([folder]).page).read_text()
    tables = re.findall(r'<h3>([^<]*)</h3><table class="scores"><caption>([^<]*)</caption>(.*?)</table>', page, re.S)
    assert [title for title, _, _ in tables] == [
        "motion, data synthetic", "shape, data synthetic", "motion, data elsewhere",
    ]  # fmt: skip
    assert ["98.7" in cells for _, _, cells in tables] == [False, False, True]
    assert tables[2][1] == "8 classes, 77 test clips, chance 12.5 %, data elsewhere"
    assert tables[0][1].endswith("1000 test clips, chance 12.5 %, data synthetic")


def test_started_is_the_first_start_and_resumes_follow(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    environment = json.loads((folder / "environment.json").read_text())
    starts = [{"time": f"2026-01-3{day}T08:00:00+0000", "command": "c", "step": day * 50} for day in (0, 1)]
    (folder / "environment.json").write_text(json.dumps(environment | {"time": starts[1]["time"], "starts": starts}))
    page = Path(write_report([folder]).page).read_text()
    started = "2026-01-30 08:00:00 UTC; resumed 2026-01-31 08:00:00 UTC at step 50"
    assert f"<th>Started</th><td>{started}</td>" in page


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [tmp_path / "one" / "run", tmp_path / "other" / "run"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("step,loss\n1,0.5\n2,0.4\n")
    text = " ".join(document(write_report(folders).page).words)
    assert "one/run" in text
    assert "other/run" in text


def test_equal_folders_give_equal_pages(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_run(stage=False)
    pages = [Path(write_report([folder], out=tmp_path / name).page).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]


def test_a_trained_run_shows_masks_and_features_on_frames(tiny_run: Path, tiny_shards: Path, tmp_path: Path) -> None:
    found = document(write_report([tiny_run], out=tmp_path / "page.html").page)
    text = " ".join(found.words)
    assert found.tags.count("img") == 2 * 2 + 4 * 2  # frames and a mask of two clips, frames and a map of four
    assert re.search(r"mask 1: [1-9]\d% seen, [1-9]\d% predicted", text)
    assert "Colours compare within a row" in text
    titles = [words.split(" · ")[0].split(", ") for words in found.words if words.count(" · ") == 2]
    assert len({labels[0] for labels in titles}) == 4  # the motions of the clips shown
    assert "one basis for 12 clips" in text
    assert "0.48 M parameters" in text
    other = write_report([tiny_run], out=tmp_path / "gone.html", data=tmp_path / "gone")
    assert sum("videos are not at" in note for note in other.notes) == 2


def test_mistakes_are_one_line_and_keep_the_old_page(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_run()
    with pytest.raises(ConfigError, match="at least one run"):
        write_report([])
    with pytest.raises(ConfigError, match="is a folder"):
        write_report([folder], out=tmp_path)
    with pytest.raises(DataError, match="no run folder"):
        write_report([folder, tmp_path])
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("{target: ema}", "latent prediction, EMA target encoder"),
        ("{target: teacher, teacher: x, context_weight: 0.0}", "latent prediction, frozen teacher"),
        ("{image_context_weight: 0.7}", "latent prediction, EMA target encoder, at visible tokens too"),
        ("[]", ""),
    ],
)
def test_the_objective_in_words(tmp_path: Path, objective: str, words: str) -> None:
    (tmp_path / "config.yaml").write_text(f"objective: {objective}\n")
    assert objective_of(read_run(tmp_path)) == words
