"""Held-out parts: whole origins, every class on both sides, the same every time."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa.eval.split import hold_out


def test_each_class_gives_its_share() -> None:
    classes = [number % 4 for number in range(400)]
    kept, held = hold_out(classes, [str(number) for number in range(400)], 0.2, seed=0, purpose="test")
    assert Counter(classes[row] for row in held) == dict.fromkeys(range(4), 20)
    assert sorted(kept + held) == list(range(400))


def test_clips_of_one_film_stay_together() -> None:
    origins = [f"film {number // 5}" for number in range(100)]
    kept, held = hold_out(["a"] * 100, origins, 0.2, seed=1, purpose="test")
    assert not {origins[row] for row in kept} & {origins[row] for row in held}
    assert len(held) == 20


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=60), st.integers(0, 5))
def test_parts_are_disjoint_and_complete(samples: list[tuple[int, int]], seed: int) -> None:
    # An origin has one class here, as a film has in a folder per class.
    classes = [kind for kind, _ in samples]
    origins = [f"{kind}/{origin}" for kind, origin in samples]
    kept, held = hold_out(classes, origins, 0.3, seed=seed, purpose="test")
    assert sorted(kept + held) == list(range(len(samples)))
    assert not {origins[row] for row in kept} & {origins[row] for row in held}
    for kind in set(classes):
        films = {origin for origin, own in zip(origins, classes, strict=True) if own == kind}
        sides = {row in held for row in range(len(samples)) if classes[row] == kind}
        assert sides == ({True, False} if len(films) > 1 else {False})


@pytest.mark.parametrize(("seed", "purpose"), [(1, "test"), (0, "validation")])
def test_choice_depends_on_seed_and_purpose(seed: int, purpose: str) -> None:
    classes, origins = ["a"] * 50, [str(number) for number in range(50)]
    first = hold_out(classes, origins, 0.2, seed=0, purpose="test")
    assert hold_out(classes, origins, 0.2, seed=0, purpose="test") == first
    assert hold_out(classes, origins, 0.2, seed=seed, purpose=purpose) != first
