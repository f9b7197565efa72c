"""`jepa synth`: make a synthetic data set of physics scenes, as shards of real video files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jepa.cores import cores
from jepa.data.synthetic.generate import Generated, generate
from jepa.data.synthetic.sheet import contact_sheet, write_png
from jepa.data.synthetic.world import COLOURS, MOTIONS, SHAPES, TEXTURES, WorldConfig
from jepa.errors import ConfigError

SUMMARY = "Simulate and render a synthetic physics data set as shards of real video files"
EXAMPLE = "jepa synth --out data/easy --clips 5000"


@dataclass(frozen=True)
class Config:
    """What `jepa synth` makes, and where."""

    out: Path
    """Folder of the data set; shards go to its subfolders train/ and test/."""
    clips: int
    """Number of clips, both splits together."""
    world: Literal["easy", "hard"] = "easy"
    """Difficulty: easy is learnt in minutes on two cores; hard has distractors, textures, camera motion."""
    test_fraction: float = 0.2
    """Part of the clips that makes the test split, with colours, textures and shapes that train never shows."""
    frames: int = 16
    """Frames per clip; a scene always fills its clip."""
    size: int = 40
    """Height and width in pixels."""
    fps: int = 8
    """Frames per second written into the files."""
    seed: int = 0
    """The same seed gives the same clips."""
    workers: int | None = None
    """Processes at most; the result does not depend on it. None: one per core."""
    preview: Path | None = None
    """Also write a contact sheet, one row per motion, to this PNG file."""
    json: bool = False
    """Print the result as JSON."""


def run(config: Config) -> int:
    """Make the data set and print what was made."""
    if config.workers is not None and config.workers < 1:
        raise ConfigError(f"workers = {config.workers}: expected 1 or more")
    world = WorldConfig(world=config.world, frames=config.frames, size=config.size, fps=config.fps)
    made = generate(
        world,
        config.out,
        clips=config.clips,
        test_fraction=config.test_fraction,
        seed=config.seed,
        workers=config.workers or cores(),
    )
    if config.preview is not None:
        write_png(contact_sheet(world, config.seed, "train"), config.preview)
    print(json.dumps(_facts(made, config)) if config.json else _sentence(made, config))
    return 0


def _facts(made: Generated, config: Config) -> dict[str, object]:
    return {
        "out": str(made.out),
        "created": made.created,
        "train": made.train,
        "test": made.test,
        "world": config.world,
        "frames": config.frames,
        "size": config.size,
        "fps": config.fps,
        "seed": config.seed,
        "classes": {"motion": MOTIONS, "shape": SHAPES, "colour": COLOURS, "texture": TEXTURES},
        "preview": None if config.preview is None else str(config.preview),
    }


def _sentence(made: Generated, config: Config) -> str:
    state = "made" if made.created else "already there:"
    text = (
        f"{state} {made.train} train and {made.test} test clips of the {config.world} world in {made.out} "
        f"({config.frames} frames of {config.size}x{config.size} at {config.fps} fps, {len(MOTIONS)} motions)"
    )
    return text if config.preview is None else f"{text}\ncontact sheet: {config.preview}"
