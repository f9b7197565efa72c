"""The large data set of the benchmark is a true one, and its size does not show in what a reader holds."""

from pathlib import Path

import pytest

from jepa.bench.manifest import SHARD, measure, write
from jepa.bench.opening import opening, reading
from jepa.data.decode import decode
from jepa.data.shards import ShardSource


def test_every_sample_of_the_made_data_set_can_be_read(tmp_path: Path) -> None:
    write(tmp_path, 3)
    source = ShardSource(tmp_path)
    assert (len(source), len(source.runs)) == (3 * SHARD, 3)
    for index in (0, SHARD - 1, SHARD, 2 * SHARD + 17):
        info = source.info(index)
        assert info.labels == {"label": f"class {index // SHARD}"}
        assert decode(source.read(index), [0, info.frames - 1]).shape == (2, info.height, info.width, 3)
    opened_mb = opening(tmp_path, SHARD)[2]
    _, files = reading(tmp_path, SHARD)
    assert opened_mb > 0
    assert files >= 0


@pytest.mark.slow
def test_half_a_million_samples_are_as_small_as_ten_thousand(tmp_path: Path) -> None:
    small, large = (measure(samples, tmp_path / str(samples), repeats=1) for samples in (10_000, 500_000))
    assert (large.samples, large.shards) == (500_000, 500)
    assert large.open_mb < 500
    assert large.open_mb < small.open_mb + 50
    assert large.reader_mb[-1] < small.reader_mb[-1] + 100  # 128 indices and no more
    assert large.reader_files < 300
