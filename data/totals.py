"""What folders of shards hold, in sums: from their manifests and the label columns, without a look at every row."""

from collections.abc import Iterable
from dataclasses import dataclass

from jepa.data.shards import ShardSource


@dataclass(frozen=True)
class Totals:
    """Sums over all samples."""

    samples: int
    frames: int
    seconds: float
    bytes: int
    """Of the tars."""
    classes: int
    """Different values of the label `label`."""
    unlabelled: int
    """Samples without it."""


def totals(sources: Iterable[ShardSource]) -> Totals:
    """Sums over the samples of these sources.

    Raises:
        DataError: an index is damaged.
    """
    opened = list(sources)
    shards = [shard for source in opened for shard in source.manifest.shards]
    classes, unlabelled = set(), 0
    for source in opened:
        for shard in range(len(source.manifest.shards)):
            for labels, count in source.rows(shard).label_counts():
                if "label" in labels:
                    classes.add(labels["label"])
                else:
                    unlabelled += count
    return Totals(
        samples=sum(shard.count for shard in shards),
        frames=sum(shard.frames for shard in shards),
        seconds=round(sum(shard.seconds for shard in shards), 3),
        bytes=sum(shard.bytes for shard in shards),
        classes=len(classes),
        unlabelled=unlabelled,
    )
