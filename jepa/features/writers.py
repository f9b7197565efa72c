"""Features on disk: safetensors shards, each with its own part of the index inside, and one parquet index at the end.

A shard is written to a temporary file, flushed to the disk and renamed, so a file called `features-000007.safetensors`
is complete or absent. It carries, in its metadata, the index of its rows and the fingerprint of the settings. So the
state of an interrupted extraction is what lies in the folder; there is no progress file that could disagree with it.
`index.parquet` is made from the shards when the last one is there.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jepa.checkpoints.io import atomic_write
from jepa.errors import ConfigError, DataError

FORMAT_VERSION = 1
INDEX_NAME = "index.parquet"
FACTS_NAME = "extract.json"
TENSOR = "features"
_ENTRY = "jepa"
INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("path", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("start_seconds", pa.float64()),
        ("end_seconds", pa.float64()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
    ]
)


@dataclass(frozen=True)
class IndexRow:
    """Where a row of features comes from."""

    key: str
    """Name of the video in its source."""
    path: str
    """File that the video was made from, or the name of its data set if that is not known."""
    start: int
    """First frame of the window."""
    end: int
    """Frame after the last one of the window."""
    start_seconds: float
    """Time of `start`."""
    end_seconds: float
    """Time of `end`."""


def settings_hash(settings: Mapping[str, object]) -> str:
    """Fingerprint of what decides the content of the features."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def shard_name(shard: int) -> str:
    return f"features-{shard:06d}.safetensors"


def write_shard(folder: Path, shard: int, features: np.ndarray, rows: Sequence[IndexRow], fingerprint: str) -> None:
    """One shard: tensor `features` (rows, ...) and the index of its rows."""
    if len(rows) != len(features):
        raise ValueError(f"got {len(features)} rows of features and {len(rows)} rows of index, expected as many")
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(IndexRow)}
    facts = {"format_version": FORMAT_VERSION, "settings": fingerprint, "index": columns}
    # One entry: safetensors writes several in random order, and equal features shall be equal files.
    metadata = {_ENTRY: json.dumps(facts)}
    with atomic_write(folder / shard_name(shard)) as file:
        file.write(save({TENSOR: np.ascontiguousarray(features)}, metadata))


def read_shard_index(path: Path) -> tuple[str, list[IndexRow]]:
    """Settings fingerprint and index of one shard.

    Raises:
        DataError: the file is damaged or was not written by `jepa extract`.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            count = file.get_slice(TENSOR).get_shape()[0]
        facts = json.loads(metadata[_ENTRY])
        columns = facts["index"]
        rows = [IndexRow(*values) for values in zip(*(columns[f.name] for f in fields(IndexRow)), strict=True)]
        fingerprint = str(facts["settings"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} is no complete features shard ({error}); delete it and run again") from error
    if len(rows) != count:
        raise DataError(f"{path} holds {count} rows of features but {len(rows)} of index; delete it and run again")
    return fingerprint, rows


def complete_shards(folder: Path, expected: Sequence[int], fingerprint: str) -> int:
    """Number of leading shards that are done.

    Args:
        folder: output of an extraction, perhaps interrupted.
        expected: rows of each shard of the finished extraction.
        fingerprint: of the settings; a shard made with others is an error.
    """
    for shard, rows in enumerate(expected):
        path = folder / shard_name(shard)
        if not path.exists():
            return shard
        found, index = read_shard_index(path)
        if found != fingerprint or len(index) != rows:
            raise ConfigError(f"{path} was made with other settings; choose another --out")
    return len(expected)


def write_index(folder: Path, shards: int) -> int:
    """Gather the index of all shards in `index.parquet`; the number of rows."""
    columns: dict[str, list[object]] = {name: [] for name in INDEX_SCHEMA.names}
    for shard in range(shards):
        for number, row in enumerate(read_shard_index(folder / shard_name(shard))[1]):
            for name, value in asdict(row).items():
                columns[name].append(value)
            columns["shard"].append(shard)
            columns["row"].append(number)
    with atomic_write(folder / INDEX_NAME) as file:
        pq.write_table(pa.table(columns, schema=INDEX_SCHEMA), file)
    return len(columns["row"])
