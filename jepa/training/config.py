"""Everything a pretraining run is made of, as one tree of frozen dataclasses.

The parts are declared beside the classes they configure (models, masks, objectives, optim, data); here they meet,
together with what belongs to the run itself. The resolved tree is the first file of a run folder.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from jepa.config import changed, make_layer
from jepa.data.interleave import exact
from jepa.data.loader_config import LoaderConfig
from jepa.data.steps import Steps
from jepa.data.transforms import AugmentConfig
from jepa.data.windows import Short, WindowConfig
from jepa.errors import ConfigError
from jepa.masks.build import MaskSampler, MasksConfig
from jepa.masks.config import IMAGE
from jepa.models.build import ModelConfig
from jepa.objectives.build import ObjectiveConfig, require_outputs
from jepa.optim.schedules import OptimConfig
from jepa.rng import derive
from jepa.tokens import TokenGrid
from jepa.training.health import HealthConfig
from jepa.training.online_config import OnlineConfig
from jepa.training.run_config import RunConfig


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
    masks: MasksConfig = field(default_factory=lambda: MasksConfig(kinds=(IMAGE,)))
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


CHECKPOINT = Path("checkpoints", "last.ckpt")
"""Inside a run folder: weights, optimizer and position, to continue."""
WHOLE = (
    "out", "resume", "init", "seed", "json", "max_steps", "phases", "objective.target",
    *(f"online.{item.name}" for item in fields(OnlineConfig)),
)  # fmt: skip
"""Keys that belong to a run and not to one of its phases."""


@dataclass(frozen=True)
class PhaseConfig:
    """One phase of a run with phases: the configuration of the run with some values changed.

    It is the run's configuration that is changed, not that of the phase before: what a phase does not name is as in the
    run. A key that a phase names is out of reach of the command line.
    """

    name: str
    """Its name: letters, digits, dashes; its run folder is called `<number>-<name>`."""
    changes: Mapping[str, Any] = field(default_factory=dict, metadata={"layer_of": lambda: PretrainConfig})
    """Keys of the run, nested or dotted, and their values in this phase; all but those of the run as a whole: out,
    resume, init, seed, json, max_steps, phases, objective.target, online."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*", self.name):
            raise ConfigError(f"name: '{self.name}' is no name of a phase: use letters, digits and single dashes")
        flat = make_layer(PretrainConfig, self.changes, "changes").values
        if whole := [key for key in flat if key in WHOLE]:
            raise ConfigError(f"changes: {', '.join(whole)}: said for the whole run, not for one of its phases")
        object.__setattr__(self, "changes", flat)


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
    optim.steps; the model is written all the same. With phases it cuts each of them."""
    resume: bool = False
    """Continue the run in `out` from its last checkpoint, at the exact step; starts it if there is none yet."""
    init: str | None = None
    """Start from these weights: whatever `jepa.load_encoder` reads, of ours, official or HuggingFace's. Or from a
    checkpoint, RUN/checkpoints/last.ckpt: each network from its own weights, and the optimizer with its moments."""
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
    """Device, processes, logging, checkpoints."""
    health: HealthConfig = field(default_factory=HealthConfig)
    """What is done about steps that are not finite, and about collapse."""
    online: OnlineConfig = field(default_factory=OnlineConfig)
    """Probes of the encoder while it is trained."""
    phases: tuple[PhaseConfig, ...] = ()
    """Parts of the run, one after the other, e.g. pretraining and cool-down: each a `name` and `changes`, keys of this
    configuration with their values in that phase. Each is a run folder in `out` and starts from the weights and the
    optimizer of the one before, at step 0 of its own schedules. None: the run is one piece."""

    def __post_init__(self) -> None:
        if self.max_steps is not None and self.max_steps < 1:
            raise ConfigError(f"max_steps is {self.max_steps}, expected at least 1")
        require_outputs(self.objective, self.model)
        # These raise here, before anything is written, when clip and patch sizes do not divide, or masks do not fit.
        MaskSampler(self.masks, self.grid, self.seed)
        if self.images.data is not None:
            MaskSampler(self.images.masks, self.image_grid, self.seed)
        names = [phase.name for phase in self.phases]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ConfigError(f"phases: the name '{twice[0]}' is given twice")
        for number in range(len(self.phases)):
            self.phase_run(number)

    def phase_run(self, number: int) -> "PretrainConfig":
        """The phase with this number, from 0, as a run of its own.

        It starts from the last checkpoint of the phase before. Its seed is another one, so that it does not see the
        same clips in the same order under the same masks again; the first phase has the seed of the run.

        Raises:
            ConfigError: values that the phase changes are out of range, or do not go together.
        """
        phase, own = self.phases[number], {"phases": (), "out": self._phase_folder(number)}
        if number:
            own |= {
                "init": str(self._phase_folder(number - 1) / CHECKPOINT),
                "seed": derive(self.seed, number, "phase"),
            }
        try:
            return changed(self, {**phase.changes, **own})
        except ConfigError as error:
            raise ConfigError(f"phase {phase.name}: {error}") from error

    def _phase_folder(self, number: int) -> Path:
        return self.out / f"{number + 1}-{self.phases[number].name}"

    @property
    def last_step(self) -> int:
        """Optimizer steps after which the run is finished."""
        return min(self.max_steps or self.optim.steps, self.optim.steps)

    def parts(self, clips: int, *, images: bool = False) -> int:
        """Equal parts in which a device computes its share of a step, so many clips or images; see run.device_batch.

        Images may be more at once, by as much as they have fewer tokens.
        """
        most = self.run.device_batch or clips
        if images:
            most = max(most * self.grid.count // self.image_grid.count, 1)
        return next(parts for parts in range(1, clips + 1) if clips % parts == 0 and clips // parts <= most)

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
