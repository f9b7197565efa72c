"""Ten thousand clips, decoded on demand by worker processes: what the processes hold does not grow."""

import multiprocessing
import os
from pathlib import Path

import pytest

from jepa.data.source import open_source
from jepa.data.stream import LoaderConfig, train_loader
from jepa.data.transforms import AugmentConfig
from jepa.data.windows import WindowConfig
from jepa.masks.build import MaskSampler, MasksConfig
from jepa.tokens import TokenGrid

BATCH, CLIPS, WARM = 4, 10_000, 1_000
GRID = TokenGrid(2, 4, 4)


def resident(pid: int) -> int:
    """Bytes in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def opened(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_and_open_files_do_not_grow(video_folder: Path, tmp_path: Path) -> None:
    loader = train_loader(
        open_source(video_folder), window=WindowConfig(frames=4, stride=2), augment=AugmentConfig(size=32),
        loader=LoaderConfig(batch_size=BATCH, workers=2, cache_gb=0, cache=tmp_path), seed=7, first_step=0,
        last_step=CLIPS // BATCH, grid=GRID, draw_masks=MaskSampler(MasksConfig(), GRID, seed=7),
    )  # fmt: skip
    others = {process.pid for process in multiprocessing.active_children()}
    memory: dict[int, list[int]] = {}
    files: dict[int, list[int]] = {}
    for step, _ in enumerate(loader):
        if step == 0:
            workers = [process.pid for process in multiprocessing.active_children() if process.pid not in others]
            pids = [os.getpid(), *(pid for pid in workers if pid)]
            assert len(pids) == 3
        if step * BATCH >= WARM and step % 10 == 0:
            for pid in pids:
                memory.setdefault(pid, []).append(resident(pid))
                files.setdefault(pid, []).append(opened(pid))
    for pid in pids:
        size = len(memory[pid]) // 9  # as many clips as were warmed up with
        first, last = max(memory[pid][:size]), max(memory[pid][-size:])
        growth = last / first - 1
        few, many = max(files[pid][:size]), max(files[pid][-size:])
        print(f"{first / 1e6:.1f} MB resident, then {last / 1e6:.1f} ({growth:+.2%}); {few} open files, then {many}")
        assert growth < 0.02
        assert many <= few
