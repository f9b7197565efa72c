"""What happens in the processes that `manifest.py` starts, as far as it needs no torch: opening, looking, reading."""

import resource
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jepa.data.shards import ShardSource

LOOKS = 5
"""How often the facts of the same samples are asked for; the quickest counts, as others use the machine too."""


def opening(folder: Path, per_shard: int) -> tuple[float, float, float, float]:
    """Seconds to open, megabytes before and at most until then, microseconds for the facts of a sample."""
    imports = _resident()
    started = time.perf_counter()
    source = ShardSource(folder)
    seconds, peak = time.perf_counter() - started, _peak()
    random = np.random.default_rng(0)
    shards = random.choice(len(source) // per_shard, min(20, len(source) // per_shard), replace=False)
    places = [(shard * per_shard + random.permutation(per_shard)).tolist() for shard in shards]
    for some in places:
        source.info(some[0])
    numbers = [number for some in places for number in some]
    looks = [_timed(source, numbers) for _ in range(LOOKS)]
    return seconds, imports, peak, min(looks) / len(numbers) * 1e6


def _timed(source: ShardSource, numbers: Sequence[int]) -> float:
    """Seconds of processor time for the facts of these samples."""
    started = time.process_time()
    for number in numbers:
        source.info(number)
    return time.process_time() - started


def reading(folder: Path, per_shard: int) -> tuple[tuple[float, ...], int]:
    """Memory after a sample was read from 10, 100, 1000, ... shards, and the files open in the end."""
    source = ShardSource(folder)
    shards, memory = np.random.default_rng(0).permutation(len(source) // per_shard).tolist(), []
    for done, shard in enumerate(shards, start=1):
        index = shard * per_shard + shard % per_shard
        source.info(index)
        source.read(index)
        if done in (10, 100, 1000, 10_000):
            memory.append(_resident())
    files = Path("/proc/self/fd")
    return tuple(memory), len(list(files.iterdir())) if files.exists() else 0


def _status(name: str) -> float | None:
    """A line of the status of this process in megabytes, where the system tells it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{name}:")), None)


def _resident() -> float:
    found = _status("VmRSS")
    return _peak() if found is None else found


def _peak() -> float:
    found = _status("VmHWM")  # and not ru_maxrss, which begins with the memory of the parent
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6 if found is None else found
