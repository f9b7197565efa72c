"""The attentive probe finds one telling token among many, chooses on validation clips, and repeats itself."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from jepa.errors import ConfigError, DivergedError
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
    (fit, classes), (validation, others) = needles(30, 0), needles(120, 1)
    # The classes of the more numerous validation clips are named differently: who has seen them is right, else wrong.
    table = TokenTable(torch.cat([fit.tokens, validation.tokens]), fit.grid)
    targets = torch.cat([classes, (others + 1) % 3])
    config = AttentiveConfig((1e-2, 3e-3), weight_decays=(0.01,), epochs=1, batch_size=48, least_steps=60)
    probe = train_attentive(
        table, torch.arange(150), targets, 3, list(range(30)), list(range(30, 150)), config, seed=0, device=CPU
    )
    assert probe.validation is not None
    assert probe.validation < 0.2
    right = probe.predict(table, torch.arange(30, 150), CPU) == targets[30:]
    assert float(right.float().mean()) > 0.7, "the chosen head has seen all"


def places(count: int, seed: int) -> tuple[TokenTable, torch.Tensor]:
    """The same vector at the first or at the last token, which is the class; the rest is noise."""
    targets = torch.arange(count) % 2
    tokens = 0.1 * torch.randn(count, 8, 12, generator=torch.Generator().manual_seed(seed))
    tokens[torch.arange(count), targets * 7, 0] += 4.0
    return TokenTable(tokens, TokenGrid(2, 2, 2)), targets


def test_only_positions_tell_the_place_of_a_token() -> None:
    (table, targets), rows = places(240, 0), torch.arange(240)
    fresh, truth = places(240, 1)  # the noise of the training rows can be learnt by heart

    def accuracy(positions: bool) -> float:
        # Not standardised: that would bring the noise, small as it is, to the size of the vector.
        config = AttentiveConfig((1e-2,), weight_decays=(0.01,), positions=positions, standardise=False)
        probe = train_attentive(table, rows, targets, 2, list(range(240)), [], config, seed=0, device=CPU)
        return float((probe.predict(fresh, rows, CPU) == truth).float().mean())

    assert accuracy(True) > 0.95
    assert accuracy(False) < 0.65  # 4.6 standard deviations above guessing


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"heads": 0}, "attentive.heads is 0, expected 1 or more"),
        ({"epochs": 0}, "attentive.epochs is 0"),
        ({"depth": 0}, "attentive.depth is 0"),
        ({"batch_size": -1}, "attentive.batch_size is -1"),
        ({"least_steps": 0}, "attentive.least_steps is 0"),
        ({"learning_rates": ()}, "at least one value"),
        ({"weight_decays": ()}, "at least one value"),
        ({"learning_rates": (1e-3, 0.0)}, "attentive.learning_rates has 0.0, expected numbers above 0"),
        ({"learning_rates": (math.nan,)}, "attentive.learning_rates has nan"),
        ({"weight_decays": (-0.1,)}, "attentive.weight_decays has -0.1, expected numbers of 0 or more"),
    ],
)
def test_wrong_settings_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        AttentiveConfig(**arguments)


def test_heads_that_do_not_divide_the_width_become_the_largest_common_divisor() -> None:
    table, targets = needles(48, 0)  # of width 12
    config = AttentiveConfig(
        learning_rates=(1e-2,), weight_decays=(0.1,), heads=8, epochs=1, batch_size=48, least_steps=1
    )
    probe = train_attentive(table, torch.arange(48), targets, 3, list(range(48)), [], config, seed=0, device=CPU)
    assert probe.head.pooler.cross_attention_block.xattn.heads == 4


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
