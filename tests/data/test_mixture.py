"""A YAML file in place of a data set."""

import re
from collections import Counter
from pathlib import Path

import pytest

from jepa.cli import main
from jepa.data.draws import Draws
from jepa.data.mixture import Mixture, mixture_of, open_mixture
from jepa.data.source import open_source
from jepa.data.windows import WindowConfig
from jepa.errors import ConfigError, DataError

TRAIN, TEST = 24, 12


def written(folder: Path, *sources: str) -> Path:
    file = folder / "mix.yaml"
    file.write_text("sources:\n" + "".join(f"  - {{{source}}}\n" for source in sources))
    return file


@pytest.fixture
def folder(tiny_shards: Path, tmp_path: Path) -> Path:
    (tmp_path / "shards").symlink_to(tiny_shards)
    return tmp_path


def drawn(mixture: Mixture, count: int) -> Counter[int]:
    draws = Draws(mixture, WindowConfig(4, 2), seed=0)
    return Counter(draws(n).source for n in range(count))


def test_proportions_are_shares_of_the_clips(folder: Path) -> None:
    mixture = open_mixture(written(folder, "data: shards, proportion: 0.35", "data: shards/test, proportion: 1.05"))
    assert [len(source) for source in mixture.sources] == [TRAIN, TEST]
    assert (mixture.name, len(mixture), mixture.weights) == ("mix", 36, (1, 3))
    assert drawn(mixture, 400) == {0: 100, 1: 300}


def test_repeat_counts_epochs_of_each_source(folder: Path) -> None:
    mixture = open_mixture(
        written(folder, "data: shards, repeat: 0.5", "data: shards, split: test, repeat: 3", "data: shards, repeat: 1")
    )
    assert drawn(mixture, TRAIN // 2 + 3 * TEST + TRAIN) == {0: TRAIN // 2, 1: 3 * TEST, 2: TRAIN}
    draws = Draws(mixture, WindowConfig(4, 2), seed=0)
    seen = Counter((draw.source, draw.index) for draw in map(draws, range(72)))
    assert {count for (source, _), count in seen.items() if source == 1} == {3}, "each sample of it, three times"


def test_choose_counts_samples(folder: Path) -> None:
    mixture = open_mixture(written(folder, "data: shards, choose: 5", "data: shards, split: test, choose: 30"))
    for epoch in range(1, 4):
        assert drawn(mixture, 35 * epoch) == {0: 5 * epoch, 1: 30 * epoch}


def test_a_mixture_of_one_is_the_data_set(folder: Path) -> None:
    alone = open_mixture(folder / "shards")
    mixed = open_mixture(written(folder, "data: shards, repeat: 7"))
    assert mixed.fingerprint == alone.fingerprint == open_source(folder / "shards").fingerprint
    one, other = (Draws(mixture, WindowConfig(4, 2), seed=3) for mixture in (alone, mixed))
    assert [one(n) for n in range(60)] == [other(n) for n in range(60)]


def test_paths_are_relative_to_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(folder, f"data: {folder}/shards, repeat: 1", f"data: 'file://{folder}/shards', repeat: 1")
    monkeypatch.chdir("/")
    mixture = open_mixture(str(file))
    assert [len(source) for source in mixture.sources] == [TRAIN, TRAIN]
    name = mixture.sources[0].name
    assert mixture.names == (f"{name}#1", f"{name}#2")


def test_the_fingerprint_covers_sources_and_weights(folder: Path) -> None:
    test = "data: shards, split: test, "
    prints = {
        open_mixture(written(folder, *sources)).fingerprint
        for sources in (
            ("data: shards, choose: 5", f"{test}choose: 30"),
            ("data: shards, choose: 5", f"{test}choose: 31"),
            (f"{test}choose: 30", "data: shards, choose: 5"),
            ("data: shards, choose: 5", f"{test}choose: 30", f"{test}choose: 30"),
        )
    }
    assert len(prints) == 4
    doubled = open_mixture(written(folder, "data: shards, choose: 10", f"{test}choose: 60"))
    assert doubled.fingerprint in prints, "the same proportion is the same mixture"
    assert mixture_of(doubled) is doubled


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["- {data: shards, proporton: 1}"], r":2: sources: unknown key 'proporton'; did you mean 'proportion'\?"),
        (["- data: shards", "  repeat: 1", "  splt: a"], r":4: sources: unknown key 'splt'; did you mean 'split'\?"),
        (["- {data: shards, repeat: 1}", "- {repeat: 1}"], r":3: sources: missing data"),
        (["- {data: shards}"], r":2: sources: no weight given: expected one of proportion, repeat, choose"),
        (["- {data: shards, repeat: 1, choose: 3}"], r":2: sources: repeat and choose given: expected one of"),
        (["- {data: shards, repeat: 0}"], r":2: sources: repeat is 0\.0, expected a number above 0"),
        (["- {data: shards, proportion: .nan}"], r":2: sources: proportion is nan, expected a number above 0"),
        (["- {data: shards, repeat: .inf}"], r":2: sources: repeat is inf, expected a number above 0"),
        (["- {data: shards, choose: 1.5}"], r":2: sources: choose: expected int or null, got 1\.5"),
        (["- {data: shards, repeat: 1}", "- {data: shards, choose: 1}"], r": sources have choose and repeat: expected"),
        (["- shards"], r":2: sources: expected SourceConfig, got \"shards\""),
        (["[]"], r": sources is empty: name at least one data set"),
    ],
)
def test_mistakes_are_told_with_their_line(folder: Path, lines: list[str], message: str) -> None:
    file = folder / "mix.yaml"
    file.write_text("sources:\n" + "".join(f"  {line}\n" for line in lines))
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}{message}"):
        open_mixture(file)


def test_a_file_without_sources(folder: Path) -> None:
    (folder / "mix.yaml").write_text("# nothing\n")
    with pytest.raises(ConfigError, match=r"mix\.yaml: no 'sources', which a mixture lists"):
        open_mixture(folder / "mix.yaml")


def test_a_mixture_inside_a_mixture_is_refused(folder: Path) -> None:
    inner = written(folder, "data: shards, repeat: 1").rename(folder / "inner.yaml")
    with pytest.raises(ConfigError, match=f"{inner} describes a mixture: one data set is wanted here"):
        open_mixture(written(folder, "data: inner.yaml, repeat: 1"))


def test_what_is_missing_is_an_error_of_the_data(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no such file or folder: .*/nowhere"):
        open_mixture(written(folder, "data: nowhere, repeat: 1"))
    with pytest.raises(DataError, match=r"no such file or folder: .*/nowhere\.yaml"):
        open_mixture(folder / "nowhere.yaml")


@pytest.mark.parametrize(
    "verb",
    ["probe --encoder jepa-nano --out OUT --data", "extract --encoder jepa-nano --out OUT --data", "inspect", "lint"],
)
def test_other_verbs_want_a_single_data_set(folder: Path, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(folder, "data: shards, repeat: 1")
    assert main([*verb.replace("OUT", str(folder / "out")).split(), str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{file} describes a mixture" in line
