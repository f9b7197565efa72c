"""`jepa probe`: what can be read from a frozen encoder, beside a random one and raw pixels.

Each clip is encoded once; then a linear, an attentive and a nearest-neighbour probe are trained per label on the
training clips and tested once on the test clips. On request (`--probes segmentation`), a linear map is trained to tell
from each token whether it shows a body. Their settings are chosen on a part of the training clips. Results
go to results.jsonl in the run folder, with 95 % intervals; the same measurement made again replaces its line.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jepa.checkpoints.io import require_writable
from jepa.checkpoints.load import FrozenEncoder, load_encoder
from jepa.data.loader_config import LoaderConfig
from jepa.devices import DeviceName, choose_device
from jepa.errors import ConfigError
from jepa.eval.attentive_training import AttentiveConfig
from jepa.eval.classification import ALL_PROBES, evaluate_beside
from jepa.eval.clips import EvaluationData, choose_tasks, open_evaluation_data
from jepa.eval.knn import KnnConfig
from jepa.eval.linear import LinearConfig
from jepa.eval.pixels import PixelsConfig
from jepa.eval.probes import AnyProbe, ProbesConfig
from jepa.eval.results import RESULTS, Result, as_json, table
from jepa.eval.segmentation import SegmentationConfig
from jepa.eval.settings import ClipConfig, EvaluationConfig
from jepa.logs import get_logger

SUMMARY = "Probe a frozen encoder: linear, attentive and nearest-neighbour accuracy, beside baselines"
EXAMPLE = "jepa probe --encoder runs/mine --data shards/mine --out runs/mine"

log = get_logger(__name__)


@dataclass(frozen=True)
class Config:
    """Probe a frozen encoder."""

    encoder: str
    """Run folder, weights of any published kind (docs/weights.md), or the name of a shipped encoder."""
    data: Path
    """Labelled clips: a data set with train/ and test/, or a folder of shards or videos; shards may be a URL."""
    out: Path
    """Run folder that results.jsonl is written to."""
    tasks: tuple[str, ...] = ()
    """Labels to tell apart; motion and shape if none is named, or else every label with classes."""
    probes: tuple[AnyProbe, ...] = ALL_PROBES
    """Heads to train on the frozen features; `segmentation` needs data with masks of the bodies (`jepa synth`)."""
    baselines: tuple[Literal["random", "pixels", "none"], ...] = ("random", "pixels")
    """What to compare with: the same architecture with random weights, raw pixels, or none."""
    name: str = "pretrained"
    """What the encoder is called in the results."""
    labelled: int | None = None
    """Train the probes on at most so many clips of the training split, chosen at random; none for all."""
    limit: int | None = None
    """Use at most so many clips of each split, chosen at random."""
    validation: float = 0.2
    """Share of the training clips on which the settings of the probes are chosen."""
    seed: int = 0
    """Seed of the splits, the attentive probe and the random encoder."""
    device: DeviceName = "auto"
    """`auto`: the GPU if there is one."""
    json: bool = False
    """Print the results as JSON."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    """Which clips."""
    linear: LinearConfig = field(default_factory=LinearConfig)
    """Linear probe."""
    attentive: AttentiveConfig = field(default_factory=AttentiveConfig)
    """Attentive probe."""
    knn: KnnConfig = field(default_factory=KnnConfig)
    """Nearest-neighbour probe."""
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    """Segmentation probe."""
    pixels: PixelsConfig = field(default_factory=PixelsConfig)
    """Raw-pixel baseline."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """Reading of the clips; none of it changes a result."""
    memory_gb: float = 2.0
    """Tokens above this go to a temporary file."""

    def __post_init__(self) -> None:
        if not self.probes:
            raise ConfigError("no probes named; choose from linear, attentive, knn, segmentation")
        for name, count in (("labelled", self.labelled), ("limit", self.limit)):
            if count is not None and count < 2:
                raise ConfigError(f"{name} is {count}, expected at least 2 clips")
        if "none" in self.baselines and len(self.baselines) > 1:
            raise ConfigError(f"baselines are {', '.join(self.baselines)}: name either none or some")


def run(config: Config) -> int:
    """Probe, print the table, and write the results.

    Raises:
        DataError: the encoder or the data cannot be used.
        ConfigError: a GPU is asked for and there is none, or the results cannot be written.
    """
    encoder = load_encoder(config.encoder).to(choose_device(config.device, "--device"))
    data = open_evaluation_data(
        config.data, seed=config.seed, labelled=config.labelled, limit=config.limit, remote=config.loader.remote
    )
    results = _evaluate(encoder, data, config)
    print(as_json(results) if config.json else table(results))
    log.info("results are in %s", config.out / RESULTS)
    return 0


def _evaluate(encoder: FrozenEncoder, data: EvaluationData, config: Config) -> list[Result]:
    settings = _settings(config)
    if any(kind != "segmentation" for kind in config.probes):
        choose_tasks(data, config.tasks)  # a label that is not there ends it before anything is written
    require_writable(config.out)
    encoders = [(config.name, encoder)]
    return list(
        evaluate_beside(
            encoders,
            config.baselines,
            data,
            config.tasks,
            config.probes,
            config=settings,
            seed=config.seed,
            out=config.out,
        )
    )


def _settings(config: Config) -> EvaluationConfig:
    return EvaluationConfig(
        clip=config.clip,
        probes=ProbesConfig(config.linear, config.attentive, config.knn, config.segmentation, config.validation),
        pixels=config.pixels,
        loader=config.loader,
        memory_gb=config.memory_gb,
    )
