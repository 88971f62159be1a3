"""Functions of rows that are too large for the memory all at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(function: Callable[..., Tensor], rows: int, *tensors: Tensor) -> Tensor:
    """Return `function(*tensors)`, float32 [C, ...], of tensors [C, ...], computed for at most max(1, `rows`) rows at once.

    The function must treat every row by itself. If there is more than one chunk, its intermediate results are not kept but computed
    again in the backward pass.
    """
    count, rows = len(tensors[0]), max(1, rows)
    if count <= rows:
        return function(*tensors)
    chunks = -(-count // rows)
    parts = zip(*(tensor.chunk(chunks) for tensor in tensors), strict=True)
    return torch.cat([checkpoint(function, *part, use_reentrant=False) for part in parts])
