"""The attentive probe finds one telling token among many, chooses on validation clips, and repeats itself."""

import pytest
import torch
from torch.nn import functional as F

from jepa.errors import DivergedError
from jepa.eval.attentive_training import AttentiveConfig, Setting, Tokens, train_attentive, train_heads
from jepa.eval.features import TokenTable
from jepa.models.attentive import AttentiveClassifier
from jepa.tokens import TokenGrid

CPU = torch.device("cpu")


def needles(count: int, seed: int) -> tuple[TokenTable, torch.Tensor]:
    """The class is one of three directions, at one token of eight; the other tokens are noise."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 3
    tokens = torch.randn(count, 8, 12, generator=generator)
    place = torch.randint(8, (count,), generator=generator)
    tokens[torch.arange(count), place] = 8 * F.one_hot(targets, 12).float()
    return TokenTable(tokens, TokenGrid(2, 2, 2)), targets


def test_a_needle_is_found_and_the_hopeless_setting_is_not_chosen() -> None:
    (train, targets), (test, truth) = needles(240, 0), needles(90, 1)
    config = AttentiveConfig(
        learning_rates=(1e-8, 1e-2), weight_decays=(0.01,), epochs=10, batch_size=32, least_steps=1
    )
    rows = torch.arange(240)
    probe = train_attentive(
        train, rows, targets, 3, list(range(192)), list(range(192, 240)), config, seed=0, device=CPU
    )
    assert probe.setting == Setting(1e-2, 0.01)
    assert probe.validation is not None
    assert float((probe.predict(test, torch.arange(90), CPU) == truth).float().mean()) > 0.9


def test_validation_clips_do_not_train_the_heads_they_judge() -> None:
    (fit, classes), (validation, others) = needles(48, 0), needles(96, 1)
    # The classes of the more numerous validation clips are named differently: who has seen them is right, else wrong.
    table = TokenTable(torch.cat([fit.tokens, validation.tokens]), fit.grid)
    targets = torch.cat([classes, (others + 1) % 3])
    config = AttentiveConfig(learning_rates=(1e-2, 3e-3), weight_decays=(0.01,), epochs=1, batch_size=48, least_steps=60)
    probe = train_attentive(
        table, torch.arange(144), targets, 3, list(range(48)), list(range(48, 144)), config, seed=0, device=CPU
    )
    assert probe.validation is not None
    assert probe.validation < 0.2
    right = probe.predict(table, torch.arange(48, 144), CPU) == targets[48:]
    assert float(right.float().mean()) > 0.8, "the chosen head has seen all"


def test_only_positions_tell_the_place_of_a_token() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(240) % 2
    tokens = 0.1 * torch.randn(240, 8, 12, generator=generator)
    tokens[torch.arange(240), targets * 7, 0] += 4.0  # the same vector, at the first or at the last token
    table, rows = TokenTable(tokens, TokenGrid(2, 2, 2)), torch.arange(240)

    def accuracy(positions: bool) -> float:
        config = AttentiveConfig(learning_rates=(1e-2,), weight_decays=(0.01,), epochs=20, positions=positions)
        probe = train_attentive(table, rows, targets, 2, list(range(240)), [], config, seed=0, device=CPU)
        return float((probe.predict(table, rows, CPU) == targets).float().mean())

    assert accuracy(True) > 0.95
    assert accuracy(False) < 0.8


def test_the_same_seed_gives_the_same_head() -> None:
    table, targets = needles(48, 0)
    config = AttentiveConfig(learning_rates=(1e-2,), weight_decays=(0.1,), epochs=1, batch_size=16, least_steps=1)

    def weights(seed: int) -> torch.Tensor:
        probe = train_attentive(table, torch.arange(48), targets, 3, list(range(48)), [], config, seed=seed, device=CPU)
        return probe.head.linear.weight

    state = torch.get_rng_state()
    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
    assert torch.equal(torch.get_rng_state(), state), "training touched the global generator"


def test_heads_in_a_bank_train_as_they_would_alone() -> None:
    table, targets = needles(48, 0)
    config = AttentiveConfig(epochs=2, batch_size=16, least_steps=1)
    torch.manual_seed(0)
    heads = [AttentiveClassifier(12, 3, 3).double() for _ in range(3)]
    alone = AttentiveClassifier(12, 3, 3).double()
    alone.load_state_dict(heads[1].state_dict())
    wide = Tokens(TokenTable(table.tokens.double(), table.grid), torch.arange(48), None, None, CPU)
    settings = [Setting(1e-2, 0.0), Setting(3e-3, 0.4), Setting(1e-3, 0.1)]
    train_heads(heads, settings, wide, targets, config, seed=0)
    train_heads([alone], [settings[1]], wide, targets, config, seed=0)
    for together, single in zip(heads[1].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(together, single)
    assert not torch.allclose(heads[0].linear.weight, alone.linear.weight)


def test_divergence_is_said() -> None:
    table, targets = needles(48, 0)
    table.tokens[3] = float("inf")
    config = AttentiveConfig(learning_rates=(1e-2,), weight_decays=(0.1,), epochs=1, batch_size=16, least_steps=1)
    with pytest.raises(DivergedError, match=r"learning rate 0\.01"):
        train_attentive(table, torch.arange(48), targets, 3, list(range(48)), [], config, seed=0, device=CPU)
