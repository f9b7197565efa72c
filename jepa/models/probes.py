"""Attentive probes as they are published: one answer from one query, or several answers from a query each.

Most tasks have one question per clip (`AttentiveClassifier`). Anticipation on EPIC-KITCHENS-100 (arXiv 2506.09985,
section 6) asks for verb, noun and action at once: three queries read the tokens, each with a linear layer of its own.
Parameter names follow the official probe files.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa.errors import ConfigError
from jepa.models.attentive import AttentiveClassifier, AttentivePooler

ANTICIPATION = ("verb", "noun", "action")
"""Answers of the anticipation probe, in the order of its queries."""


@dataclass(frozen=True)
class ProbeConfig:
    """Architecture of an attentive probe."""

    width: int
    """D, width of the tokens."""
    classes: tuple[int, ...]
    """Number of classes of each answer."""
    answers: tuple[str, ...] = ()
    """Name of each answer; none for the single, nameless one of `AttentiveClassifier`."""
    heads: int = 16
    """Attention heads; must divide the width."""
    depth: int = 4
    """Blocks: one of cross-attention behind depth - 1 of self-attention."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLPs over D."""

    def __post_init__(self) -> None:
        if len(self.classes) != max(len(self.answers), 1) or min(self.classes, default=0) < 1:
            raise ConfigError(f"a probe with answers {list(self.answers)} has {list(self.classes)} classes")


class AnticipationClassifier(nn.Module):
    """Pooler with a query per answer: tokens (B, N, D) to class scores by answer, each (B, classes)."""

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        self.answers = config.answers
        self.pooler = AttentivePooler(
            config.width,
            config.heads,
            depth=config.depth,
            num_queries=len(config.answers),
            mlp_ratio=config.mlp_ratio,
        )
        for name, classes in zip(config.answers, config.classes, strict=True):
            self.add_module(f"{name}_classifier", nn.Linear(config.width, classes))

    def forward(self, tokens: Float[Tensor, "B N D"]) -> dict[str, Tensor]:
        pooled_BQD = self.pooler(tokens)
        layers = [self.get_submodule(f"{name}_classifier") for name in self.answers]
        return {
            name: layer(answer_BD)
            for name, layer, answer_BD in zip(self.answers, layers, torch.unbind(pooled_BQD, 1), strict=True)
        }


Probe = AttentiveClassifier | AnticipationClassifier


def build_probe(config: ProbeConfig) -> Probe:
    """A probe with initial weights."""
    if config.answers:
        return AnticipationClassifier(config)
    return AttentiveClassifier(
        config.width, config.heads, config.classes[0], depth=config.depth, mlp_ratio=config.mlp_ratio
    )
