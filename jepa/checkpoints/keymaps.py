"""Names of tensors here and in HuggingFace's classes, as tables; one table serves both directions.

A row names a module of ours and the modules there that hold the same weights, `{n}` being the number of a block; weight
and bias go together. Several modules there are our one, cut along its rows: queries, keys and values. Official names
are ours already (`official.py` tells the few exceptions). Sources: transformers, `models/vjepa2` and `models/ijepa`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Table = dict[str, str | tuple[str, ...]]


def _block(ours: str, theirs: str) -> Table:
    """A block of V-JEPA 2's encoder or predictor."""
    attention = f"{theirs}.attention"
    return {
        f"{ours}.norm1": f"{theirs}.norm1",
        f"{ours}.attn.qkv": (f"{attention}.query", f"{attention}.key", f"{attention}.value"),
        f"{ours}.attn.proj": f"{attention}.proj",
        f"{ours}.norm2": f"{theirs}.norm2",
        f"{ours}.mlp.fc1": f"{theirs}.mlp.fc1",
        f"{ours}.mlp.fc2": f"{theirs}.mlp.fc2",
    }


VJEPA2_ENCODER: Table = {
    "patch_embed.proj": "encoder.embeddings.patch_embeddings.proj",
    **_block("blocks.{n}", "encoder.layer.{n}"),
    "norm": "encoder.layernorm",
}

VJEPA2_PREDICTOR: Table = {
    "predictor_embed": "predictor.embeddings.predictor_embeddings",
    **_block("predictor_blocks.{n}", "predictor.layer.{n}"),
    "predictor_norm": "predictor.layernorm",
    "predictor_proj": "predictor.proj",
}

MASK_TOKENS = "predictor.embeddings.mask_tokens"
"""All mask tokens as one tensor (count, 1, 1, width)."""

_CROSS, _SELF = "pooler.cross_attention_layer", "pooler.self_attention_layers.{n}"

VJEPA2_PROBE: Table = {
    "pooler.cross_attention_block.norm1": f"{_CROSS}.layer_norm1",
    "pooler.cross_attention_block.xattn.q": f"{_CROSS}.cross_attn.q_proj",
    "pooler.cross_attention_block.xattn.kv": (f"{_CROSS}.cross_attn.k_proj", f"{_CROSS}.cross_attn.v_proj"),
    "pooler.cross_attention_block.norm2": f"{_CROSS}.layer_norm2",
    "pooler.cross_attention_block.mlp.fc1": f"{_CROSS}.mlp.fc1",
    "pooler.cross_attention_block.mlp.fc2": f"{_CROSS}.mlp.fc2",
    "pooler.blocks.{n}.norm1": f"{_SELF}.layer_norm1",
    "pooler.blocks.{n}.attn.qkv": (
        f"{_SELF}.self_attn.q_proj",
        f"{_SELF}.self_attn.k_proj",
        f"{_SELF}.self_attn.v_proj",
    ),
    "pooler.blocks.{n}.attn.proj": f"{_SELF}.self_attn.out_proj",
    "pooler.blocks.{n}.norm2": f"{_SELF}.layer_norm2",
    "pooler.blocks.{n}.mlp.fc1": f"{_SELF}.mlp.fc1",
    "pooler.blocks.{n}.mlp.fc2": f"{_SELF}.mlp.fc2",
    "linear": "classifier",
}

QUERY_TOKENS = "pooler.query_tokens"
"""The same here and there; no weight and bias but a tensor."""

_LAYER = "encoder.layer.{n}"

IJEPA_ENCODER: Table = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "blocks.{n}.norm1": f"{_LAYER}.layernorm_before",
    "blocks.{n}.attn.qkv": (
        f"{_LAYER}.attention.attention.query",
        f"{_LAYER}.attention.attention.key",
        f"{_LAYER}.attention.attention.value",
    ),
    "blocks.{n}.attn.proj": f"{_LAYER}.attention.output.dense",
    "blocks.{n}.norm2": f"{_LAYER}.layernorm_after",
    "blocks.{n}.mlp.fc1": f"{_LAYER}.intermediate.dense",
    "blocks.{n}.mlp.fc2": f"{_LAYER}.output.dense",
    "norm": "layernorm",
}

IJEPA_POSITIONS = "embeddings.position_embeddings"


@dataclass(frozen=True)
class Pair:
    """A tensor of ours and those of theirs that are its rows."""

    ours: str
    theirs: tuple[str, ...]


def expand(table: Table, depth: int) -> Iterator[Pair]:
    """The rows of a table for every block and for weight and bias."""
    for ours, theirs in table.items():
        several = (theirs,) if isinstance(theirs, str) else theirs
        for number in range(depth) if "{n}" in ours else (0,):
            for kind in ("weight", "bias"):
                names = tuple(f"{name.format(n=number)}.{kind}" for name in several)
                yield Pair(f"{ours.format(n=number)}.{kind}", names)


def to_ours(table: Table, depth: int, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by our names, of those in the table that are there in full."""
    found: dict[str, Tensor] = {}
    for pair in expand(table, depth):
        rows = [theirs[name] for name in pair.theirs if name in theirs]
        if len(rows) == len(pair.theirs):
            found[pair.ours] = rows[0] if len(rows) == 1 else torch.cat(rows)
    return found


def to_theirs(table: Table, depth: int, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names. Raises KeyError when one of ours is missing."""
    found: dict[str, Tensor] = {}
    for pair in expand(table, depth):
        rows = ours[pair.ours].chunk(len(pair.theirs))
        found |= dict(zip(pair.theirs, rows, strict=True))
    return found


def their_names(table: Table, depth: int) -> set[str]:
    """Every name of theirs in the table."""
    return {name for pair in expand(table, depth) for name in pair.theirs}
