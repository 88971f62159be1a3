"""Tensors and tables that several components read: none of them may change them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pandas import DataFrame
from torch import Tensor

from genrec.errors import GenrecError


@contextmanager
def unchanged(
    name: str, values: Callable[[], Mapping[str, Tensor | DataFrame]], readers: str, error: type[GenrecError]
) -> Iterator[None]:
    """Raise the error if the body, a call of the component `name`, changes one of the values, which other `readers` read too.

    `values` returns them by name. It is called before and after the body.
    """
    before = {key: value.clone() if isinstance(value, Tensor) else value.copy() for key, value in values().items()}
    yield
    changed = next((key for key, value in values().items() if not _equal(value, before[key])), None)
    if changed is not None:
        raise error(f"{name}: {changed} was modified, but other {readers} read it too; work on a copy")


def same(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors are equal, with NaN equal to NaN."""
    return first.shape == second.shape and bool(((first == second) | (first.isnan() & second.isnan())).all())


def _equal(value: Tensor | DataFrame, before: Tensor | DataFrame) -> bool:
    if isinstance(value, Tensor) and isinstance(before, Tensor):
        return same(value, before)
    return isinstance(value, DataFrame) and isinstance(before, DataFrame) and value.equals(before)
