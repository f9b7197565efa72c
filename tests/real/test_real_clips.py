"""The main path on real films: pack, pretrain, extract, report.

Twenty steps teach an encoder next to nothing, so this does not measure learning. It holds that real files (several
lengths, rates, sizes, codecs) come through the whole path with the right pixels at the right place: features are
centred by their mean over all windows and compared by cosine. Then windows of one film must be nearer to one another
than to those of other films, and a film that is there twice (once heavily compressed) must match itself in time.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jepa.cli import main
from jepa.data.source import open_source
from jepa.features.readers import FeatureSet

FILMS = {
    "bigbuckbunny.mp4": 0,
    "bikes.mp4": 1,
    "carphone_distorted.mp4": 2,
    "carphone_pristine.mp4": 2,
    "cityCC0.mpg": 3,
}
"""Video -> film: the two carphones are one."""
PACK = "--short-side 48 --preset ultrafast --workers 0"
TRAIN = "--config demo --max-steps 20 --loader.batch_size 5 --loader.workers 0 --clip.fps 10 --optim.warmup_steps 5"


@pytest.fixture(scope="module")
def work(real_clips: Path, once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A folder with shards, run and features of the real clips, made by the command line."""

    def make(folder: Path) -> None:
        shards, run, features = folder / "shards", folder / "run", folder / "features"
        for arguments in (
            f"pack {real_clips} --out {shards} {PACK}",
            f"pretrain --data {shards} --out {run} {TRAIN}",
            f"extract --encoder {run} --data {shards} --out {features} --pool mean --windows tiles --workers 0",
            f"report {run}",
        ):
            assert main(arguments.split()) == 0, arguments

    return once("real", make)


@pytest.fixture(scope="module")
def features(work: Path) -> FeatureSet:
    return FeatureSet(work / "features")


def names(features: FeatureSet) -> np.ndarray:
    return np.array([Path(row.path).name for row in features.rows])


def cosines(features: FeatureSet) -> np.ndarray:
    """(rows, rows): cosine of every two windows after centring; nan for a window with itself."""
    rows = features.array().astype(np.float64)
    rows -= rows.mean(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    table = rows @ rows.T
    np.fill_diagonal(table, np.nan)
    return table


def test_every_film_is_packed_whole_and_cut_at_its_own_rate(work: Path, features: FeatureSet) -> None:
    assert not (work / "shards" / "skipped.tsv").exists()
    source = open_source(work / "shards")
    infos = {Path(info.origin).name: info for info in map(source.info, range(len(source)))}
    # As OpenCV's VideoCapture counts them.
    assert {name: info.frames for name, info in infos.items()} == {
        "bigbuckbunny.mp4": 132, "bikes.mp4": 250, "carphone_distorted.mp4": 120, "carphone_pristine.mp4": 120,
        "cityCC0.mpg": 190,
    }  # fmt: skip
    # 8 frames at 10 fps: every second of 25, every third of 29.97.
    for row, name in zip(features.rows, names(features), strict=True):
        step = 3 if name.startswith("carphone") else 2
        assert (row.end - row.start, row.start_seconds) == (7 * step + 1, row.start / infos[name].fps)
    ends = {name: row.end for row, name in zip(features.rows, names(features), strict=True)}
    assert all(infos[name].frames - ends[name] < 3 for name in FILMS), "the tiles reach the end of each film"


def test_features_are_finite_and_differ(features: FeatureSet) -> None:
    rows = features.array()
    assert rows.shape == (len(features.rows), 96)
    assert np.isfinite(rows).all()
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_windows_of_one_film_are_nearer_than_those_of_others(features: FeatureSet) -> None:
    film = np.array([FILMS[name] for name in names(features)])
    table, same = cosines(features), film[:, None] == film[None]
    assert np.nanmean(table[same]) > np.nanmean(table[~same]) + 0.3
    for number in np.unique(film):
        own, others = table[np.ix_(film == number, film == number)], table[np.ix_(film == number, film != number)]
        assert np.nanmean(own) > np.nanmean(others), f"film {number}"
    assert (film[np.nanargmax(table, axis=1)] == film).mean() > 0.9


def test_a_compressed_twin_matches_window_by_window(features: FeatureSet) -> None:
    name = names(features)
    poor, good = np.flatnonzero(name == "carphone_distorted.mp4"), np.flatnonzero(name == "carphone_pristine.mp4")
    nearest = cosines(features)[np.ix_(poor, good)].argmax(1)
    assert (nearest == np.arange(len(poor))).mean() > 0.7


def test_the_run_reads_as_one_page(work: Path) -> None:
    page = (work / "run" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") >= 4
    assert json.loads((work / "run" / "config.json").read_text())["step"] == 20
