import time
from collections.abc import Callable, Iterator
from typing import Any, cast

from jepa.data.source import open_source
from jepa.training.datamodule import Clips, _Remaining
from jepa.types import ClipBatch


def test_only_waiting_for_batches_is_counted(micro: Callable[..., Any]) -> None:
    def slow() -> Iterator[ClipBatch]:
        for number in range(3):
            time.sleep(0.02)
            yield cast(ClipBatch, number)

    clips = Clips(open_source(micro().data), micro(), first_step=0)
    waited = []
    for _ in _Remaining(clips, slow()):
        waited.append(clips.waited)
        time.sleep(0.05)  # the step
    assert waited[0] >= 0.02
    assert clips.waited >= 0.06
    spent = [after - before for before, after in zip([0.0, *waited], waited, strict=False)]
    assert waited[-1] == sum(spent)
    assert len(waited) == 3
