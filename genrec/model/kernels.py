"""Functional forms of the transformer layers, written for few passes over memory within what autograd in Python allows.

Every function computes the textbook formula, up to rounding. On a GPU all of them are plain PyTorch. On a CPU three things differ,
each because profiling showed a gain (see `experiments/benchmarks/README.md`): with AVX-512, float32 matrix products run as a
convolution, which oneDNN computes at up to twice the rate of `linear` (with AVX2 `linear` is faster); dropout uses eight random bits
per element; attention is computed step by step, because the fused CPU kernel is slower at these sizes and gives a learned bias no
gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_weight

MAX_DIRECT_SIZE = 20_480  # elements; up to this size PyTorch gives a convolution to a slower implementation
CONVOLUTION_IS_FASTER = (
    torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX512")  # type: ignore[no-untyped-call]
)
INTEGER_TYPES = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per element
ONEDNN_DILATION = (2, 1)  # no effect on a 1x1 kernel, but without it a single thread would get the slower implementation, too


class Rows(NamedTuple):
    """The rows of a padded tensor that are computed, in any order. Dropout draws for the whole tensor, so that no draw changes."""

    place: Tensor  # int64 [R]  the place of each row in the padded tensor
    total: int  # the number of rows of the padded tensor


def linear(states: Tensor, weight: Tensor) -> Tensor:
    """Return `states @ weight.T` of float [..., in] and [out, in]: [..., out], in autocast's precision if autocast is on."""
    return functional.linear(states, weight) if states.device.type != "cpu" else _apply(_Linear, states, weight)


def feed_forward(states: Tensor, inner: Tensor, outer: Tensor, rate: float, training: bool, rows: Rows | None = None) -> Tensor:
    """Return `dropout(relu(states @ inner.T)) @ outer.T`; on a CPU every dropout rate of this module is rounded to 1/256.

    With `rows` (on a CPU), the states are those rows of a padded tensor, as in `dropout` and `add_dropout`.
    """
    rate = rate if training else 0.0
    if states.device.type != "cpu":
        hidden = functional.dropout(functional.relu(functional.linear(states, inner)), rate)
        return functional.linear(hidden, outer)
    return _apply(_FeedForward, states, inner, outer * _scale(rate) if rate else outer, rate, rows)


def _apply(function: type[Function], *arguments: object) -> Tensor:
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


def _compute_dtype(states: Tensor) -> torch.dtype:
    """Return autocast's data type, or that of `states` if autocast is off."""
    device = states.device.type
    enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if enabled else states.dtype


def _as_image(rows: Tensor) -> Tensor:
    """Return rows float32 [..., C] as an image [1, C, 1, rows], channels last; a contiguous tensor is not copied."""
    return rows.reshape(1, 1, -1, rows.shape[-1]).permute(0, 3, 1, 2)


def _by_convolution(rows: Tensor) -> bool:
    return CONVOLUTION_IS_FASTER and rows.numel() > MAX_DIRECT_SIZE and rows.dtype == torch.float32


def _product(rows: Tensor, weight: Tensor) -> Tensor:
    if not _by_convolution(rows):
        return functional.linear(rows, weight)
    pixels = functional.conv2d(_as_image(rows), weight[:, :, None, None], dilation=ONEDNN_DILATION)
    return pixels.permute(0, 2, 3, 1).reshape(*rows.shape[:-1], -1)


def _weight_gradient(grad: Tensor, rows: Tensor) -> Tensor:
    """Return the gradient of the weight, `grad.T @ rows`."""
    if not _by_convolution(rows):
        return grad.flatten(0, -2).t() @ rows.flatten(0, -2)
    if grad.shape[-1] > rows.shape[-1]:  # twice as fast with the wider one as the convolution's input
        return _weight_gradient(rows, grad).t()
    shape = (grad.shape[-1], rows.shape[-1])
    result: Tensor = conv2d_weight(_as_image(rows), (*shape, 1, 1), _as_image(grad), dilation=ONEDNN_DILATION)  # type: ignore[no-untyped-call]
    return result.view(shape)


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor) -> Tensor:
        dtype = _compute_dtype(states)
        states, weight = states.to(dtype), weight.to(dtype)
        ctx.save_for_backward(states, weight)
        return _product(states, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        states, weight = ctx.saved_tensors
        for_states, for_weight = ctx.needs_input_grad
        return _product(grad, weight.t()) if for_states else None, _weight_gradient(grad, states) if for_weight else None


class _FeedForward(Function):
    """ReLU and dropout (without its scale) store no masks: both passed an element through where the hidden state is above 0."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, inner: Tensor, outer: Tensor, rate: float, rows: Rows | None) -> Tensor:
        dtype = _compute_dtype(states)
        states, inner, outer = states.to(dtype), inner.to(dtype), outer.to(dtype)
        hidden = _product(states, inner).clamp_min_(0)
        if rate:
            _apply_mask_(hidden, _keep_mask(hidden, rate, rows))
        ctx.save_for_backward(states, inner, outer, hidden)
        return _product(hidden, outer)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        states, inner, outer, hidden = ctx.saved_tensors
        hidden_grad = torch.ops.aten.threshold_backward(_product(grad, outer.t()), hidden, 0)
        return (
            _product(hidden_grad, inner.t()),
            _weight_gradient(hidden_grad, states),
            _weight_gradient(grad, hidden),
            None,
            None,
        )


def _dropped_of_256(rate: float) -> int:
    """Return how many of 256 elements dropout zeroes on average."""
    return min(255, round(256 * rate))


def _scale(rate: float) -> float:
    return 256 / (256 - _dropped_of_256(rate))


def _keep_mask(states: Tensor, rate: float, rows: Rows | None = None) -> Tensor:
    """Return an int16 mask shaped like `states`: all bits set with probability 1 - rate, rounded to 1/256, else none.

    Each element, also of padded rows, takes one byte of a 64-bit draw. Masking with integers is many times faster than with bool.
    """
    numel = states.numel() if rows is None or not len(states) else states[0].numel() * rows.total
    bits = torch.empty((numel + 7) // 8, dtype=torch.int64).random_(-(2**63), None).view(torch.int8)[:numel]
    bits = bits if rows is None else bits.view(rows.total, -1).index_select(0, rows.place)
    below = bits.to(torch.int16).sub_(128 - _dropped_of_256(rate))  # negative where kept; fits 9 bits
    return below.bitwise_right_shift_(8).view(states.shape)


def _apply_mask_(states: Tensor, mask: Tensor) -> Tensor:
    """Set `states` to 0 in place where the mask of `_keep_mask` is 0."""
    integer = INTEGER_TYPES[states.element_size()]
    states.view(integer).bitwise_and_(mask.to(integer))
    return states


class _AddDropout(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, branch: Tensor, rate: float, rows: Rows | None) -> Tensor:
        mask = _keep_mask(branch, rate, rows)
        ctx.save_for_backward(mask)
        ctx.rate, ctx.dtype = rate, branch.dtype
        return torch.add(states, _apply_mask_(branch.clone(), mask), alpha=_scale(rate))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return grad, _apply_mask_((grad * _scale(ctx.rate)).to(ctx.dtype), mask), None, None


def add_dropout(states: Tensor, branch: Tensor, rate: float, training: bool, rows: Rows | None = None) -> Tensor:
    """Return `states + dropout(branch)`."""
    if not training or rate == 0:
        return states + branch
    if states.device.type != "cpu":
        return states + functional.dropout(branch, rate)
    return _apply(_AddDropout, states, branch, rate, rows)


class _Dropout(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, rate: float, rows: Rows | None) -> Tensor:
        mask = _keep_mask(states, rate, rows)
        ctx.save_for_backward(mask)
        ctx.rate = rate
        return _apply_mask_(states * _scale(rate), mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return _apply_mask_(grad * _scale(ctx.rate), mask), None, None


def dropout(states: Tensor, rate: float, training: bool, rows: Rows | None = None) -> Tensor:
    """Return `states` after dropout with probability `rate`."""
    if not training or rate == 0:
        return states
    if states.device.type != "cpu":
        return functional.dropout(states, rate)
    return _apply(_Dropout, states, rate, rows)


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, eps: float) -> Tensor:
        square = torch.linalg.vector_norm(states, dim=-1, keepdim=True).square_()
        inverse_rms = square.div_(states.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(states, weight, inverse_rms)
        result = torch.empty_like(states, dtype=_compute_dtype(states))
        return torch.mul(states * inverse_rms, weight, out=result)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        states, weight, inverse_rms = ctx.saved_tensors
        grad_states = (grad * states).flatten(0, -2)
        flat = inverse_rms.flatten()
        along_states = ((grad_states @ weight) * flat.square() / -states.shape[-1]).view(inverse_rms.shape)
        states_grad = torch.addcmul(grad * weight, states, along_states).mul_(inverse_rms)
        return states_grad, flat @ grad_states, None


def rms_norm(states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return `states / rms(states) * weight` over the last dimension, in autocast's precision.

    Source: Zhang and Sennrich 2019, arXiv 1910.07467.
    """
    if states.device.type != "cpu":
        return functional.rms_norm(states, weight.shape, weight, eps).to(_compute_dtype(states))
    return _apply(_RMSNorm, states, weight, eps)


def attention(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, mask: Tensor | None = None) -> Tensor:
    """Return softmax(Q K' + bias + mask) V: queries [B, H, Q, d], keys and values [B, H, S, d] -> [B, H, Q, d].

    `bias` [1, H, Q or 1, S] is shared by the batch and may be learned; `mask`, broadcast to [B, H, Q, S], is additive and gets no
    gradient. As in T5, the products are not scaled.
    """
    if query.device.type != "cpu":
        added = bias if mask is None else mask if bias is None else bias + mask
        added = None if added is None else added.to(query.dtype)
        return functional.scaled_dot_product_attention(query, keys, values, attn_mask=added, scale=1.0)
    return _apply(_Attention, query, keys, values, bias, mask)


def self_attention(packed: Tensor, bias: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return `attention` of packed queries, keys and values [B, S, 3, H, d] over themselves: [B, H, S, d]."""
    unpacked = packed.permute(2, 0, 3, 1, 4)
    query, keys, values = (unpacked.contiguous() if packed.device.type == "cpu" else unpacked).unbind(0)  # one copy instead of three
    return attention(query, keys, values, bias, mask)


class _Attention(Function):
    """Attention without the fused kernel, which on a CPU is slower at these sizes and gives a learned bias no gradient."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
        query, keys, values = query.contiguous(), keys.contiguous(), values.contiguous()
        scores = query @ keys.mT
        for added in (bias, mask):
            if added is not None:  # in float32: its softmax is as fast as that of bfloat16
                scores = scores.add_(added) if scores.dtype == added.dtype else scores + added
        weights = torch.softmax(scores, -1).to(query.dtype)
        ctx.save_for_backward(query, keys, values, weights)
        ctx.bias = bias
        return weights @ values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None, None]:
        query, keys, values, weights = ctx.saved_tensors
        grad = grad.contiguous()
        scores_grad = torch._softmax_backward_data(grad @ values.mT, weights, -1, weights.dtype)
        bias_grad = None
        if ctx.bias is not None and ctx.needs_input_grad[3]:
            bias_grad = scores_grad.sum(0, keepdim=True, dtype=ctx.bias.dtype).sum_to_size(ctx.bias.shape)
        return scores_grad @ keys, scores_grad.mT @ query, weights.mT @ grad, bias_grad, None
