"""What a file may ask for before it is decoded: limits against decompression bombs.

A picture of some hundred bytes can announce 65535 x 65535 pixels, a video of a kilobyte a length of years. Whoever
decodes it first and looks at the size then has lost the process. So the numbers are read from the headers and held
against these limits before anything is allocated, and FFmpeg's decoders get the limit on pixels too, since the size
of the frames may change in the middle of a stream.
"""

from dataclasses import dataclass, fields
from pathlib import Path

from jepa.errors import ConfigError, SampleError

MEGABYTE = 10**6


class LimitError(SampleError):
    """A file asks for more than is allowed, which other settings may allow."""


@dataclass(frozen=True)
class Limits:
    """Largest video or picture that is decoded. The defaults let pass whatever cameras make."""

    max_pixels: int = 2**26
    """Width x height of a frame (the default is that of 8192 x 8192, twice an 8K film)."""
    max_seconds: float = 86_400.0
    """Time from the first frame to the last, by their timestamps (what headers announce is not believed)."""
    max_megabytes: float = 4096.0
    """Size of the encoded file, in units of 10^6 bytes."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ConfigError(f"loader.limits.{field.name} is {value}, expected a positive number")

    def check_size(self, video: bytes | Path, label: str) -> None:
        """Raise SampleError if the encoded file is too large; OSError if there is none."""
        size = len(video) if isinstance(video, bytes) else video.stat().st_size
        if size > self.max_megabytes * MEGABYTE:
            self._refuse(label, f"{size / MEGABYTE:.0f} megabytes", "max_megabytes", self.max_megabytes)

    def check_pixels(self, height: int, width: int, label: str) -> None:
        """Raise SampleError if frames are too large."""
        if height * width > self.max_pixels:
            self._refuse(label, f"{width}x{height} = {width * height} pixels", "max_pixels", self.max_pixels)

    def check_seconds(self, seconds: float, label: str) -> None:
        """Raise SampleError if the video is too long."""
        if seconds > self.max_seconds:
            self._refuse(label, f"{seconds:.0f} seconds", "max_seconds", self.max_seconds)

    def _refuse(self, label: str, what: str, name: str, most: float) -> None:
        raise LimitError(f"{label}: {what} are more than the {most:.10g} of loader.limits.{name}")


DEFAULT_LIMITS = Limits()
