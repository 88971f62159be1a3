"""Kernels compared with PyTorch: values and gradients, on the CPU code paths."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from genrec.model import kernels
from genrec.model.t5_layers import MASK_VALUE, Attention, Dropout, FeedForward, RMSNorm


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def gradients(value: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of a weighted sum of all elements, with distinct weights."""
    weights = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view(value.shape)
    return torch.autograd.grad((value * weights).sum(), inputs)


def assert_same(ours, theirs, *inputs: Tensor, tolerance: float = 2e-4) -> None:
    """Assert that two functions of the same inputs have equal values and gradients."""
    inputs = tuple(each.requires_grad_() for each in inputs)
    one, other = ours(*inputs), theirs(*inputs)
    torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)
    for ours_grad, theirs_grad in zip(gradients(one, *inputs), gradients(other, *inputs), strict=True):
        torch.testing.assert_close(ours_grad, theirs_grad, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("rows", [3, 700])  # few rows are multiplied directly, many by a convolution where that is faster
@pytest.mark.parametrize("sizes", [(32, 96), (96, 32)])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("convolution", [True, False])
def test_linear_equals_pytorchs(
    rows: int, sizes: tuple[int, int], threads: int, convolution: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "CONVOLUTION_IS_FASTER", convolution)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        states, weight = random(2, rows, sizes[0]), random(sizes[1], sizes[0], seed=1) / math.sqrt(sizes[0])
        assert (rows * 2 * sizes[0] > kernels.MAX_DIRECT_SIZE) == (rows == 700)
        assert_same(kernels.linear, functional.linear, states, weight, tolerance=5e-4)
    finally:
        torch.set_num_threads(before)


def test_linear_of_a_strided_tensor() -> None:
    """The output layers get the states of one level, which are strided."""
    states = random(300, 4, 96)
    torch.testing.assert_close(kernels.linear(states[:, 1], random(8, 96)), states[:, 1] @ random(8, 96).T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b, c: kernels.linear(a, b),
        lambda a, b, c: kernels.feed_forward(a, b, c, 0.0, True),
        lambda a, b, c: kernels.rms_norm(a, b[0], 1e-6),
    ],
    ids=["linear", "feed forward", "norm"],
)
def test_gradients_in_double_precision(function) -> None:
    inputs = [random(*shape, seed=seed, dtype=torch.float64).requires_grad_() for seed, shape in enumerate([(5, 4), (6, 4), (4, 6)])]
    assert torch.autograd.gradcheck(function, inputs)


def test_norm_equals_pytorchs() -> None:
    states, weight = 3 * random(4, 7, 32), 1 + random(32, seed=1) / 4
    assert_same(lambda x, w: kernels.rms_norm(x, w, 1e-6), lambda x, w: functional.rms_norm(x, (32,), w, 1e-6), states, weight)


@pytest.mark.parametrize("queries", [1, 9])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_pytorchs(queries: int, masked: bool) -> None:
    """With one learned bias for all queries or one per query, and a mask, in double precision for the gradient of the bias."""
    query, keys, values = (random(3, 2, 9, 8, seed=seed, dtype=torch.float64) for seed in range(3))
    bias = random(1, 2, queries, 9, seed=3, dtype=torch.float64)
    mask = torch.zeros(3, 1, 1, 9, dtype=torch.float64)
    mask[1, :, :, :5] = MASK_VALUE
    used_mask = mask if masked else None

    def theirs(q: Tensor, k: Tensor, v: Tensor, b: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=b + mask if masked else b.expand(-1, -1, 9, -1), scale=1.0)

    assert_same(lambda q, k, v, b: kernels.attention(q, k, v, b, used_mask), theirs, query, keys, values, bias, tolerance=1e-9)


def test_masked_keys_have_no_weight_and_a_row_of_them_is_finite() -> None:
    query = keys = values = random(1, 1, 4, 8)
    mask = torch.tensor([[0.0, MASK_VALUE, 0.0, MASK_VALUE]] * 4).view(1, 1, 4, 4)
    seen = kernels.attention(query, keys, values, None, mask)
    torch.testing.assert_close(seen, kernels.attention(query, keys[:, :, ::2], values[:, :, ::2], None))
    for dtype in (torch.float32, torch.bfloat16):
        alone = kernels.attention(*(part.to(dtype) for part in (query, keys, values)), None, 2 * torch.full((1, 1, 4, 4), MASK_VALUE))
        assert alone.isfinite().all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(0, 99))
def test_both_orders_of_products_agree(queries: int, length: int, masked: bool, seed: int) -> None:
    """`cross_attention` equals attention with explicit keys and values, for sizes that select either order."""
    torch.manual_seed(seed)
    attention, states, memory = Attention(16, 2, 8), random(3, queries, 16, seed=seed), random(3, length, 16, seed=seed + 1)
    bias, mask = random(1, 2, 1, length, seed=seed + 2), torch.zeros(3, 1, 1, length)
    mask[:, :, :, : length // 2] = MASK_VALUE
    used_mask = mask if masked else None
    plain = attention(states, *attention.keys_values(memory), bias, used_mask)
    torch.testing.assert_close(attention.cross_attention(states, memory, bias, used_mask), plain, atol=1e-4, rtol=1e-4)


def test_both_orders_are_used() -> None:
    attention, counted = Attention(16, 2, 8), []
    original = attention.keys_values
    attention.keys_values = lambda states: counted.append(len(states)) or original(states)  # type: ignore[method-assign]
    for queries in (1, 40):
        attention.cross_attention(random(3, queries, 16), random(3, 40, 16), None, None)
    assert counted == [3]


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_zeroes_its_share_and_keeps_the_mean(rate: float) -> None:
    """The rate is rounded to 1/256, and kept values are scaled by 1 / (1 - rate). Three standard errors (400,000 draws) are 0.0024."""
    torch.manual_seed(1)
    exact = round(256 * rate) / 256
    for found in (Dropout(rate)(torch.ones(400, 1000)), Dropout(rate).add(torch.zeros(400, 1000), torch.ones(400, 1000))):
        assert float((found == 0).float().mean()) == pytest.approx(exact, abs=0.0024)
        assert found.unique().tolist() == pytest.approx([0, 1 / (1 - exact)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_passes_gradients_where_it_keeps_values(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    states, branch = random(30, 40), random(30, 40, seed=1).to(dtype).requires_grad_()
    found = Dropout(0.5).add(states, branch) - states
    (grad,) = torch.autograd.grad(found.sum(), branch)
    torch.testing.assert_close(grad.float(), (found.detach() != 0).float() * 2)


def test_no_dropout_in_evaluation() -> None:
    states = random(5, 8)
    assert torch.equal(Dropout(0.5).eval()(states), states)
    assert torch.equal(Dropout(0.5).eval().add(states, states), 2 * states)
    block = FeedForward(8, 16, 0.5).eval()
    expected = functional.relu(states @ block.inner.weight.T) @ block.output.weight.T
    torch.testing.assert_close(block(states), expected, atol=1e-5, rtol=1e-5)


def test_feed_forward_with_dropout_equals_feed_forward_on_the_kept_states() -> None:
    """Its hidden states, which equal the gradient of the outer weight, are those of ReLU or 0, and the output follows from them."""
    torch.manual_seed(1)
    block, states = FeedForward(8, 16, 0.5).train(), random(1, 8)
    found = block(states)
    (grad,) = torch.autograd.grad(found[0, 0], block.output.weight)
    full = functional.relu(states @ block.inner.weight.T)[0]
    dropped = grad[0] == 0
    assert 0 < int((dropped & (full > 0)).sum()) < int((full > 0).sum())
    torch.testing.assert_close(grad[0], torch.where(dropped, 0.0, 2 * full))
    torch.testing.assert_close(found[0], block.output.weight @ grad[0])


def test_autocast_sets_the_precision() -> None:
    """Products and norms in bfloat16, the residual sum in float32."""
    states = random(2, 90, 128)
    with torch.autocast("cpu", torch.bfloat16):
        normed = RMSNorm(128)(states)
        branch = FeedForward(128, 256, 0.1)(normed)
        assert (normed.dtype, branch.dtype) == (torch.bfloat16, torch.bfloat16)
        assert Dropout(0.1).add(states, branch).dtype == torch.float32


def test_dropout_follows_torchs_generator() -> None:
    """The same torch seed gives the same dropout."""
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(Dropout(0.3)(torch.ones(50, 50)))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
