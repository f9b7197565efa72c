"""Several data sets as one: a mixture, described by a YAML file that stands wherever a data set may.

    sources:
      - {data: kinetics, proportion: 0.335}
      - {data: ssv2, split: train, proportion: 0.1}
      - {data: https://host/howto100m, proportion: 0.565}

The weights are given in one of three ways, the same for all sources: `proportion`, shares of the clips; `repeat`, how
often each sample comes in an epoch of the mixture; `choose`, how many samples come in one. They become whole numbers
exactly, and the sources are drawn in that proportion by `interleave.py`: each in its own order and its own epochs,
in every batch nearly as in the whole. A single data set is a mixture of one, in the order it has alone.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path

from jepa import config as configuration
from jepa.data.digests import DIGEST
from jepa.data.interleave import exact, whole
from jepa.data.limits import DEFAULT_LIMITS, Limits
from jepa.data.source import MIXTURE_ENDINGS, Source, open_source
from jepa.data.storage import RemoteOptions, url_of
from jepa.errors import ConfigError

WEIGHTS = ("proportion", "repeat", "choose")


@dataclass(frozen=True)
class SourceConfig:
    """One data set of a mixture."""

    data: Path
    """Shards (a folder or a URL), or a folder of videos; a relative path starts at the folder of this file."""
    split: str = "train"
    """Its part, where it has parts."""
    proportion: float | None = None
    """Share of the clips that come from it; the shares need not sum to 1."""
    repeat: float | None = None
    """How often each of its samples comes in an epoch of the mixture."""
    choose: int | None = None
    """How many of its samples come in an epoch of the mixture."""

    def __post_init__(self) -> None:
        given = [name for name in WEIGHTS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(f"{' and '.join(given) or 'no weight'} given: expected one of {', '.join(WEIGHTS)}")
        value = getattr(self, given[0])
        if not 0 < value < math.inf:
            raise ConfigError(f"{given[0]} is {value}, expected a number above 0")

    @property
    def kind(self) -> str:
        """Which of the weights is given."""
        return next(name for name in WEIGHTS if getattr(self, name) is not None)

    def weight(self, size: int) -> Fraction:
        """Its weight, if it has `size` samples."""
        return exact(getattr(self, self.kind)) * (size if self.kind == "repeat" else 1)


@dataclass(frozen=True)
class MixtureConfig:
    """A mixture of data sets."""

    sources: tuple[SourceConfig, ...]
    """The data sets."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources is empty: name at least one data set")
        kinds = {source.kind for source in self.sources}
        if len(kinds) > 1:
            raise ConfigError(f"sources have {' and '.join(sorted(kinds))}: expected the same kind of weight for all")


@dataclass(frozen=True)
class Mixture:
    """Data sets and their weights."""

    name: str
    sources: tuple[Source, ...]
    names: tuple[str, ...]
    """Of the sources, each once."""
    weights: tuple[int, ...]
    """Whole numbers in the proportion of the clips."""

    def __len__(self) -> int:
        """Samples of all sources."""
        return sum(len(source) for source in self.sources)

    @property
    def fingerprint(self) -> str:
        """Changes with the content of a source, and with the weights. That of a single source is its own."""
        if len(self.sources) == 1:
            return self.sources[0].fingerprint
        digest = blake2b(digest_size=DIGEST)
        for source, weight in zip(self.sources, self.weights, strict=True):
            digest.update(f"{source.fingerprint} {weight}\n".encode())
        return digest.hexdigest()

    def shares(self) -> str:
        """Samples and share of each source, for people."""
        total = sum(self.weights)
        parts = zip(self.names, self.sources, self.weights, strict=True)
        return ", ".join(f"{name} {weight / total:.1%} ({len(source)} samples)" for name, source, weight in parts)


def mixture_of(data: Source | Mixture) -> Mixture:
    """A single data set as a mixture of one."""
    return data if isinstance(data, Mixture) else Mixture(data.name, (data,), (data.name,), (1,))


def is_mixture(path: Path) -> bool:
    """Whether the path is that of a description of a mixture."""
    return path.suffix.lower() in MIXTURE_ENDINGS and url_of(path) is None and path.expanduser().is_file()


def open_mixture(
    path: str | Path,
    split: str | None = "train",
    remote: RemoteOptions | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Mixture:
    """Open what `open_source` opens, or the mixture that a YAML file describes.

    Args:
        split: part to open where `path` holds parts; a mixture names those of its sources itself.
        remote: how URLs are read.
        limits: of plain files.

    Raises:
        ConfigError: the description is wrong; names file, line and key. Or as `open_source`.
        DataError: as `open_source`.
    """
    file = Path(path).expanduser()
    if not is_mixture(file):
        return mixture_of(open_source(path, split, remote, limits))
    described = read_mixture(file).sources
    sources = tuple(open_source(_beside(file, one.data), one.split, remote, limits) for one in described)
    weights = whole([one.weight(len(source)) for one, source in zip(described, sources, strict=True)])
    return Mixture(file.stem, sources, _distinct([source.name for source in sources]), weights)


def read_mixture(file: Path) -> MixtureConfig:
    """The description in a YAML file.

    Raises:
        ConfigError: it is wrong; names file, line and key.
    """
    layer = configuration.read_layer(MixtureConfig, file)
    if "sources" not in layer.values:
        raise ConfigError(f"{file}: no 'sources', which a mixture lists")
    try:
        return MixtureConfig(**layer.values)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def _beside(file: Path, data: Path) -> Path:
    """A path in a description: relative to its folder."""
    return data if url_of(data) else file.parent / data


def _distinct(names: list[str]) -> tuple[str, ...]:
    """The names, with a number behind those that are there twice."""
    return tuple(
        name if names.count(name) == 1 else f"{name}#{names[: place + 1].count(name)}"
        for place, name in enumerate(names)
    )
