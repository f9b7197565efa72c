"""Which steps are applied, skipped, rolled back or the last."""

import json
import math
import random
import statistics
from itertools import pairwise

import numpy as np
import pytest

from jepa.errors import ConfigError
from jepa.training.health import HealthConfig, StepHealth, Verdict

APPLY, SKIP, BACK, STOP = Verdict.APPLY, Verdict.SKIP, Verdict.ROLL_BACK, Verdict.STOP


def verdicts(health: StepHealth, finite: str, start: int = 0) -> list[Verdict]:
    """Judge steps, "." a finite one and "x" one that is not."""
    return [health.judge(start + step, 0.5, mark == ".") for step, mark in enumerate(finite)]


def test_bad_steps_in_a_row_are_skipped_then_rolled_back_then_the_end() -> None:
    assert verdicts(StepHealth(HealthConfig()), "..xxx") == [APPLY, APPLY, SKIP, BACK, STOP]
    assert verdicts(StepHealth(HealthConfig()), "x.x.xx.x") == [SKIP, APPLY, SKIP, APPLY, SKIP, BACK, APPLY, SKIP]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (HealthConfig(rollback_after=None, stop_after=4), [SKIP, SKIP, SKIP, STOP]),
        (HealthConfig(rollback_after=1, stop_after=4), [BACK, SKIP, SKIP, STOP]),
        (HealthConfig(rollback_after=None, stop_after=1), [STOP]),
    ],
)
def test_both_numbers_are_settings(config: HealthConfig, expected: list[Verdict]) -> None:
    assert verdicts(StepHealth(config), "x" * len(expected)) == expected


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_bad_whatever_the_flag_says(loss: float) -> None:
    health = StepHealth(HealthConfig())
    assert health.judge(0, loss, finite=True) is SKIP
    assert health.bad_in_a_row == 1
    assert "not finite" in health.reason
    assert health.judge(1, 0.5, finite=True) is APPLY
    assert (health.bad_in_a_row, health.reason) == (0, "")


def test_returning_again_and_again_ends_the_run() -> None:
    health = StepHealth(HealthConfig(rollbacks=2))
    assert [verdict for verdict in verdicts(health, "xx..xx..xx") if verdict not in (APPLY, SKIP)] == [BACK, BACK, STOP]
    assert "2 returns to a checkpoint within 1000 steps did not help" in health.reason
    rare = StepHealth(HealthConfig(rollbacks=2))
    assert [verdicts(rare, "xx.", start=600 * number)[1] for number in range(6)] == [BACK] * 6
    assert verdicts(StepHealth(HealthConfig(rollbacks=0)), "xx") == [SKIP, STOP]


def noisy(count: int, seed: int = 0) -> list[float]:
    draws = np.random.default_rng(seed)
    return [float(0.4 + 0.02 * value) for value in draws.standard_normal(count)]


def test_a_leap_is_skipped_and_is_no_divergence() -> None:
    health = StepHealth(HealthConfig(spike=6.0))
    assert {health.judge(step, loss, True) for step, loss in enumerate(noisy(200))} == {APPLY}
    assert health.judge(200, 0.8, True) is SKIP
    assert "loss 0.8 is 20.9 deviations above 0.3997, the median of 128 steps" in health.reason
    # Leaps and bad steps count apart from each other: two leaps between two bad steps, and the row goes on.
    assert [health.judge(201, *step) for step in ((math.nan, False), (0.8, True), (0.9, True))] == [SKIP] * 3
    assert health.judge(204, math.nan, False) is BACK
    assert health.judge(205, 0.4, True) is APPLY


def test_without_the_option_whatever_is_finite_is_applied() -> None:
    health = StepHealth(HealthConfig())
    assert {health.judge(step, loss, True) for step, loss in enumerate([*noisy(200), 1e9])} == {APPLY}
    assert health.state_dict()["applied"] == {}


def test_the_threshold_is_the_median_and_deviations_of_the_latest_applied_losses() -> None:
    window, applied = 32, noisy(100, seed=3)
    latest = applied[-window:]
    middle = statistics.median(latest)
    deviation = 1.4826 * statistics.median([abs(value - middle) for value in latest])
    for factor, expected in ((0.99, APPLY), (1.01, SKIP)):
        health = StepHealth(HealthConfig(spike=5.0, spike_window=window))
        assert {health.judge(step, loss, True) for step, loss in enumerate(applied)} == {APPLY}
        assert health.judge(100, middle + factor * 5.0 * deviation, True) is expected


def test_before_half_a_window_nothing_is_a_leap() -> None:
    losses = noisy(15)
    early = StepHealth(HealthConfig(spike=6.0, spike_window=32))
    assert [early.judge(step, loss, True) for step, loss in enumerate([*losses, 5.0])][-1] is APPLY
    late = StepHealth(HealthConfig(spike=6.0, spike_window=32))
    assert [late.judge(step, loss, True) for step, loss in enumerate([*losses, 0.4, 5.0])][-1] is SKIP


def test_slow_changes_and_falls_are_no_leaps() -> None:
    health = StepHealth(HealthConfig(spike=6.0))
    rising = [value + 0.3 * step / 400 for step, value in enumerate(noisy(400))]
    assert {health.judge(step, loss, True) for step, loss in enumerate([*rising, 0.01, 0.01])} == {APPLY}
    flat = StepHealth(HealthConfig(spike=6.0))  # without any deviation, a hundredth of the median takes its place
    assert {flat.judge(step, 0.5, True) for step in range(100)} == {APPLY}
    assert [flat.judge(100, 0.5 * (1 + share), True) for share in (0.059, 0.061)] == [APPLY, SKIP]


def test_a_new_level_is_accepted() -> None:
    health = StepHealth(HealthConfig(spike=6.0, spike_limit=3))
    verdicts_of = [health.judge(step, loss, True) for step, loss in enumerate([*noisy(128), *[0.9] * 6])]
    assert verdicts_of[128:] == [SKIP, SKIP, SKIP, APPLY, APPLY, APPLY]
    level = [health.judge(134 + step, 0.5 + loss, True) for step, loss in enumerate(noisy(80))]
    assert set(level) == {APPLY}
    assert health.judge(300, 1.9, True) is SKIP, "measured against the new level"


def test_kinds_have_levels_of_their_own() -> None:
    config, order = HealthConfig(spike=6.0), random.Random(0)
    mixed = [(loss, "videos") for loss in noisy(200)] + [(loss + 0.6, "images") for loss in noisy(70, seed=1)]
    order.shuffle(mixed)
    health, blind = StepHealth(config), StepHealth(config)
    assert {health.judge(step, *item[:1], True, item[1]) for step, item in enumerate(mixed)} == {APPLY}
    assert health.judge(270, 0.9, True, "videos") is SKIP
    assert health.judge(271, 0.9, True, "images") is APPLY
    # The reason for it: in one heap, the rarer kind would be leaps.
    assert SKIP in [blind.judge(step, loss, True) for step, (loss, _) in enumerate(mixed)]


@pytest.mark.parametrize("stopped", [1, 63, 64, 130, 139, 140, 170])
def test_a_resumed_run_judges_as_one_that_was_never_stopped(stopped: int) -> None:
    config, draws = HealthConfig(spike=4.0, spike_limit=2, stop_after=4), np.random.default_rng(5)
    losses = [0.4 + 0.02 * float(draws.standard_t(2)) for _ in range(200)]
    losses[138:146] = [0.9] * 8  # a new level, in the middle of which one of them is stopped
    finite = [bool(draws.random() > 0.1) or 130 < step < 150 for step, _ in enumerate(losses)]

    def judge(health: StepHealth, steps: range) -> list[tuple[Verdict, str]]:
        return [(health.judge(step, losses[step], finite[step]), health.reason) for step in steps]

    whole = judge(StepHealth(config), range(200))
    first, second = StepHealth(config), StepHealth(config)
    begun = judge(first, range(stopped))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert begun + judge(second, range(stopped, 200)) == whole
    assert {verdict for verdict, _ in whole} >= {APPLY, SKIP, BACK}, "there is something to remember"


def test_a_state_is_a_copy() -> None:
    health = StepHealth(HealthConfig(spike=6.0))
    states = []
    for step, loss in enumerate(noisy(4)):
        health.judge(step, loss, True)
        states.append(health.state_dict())
    assert all(len(b["applied"][""]) == len(a["applied"][""]) + 1 for a, b in pairwise(states))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rollback_after": 0}, r"health\.rollback_after is 0, expected at least 1"),
        ({"stop_after": 0, "rollback_after": None}, r"health\.stop_after is 0, expected at least 1"),
        (
            {"rollback_after": 3},
            r"health\.rollback_after is 3, but the run ends after health\.stop_after 3: expected a ",
        ),
        ({"rollbacks": -1}, r"health\.rollbacks is -1, expected 0 or more"),
        ({"spike": 0.0}, r"health\.spike is 0\.0, expected deviations above 0, or none"),
        ({"spike": math.nan}, r"health\.spike is nan"),
        ({"spike_window": 4}, r"health\.spike_window is 4, expected at least 8 steps"),
        ({"spike_limit": 0}, r"health\.spike_limit is 0, expected at least 1"),
        ({"alarm_rows": 0}, r"health\.alarm_rows is 0, expected at least 1"),
        ({"least_rank": 1.5}, r"health\.least_rank is 1\.5, expected 0 \(no such alarm\) or a share below 1"),
        ({"fall": 0.5}, r"health\.fall is 0\.5, expected 1 or more"),
    ],
)
def test_values_out_of_range_are_one_line(values: dict[str, float | None], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HealthConfig(**values)  # type: ignore[arg-type]
