"""What is fitted on training features stays where it is, whatever the test features are."""

import pytest
import torch

from jepa.eval.clips import Task
from jepa.eval.probes import Features, ProbeKind, ProbesConfig, run_probe

CLIPS, UNTOUCHED = 30, 10


def features(width: int, disturbance: float) -> Features:
    """Noise around three centres; all but the first test clips are moved and stretched by `disturbance`."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, width, generator=generator)
    clips = centres[torch.arange(2 * CLIPS) % 3] + torch.randn(2 * CLIPS, width, generator=generator)
    test = clips[CLIPS:]
    test[UNTOUCHED:] = disturbance + (1 + disturbance) * test[UNTOUCHED:]
    return Features(clips[:CLIPS].clone(), test)


# Wider than the number of training clips is a case of its own: see `span_coordinates`.
@pytest.mark.parametrize("width", [6, 90])
def test_test_clips_move_nothing_that_training_clips_decide(width: int) -> None:
    calm, wild = features(width, 0.0), features(width, 100.0)
    assert not torch.equal(calm.test, wild.test)
    for ours, theirs in ((calm.standardised, wild.standardised), (calm.coordinates, wild.coordinates)):
        assert torch.equal(ours[0], theirs[0])
        torch.testing.assert_close(ours[1][:UNTOUCHED], theirs[1][:UNTOUCHED])
    torch.testing.assert_close(calm.standardised[0].mean(0), torch.zeros(width), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_an_answer_depends_on_its_own_clip_alone(kind: ProbeKind) -> None:
    rows, targets = torch.arange(CLIPS), torch.arange(CLIPS) % 3
    origins = tuple(map(str, range(CLIPS)))
    task = Task("kind", ("a", "b", "c"), 3, rows, targets, rows, targets, origins)
    calm, wild = (run_probe(kind, features(6, size), task, ProbesConfig(), seed=0) for size in (0.0, 100.0))
    assert calm.settings == wild.settings
    assert torch.equal(calm.predicted[:UNTOUCHED], wild.predicted[:UNTOUCHED])
