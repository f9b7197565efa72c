"""Samples that cannot be used are written down once, for every process and every later run."""

import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from jepa.data.quarantine import BadSample, Quarantine
from jepa.errors import DataError


class Source:
    name, fingerprint, runs = "mine", "f" * 32, (1000,)

    def __len__(self) -> int:
        return 1000


def bad(index: int, place: str = "a.tar") -> BadSample:
    return BadSample(index, f"{index:06d}", place, "does not decode")


def quarantine(cache: Path) -> Quarantine:
    return Quarantine(Source(), cache)  # type: ignore[arg-type]


def test_others_see_what_one_adds(tmp_path: Path) -> None:
    one, other = quarantine(tmp_path), quarantine(tmp_path)
    assert not list(tmp_path.iterdir())  # nothing is written without need
    one.add(bad(7))
    other.add(bad(3))
    other.add(bad(7))
    assert (7 in other, 3 in other, 3 in one) == (True, True, False)
    assert one.refresh() == [bad(3)]
    assert one.refresh() == []
    assert len(quarantine(tmp_path)) == 2
    assert len(one.path.read_bytes().splitlines()) == 2


def test_a_line_that_is_being_written_or_damaged_is_no_sample(tmp_path: Path) -> None:
    one = quarantine(tmp_path)
    one.add(bad(1))
    with one.path.open("ab") as stream:
        stream.write(b'{"index": 2, "key"')
    assert one.refresh() == []
    with one.path.open("ab") as stream:
        stream.write(b': "000002", "place": "a.tar", "reason": "does not decode"}\n{"index": 5, "ke\n')
    assert one.refresh() == [bad(2)]
    one.add(bad(4))
    assert sorted(sample.index for sample in quarantine(tmp_path)._samples.values()) == [1, 2, 4]


def test_too_many_end_the_run_and_name_the_worst_shards(tmp_path: Path) -> None:
    one = quarantine(tmp_path)
    for index in range(10):
        one.add(bad(index, "a.tar" if index % 3 else "b.tar"))
    one.require_few(0, 0.01)
    one.add(bad(10, "b.tar"))
    with pytest.raises(DataError, match=r"mine: 11 of 1000 samples .* loader.max_bad 0.01 .*worst: a.tar \(6\), b.tar"):
        one.require_few(0, 0.01)
    one.require_few(0, 0.02)


def test_frames_are_left_out_and_the_rest_of_the_sample_is_not(tmp_path: Path) -> None:
    one, other = quarantine(tmp_path), quarantine(tmp_path)
    one.add(replace(bad(3), window=(4, 6, 8)))
    one.add(replace(bad(3), window=(4, 6, 8)))
    one.add(replace(bad(5), window=None))
    other.refresh()
    assert (other.leaves_out(3, (4, 6, 8)), other.leaves_out(3, (0, 2, 4)), other.leaves_out(5, (0, 2, 4))) == (
        True, False, False,
    )  # fmt: skip
    assert (3 in other, other.knows(3), other.knows(5), len(other)) == (False, True, True, 2)
    assert len(one.path.read_bytes().splitlines()) == 2
    one.add(bad(3))
    assert one.leaves_out(3, (0, 2, 4))


def test_a_line_that_does_not_fit_on_the_disk_goes_elsewhere(tmp_path: Path) -> None:
    one = quarantine(tmp_path)
    one.add(bad(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (one.path.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(DataError, match="cannot write"):  # the temporary folder is as full
            one.add(replace(bad(2), reason="x" * 200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    one.add(bad(4))
    assert sorted(sample.index for sample in quarantine(tmp_path)._samples.values()) == [1, 4]


def test_lines_of_other_data_and_other_kinds_are_nothing(tmp_path: Path) -> None:
    one = quarantine(tmp_path)
    one.add(bad(1))
    with one.path.open("a") as stream:
        for index in ("[1]", '"0"', "1000", "-1", "true"):
            stream.write(f'{{"index": {index}, "key": "k", "place": "p", "reason": "r"}}\n')
    assert len(quarantine(tmp_path)) == 1
