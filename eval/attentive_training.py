"""Training of the attentive probe on cached tokens: several heads in one pass, the best on validation is kept.

Each pair of learning rate and weight decay trains its own head, all from the same initial weights and on the
same batches (V-JEPA 2 trains 20 heads this way, but picks the best on the set it reports). Here they are judged
on a part of the training set, and the chosen pair is trained once more on all of it. AdamW, cosine from the
learning rate to 0 without warm-up, as the official evaluations; biases and norms do not decay.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa.errors import DivergedError
from jepa.eval.features import TokenTable
from jepa.models.attentive import AttentiveClassifier, joint_scores
from jepa.rng import derive, torch_generator


@dataclass(frozen=True)
class AttentiveConfig:
    """Attentive probe."""

    learning_rates: tuple[float, ...] = (3e-3, 1e-3)
    """Peak learning rates to choose from on the validation part."""
    weight_decays: tuple[float, ...] = (0.01, 0.4)
    """Weight decays to choose from on the validation part."""
    depth: int = 1
    """1: cross-attention alone; 4: three self-attention blocks before it, as V-JEPA 2."""
    heads: int | None = None
    """Attention heads; those of the encoder if none."""
    epochs: int = 20
    """Passes over the training set."""
    batch_size: int = 128
    """Clips per step."""
    least_steps: int = 200
    """Small sets are passed over more often until there are so many steps."""


@dataclass(frozen=True)
class Setting:
    """What the heads differ in."""

    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class AttentiveProbe:
    """A head trained on the whole training set, and how it was chosen."""

    head: AttentiveClassifier
    setting: Setting
    validation: float | None
    """Accuracy of the chosen setting on the validation part; none if there was nothing to choose with."""

    def predict(self, table: TokenTable, rows: Tensor, device: torch.device) -> Tensor:
        """Class number of each row, int64."""
        return _scores(self.head, table, rows, device).argmax(1)


def train_attentive(
    table: TokenTable,
    rows: Tensor,
    targets_B: Tensor,
    classes: int,
    fit: Sequence[int],
    validation: Sequence[int],
    config: AttentiveConfig,
    *,
    heads: int,
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
        heads: attention heads where the configuration names none.
        seed: of initial weights and order.
        device: where to train.

    Raises:
        DivergedError: every head ends with scores that are not finite.
    """

    def new_head() -> AttentiveClassifier:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, 0, "attentive probe"))
            width = table.tokens.shape[-1]
            head = AttentiveClassifier(width, config.heads or heads, classes, depth=config.depth)
        return head.to(device)

    settings = [Setting(*pair) for pair in product(config.learning_rates, config.weight_decays)]
    chosen, share = settings[0], None
    if len(settings) > 1 and len(validation):
        bank = [new_head() for _ in settings]
        train_heads(bank, settings, table, rows[fit], targets_B[fit], config, seed=seed, device=device)
        shares = [_validate(head, table, rows[validation], targets_B[validation], device) for head in bank]
        share = max(shares)
        chosen = settings[shares.index(share)]
    final = new_head()
    train_heads([final], [chosen], table, rows, targets_B, config, seed=seed, device=device)
    if not all(parameter.isfinite().all() for parameter in final.parameters()):
        rate = chosen.learning_rate
        raise DivergedError(f"the attentive probe diverged at learning rate {rate:g}; lower attentive.learning_rates")
    return AttentiveProbe(final, chosen, share)


def train_heads(
    bank: Sequence[AttentiveClassifier],
    settings: Sequence[Setting],
    table: TokenTable,
    rows: Tensor,
    targets_B: Tensor,
    config: AttentiveConfig,
    *,
    seed: int,
    device: torch.device,
) -> None:
    """Train each head in place with its setting; all see the same batches, none sees another's gradient."""
    batch_size = min(config.batch_size, len(rows))
    steps = max(config.epochs * math.ceil(len(rows) / batch_size), config.least_steps)
    groups = [group for head, setting in zip(bank, settings, strict=True) for group in _groups(head, setting)]
    peaks = [group["lr"] for group in groups]
    optimizer = torch.optim.AdamW(groups, fused=True)
    with torch.enable_grad():
        for step, picked in zip(range(steps), _batches(len(rows), batch_size, seed), strict=False):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * step / steps))
            tokens_BND = table.tokens[rows[picked]].to(device)
            truth_B = targets_B[picked].to(device)
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
def _scores(head: AttentiveClassifier, table: TokenTable, rows: Tensor, device: torch.device) -> Tensor:
    return torch.cat([head(table.tokens[part].to(device)).cpu() for part in rows.split(512)])


def _validate(
    head: AttentiveClassifier, table: TokenTable, rows: Tensor, targets_B: Tensor, device: torch.device
) -> float:
    """Accuracy; -1 for a head that diverged, so that it is never chosen."""
    scores_BY = _scores(head, table, rows, device)
    if not scores_BY.isfinite().all():
        return -1.0
    return float((scores_BY.argmax(1) == targets_B).float().mean())
