"""Settings of an evaluation, and what a result is said to depend on."""

from dataclasses import dataclass, field

from jepa.checkpoints.load import FrozenEncoder
from jepa.config import to_dict
from jepa.data.loader_config import LoaderConfig
from jepa.data.windows import Short, WindowConfig
from jepa.errors import ConfigError
from jepa.eval.attentive_training import AttentiveConfig
from jepa.eval.clips import EvaluationData
from jepa.eval.features import ClipView, view_of
from jepa.eval.knn import KnnConfig
from jepa.eval.linear import LinearConfig
from jepa.eval.pixels import PixelsConfig
from jepa.eval.probes import AnyProbe, ProbesConfig
from jepa.eval.segmentation import SegmentationConfig
from jepa.tokens import TokenGrid


@dataclass(frozen=True)
class ClipConfig:
    """Clips that are probed; what is not given is as in the encoder's pretraining."""

    frames: int | None = None
    """Frames in a clip."""
    stride: int | None = None
    """Take every n-th frame of the video."""
    fps: float | None = None
    """Frames per second of a clip; sets the stride from each video's frame rate."""
    short: Short | None = None
    """A video too short for a clip: stop with an error, repeat its last frame, or start it again (loop)."""
    segments: int = 1
    """Clips of a video, one from the middle of each of so many equal parts; probes see the features of all of them."""
    size: int | None = None
    """Height and width in pixels."""
    levels: tuple[int, ...] = ()
    """0-based encoder blocks whose tokens are read, concatenated along the sequence; the output if none."""

    def __post_init__(self) -> None:
        for name, count in (
            ("frames", self.frames),
            ("stride", self.stride),
            ("segments", self.segments),
            ("size", self.size),
        ):
            if count is not None and count < 1:
                raise ConfigError(f"clip.{name} is {count}, expected 1 or more")
        if self.fps is not None and not self.fps > 0:
            raise ConfigError(f"clip.fps is {self.fps}, expected a number above 0")

    def view(self, encoder: FrozenEncoder) -> ClipView:
        """Window and size of the clips for this encoder."""
        own = view_of(encoder)
        # A given stride is meant to count: it switches off a frame rate from pretraining.
        fps = own.window.fps if self.fps is None and self.stride is None else self.fps
        frames = own.window.frames if self.frames is None else self.frames
        stride = own.window.stride if self.stride is None else self.stride
        window = WindowConfig(frames, stride, fps, self.short or own.window.short)
        return ClipView(window, own.size if self.size is None else self.size, self.segments)


@dataclass(frozen=True)
class EvaluationConfig:
    """How encoders are evaluated."""

    clip: ClipConfig = field(default_factory=ClipConfig)
    """Which clips."""
    probes: ProbesConfig = field(default_factory=ProbesConfig)
    """Settings of the probes."""
    pixels: PixelsConfig = field(default_factory=PixelsConfig)
    """Raw-pixel baseline."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """Reading of the clips."""
    memory_gb: float = 2.0
    """Tokens above this go to a temporary file."""

    def __post_init__(self) -> None:
        if not self.memory_gb >= 0:
            raise ConfigError(f"memory_gb is {self.memory_gb}, expected 0 or more")


@dataclass(frozen=True)
class Conditions:
    """All that a result depends on besides the weights and the seed; its hash is the `config_hash`."""

    data: tuple[str, str, int, int]
    view: dict[str, object]
    levels: tuple[int, ...]
    validation: float
    probe: LinearConfig | AttentiveConfig | KnnConfig | SegmentationConfig
    pixels: PixelsConfig | TokenGrid | None
    """Of raw pixels: how they are averaged, or the tokens that they are cut into."""

    @classmethod
    def of(
        cls,
        data: EvaluationData,
        view: ClipView,
        config: EvaluationConfig,
        kind: AnyProbe,
        pixels: PixelsConfig | TokenGrid | None = None,
    ) -> "Conditions":
        """Of one probe. A single segment is left out of the view, so that earlier results keep their hash."""
        facts = {key: value for key, value in to_dict(view).items() if key != "segments" or value != 1}
        levels = config.clip.levels if pixels is None else ()
        return cls(data.fingerprint, facts, levels, config.probes.validation, config.probes.of(kind), pixels)
