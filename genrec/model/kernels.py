"""The arithmetic of the layers, in as few passes over memory as autograd in Python allows: tensors in, tensors out.

Every function is the textbook's, up to rounding. What is not plain PyTorch is there because a profile asked for it (the log in
`experiments/benchmarks/README.md`): products in float32 on a CPU by way of a convolution, which oneDNN computes, on some processors at
twice the rate of the library behind `linear`; dropout from eight random bits an element; attention whose learnt bias has a gradient,
which the CPU's fused kernel doesn't give. On a GPU all of it is PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_weight

FEW = 20_480  # numbers, up to which PyTorch gives a convolution to a slower implementation
BY_ONEDNN = (2, 1)  # a dilation: of a 1x1 kernel it changes nothing, but without it a single thread would get the slower one, too


def linear(states: Tensor, weight: Tensor) -> Tensor:
    """`states @ weight.T`, float [..., in] and [out, in] -> [..., out]; in autocast's precision where that is on."""
    if states.device.type != "cpu":
        return functional.linear(states, weight)
    return _applied(_Linear, states, weight, False, 0.0)


def feed_forward(states: Tensor, inner: Tensor, outer: Tensor, rate: float, training: bool) -> Tensor:
    """`dropout(relu(states @ inner.T)) @ outer.T`; on a CPU dropout's rate is rounded to a 256th, here and below."""
    rate = rate if training else 0.0
    if states.device.type != "cpu":
        hidden = functional.dropout(functional.relu(functional.linear(states, inner)), rate)
        return functional.linear(hidden, outer)
    return linear(_applied(_Linear, states, inner, True, rate), outer * _scale(rate) if rate else outer)


def _applied(function: type[Function], *arguments: object) -> Tensor:
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


def _precision(states: Tensor) -> torch.dtype:
    """What autocast makes of it."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


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
    """A product; then ReLU and dropout (without its scale). What is above 0 in the output is what both let through."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, relu: bool, rate: float) -> Tensor:
        dtype = _precision(states)
        states, weight = states.to(dtype), weight.to(dtype)
        result = _product(states, weight)
        if relu:
            result.clamp_min_(0)
            if rate:
                result.mul_(_keep(result, rate))
        ctx.save_for_backward(states, weight, result if relu else None)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        states, weight, result = ctx.saved_tensors
        if result is not None:
            grad = torch.ops.aten.threshold_backward(grad, result, 0)
        for_states, for_weight = ctx.needs_input_grad[:2]
        return _product(grad, weight.t()) if for_states else None, _outer(grad, states) if for_weight else None, None, None


def _dropped(rate: float) -> int:
    """How many of 256 elements dropout drops."""
    return min(255, round(256 * rate))


def _scale(rate: float) -> float:
    return 256 / (256 - _dropped(rate))


def _keep(states: Tensor, rate: float) -> Tensor:
    """Bool like `states`, true with probability 1 - rate, rounded to a 256th: a byte of a 64-bit draw for each element."""
    bits = torch.empty((states.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None).view(torch.int8)
    return (bits[: states.numel()] >= _dropped(rate) - 128).view(states.shape)


class _AddDropped(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, branch: Tensor, rate: float) -> Tensor:
        keep = _keep(branch, rate)
        ctx.save_for_backward(keep)
        ctx.rate, ctx.dtype = rate, branch.dtype
        return torch.add(states, branch * keep, alpha=_scale(rate))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (keep,) = ctx.saved_tensors
        return grad, (grad * _scale(ctx.rate)).to(ctx.dtype).mul_(keep), None


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
        keep = _keep(states, rate)
        ctx.save_for_backward(keep)
        ctx.rate = rate
        return (states * _scale(rate)).mul_(keep)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return (grad * _scale(ctx.rate)).mul_(keep), None


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

    `bias` [1, H, Q, S] is the same for all rows and may be learnt; `hidden`, broadcast to [B, H, Q, S], is a mask. The products are
    not scaled (T5).
    """
    learns = bias is not None and bias.requires_grad and torch.is_grad_enabled()
    if learns and query.device.type == "cpu":
        return _applied(_BiasedAttention, query, keys, values, bias, hidden)
    mask = bias if hidden is None else hidden if bias is None else bias + hidden
    mask = None if mask is None else mask.to(query.dtype)
    return functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=1.0)


def self_attention(packed: Tensor, bias: Tensor, hidden: Tensor | None = None) -> Tensor:
    """`attention` of queries, keys and values side by side, [B, S, 3, H, d], with themselves -> [B, H, S, d]."""
    if packed.device.type == "cpu" and bias.requires_grad and torch.is_grad_enabled():
        return _applied(_BiasedSelfAttention, packed, bias, hidden)
    query, keys, values = packed.permute(2, 0, 3, 1, 4).unbind(0)
    return attention(query, keys, values, bias, hidden)


def _forward(ctx: Any, inputs: Sequence[Tensor], bias: Tensor, hidden: Tensor | None) -> Tensor:
    """Head by head, whose scores stay in a core's cache, and which need not be moved for the products.

    Keeps the probabilities. Heads lie side by side in the result, as what follows wants them.
    """
    query, keys, values = inputs
    batch, heads, queries, width = query.shape
    result = query.new_empty(batch, queries, heads, width).transpose(1, 2)
    added = bias.to(query.dtype).expand(batch, -1, -1, -1)
    if hidden is not None:
        added = added + hidden
    ctx.bias, ctx.kept = bias, []
    for head in range(heads):
        scores = torch.baddbmm(added[:, head], query[:, head], keys[:, head].mT)
        ctx.kept.append(torch.softmax(scores, -1))
        result[:, head] = torch.bmm(ctx.kept[-1], values[:, head])
    return result


def _backward(ctx: Any, grad: Tensor, inputs: Sequence[Tensor], towards: Sequence[Tensor]) -> Tensor:
    """Writes the gradients of queries, keys and values into `towards`, and returns that of the bias."""
    query, keys, values = inputs
    towards_bias = torch.empty_like(ctx.bias)
    for head, weights in enumerate(ctx.kept):
        towards[2][:, head] = torch.bmm(weights.mT, grad[:, head])
        scores = torch._softmax_backward_data(torch.bmm(grad[:, head], values[:, head].mT), weights, -1, weights.dtype)
        towards_bias[0, head] = scores.sum(0, dtype=towards_bias.dtype)
        towards[0][:, head] = torch.bmm(scores, keys[:, head])
        towards[1][:, head] = torch.bmm(scores.mT, query[:, head])
    return towards_bias


class _BiasedAttention(Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, hidden: Tensor | None) -> Tensor:
        ctx.save_for_backward(query, keys, values)
        return _forward(ctx, (query, keys, values), bias, hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        inputs = ctx.saved_tensors
        towards = [torch.empty_like(part) for part in inputs]
        towards_bias = _backward(ctx, grad, inputs, towards)
        return towards[0], towards[1], towards[2], towards_bias, None


class _BiasedSelfAttention(Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor, bias: Tensor, hidden: Tensor | None) -> Tensor:
        ctx.save_for_backward(packed)
        return _forward(ctx, packed.permute(2, 0, 3, 1, 4).unbind(0), bias, hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (packed,) = ctx.saved_tensors
        towards = torch.empty_like(packed)
        inputs, outputs = (part.permute(2, 0, 3, 1, 4).unbind(0) for part in (packed, towards))
        return towards, _backward(ctx, grad, inputs, outputs), None
