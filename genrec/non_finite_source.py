"""Find the operation behind a loss or a gradient that is not finite, with the line of the user's own code.

Log-probabilities of masked places are -inf on purpose, so -inf alone is no fault: NaN, +inf and a scalar that is not finite are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from genrec.plugin_source import Place, is_own_file

HINTS = {
    "sqrt": "the slope of a root is infinite at 0; add a small constant under it",
    "norm": "the slope of a norm is infinite at 0; add a small constant under its root",
    "pow": "the slope of a power below 1 is infinite at 0; add a small constant under it",
    "log": "the logarithm of 0 is -inf; use logsigmoid or log_softmax, or clamp(min=...) before it",
    "exp": "exp overflows above 88; use softplus, logsigmoid or logsumexp, or clamp the exponent",
    "mul": "0 times infinity is NaN; replace masked places by masked_fill or torch.where before",
    "sub": "-inf minus -inf is NaN; set masked places to 0 before subtracting",
    "mean": "masked places are -inf; set them to 0 by masked_fill before, and divide by the number of the others",
    "sum": "masked places are -inf; set them to 0 by masked_fill before",
    "div": "0 / 0 is NaN; use clamp(min=...) for the divisor",
    "std": "the standard deviation of a single value is NaN; use correction=0, and clamp(min=...) where it divides",
    "var": "the variance of a single value is NaN; use correction=0, and clamp(min=...) where it divides",
}

LOGARITHMS = ("log", "log2", "log10", "log1p")


def find_source(compute: Callable[[], Tensor], inputs: Mapping[str, Tensor]) -> str | None:
    """Compute a loss again and differentiate it; return the operation that first gave a value that is not finite, or None.

    `compute` returns the loss, which is summed if it is no scalar. `inputs` are named tensors, such as those of the batch: if the
    places with -inf are those where one of them is 0 or -inf, the sentence names it. Gradients of leaves are left unchanged. An
    exception of `compute` ends the search.
    """
    watch = _Watch(inputs)
    try:
        with watch, torch.enable_grad():
            loss = compute().sum()
            if bool(loss.isfinite()):  # a value that is masked later does no harm
                torch.autograd.grad(loss, leaves_of(loss), allow_unused=True)
                return watch.in_backward or watch.in_forward
    except Exception:  # the error at hand is reported, not one of its diagnosis
        return None
    return watch.in_forward or watch.in_detached


def named_tensors(batch: object, path: str = "") -> dict[str, Tensor]:
    """Return the tensors in a named tuple, also in those that it holds, by their paths: `batch.target`."""
    found: dict[str, Tensor] = {}
    for name in getattr(batch, "_fields", ()):
        value, below = getattr(batch, name), f"{path or 'batch'}.{name}"
        found |= {below: value} if isinstance(value, Tensor) else named_tensors(value, below)
    return found


class _Watch(TorchFunctionMode):
    """Remembers the first operation with a result that is not finite, although its inputs hold neither NaN nor +inf.

    A logarithm of 0 gives -inf, which an operation after it may only turn into +inf, as the minus of `-log(sigmoid(x))`: the logarithm
    is then the one to name. In the backward pass it remembers the first operation that turns a finite gradient into another. Of values
    without a gradient, such as statistics of the batch, it remembers the first NaN that the user's own code computes.
    """

    def __init__(self, inputs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.inputs = inputs
        self.in_forward: str | None = None
        self.in_backward: str | None = None
        self.in_detached: str | None = None
        self.logs_of_zero: dict[object, str] = {}  # node of the graph -> sentence

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        with torch._C.DisableTorchFunction():
            given = [each for each in args if isinstance(each, Tensor) and each.is_floating_point()]
            if result.requires_grad:
                self._see(_operation(func), result, given)
            elif self.in_detached is None and _has_nan(result) and not any(map(_has_nan, given)):
                place = _own_place(sys._getframe())
                self.in_detached = None if place is None else _told(_operation(func), place, "")
        return result

    def _see(self, operation: str, result: Tensor, given: list[Tensor]) -> None:
        """Note an operation with a gradient; `given` are its inputs."""
        if self.in_forward is None and _is_log_of_zero(operation, result, given):
            self.logs_of_zero[result.grad_fn] = self._sentence(operation, given)
        if self.in_forward is None and _is_bad(result) and not any(map(_is_bad, given)):
            self.in_forward = self._log_behind(result) or self._sentence(operation, given)
        if result.grad_fn is not None:
            place = _own_place(sys._getframe())
            result.grad_fn.register_hook(partial(self._see_gradient, f"the gradient of {operation}", place))

    def _log_behind(self, result: Tensor) -> str | None:
        """Return the sentence of the logarithm of 0 that makes a result infinite; None without one, or if the result has a NaN."""
        if not self.logs_of_zero or _has_nan(result):
            return None
        return next((self.logs_of_zero[node] for node in _nodes_of(result) if node in self.logs_of_zero), None)

    def _see_gradient(self, operation: str, place: Place | None, given: Sequence[Tensor | None], got: Sequence[Tensor | None]) -> None:
        """Note the first operation that turns finite gradients of its result into others of its inputs."""
        if self.in_backward is None and not _all_finite(given) and _all_finite(got):
            self.in_backward = _told(operation, place, "")

    def _sentence(self, operation: str, given: list[Tensor]) -> str:
        masked = [each for each in given if each.ndim and bool(each.isneginf().any())]
        where = "".join(f"; {_place_of(each, self.inputs)}" for each in masked[:1])
        return _told(operation, _own_place(sys._getframe()), where)


def leaves_of(loss: Tensor) -> list[Tensor]:
    """Return the tensors that a loss has a gradient for: the parameters, and other leaves of its graph."""
    return [node.variable for node in _nodes_of(loss) if hasattr(node, "variable")]  # nodes that accumulate the gradient of a leaf


def _nodes_of(result: Tensor) -> Iterator[Any]:
    """Iterate over the nodes of the graph of a result, each once."""
    seen: set[object] = set()
    open_nodes: list[Any] = [result.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        open_nodes += [following for following, _ in node.next_functions]
        yield node


def _all_finite(values: Sequence[Tensor | None]) -> bool:
    with torch._C.DisableTorchFunction():
        return all(each is None or bool(each.isfinite().all()) for each in values)


def _has_nan(value: Tensor) -> bool:
    return bool(value.isnan().any())


def _is_bad(value: Tensor) -> bool:
    return bool((value.isnan() | value.isposinf()).any()) or (value.ndim == 0 and not bool(value.isfinite()))


def _is_log_of_zero(operation: str, result: Tensor, given: Sequence[Tensor]) -> bool:
    """Return whether a result is a logarithm that is -inf although its input holds no infinity."""
    return operation in LOGARITHMS and bool(result.isneginf().any()) and not any(bool(each.isinf().any()) for each in given)


def _told(operation: str, place: Place | None, where: str) -> str:
    at = "" if place is None else f" at {place}"
    hint = next((hint for name, hint in HINTS.items() if re.search(rf"(^|[^a-z]){name}", operation)), None)
    return f"{operation}{at} is the first that is not finite{where}{'' if hint is None else f'; {hint}'}"


def _operation(func: Any) -> str:
    """Return the name of a function of torch: `mul` of `Tensor.mul` and of `a * b`."""
    name = str(getattr(func, "__name__", func)).strip("_")
    return name[1:] if name in ("radd", "rsub", "rmul", "rdiv", "rtruediv", "rpow") else name


def _place_of(value: Tensor, inputs: Mapping[str, Tensor]) -> str:
    """Return where a tensor holds -inf, in words."""
    masked = value.isneginf()
    count, first = int(masked.sum()), masked.nonzero()[0].tolist()
    told = f"its input {list(value.shape)} is -inf at {count} of {value.numel()} places, first at {first}"
    for name, given in inputs.items():
        absent = given.isneginf() if given.is_floating_point() else given == 0
        if absent.shape == masked.shape[: absent.ndim] and absent.ndim:
            wide = absent.reshape(*absent.shape, *[1] * (masked.ndim - absent.ndim)).expand_as(masked)
            if bool(torch.equal(wide.to(masked.device), masked)):
                return f"{told}, which are the places where {name} is {'-inf' if given.is_floating_point() else '0 (none)'}"
    return told


def _own_place(frame: FrameType | None) -> Place | None:
    """Return the innermost line of the user's own code that is running within `find_source`, None if there is none.

    A script that has started the training, such as `bin/genrec`, stands outside.
    """
    while frame is not None and frame.f_code is not find_source.__code__:
        if is_own_file(frame.f_code.co_filename):
            return Place(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return None
