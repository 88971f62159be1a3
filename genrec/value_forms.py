"""What a plug-in returned, in a message: type and shape of a tensor or an array."""

from __future__ import annotations

from numpy import ndarray
from torch import Tensor


def form_of(value: object, kind: type[Tensor] | type[ndarray] = Tensor) -> str:
    """Return type and shape of a value of the expected kind, such as 'float32 [24, 3]', or the class name of another value."""
    if isinstance(value, Tensor | ndarray) and isinstance(value, kind):
        return f"{value.dtype} {list(value.shape)}".removeprefix("torch.")
    return type(value).__name__
