"""Counts of operations, which bound the cost of a function independently of the machine and its load."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Result = TypeVar("Result")


def python_calls(function: Callable[[], Result]) -> tuple[int, Result]:
    """Return the number of calls from Python code, and the result. A loop over N rows makes N calls, a vectorized function a few."""
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        result = function()
    finally:
        sys.setprofile(before)
    return count, result


class CountedElements(TorchDispatchMode):
    """Counts the elements of all tensors that torch's operations return, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = operation(*arguments, **(options or {}))
        self.elements += sum(each.numel() for each in tree_leaves(result) if isinstance(each, torch.Tensor))
        return result
