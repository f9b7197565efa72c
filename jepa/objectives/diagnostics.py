"""What tells learning from collapse: measures of tokens and of weights, pure functions, asked for on logged steps.

A JEPA loss that falls and then rises is normal: targets that hold more are harder to predict. What is not normal shows
in the target encoder's tokens, LayerNormed as the objective sees them, of B clips with N positions each:

    feature_std      deviation of a channel over all tokens. Near 0: every token of every clip is the same.
    clip_std         deviation of a channel over the clips at one position. Near 0: tokens say where they are and not
                     what is there, which feature_std, effective_rank and the loss do not tell from learning.
    effective_rank   RankMe (arXiv 2210.02885): how many directions the tokens fill. Near 1: dimensional collapse.
    lidar            LDA rank, after LiDAR (arXiv 2312.04000): in how many directions clips differ, where a direction
                     counts by how far clips differ in it relative to what varies within them.
    clip_cosine      cosine of the mean tokens of two different clips. Near 1: all clips are alike.

and in how the networks stand to each other:

    context_cosine   cosine of a visible token's output of the context encoder and of the target encoder.
    prediction_std   as clip_std, of what the predictor gives. Near 0 while clip_std is not: it guesses without looking.
    ema_distance     length of the difference of both encoders' weights, relative to that of the target encoder's.

One number proves nothing, and most mean something only beside what they were (`jepa.training.collapse`).
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

_ROWS = 4096
_SMALL = 1e-7  # added to shares before their logarithm, in RankMe and LiDAR alike
_RIDGE = 1e-4  # on the covariance within clips, as in LiDAR; the tokens have deviation 1


@torch.no_grad()
def feature_std(tokens: Float[Tensor, "B N D"]) -> Tensor:
    """Standard deviation of each channel over all tokens, averaged over channels."""
    return tokens.float().flatten(0, 1).std(dim=0).mean()


@torch.no_grad()
def clip_std(tokens: Float[Tensor, "B M D"], positions: Int[Tensor, "B M"] | None = None) -> Tensor:
    """Standard deviation of each channel over clips at the same position, averaged over channels.

    Variances are pooled over positions with the degrees of freedom that they have, so each clip may have positions of
    its own. NaN when no two tokens share a position.

    Args:
        tokens: of B clips.
        positions: of the tokens in the grid; the M-th token of each clip is at position M if not given.
    """
    count, places = len(tokens), tokens.shape[1]
    if positions is None:
        positions = torch.arange(places, device=tokens.device).expand(count, -1)
    rows_RD, place_R = tokens.float().flatten(0, 1), positions.flatten()
    total = int(place_R.max()) + 1
    number_N = torch.bincount(place_R, minlength=total)
    sum_ND = rows_RD.new_zeros(total, rows_RD.shape[1]).index_add_(0, place_R, rows_RD)
    mean_ND = sum_ND / number_N.clamp_min(1)[:, None]
    freedom = len(rows_RD) - int((number_N > 0).sum())
    if freedom < 1:
        return rows_RD.new_tensor(torch.nan)
    # In place: a batch of tokens is large, and this is when the activations of a step are held too.
    squared_RD = mean_ND[place_R].sub_(rows_RD).square_()
    return (squared_RD.sum(dim=0) / freedom).sqrt().mean()


@torch.no_grad()
def effective_rank(tokens: Float[Tensor, "B N D"]) -> Tensor:
    """RankMe of the tokens, between 1 and D, from at most 4096 evenly spaced rows.

    Rows are centred, so that a common offset of all tokens does not hide as a large first direction. NaN when a token
    is not finite.
    """
    flat = tokens.flatten(0, 1)
    rows = flat[_evenly(len(flat), flat.device)].float()
    if not rows.isfinite().all():
        return rows.new_tensor(torch.nan)
    return _exp_entropy(torch.linalg.svdvals(rows - rows.mean(dim=0)))


@torch.no_grad()
def lidar(tokens: Float[Tensor, "B N D"]) -> Tensor:
    """LDA rank of the clips: between 1 and min(B - 1, D).

    exp of the entropy of the eigenvalues of W^-1/2 S W^-1/2, normalised to sum 1; S is the covariance of the mean
    tokens of the clips, W that of tokens around the mean of their clip (of at most 4096 evenly spaced ones) plus 1e-4
    on the diagonal. As in LiDAR, but for what is compared: there the samples of a class are 50 augmented views of one
    image and there are 1000 images; here they are the tokens of a clip, which are at hand, and the clips are those of a
    batch, so values compare only between batches of one size. NaN when a token is not finite or there are fewer than
    two clips.
    """
    if len(tokens) < 2 or not tokens.isfinite().all():
        return tokens.new_tensor(torch.nan, dtype=torch.float32)
    flat, places = tokens.flatten(0, 1), tokens.shape[1]
    picked = _evenly(len(flat), flat.device)
    mean_BD = tokens.mean(dim=1, dtype=torch.float64)  # eigenvalues span many orders of magnitude
    inner_RD = flat[picked].double() - mean_BD[picked // places]
    within_DD = inner_RD.T @ inner_RD / len(inner_RD)
    within_DD.diagonal().add_(_RIDGE)
    # S = M'M / (B - 1) of the centred means M: with W = LL' the eigenvalues are the squared singular values of L^-1 M'.
    factor_DD = torch.linalg.cholesky(within_DD)
    whitened_DB = torch.linalg.solve_triangular(factor_DD, (mean_BD - mean_BD.mean(dim=0)).T, upper=False)
    return _exp_entropy(torch.linalg.svdvals(whitened_DB).square()).float()


@torch.no_grad()
def clip_cosine(tokens: Float[Tensor, "B N D"]) -> Tensor:
    """Mean cosine of the mean tokens of two different clips, over all pairs; NaN with fewer than two clips."""
    mean_BD = F.normalize(tokens.float().mean(dim=1), dim=-1)
    count = len(mean_BD)
    if count < 2:
        return mean_BD.new_tensor(torch.nan)
    # The squared length of the sum has all pairs twice, and each clip with itself.
    own = mean_BD.square().sum()
    return (mean_BD.sum(dim=0).square().sum() - own) / (count * (count - 1))


@torch.no_grad()
def token_cosine(first: Float[Tensor, "B K D"], second: Float[Tensor, "B K D"]) -> Tensor:
    """Mean cosine of tokens in the same place, each LayerNormed (without scale and shift) before."""
    width = first.shape[-1:]
    return F.cosine_similarity(F.layer_norm(first.float(), width), F.layer_norm(second.float(), width), dim=-1).mean()


@torch.no_grad()
def squared_lengths(target: nn.Module, source: nn.Module) -> Float[Tensor, "2"]:
    """Sums of squares over all parameters: of target - source, and of target; float32.

    Of sharded parameters those of the local shards, so sums over ranks are those of the whole model; of a model that
    every rank has whole, take them as they are.
    """
    targets, sources = _local(target.parameters()), _local(source.parameters())
    if len(targets) != len(sources):
        raise ValueError(f"target has {len(targets)} parameters, source {len(sources)}: expected the same module twice")
    # One parameter at a time: all differences at once would be another copy of the encoder.
    apart = torch.stack([(own - other).norm() for own, other in zip(targets, sources, strict=True)])
    whole = torch.stack(torch._foreach_norm(targets))
    return torch.stack([apart.float().square().sum(), whole.float().square().sum()])


def ema_distance(squared: Float[Tensor, "2"]) -> Tensor:
    """|target - source| / |target| of what `squared_lengths` gave, summed over the shards if there are any."""
    return (squared[0] / squared[1].clamp_min(1e-30)).sqrt()


def watch(tokens: Float[Tensor, "B N D"]) -> dict[str, Tensor]:
    """The diagnostics of one batch of target tokens, LayerNormed."""
    return {
        "feature_std": feature_std(tokens),
        "effective_rank": effective_rank(tokens),
        "clip_std": clip_std(tokens),
        "lidar": lidar(tokens),
        "clip_cosine": clip_cosine(tokens),
    }


def _evenly(count: int, device: torch.device) -> Tensor:
    """At most 4096 numbers of `count` rows, from the first to the last."""
    if count <= _ROWS:
        return torch.arange(count, device=device)
    # In whole numbers: float32 counts exactly only to 2**24.
    return torch.arange(_ROWS, device=device) * (count - 1) // (_ROWS - 1)


def _exp_entropy(values: Tensor) -> Tensor:
    shares = values / values.sum().clamp_min(1e-12) + _SMALL
    return torch.exp(-(shares * shares.log()).sum())


def _local(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """What this process holds of the parameters; of some that is nothing."""
    return [getattr(parameter, "to_local", lambda own=parameter: own)().detach() for parameter in parameters]
