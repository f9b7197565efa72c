"""Settings of the probe that looks on while an encoder is trained (`jepa.eval.online`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jepa.errors import ConfigError


@dataclass(frozen=True)
class OnlineConfig:
    """Probes of the target encoder during the training, on labelled clips; nothing of it changes what is learned."""

    data: Path | None = None
    """Labelled clips as `jepa probe` takes them: a data set with train/ and test/, or a folder of shards or videos;
    none for no probe."""
    every: int = 1000
    """Steps between two probes; there is also one at the end."""
    clips: int = 500
    """At most so many clips to learn from, and so many to answer: always the same, chosen at random by the seed."""
    tasks: tuple[str, ...] = ()
    """Labels to tell apart; motion and shape if none is named, or else every label with classes."""
    probes: tuple[Literal["knn", "linear"], ...] = ("knn", "linear")
    """Heads on the frozen features. `knn` is also watched for collapse (health.knn_fall)."""
    k: int = 20
    """Neighbours that vote in `knn`."""

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("clips", 2), ("k", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"online.{name} is {getattr(self, name)}, expected at least {least}")
        if not self.probes:
            raise ConfigError("online.probes is empty: name knn, linear or both, or leave out online.data")
