"""Everything a pretraining run is made of, as one tree of frozen dataclasses.

The parts are declared beside the classes they configure (models, masks, objectives, optim, data); here they meet,
together with what belongs to the run itself. The resolved tree is the first file of a run folder.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jepa.data.interleave import exact
from jepa.data.loader_config import LoaderConfig
from jepa.data.steps import Steps
from jepa.data.transforms import AugmentConfig
from jepa.data.windows import Short, WindowConfig
from jepa.devices import DeviceName
from jepa.errors import ConfigError
from jepa.masks.build import MasksConfig
from jepa.masks.multiblock import BlockConfig
from jepa.models.build import ModelConfig
from jepa.objectives.build import ObjectiveConfig, require_outputs
from jepa.optim.schedules import OptimConfig
from jepa.tokens import TokenGrid


@dataclass(frozen=True)
class ClipConfig:
    """How a clip is cut from a video: which frames, and which part of them."""

    frames: int = 16
    """Frames of a clip."""
    stride: int = 4
    """Take every n-th frame of the video; `fps` overrides it."""
    fps: float | None = None
    """Frames per second of the clip, whatever the video's rate; none to use `stride`."""
    short: Short = "error"
    """Videos shorter than a clip: stop with an error, repeat their last frame, or start them again (`loop`)."""
    size: int = 224
    """Height and width of the clip in pixels."""
    scale: tuple[float, float] = (0.3, 1.0)
    """Share of the frame's area that the random crop takes, from and to."""
    ratio: tuple[float, float] = (0.75, 1.35)
    """Width over height of the random crop, from and to."""
    flip: bool = True
    """Mirror half of the clips left to right; turn it off where direction carries meaning."""

    def __post_init__(self) -> None:
        _ = self.window, self.augment  # they check their values; here, before a run has started

    @property
    def window(self) -> WindowConfig:
        """The frames."""
        return WindowConfig(frames=self.frames, stride=self.stride, fps=self.fps, short=self.short)

    @property
    def augment(self) -> AugmentConfig:
        """The pixels."""
        return AugmentConfig(size=self.size, scale=self.scale, ratio=self.ratio, flip=self.flip)


@dataclass(frozen=True)
class ImagesConfig:
    """Steps of images between those of videos. An image is a clip of one frame."""

    data: Path | None = None
    """Pictures, or videos of which single frames are taken: whatever `data` may be; none for no images."""
    share: float = 0.5
    """Of the steps: those that are of images; the others are of videos."""
    batch_size: int = 64
    """Images per step, over all ranks."""
    size: int | None = None
    """Height and width of an image in pixels; none for those of a clip."""
    scale: tuple[float, float] = (0.3, 1.0)
    """Share of the picture's area that the random crop takes, from and to."""
    ratio: tuple[float, float] = (0.75, 1.35)
    """Width over height of the random crop, from and to."""
    flip: bool = True
    """Mirror half of the images left to right."""
    masks: MasksConfig = field(default_factory=lambda: MasksConfig(kinds=(BlockConfig(10, (0.15, 0.15)),)))
    """Which tokens of an image are seen and which are predicted; ten blocks, as in V-JEPA 2.1."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"images.share is {self.share}, expected a number between 0 and 1")
        for name in ("batch_size", "size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"images.{name} is {value}, expected at least 1")
        _ = self.augment(1)  # checks the values

    def augment(self, clip_size: int) -> AugmentConfig:
        """The pixels, beside clips of this size."""
        return AugmentConfig(size=self.size or clip_size, scale=self.scale, ratio=self.ratio, flip=self.flip)


@dataclass(frozen=True)
class RunConfig:
    """How the run is executed; nothing here changes what is learned, up to rounding."""

    device: DeviceName = "auto"
    """`auto`: the GPU if there is one."""
    precision: Literal["32", "bf16"] = "32"
    """`bf16`: matrix products in bfloat16, weights and optimizer in float32; for GPUs that have it."""
    threads: int | None = None
    """CPU threads of the training process; none for what torch chooses."""
    log_every: int = 50
    """Steps between two rows of metrics.csv."""
    checkpoint_every: int = 500
    """Steps between two saves of checkpoints/last.ckpt; also saved at the end and on Ctrl-C or SIGTERM."""
    record_order: bool = False
    """Write every consumed clip to order.jsonl in the run folder: position, key, frames, as `jepa order` tells them."""
    deterministic: bool = True
    """Ask torch for deterministic algorithms; some GPU operations are slower then."""

    def __post_init__(self) -> None:
        for name in ("threads", "log_every", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"run.{name} is {value}, expected at least 1")


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run."""

    data: Path
    """Shards (folder of `jepa pack` or `jepa synth`, or its URL), or a plain folder of videos; its `train` split if it
    has one. Or a YAML file that describes a mixture of these."""
    out: Path
    """Run folder; made if missing."""
    max_steps: int | None = None
    """End after this many optimizer steps at most. Cuts the run short without changing its schedules, which follow
    optim.steps; the model is written all the same."""
    resume: bool = False
    """Continue the run in `out` from its last checkpoint, at the exact step; starts it if there is none yet."""
    init: str | None = None
    """Start from these weights: a run folder, a model.safetensors, or the name of a shipped model."""
    seed: int = 0
    """Seed of weights, order of the clips, crops, masks and dropout."""
    json: bool = False
    """Print the result as JSON."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Encoder and predictor."""
    masks: MasksConfig = field(default_factory=MasksConfig)
    """Which tokens are seen and which are predicted."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What is predicted."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer, schedules and the momentum of the target encoder."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    """Frames and crops."""
    images: ImagesConfig = field(default_factory=ImagesConfig)
    """Images between the videos."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """Batch size and reading."""
    run: RunConfig = field(default_factory=RunConfig)
    """Device, logging, checkpoints."""

    def __post_init__(self) -> None:
        if self.max_steps is not None and self.max_steps < 1:
            raise ConfigError(f"max_steps is {self.max_steps}, expected at least 1")
        require_outputs(self.objective, self.model)
        # These raise here, before anything is written, when clip and patch sizes do not divide.
        _ = self.grid, self.images.data and self.image_grid

    @property
    def last_step(self) -> int:
        """Optimizer steps after which the run is finished."""
        return min(self.max_steps or self.optim.steps, self.optim.steps)

    @property
    def grid(self) -> TokenGrid:
        """Token layout of a clip."""
        clip, model = self.clip, self.model
        return TokenGrid.of_clip(clip.frames, clip.size, clip.size, tubelet=model.tubelet, patch=model.patch)

    @property
    def image_grid(self) -> TokenGrid:
        """Token layout of an image."""
        size = self.images.augment(self.clip.size).size
        return TokenGrid.of_image(size, size, patch=self.model.patch)

    @property
    def steps(self) -> Steps:
        """Which steps are of videos, which of images, and how large they are."""
        if self.images.data is None:
            return Steps(self.loader.batch_size)
        return Steps(self.loader.batch_size, self.images.batch_size, exact(self.images.share))
