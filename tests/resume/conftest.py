"""What interrupts a run at an exact place."""

from collections.abc import Callable
from typing import Any

import pytest

from jepa.objectives.latent import LatentPrediction

DuringStep = Callable[[pytest.MonkeyPatch, int, Callable[[], object]], None]


@pytest.fixture
def during_step() -> DuringStep:
    """`during_step(patch, number, act)`: in the middle of optimizer step `number` (those of all phases counted
    together), something happens."""

    def install(patch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
        forward, calls = LatentPrediction.__call__, 0

        def call(self: LatentPrediction, *arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                act()
            return forward(self, *arguments, **options)

        patch.setattr(LatentPrediction, "__call__", call)

    return install
