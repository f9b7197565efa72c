"""The attentive probe against the textbook attention, written as a loop, and against torch's own."""

import math
from typing import TypeVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from jepa.errors import ConfigError
from jepa.models.attentive import AttentiveClassifier, AttentivePooler, joint_scores

Net = TypeVar("Net", bound=torch.nn.Module)


def disturbed(module: Net) -> Net:
    """Every parameter away from its initial value, so that no term of the formula vanishes."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(
                0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
    return module


def naive_pooler(pooler: AttentivePooler, tokens_ND: Tensor, heads: int) -> Tensor:
    """The formula of the module's essay for one clip: keys and values of every token, head by head, query by query."""
    block = pooler.cross_attention_block
    width = tokens_ND.shape[1]
    size = width // heads
    normed = F.layer_norm(tokens_ND, (width,), block.norm1.weight, block.norm1.bias, 1e-6)
    keys, values = (normed @ block.xattn.kv.weight.T + block.xattn.kv.bias).split(width, dim=1)
    answers = []
    for query in pooler.query_tokens[0]:
        asked = block.xattn.q.weight @ query + block.xattn.q.bias
        read = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            weights = torch.stack([asked[part] @ key[part] / math.sqrt(size) for key in keys]).softmax(0)
            read.append(torch.stack([w * value[part] for w, value in zip(weights, values, strict=True)]).sum(0))
        answer = query + torch.cat(read)
        normed2 = F.layer_norm(answer, (width,), block.norm2.weight, block.norm2.bias, 1e-6)
        hidden = F.gelu(block.mlp.fc1(normed2))
        answers.append(answer + block.mlp.fc2(hidden))
    return torch.stack(answers)


@pytest.mark.parametrize(("heads", "queries"), [(1, 1), (3, 1), (2, 4)])
def test_pooler_equals_naive_loop(heads: int, queries: int) -> None:
    pooler = disturbed(AttentivePooler(12, heads, num_queries=queries).double())
    tokens = torch.randn(2, 7, 12, dtype=torch.float64)
    expected = torch.stack([naive_pooler(pooler, clip, heads) for clip in tokens])
    torch.testing.assert_close(pooler(tokens), expected)


def test_attention_and_its_gradients_equal_torch_sdpa() -> None:
    pooler = disturbed(AttentivePooler(12, 3).double())
    tokens = torch.randn(2, 7, 12, dtype=torch.float64, requires_grad=True)
    block = pooler.cross_attention_block
    query = block.xattn.q(pooler.query_tokens).expand(2, -1, -1)
    key, value = block.xattn.kv(block.norm1(tokens)).chunk(2, dim=-1)
    parts = [part.unflatten(-1, (3, 4)).transpose(1, 2) for part in (query, key, value)]
    read = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
    answer = pooler.query_tokens + read
    expected = answer + block.mlp(block.norm2(answer))
    torch.testing.assert_close(pooler(tokens), expected)
    wanted = [tokens, *(parameter for parameter in pooler.parameters())]
    for ours, theirs in zip(
        torch.autograd.grad(pooler(tokens).square().sum(), wanted),
        torch.autograd.grad(expected.square().sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_tokens_have_no_order() -> None:
    head = disturbed(AttentiveClassifier(12, 3, 5, depth=2).double())
    tokens = torch.randn(2, 7, 12, dtype=torch.float64)
    torch.testing.assert_close(head(tokens.flip(1)), head(tokens))


@pytest.mark.parametrize("depth", [1, 3])
def test_heads_together_equal_heads_alone(depth: int) -> None:
    bank = [AttentiveClassifier(12, 3, 5, depth=depth).double() for _ in range(3)]
    tokens = torch.randn(4, 7, 12, dtype=torch.float64)
    together = joint_scores(bank, tokens)
    for head, scores in zip(bank, together, strict=True):
        torch.testing.assert_close(scores, head(tokens))
    first = torch.autograd.grad(together[0].sum(), [together[0], bank[1].linear.weight], allow_unused=True)
    assert first[1] is None, "the first head's scores depend on the second head"


def test_parameter_names_are_the_official_ones() -> None:
    block = {f"{part}.{kind}" for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2") for kind in ("weight", "bias")}
    cross = {f"{part}.{kind}" for part in ("xattn.q", "xattn.kv") for kind in ("weight", "bias")}
    own = {f"{part}.{kind}" for part in ("attn.qkv", "attn.proj") for kind in ("weight", "bias")}
    expected = {"pooler.query_tokens", "linear.weight", "linear.bias"}
    expected |= {f"pooler.cross_attention_block.{name}" for name in block | cross}
    expected |= {f"pooler.blocks.{number}.{name}" for number in range(3) for name in block | own}
    state = AttentiveClassifier(32, 4, 7, depth=4).state_dict()
    assert set(state) == expected
    assert state["pooler.query_tokens"].shape == (1, 1, 32)
    assert state["pooler.cross_attention_block.xattn.kv.weight"].shape == (64, 32)


@pytest.mark.parametrize(("depth", "heads"), [(0, 3), (1, 5), (1, 0)])
def test_impossible_shapes_are_refused(depth: int, heads: int) -> None:
    with pytest.raises(ConfigError, match="depth"):
        AttentivePooler(12, heads, depth=depth)
