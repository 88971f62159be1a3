"""The arithmetic of the layers, in as few passes over memory as autograd in Python allows: tensors in, tensors out.

Every function is the textbook's, up to rounding. What is not plain PyTorch is there because a profile asked for it (the log in
`experiments/benchmarks/README.md`): products in float32 on a CPU by way of a convolution, which oneDNN computes, on some processors at
twice the rate of the library behind `linear`; dropout from eight random bits an element; attention in the open, because the CPU's
fused kernel is slower at these sizes and gives a learned bias no gradient. On a GPU all of it is PyTorch's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_weight

FEW = 20_480  # numbers, up to which PyTorch gives a convolution to a slower implementation
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes a number
BY_ONEDNN = (2, 1)  # a dilation: of a 1x1 kernel it changes nothing, but without it a single thread would get the slower one, too


def linear(states: Tensor, weight: Tensor) -> Tensor:
    """`states @ weight.T`, float [..., in] and [out, in] -> [..., out]; in autocast's precision where that is on."""
    return functional.linear(states, weight) if states.device.type != "cpu" else _applied(_Linear, states, weight)


def feed_forward(states: Tensor, inner: Tensor, outer: Tensor, rate: float, training: bool) -> Tensor:
    """`dropout(relu(states @ inner.T)) @ outer.T`; on a CPU dropout's rate is rounded to a 256th, here and below."""
    rate = rate if training else 0.0
    if states.device.type != "cpu":
        hidden = functional.dropout(functional.relu(functional.linear(states, inner)), rate)
        return functional.linear(hidden, outer)
    return _applied(_FeedForward, states, inner, outer * _scale(rate) if rate else outer, rate)


def _applied(function: type[Function], *arguments: object) -> Tensor:
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


def _precision(states: Tensor) -> torch.dtype:
    """What autocast makes of it."""
    device = states.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else states.dtype


def _image(rows: Tensor) -> Tensor:
    """Rows float32 [..., C] as one line of pixels, [1, C, 1, rows], channels last: no copy of a contiguous tensor."""
    return rows.reshape(1, 1, -1, rows.shape[-1]).permute(0, 3, 1, 2)


def _by_convolution(rows: Tensor) -> bool:
    return rows.numel() > FEW and rows.dtype == torch.float32 and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def _product(rows: Tensor, weight: Tensor) -> Tensor:
    if not _by_convolution(rows):
        return functional.linear(rows, weight)
    pixels = functional.conv2d(_image(rows), weight[:, :, None, None], dilation=BY_ONEDNN)
    return pixels.permute(0, 2, 3, 1).reshape(*rows.shape[:-1], -1)


def _outer(grad: Tensor, rows: Tensor) -> Tensor:
    """The gradient of the weight: `grad.T @ rows`."""
    if not _by_convolution(rows):
        return grad.flatten(0, -2).t() @ rows.flatten(0, -2)
    if grad.shape[-1] > rows.shape[-1]:  # the wider one is read as the input, at twice the rate
        return _outer(rows, grad).t()
    shape = (grad.shape[-1], rows.shape[-1])
    result: Tensor = conv2d_weight(_image(rows), (*shape, 1, 1), _image(grad), dilation=BY_ONEDNN)  # type: ignore[no-untyped-call]
    return result.view(shape)


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor) -> Tensor:
        dtype = _precision(states)
        states, weight = states.to(dtype), weight.to(dtype)
        ctx.save_for_backward(states, weight)
        return _product(states, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        states, weight = ctx.saved_tensors
        for_states, for_weight = ctx.needs_input_grad
        return _product(grad, weight.t()) if for_states else None, _outer(grad, states) if for_weight else None


class _FeedForward(Function):
    """ReLU and dropout (without its scale) need no masks: what is above 0 in the hidden states is what both let through."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, inner: Tensor, outer: Tensor, rate: float) -> Tensor:
        dtype = _precision(states)
        states, inner, outer = states.to(dtype), inner.to(dtype), outer.to(dtype)
        hidden = _product(states, inner).clamp_min_(0)
        if rate:
            _mask_(hidden, _kept(hidden, rate))
        ctx.save_for_backward(states, inner, outer, hidden)
        return _product(hidden, outer)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        states, inner, outer, hidden = ctx.saved_tensors
        below = torch.ops.aten.threshold_backward(_product(grad, outer.t()), hidden, 0)
        return _product(below, inner.t()), _outer(below, states), _outer(grad, hidden), None


def _dropped(rate: float) -> int:
    """How many of 256 elements dropout drops."""
    return min(255, round(256 * rate))


def _scale(rate: float) -> float:
    return 256 / (256 - _dropped(rate))


def _kept(states: Tensor, rate: float) -> Tensor:
    """int16 like `states`: all bits set with probability 1 - rate, to a 256th, else none; a byte of a 64-bit draw for each.

    Integers, because to mask with them is many times faster than with bool.
    """
    bits = torch.empty((states.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None).view(torch.int8)
    below = bits[: states.numel()].to(torch.int16).sub_(128 - _dropped(rate))  # below 0 where kept, and of 9 bits
    return below.bitwise_right_shift_(8).view(states.shape)


def _mask_(states: Tensor, kept: Tensor) -> Tensor:
    """`states` where `kept`, else 0, in place."""
    kind = INTEGERS[states.element_size()]
    states.view(kind).bitwise_and_(kept.to(kind))
    return states


class _AddDropped(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, branch: Tensor, rate: float) -> Tensor:
        kept = _kept(branch, rate)
        ctx.save_for_backward(kept)
        ctx.rate, ctx.dtype = rate, branch.dtype
        return torch.add(states, _mask_(branch.clone(), kept), alpha=_scale(rate))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (kept,) = ctx.saved_tensors
        return grad, _mask_((grad * _scale(ctx.rate)).to(ctx.dtype), kept), None


def add_dropped(states: Tensor, branch: Tensor, rate: float, training: bool) -> Tensor:
    """`states + dropout(branch)`."""
    if not training or rate == 0:
        return states + branch
    if states.device.type != "cpu":
        return states + functional.dropout(branch, rate)
    return _applied(_AddDropped, states, branch, rate)


class _Dropout(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, rate: float) -> Tensor:
        kept = _kept(states, rate)
        ctx.save_for_backward(kept)
        ctx.rate = rate
        return _mask_(states * _scale(rate), kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return _mask_(grad * _scale(ctx.rate), kept), None


def dropout(states: Tensor, rate: float, training: bool) -> Tensor:
    """Dropout."""
    if not training or rate == 0:
        return states
    if states.device.type != "cpu":
        return functional.dropout(states, rate)
    return _applied(_Dropout, states, rate)


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, eps: float) -> Tensor:
        square = torch.linalg.vector_norm(states, dim=-1, keepdim=True).square_()
        inverse = square.div_(states.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(states, weight, inverse)
        result = torch.empty_like(states, dtype=_precision(states))
        return torch.mul(states * inverse, weight, out=result)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        states, weight, inverse = ctx.saved_tensors
        both = (grad * states).flatten(0, -2)
        flat = inverse.flatten()
        along = ((both @ weight) * flat.square() / -states.shape[-1]).view(inverse.shape)
        towards_states = torch.addcmul(grad * weight, states, along).mul_(inverse)
        return towards_states, flat @ both, None


def rms_norm(states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`states / rms(states) * weight` over the last dimension (Zhang and Sennrich 2019, 1910.07467), in autocast's precision."""
    if states.device.type != "cpu":
        return functional.rms_norm(states, weight.shape, weight, eps).to(_precision(states))
    return _applied(_RMSNorm, states, weight, eps)


def attention(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, hidden: Tensor | None = None) -> Tensor:
    """softmax(Q K' + bias + hidden) V: queries [B, H, Q, d], keys and values [B, H, S, d] -> [B, H, Q, d].

    `bias` [1, H, Q or 1, S] is the same for all rows and may be learned; `hidden`, broadcast to [B, H, Q, S], is a mask. The products
    are not scaled (T5).
    """
    if query.device.type != "cpu":
        mask = bias if hidden is None else hidden if bias is None else bias + hidden
        mask = None if mask is None else mask.to(query.dtype)
        return functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=1.0)
    return _applied(_Attention, query, keys, values, bias, hidden)


def self_attention(packed: Tensor, bias: Tensor, hidden: Tensor | None = None) -> Tensor:
    """`attention` of queries, keys and values side by side, [B, S, 3, H, d], with themselves -> [B, H, S, d]."""
    apart = packed.permute(2, 0, 3, 1, 4)
    query, keys, values = (apart.contiguous() if packed.device.type == "cpu" else apart).unbind(0)  # one copy instead of three
    return attention(query, keys, values, bias, hidden)


class _Attention(Function):
    """In the open: on a CPU the fused kernel is slower at these sizes, and gives a learned bias no gradient."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, hidden: Tensor | None) -> Tensor:
        query, keys, values = query.contiguous(), keys.contiguous(), values.contiguous()
        scores = query @ keys.mT
        for added in (bias, hidden):
            if added is not None:  # in float32, whose softmax is no slower than bfloat16's
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
        scores = torch._softmax_backward_data(grad @ values.mT, weights, -1, weights.dtype)
        towards_bias = None
        if ctx.bias is not None and ctx.needs_input_grad[3]:
            towards_bias = scores.sum(0, keepdim=True, dtype=ctx.bias.dtype).sum_to_size(ctx.bias.shape)
        return scores @ keys, scores.mT @ query, weights.mT @ grad, towards_bias, None
