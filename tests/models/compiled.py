"""Run by `test_compilation.py`, as the compiler does not get through the checks of shapes that surround all tests."""

import copy

import torch
from checks import run
from torch import Tensor, nn
from torch._dynamo.utils import counters

from jepa.models.build import ModelConfig, build_jepa
from jepa.models.compilation import compilations, compile_blocks
from jepa.models.jepa import JEPA
from jepa.models.stack import checkpoint_activations
from jepa.objectives.dense import ContextTerm, DensePrediction
from jepa.objectives.latent import LatentPrediction
from jepa.tokens import Mask, TokenGrid
from jepa.types import ClipBatch

DENSE = ModelConfig(
    size="nano", patch=8, levels=(1, 3), image_tokenizer=True, context_head=True, drop_path=0.4, predictor_depth=2
)
SMALL = ModelConfig(size="nano", patch=8, drop_path=0.4, predictor_depth=1)
CLIPS = torch.randn(4, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def batch_of(frames: int = 4, kept: tuple[int, ...] = (3, 5), count: int = 4) -> ClipBatch:
    """Clips or images with a mask for each number of context tokens."""
    grid = TokenGrid(max(frames // 2, 1), 2, 2)
    order = torch.rand(count, grid.count, generator=torch.Generator().manual_seed(1)).argsort(-1)
    masks = tuple(Mask(order[:, :k].sort().values, order[:, k:].sort().values) for k in kept)
    return ClipBatch(CLIPS[:count, :, :frames], masks, grid, torch.arange(count))


def build(config: ModelConfig) -> JEPA:
    torch.manual_seed(0)
    jepa = build_jepa(config, frames=4, size=16)
    for token in jepa.predictor.mask_tokens:
        nn.init.normal_(token)
    return jepa


def gradients(jepa: JEPA, batch: ClipBatch, seed: int) -> dict[str, Tensor]:
    objective = DensePrediction(ContextTerm()) if jepa.predictor.config.context_head else LatentPrediction()
    jepa.zero_grad()
    torch.manual_seed(seed)
    objective(jepa, batch).loss.backward()
    return {name: p.grad.clone() for name, p in jepa.named_parameters() if p.grad is not None}


def reset() -> None:
    """Forget the graphs of the checks before."""
    torch._dynamo.reset()
    counters.clear()


def require_equal(jepa: JEPA, backend: str, batches: list[ClipBatch]) -> list[int]:
    """Compile a copy and hold it against the model, one batch after the other; the graphs compiled after each."""
    reset()
    compiled, before = copy.deepcopy(jepa), compilations()
    compile_blocks(compiled, backend)
    assert list(compiled.state_dict()) == list(jepa.state_dict())
    counts = []
    for number, batch in enumerate(batches):
        expected, found = (gradients(network, batch, number) for network in (jepa, compiled))
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5, msg=name)
        counts.append(compilations() - before)
    assert not counters["graph_break"]
    return counts


def check_each_shape_is_compiled_once() -> None:
    """Over clips and images by turns, with two masks of different sizes and stochastic depth."""
    clips, images = batch_of(), batch_of(frames=1, kept=(1, 2))
    counts = require_equal(build(DENSE), "eager", [clips, images, clips, images, images, clips])
    # Targets, the two masks in encoder blocks with stochastic depth and without it, and in the predictor.
    assert counts[0] >= 6, counts
    assert counts[1] > counts[0], counts
    assert set(counts[2:]) == {counts[1]}, counts


def check_the_same_with_activations_computed_again() -> None:
    jepa = build(SMALL)
    checkpoint_activations(jepa)
    counts = require_equal(jepa, "aot_eager", [batch_of(), batch_of()])
    assert counts[0] == counts[1], counts


def check_other_tables_of_positions_compile_nothing() -> None:
    """A table of positions more, as other clips between two steps leave it, is no reason to compile again."""
    reset()
    jepa = build(SMALL)
    compile_blocks(jepa, "eager")
    gradients(jepa, batch_of(), 0)
    before = compilations()
    for _ in range(2):
        jepa.encoder.places.place(torch.zeros(1, 32, 96), TokenGrid(2, 4, 4), None)
        gradients(jepa, batch_of(), 0)
    assert compilations() == before


def check_more_shapes_than_torch_allows_are_compiled() -> None:
    torch._dynamo.config.recompile_limit = 2
    every = [batch_of(kept=(k,)) for k in (1, 2, 3)]
    counts = require_equal(build(SMALL), "eager", [*every, *every])
    assert counts[0] > 2, counts
    assert counts[0] < counts[1] < counts[2], counts
    assert counts[5] == counts[2], counts


def check_an_unexpected_shape_is_told() -> None:
    reset()
    jepa = build(SMALL)
    compile_blocks(jepa, "eager")
    gradients(jepa, batch_of(), 0)
    before = compilations()
    gradients(jepa, batch_of(count=3), 0)
    assert compilations() > before


def kernels_compute_the_same() -> None:
    counts = require_equal(build(SMALL), "inductor", [batch_of(), batch_of()])
    assert counts[0] == counts[1], counts


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(globals())
