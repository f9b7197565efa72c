"""How clips are read: batch size, order, processes, caches, decoder."""

from dataclasses import dataclass, field
from pathlib import Path

from jepa.data.bad_samples import BadSamples
from jepa.data.decode import Backend, announce
from jepa.data.frames import Frames, stored_side
from jepa.data.limits import Limits
from jepa.data.source import Source
from jepa.data.storage import RemoteOptions, default_cache
from jepa.data.workers import StartMethod
from jepa.errors import ConfigError


@dataclass(frozen=True)
class LoaderConfig:
    """How clips are read."""

    batch_size: int = 64
    """Clips per step, over all ranks."""
    window_shards: int = 64
    """Shards whose samples are shuffled into one another, so that storage is read nearly in sequence; 0, or as many as
    there are: all of them. Decides the order."""
    clips_per_video: int = 1
    """Clips in a row that are cut from the same video, which is then decoded once. Decides the order."""
    workers: int = 2
    """Processes per rank that prepare batches; 0 prepares them in the training process."""
    prefetch: int = 2
    """Batches that each worker prepares ahead."""
    cache_gb: float = 2.0
    """Decode the data set once to a file if its frames fit this many gigabytes; 0 decodes on demand."""
    cache: Path | None = None
    """Folder of decoded frames and of what was read from URLs; by default $JEPA_CACHE or ~/.cache/jepa."""
    remote_gb: float = 10.0
    """Keep at most this many gigabytes of what was read from URLs; 0 keeps only the indices of the shards."""
    remote_timeout: float = 30.0
    """Seconds that one answer of a server may take; then, and after other faults, the read is tried again, six times in
    all."""
    backend: Backend = "auto"
    """Video decoder: auto takes decord for small frames where it is exact, else PyAV."""
    limits: Limits = field(default_factory=Limits)
    """What a file may ask for; larger videos and pictures are not decoded."""
    start_method: StartMethod = "forkserver"
    """How worker processes start."""
    deadline: float = 60.0
    """Seconds that a decoder may take for one clip; then its process is replaced, and the sample left out."""
    max_bad: float = 0.01
    """End the run if more than this part of the samples cannot be used; until then others take their places."""

    def __post_init__(self) -> None:
        for name, value, least in (
            ("batch_size", self.batch_size, 1),
            ("window_shards", self.window_shards, 0),
            ("clips_per_video", self.clips_per_video, 1),
            ("workers", self.workers, 0),
            ("prefetch", self.prefetch, 1),
            ("cache_gb", self.cache_gb, 0),
            ("remote_gb", self.remote_gb, 0),
            ("remote_timeout", self.remote_timeout, 0.1),
            ("deadline", self.deadline, 0.1),
        ):
            if value < least:
                raise ConfigError(f"loader.{name} is {value}, expected {least} or more")
        if not 0 <= self.max_bad < 1:
            raise ConfigError(f"loader.max_bad is {self.max_bad}, expected 0 (none) or more, and less than 1")

    @property
    def remote(self) -> RemoteOptions:
        """How a data set behind a URL is read."""
        return RemoteOptions(cache=self.cache, cache_gb=self.remote_gb, timeout=self.remote_timeout)

    def bad_samples(self, source: Source) -> BadSamples:
        """What is done about the samples of a source that cannot be used."""
        return BadSamples(source, self.cache or default_cache(), self.max_bad)

    def open_frames(self, source: Source, size: int, bad: BadSamples | None = None, number: int = 0) -> Frames:
        """The frames of a source, for clips of `size` x `size` pixels.

        Args:
            source: the videos.
            size: pixels.
            bad: its bad samples, where the caller shares them.
            number: of the source, where there are several.

        Raises:
            As `Frames`.
        """
        frames = Frames(
            source,
            short_side=stored_side(size),
            budget_gb=self.cache_gb,
            cache=self.cache,
            backend=self.backend,
            limits=self.limits,
            workers=self.workers,
            start_method=self.start_method,
            deadline=self.deadline,
            bad=bad or self.bad_samples(source),
            number=number,
        )
        if not frames.cached:
            announce(self.backend)
        return frames
