"""Worker processes: what they are born with. What they compute is tested with the batches, in test_stream.py."""

import multiprocessing
import signal
from pathlib import Path

import pytest

from jepa.data.workers import Loader


def test_results_come_in_order() -> None:
    assert list(Loader(abs, range(-3, 2), workers=2)) == [3, 2, 1, 0, 1]


def test_workers_are_born_deaf_to_ctrl_c() -> None:
    # A job that a script starts in the background is deaf from birth: these tests may run in one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        list(Loader(abs, range(1), workers=1))
        # A bare process of the same server, so that it is not the start of our workers that makes it so.
        with multiprocessing.get_context("forkserver").Pool(1) as pool:
            assert pool.apply(signal.getsignal, (signal.SIGINT,)) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "and this one still hears it"
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_the_server_is_started_once() -> None:
    servers = set()
    for _ in range(2):
        list(Loader(abs, range(1), workers=1))
        with multiprocessing.get_context("forkserver").Pool(1) as pool:
            stat = pool.apply(Path.read_text, (Path("/proc/self/stat"),))
        servers.add(stat.rpartition(")")[2].split()[1])
    assert len(servers) == 1
