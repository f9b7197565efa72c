"""Nearest neighbours against a loop over clips."""

import math

import torch

from jepa.eval.knn import nearest, vote


def naive(train: torch.Tensor, targets: torch.Tensor, clip: torch.Tensor, k: int, temperature: float) -> int:
    similarity = [float(clip @ other / (clip.norm() * other.norm())) for other in train]
    order = sorted(range(len(train)), key=lambda row: -similarity[row])[:k]
    votes: dict[int, float] = {}
    for row in order:
        kind = int(targets[row])
        votes[kind] = votes.get(kind, 0.0) + math.exp(similarity[row] / temperature)
    return max(votes, key=lambda kind: votes[kind])


def test_votes_equal_a_naive_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(60, 5, generator=generator), torch.randn(25, 5, generator=generator)
    targets = torch.randint(4, (60,), generator=generator)
    similarity, rows = nearest(train, test, 9)
    predicted = vote(similarity, targets[rows], 4, 0.1)
    assert predicted.tolist() == [naive(train, targets, clip, 9, 0.1) for clip in test]


def test_length_does_not_matter_and_k_is_bounded() -> None:
    train, test = torch.randn(6, 3), torch.randn(4, 3)
    similarity, rows = nearest(train, test, 20)
    assert rows.shape == (4, 6)
    stretched, same = nearest(train * torch.rand(6, 1).add(0.5), 9 * test, 20)
    torch.testing.assert_close(stretched, similarity)
    assert torch.equal(same, rows)
