"""Whether every video of a source gives a clip: a run shall not end in its third hour at the first short one it meets.

Ten million rows need not be read for that. The manifest has the fewest frames and the highest rate of each shard: if a
video with both would give a clip, all of its videos do, and only the rows of the other shards are looked at.
"""

from collections.abc import Iterator
from itertools import accumulate

from jepa.data.index import ShardEntry
from jepa.data.shards import ShardSource
from jepa.data.source import SampleInfo, Source
from jepa.data.windows import WindowConfig, centre_window
from jepa.errors import DataError


def require_fit(source: Source, window: WindowConfig) -> None:
    """Check that every video gives a clip.

    Raises:
        DataError: some do not; says how many, and which is the first.
    """
    first, failed = "", 0
    for index in _doubtful(source, window):
        problem = _problem(source.info(index), window)
        if problem:
            first, failed = first or problem, failed + 1
    if failed:
        many = f"{failed} of {len(source)} videos give no clip; the first: " if failed > 1 else ""
        raise DataError(f"{many}{first}")


def _doubtful(source: Source, window: WindowConfig) -> Iterator[int]:
    """The samples that may give no clip."""
    if not isinstance(source, ShardSource):
        yield from range(len(source))
        return
    ends = accumulate(source.runs)
    for end, entry in zip(ends, source.manifest.shards, strict=True):
        if not _surely_fits(entry, window):
            yield from range(end - entry.count, end)


def _surely_fits(entry: ShardEntry, window: WindowConfig) -> bool:
    """Whether all videos of a shard give a clip, as far as its sums tell."""
    # A rate may vary about its mean: a clip and one more of its frames must fit in time.
    if window.fps is not None and not _lasts(entry, (window.frames + 1) / window.fps):
        return False
    worst = SampleInfo("", entry.least_frames, entry.most_fps, 1, 1, {}, "")
    return not _problem(worst, window)


def _lasts(entry: ShardEntry, seconds: float) -> bool:
    """Whether all videos of a shard last so long."""
    return entry.least_fps > 0 and entry.least_frames / entry.most_fps >= seconds


def _problem(info: SampleInfo, window: WindowConfig) -> str:
    """Why a video gives no clip; empty if it gives one."""
    try:
        centre_window(info, window)
    except DataError as error:
        return str(error)
    return ""
