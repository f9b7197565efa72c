"""What a data set of millions of samples costs before the first clip: to open it, to hold it, to start anywhere in it.

The data set is made here. Its indices and its manifest are as large and as different as real ones: 10 million samples
are 10,000 index files with 1000 rows each. Its tars would be terabytes, so they are hard links to a few tars of 1000
tiny videos: every size, header and checksum is true, and every sample can be read and decoded. Only keys repeat from
shard to shard, which `jepa lint` would report and reading does not mind.

Every figure is taken in a process of its own, started anew, so that memory is that of the thing measured. Files are
warm in the page cache (they were just written); a disk or a network adds its own latency to each file.
"""

import io
import multiprocessing
import os
import tarfile
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from jepa.bench.opening import opening, reading
from jepa.data.digests import DIGEST
from jepa.data.index import Manifest, ShardEntry, fingerprint_of, read_manifest, write_manifest, writing
from jepa.data.loader_config import LoaderConfig
from jepa.data.rows import Member, Row, labels_text, table_of
from jepa.data.source import open_source
from jepa.data.stream import train_loader
from jepa.data.synthetic.video import encode_h264
from jepa.data.timeline import probe
from jepa.data.transforms import AugmentConfig
from jepa.data.windows import WindowConfig
from jepa.errors import DataError
from jepa.logs import progress
from jepa.masks.build import MaskSampler, MasksConfig
from jepa.tokens import TokenGrid

SHARD = 1000
"""Samples in a shard."""
LINKS = 2000
"""Names that one tar gets: file systems allow 65,000 or more."""
BATCH = 16
"""Clips in a batch."""
FRAMES, SIZE = 8, 32
"""Of a clip, which is all of its video."""
LATE = 0.9
"""Where in the data set the late start is: position 9 million of 10 million."""

T = TypeVar("T")


@dataclass(frozen=True)
class ManifestFigures:
    """What was measured. Memory is resident, in megabytes (10^6 bytes), of a whole process with all that it imports."""

    samples: int
    shards: int
    manifest_mb: float
    """Size of manifest.json."""
    index_mb: float
    """Size of all index files."""
    imports_mb: float
    """Memory of a process that has imported what reads a data set (torch is not part of that) and opened nothing."""
    open_seconds: float
    """To open the data set; imports are not counted."""
    open_mb: float
    """Memory at most until then."""
    info_us: float
    """Microseconds of processor time for the facts of a sample, in random order inside each shard."""
    first_batch_seconds: tuple[float, ...]
    """From an open data set to the first batch at position 0; each of a process of its own."""
    late_batch_seconds: tuple[float, ...]
    """The same at nine tenths of the data set."""
    reader_mb: tuple[float, ...]
    """Memory of a reader that has read a sample from 10, 100, 1000, ... shards."""
    reader_files: int
    """Files that it then had open."""

    @property
    def late_share(self) -> float:
        """Median time to the late batch over that to the first one."""
        return median(self.late_batch_seconds) / median(self.first_batch_seconds)


def measure(samples: int, folder: Path, repeats: int = 5) -> ManifestFigures:
    """Make a data set of so many samples, unless it is there already, and measure.

    Args:
        samples: rounded up to whole shards of `SHARD`.
        folder: for the data set; 220 bytes a sample are written. It stays there.
        repeats: processes that read a first batch at each of the two positions.

    Raises:
        ConfigError: the folder cannot be written, or its file system has no hard links.
        DataError: there is another data set in the folder.
    """
    shards = -(-samples // SHARD)
    if not (folder / "manifest.json").exists():
        write(folder, shards)
    manifest = read_manifest(folder)
    if manifest.count != shards * SHARD:
        raise DataError(f"{folder} holds {manifest.count} samples, wanted {shards * SHARD}: choose another folder")
    open_seconds, imports_mb, open_mb, info_us = _alone(opening, folder, SHARD)
    positions = (0, int(shards * SHARD * LATE))
    # In turn, so that a machine that is busy for a while is so for both.
    times = [[_alone(_first_batch, folder, position) for position in positions] for _ in range(repeats)]
    reader_mb, reader_files = _alone(reading, folder, SHARD)
    return ManifestFigures(
        samples=manifest.count,
        shards=shards,
        manifest_mb=(folder / "manifest.json").stat().st_size / 1e6,
        index_mb=sum(shard.index_bytes for shard in manifest.shards) / 1e6,
        imports_mb=imports_mb,
        open_seconds=open_seconds,
        open_mb=open_mb,
        info_us=info_us,
        first_batch_seconds=tuple(early for early, _ in times),
        late_batch_seconds=tuple(late for _, late in times),
        reader_mb=reader_mb,
        reader_files=reader_files,
    )


def write(folder: Path, shards: int) -> None:
    """Write a data set of so many shards.

    Raises:
        ConfigError: the folder cannot be written, or its file system has no hard links.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        content, rows = _tar()
        table, entries, tar = table_of(rows), [], folder
        for number in progress(range(shards), "writing indices"):
            name = folder / f"shard-{number:06d}.tar"
            if number % LINKS == 0:
                tar = name
                tar.write_bytes(content)
            else:
                name.unlink(missing_ok=True)
                os.link(tar, name)
            entries.append(_write_index(name, table, number, len(content)))
    provenance: dict[str, object] = {"made_by": "jepa bench manifest"}
    write_manifest(folder, Manifest("manifest", tuple(entries), ("label",), provenance, fingerprint_of(entries)))


def _tar() -> tuple[bytes, list[Row]]:
    """A tar of tiny videos, and its rows."""
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, SIZE, SIZE, 3), np.uint8)
    video = encode_h264(noise // 8, 8)
    info, crc, file, rows = probe(video), zlib.crc32(video), io.BytesIO(), []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(SHARD):
            member = tarfile.TarInfo(f"{number:06d}.mp4")
            member.size = len(video)
            place = Member("mp4", archive.offset + tarfile.BLOCKSIZE, len(video), crc)
            archive.addfile(member, io.BytesIO(video))
            row = Row(
                f"{number:06d}", place, info.frames, info.fps, info.height, info.width, info.codec, info.keyframes,
                {"label": ""}, f"/videos/{number:06d}.mp4", (), info.times, info.exact,
            )  # fmt: skip
            rows.append(row)
    return file.getvalue(), rows


def _write_index(tar: Path, table: Any, number: int, size: int) -> ShardEntry:
    """Write an index that differs from all others in its labels."""
    labels = pa.array([labels_text({"label": f"class {number}"})] * SHARD)
    table = table.set_column(table.schema.get_field_index("labels"), "labels", labels)
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    content = buffer.getvalue().to_pybytes()
    tar.with_suffix(".arrow").write_bytes(content)
    digest = blake2b(content, digest_size=DIGEST).hexdigest()
    frames, fps = table["frames"].to_numpy(), table["fps"].to_numpy()
    return ShardEntry(
        tar.name, SHARD, size, tar.with_suffix(".arrow").name, len(content), digest, digest, int(frames.sum()),
        int(frames.min()), float(fps.max()), float(fps.min()), float((frames / fps).sum()),
    )  # fmt: skip


def _alone(task: Callable[..., T], *arguments: object) -> T:
    """The result of a function in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(task, *arguments).result()


def _first_batch(folder: Path, position: int) -> float:
    """Seconds from an open data set to the first batch."""
    source = open_source(folder)
    grid = TokenGrid(FRAMES // 2, SIZE // 16, SIZE // 16)
    started = time.perf_counter()
    loader = train_loader(
        source,
        window=WindowConfig(FRAMES, 1),
        augment=AugmentConfig(size=SIZE),
        loader=LoaderConfig(batch_size=BATCH, workers=0, cache_gb=0),
        seed=0,
        first_step=position // BATCH,
        last_step=position // BATCH + 1,
        grid=grid,
        draw_masks=MaskSampler(MasksConfig(), grid, seed=0),
    )
    batch = next(iter(loader))
    if int(batch.positions[0]) != position // BATCH * BATCH:
        raise RuntimeError(f"asked for position {position}, got {int(batch.positions[0])}")
    return time.perf_counter() - started
