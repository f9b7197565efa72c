"""Whether every video of a source gives a clip, asked once before a run."""

from jepa.data import windows
from jepa.data.source import Source
from jepa.data.windows import WindowConfig


def require_fit(source: Source, window: WindowConfig) -> None:
    """Check that every video gives a clip: a run shall not end in its third hour at the first short one it meets.

    Raises:
        DataError: some are too short and `window.short` is "error"; says how many, and which is the first.
    """
    windows.require_fit((source.info(index) for index in range(len(source))), window)
