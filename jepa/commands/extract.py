"""Writes the features of a frozen encoder for every video: safetensors shards and a parquet index that says which
frames of which video each row is. An interrupted extraction continues where it stopped when the command is repeated.

Read them with `jepa.features.readers.FeatureSet(DIR)`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from jepa.checkpoints.load import load_encoder
from jepa.config import to_dict
from jepa.data.source import has_split, is_there, open_source
from jepa.devices import DeviceName, choose_device
from jepa.errors import ConfigError
from jepa.features.extract import ExtractConfig, Extraction, extract

SUMMARY = "Write the features of a frozen encoder"
EXAMPLE = "jepa extract --encoder runs/first --data ~/videos --out features/mine --pool steps"


@dataclass(frozen=True, kw_only=True)
class Config(ExtractConfig):
    encoder: str
    """Run folder, weights of any published kind (docs/weights.md), or the name of a shipped encoder."""
    data: Path
    """Shards (a folder or its URL), or a plain folder of videos."""
    out: Path
    """Folder for the features; made if missing, continued if it was begun with the same settings."""
    split: str | None = None
    """Part of the data to read, where it has parts: train or test; `train` when none."""
    device: DeviceName = "auto"
    """`auto`: the GPU if there is one."""
    json: bool = False
    """Print the result as JSON."""


def run(config: Config) -> int:
    """Extract, and say on stdout what was written."""
    device = choose_device(config.device, "--device")
    if config.split is not None and is_there(config.data) and not has_split(config.data, config.split):
        raise ConfigError(f"--split {config.split}: {config.data} has no such part")
    encoder = load_encoder(config.encoder).to(device)
    source = open_source(config.data, config.split or "train")
    result = extract(encoder, source, config.out, config, encoder_path=config.encoder)
    print(json.dumps(to_dict(asdict(result)), indent=2) if config.json else describe(result))
    return 0


def describe(result: Extraction) -> str:
    """The result in words."""
    size = " x ".join(str(side) for side in result.row_shape)
    shards = "1 shard" if result.shards == 1 else f"{result.shards} shards"
    text = f"{result.rows} rows, each {size} values, in {shards}: {result.out}"
    if result.new_rows == 0:
        text = f"already complete, nothing to do: {text}"
    elif result.new_rows < result.rows:
        text += f" ({result.new_rows} new)"
    if result.skipped:
        text += f"\nskipped {len(result.skipped)} videos, listed in extract.json; first: {result.skipped[0].why}"
    return text
