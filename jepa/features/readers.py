"""Reading what `jepa extract` wrote: a sequence of arrays with the origin of each.

Shards are opened when first touched and stay memory-mapped, so a row costs one read of its own bytes.

    features = FeatureSet("features/kinetics")
    features[0].shape                 # (D,), (steps, D) or (N, D), by the pooling
    features.of("abseiling/0001")     # (windows, ...): all windows of one video
    features.rows[0].start_seconds
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from jepa.errors import DataError
from jepa.features.writers import FACTS_NAME, INDEX_NAME, TENSOR, IndexRow, shard_name


class FeatureSet(Sequence[np.ndarray]):
    """Features of one extraction, row by row, in the order of the source.

    Raises:
        DataError: the folder is no finished extraction.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        facts = self.path / FACTS_NAME
        if not facts.is_file():
            raise DataError(f"{self.path} holds no {FACTS_NAME}, so it is no output of `jepa extract`")
        if not (self.path / INDEX_NAME).is_file():
            raise DataError(f"{self.path} is an unfinished extraction; run the same `jepa extract` again to finish it")
        try:
            self.facts: dict[str, object] = json.loads(facts.read_text(encoding="utf-8"))
            table = pq.read_table(self.path / INDEX_NAME).to_pydict()
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"{self.path} cannot be read as features: {error}") from error
        names = [name for name in table if name not in ("shard", "row")]
        self.rows = [IndexRow(*values) for values in zip(*(table[name] for name in names), strict=True)]
        self._places = list(zip(table["shard"], table["row"], strict=True))
        self._by_key: dict[str, list[int]] = {}
        for number, row in enumerate(self.rows):
            self._by_key.setdefault(row.key, []).append(number)
        self._open: dict[int, safe_open] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]  # no slices: they would read gigabytes
        """Row `index` as an array, negative numbers from the end."""
        shard, row = self._places[index]
        values: np.ndarray = self._shard(shard).get_slice(TENSOR)[row]
        return values

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def keys(self) -> list[str]:
        """Names of the videos, in order, each once."""
        return list(self._by_key)

    def of(self, key: str) -> np.ndarray:
        """All windows of one video, (windows, ...). Raises KeyError for an unknown name."""
        return np.stack([self[index] for index in self._by_key[key]])

    def numbers(self, key: str) -> list[int]:
        """Row numbers of one video."""
        return list(self._by_key[key])

    def array(self) -> np.ndarray:
        """All rows in memory, (rows, ...)."""
        shards = sorted({shard for shard, _ in self._places})
        return np.concatenate([self._shard(shard).get_tensor(TENSOR) for shard in shards])

    def _shard(self, shard: int) -> safe_open:
        if shard not in self._open:
            path = self.path / shard_name(shard)
            try:
                self._open[shard] = safe_open(path, framework="np")
            except (SafetensorError, OSError) as error:
                raise DataError(f"{path} cannot be read: {error}") from error
        return self._open[shard]
