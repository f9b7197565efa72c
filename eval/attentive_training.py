"""Training of the attentive probe on cached tokens: several heads in one pass, the best on validation is kept.

Each pair of learning rate and weight decay trains its own head, all from the same initial weights and on the
same batches (V-JEPA 2 trains 20 heads this way, but picks the best on the set it reports). Here they are judged
on a part of the training set, and the chosen pair is trained once more on all of it. AdamW, cosine from the
learning rate to 0 without warm-up, as the official evaluations; biases and norms do not decay. Unlike there,
tokens are standardised first: in a small encoder the constant part of the tokens is so large that the heads
hardly start to learn.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa.errors import ConfigError, DivergedError
from jepa.eval.features import TokenTable
from jepa.eval.standardiser import Standardiser
from jepa.models.attentive import AttentiveClassifier, joint_scores
from jepa.models.positions import sincos_positions
from jepa.rng import derive, torch_generator


@dataclass(frozen=True)
class AttentiveConfig:
    """Attentive probe."""

    learning_rates: tuple[float, ...] = (1e-2, 3e-3, 1e-3)
    """Peak learning rates to choose from on the validation part."""
    weight_decays: tuple[float, ...] = (0.1, 1.0)
    """Weight decays to choose from on the validation part."""
    depth: int = 1
    """1: cross-attention alone; 4: three self-attention blocks before it, as V-JEPA 2."""
    heads: int = 16
    """Attention heads, 16 as in the official probes; the largest common divisor with the encoder's width is taken."""
    positions: bool = True
    """Add fixed sine-cosine positions to the tokens: pooling sees a set, and an encoder whose predictor is told the
    positions need not carry them."""
    standardise: bool = True
    """Bring each channel of the tokens to mean 0 and deviation 1 first, with training statistics."""
    epochs: int = 20
    """Passes over the training set."""
    batch_size: int = 128
    """Clips per step."""
    least_steps: int = 200
    """Small sets are passed over more often until there are so many steps."""

    def __post_init__(self) -> None:
        for name in ("depth", "heads", "epochs", "batch_size", "least_steps"):
            if (count := getattr(self, name)) < 1:
                raise ConfigError(f"attentive.{name} is {count}, expected 1 or more")
        if not self.learning_rates or not self.weight_decays:
            raise ConfigError("attentive.learning_rates and attentive.weight_decays each need at least one value")
        for rate in self.learning_rates:
            if not 0 < rate < math.inf:
                raise ConfigError(f"attentive.learning_rates has {rate}, expected numbers above 0")
        for decay in self.weight_decays:
            if not 0 <= decay < math.inf:
                raise ConfigError(f"attentive.weight_decays has {decay}, expected numbers of 0 or more")


@dataclass(frozen=True)
class Setting:
    """What the heads differ in."""

    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class AttentiveProbe:
    """A head trained on the whole training set, and how it was chosen."""

    head: AttentiveClassifier
    standardise: Standardiser | None
    positions: Tensor | None
    """(levels * N, D), added to the tokens."""
    setting: Setting
    validation: float | None
    """Accuracy of the chosen setting on the validation part; none if there was nothing to choose with."""

    def predict(self, table: TokenTable, rows: Tensor, device: torch.device) -> Tensor:
        """Class number of each row, int64."""
        return _scores(self.head, Tokens(table, rows, self.standardise, self.positions, device)).argmax(1)


@dataclass(frozen=True)
class Tokens:
    """Some rows of a table, standardised, given positions and moved to a device batch by batch."""

    table: TokenTable
    rows: Tensor
    standardise: Standardiser | None
    positions: Tensor | None
    device: torch.device

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: Tensor) -> Tensor:
        tokens_BND = self.table.tokens[self.rows[positions]].to(self.device)
        if self.standardise:
            tokens_BND = self.standardise(tokens_BND)
        return tokens_BND if self.positions is None else tokens_BND + self.positions

    def part(self, positions: Sequence[int]) -> "Tokens":
        """The rows at these positions."""
        return replace(self, rows=self.rows[list(positions)])


def train_attentive(
    table: TokenTable,
    rows: Tensor,
    targets_B: Tensor,
    classes: int,
    fit: Sequence[int],
    validation: Sequence[int],
    config: AttentiveConfig,
    *,
    seed: int,
    device: torch.device,
) -> AttentiveProbe:
    """Choose learning rate and weight decay on the validation part, then train one head with them on everything.

    Args:
        table: cached tokens.
        rows: rows of the table in the training set, int64.
        targets_B: class number per row.
        classes: number of classes.
        fit: positions in `rows` to train on while choosing.
        validation: positions to judge on; if there are none, the first setting is taken.
        config: the settings and their training.
        seed: of initial weights and order.
        device: where to train.

    Raises:
        DivergedError: every head ends with scores that are not finite.
    """

    width = table.tokens.shape[-1]

    def new_head() -> AttentiveClassifier:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, 0, "attentive probe"))
            head = AttentiveClassifier(width, math.gcd(config.heads, width), classes, depth=config.depth)
        return head.to(device)

    standardise = Standardiser.of(table.tokens).to(device) if config.standardise else None
    positions_ND = _positions(table).to(device) if config.positions else None
    tokens = Tokens(table, rows, standardise, positions_ND, device)
    settings = [Setting(*pair) for pair in product(config.learning_rates, config.weight_decays)]
    chosen, share = settings[0], None
    if len(settings) > 1 and len(validation):
        bank = [new_head() for _ in settings]
        train_heads(bank, settings, tokens.part(fit), targets_B[fit], config, seed=seed)
        shares = [_validate(head, tokens.part(validation), targets_B[validation]) for head in bank]
        share = max(shares)
        chosen = settings[shares.index(share)]
    final = new_head()
    train_heads([final], [chosen], tokens, targets_B, config, seed=seed)
    if not all(parameter.isfinite().all() for parameter in final.parameters()):
        rate = chosen.learning_rate
        raise DivergedError(f"the attentive probe diverged at learning rate {rate:g}; lower attentive.learning_rates")
    return AttentiveProbe(final, standardise, positions_ND, chosen, share)


def _positions(table: TokenTable) -> Tensor:
    """Sine-cosine positions of every token of the table, level by level."""
    levels = table.tokens.shape[1] // table.grid.count
    return sincos_positions(table.grid, table.tokens.shape[-1]).repeat(levels, 1)


def train_heads(
    bank: Sequence[AttentiveClassifier],
    settings: Sequence[Setting],
    tokens: Tokens,
    targets_B: Tensor,
    config: AttentiveConfig,
    *,
    seed: int,
) -> None:
    """Train each head in place with its setting; all see the same batches, none sees another's gradient."""
    batch_size = min(config.batch_size, len(tokens))
    steps = max(config.epochs * math.ceil(len(tokens) / batch_size), config.least_steps)
    groups = [group for head, setting in zip(bank, settings, strict=True) for group in _groups(head, setting)]
    peaks = [group["lr"] for group in groups]
    optimizer = torch.optim.AdamW(groups, fused=True)
    with torch.enable_grad():
        for step, picked in zip(range(steps), _batches(len(tokens), batch_size, seed), strict=False):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * step / steps))
            tokens_BND, truth_B = tokens[picked], targets_B[picked].to(tokens.device)
            optimizer.zero_grad()
            # The sum mixes nothing: no head's loss depends on another's parameters.
            losses = [F.cross_entropy(scores_BY, truth_B) for scores_BY in joint_scores(bank, tokens_BND)]
            torch.stack(losses).sum().backward()
            optimizer.step()
    for head in bank:
        head.eval()


def _groups(head: AttentiveClassifier, setting: Setting) -> list[dict[str, Any]]:
    weights = [parameter for parameter in head.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in head.parameters() if parameter.ndim <= 1]
    rate = setting.learning_rate
    return [
        {"params": weights, "lr": rate, "weight_decay": setting.weight_decay},
        {"params": vectors, "lr": rate, "weight_decay": 0.0},
    ]


def _batches(count: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Positions of each step, without end: every epoch in its own order."""
    epoch = 0
    while True:
        order = torch.randperm(count, generator=torch_generator(seed, epoch, "attentive probe order"))
        yield from order.split(batch_size)
        epoch += 1


@torch.no_grad()
def _scores(head: AttentiveClassifier, tokens: Tokens) -> Tensor:
    return torch.cat([head(tokens[part]).cpu() for part in torch.arange(len(tokens)).split(512)])


def _validate(head: AttentiveClassifier, tokens: Tokens, targets_B: Tensor) -> float:
    """Accuracy; -1 for a head that diverged, so that it is never chosen."""
    scores_BY = _scores(head, tokens)
    if not scores_BY.isfinite().all():
        return -1.0
    return float((scores_BY.argmax(1) == targets_B).float().mean())
