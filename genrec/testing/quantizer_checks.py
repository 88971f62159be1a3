"""Contract checks for quantizers: `check_quantizer` raises a `ContractError` that names the first broken rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy import ndarray
from pandas import DataFrame

from genrec.errors import InputError, UsageError
from genrec.testing.plugin_watch import call_plugin, check_no_global_draws
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import (
    AdaptiveQuantizer,
    CatalogQuantizer,
    FittedQuantizer,
    InteractionQuantizer,
    ListedCodes,
    PricedCodes,
    Quantizer,
)
from genrec.value_forms import form_of

TIES = 0.02  # share of rows whose codes may change with the batch, because rounding moves rows at the border of two cells
ALONE = 16  # rows that are also encoded one at a time
ITEMS = 612  # items for which the sizes of an adaptive quantizer determine the number of example vectors
COSTED = 32  # rows for which last-level costs are checked
USER_EVENTS = 8  # items of each user of the synthetic interactions


def check_quantizer(quantizer: Quantizer, vectors: ndarray | None = None, item_ids: Sequence[str] | None = None) -> None:
    """Check that a quantizer keeps the contract of `genrec.types.Quantizer`. Raise `ContractError` if it does not.

    The checks are:
    - the specification is a frozen dataclass;
    - codes are int64 [N, L] within the level sizes, for new items too, and a row's codes do not depend on the other rows;
    - reconstructions are float32 [N, D] and finite;
    - equal generators give equal quantizers;
    - the state is a dict of NumPy arrays, and `restore` makes a quantizer with the same codes from it;
    - input vectors and global random state are unchanged;
    - vectors that are non-finite or of another width raise an `InputError`;
    - `ListedCodes` and `PricedCodes` keep their additional contracts;
    - an `InteractionQuantizer` is fitted with synthetic interactions, of which the last item has none.

    - `quantizer`: the specification.
    - `vectors`: float32 [N, D]; synthetic vectors by default.
    - `item_ids`: one item id per vector; required for a `CatalogQuantizer`.
    """
    check_specification(quantizer, Quantizer, "fit(vectors, generator), level_sizes() and restore(state)")
    name = type(quantizer).__name__
    if isinstance(quantizer, CatalogQuantizer) and (vectors is None or item_ids is None):
        raise UsageError(f"{name} looks items up by id: pass vectors and item_ids with known codes to check_quantizer")
    vectors = example_vectors(_level_sizes(quantizer, ITEMS)) if vectors is None else vectors
    sizes = _level_sizes(quantizer, len(vectors))
    original = vectors.copy()
    with _check_inputs_unchanged(name, vectors):
        fitted = _fit(quantizer, vectors, item_ids)
        codes = _encode(name, fitted, vectors, sizes)
        _check_rows(name, fitted, vectors, codes, sizes)
        _check_reconstruction(name, fitted, vectors, codes)
        _check_extras(name, fitted, vectors, codes, sizes)
        _check_state(quantizer, fitted, vectors, codes)
        _check_same(name, _fit(quantizer, original, item_ids), vectors, codes, "two fits with equal generators give different codes")
        _check_invalid_vectors(quantizer, fitted, vectors, item_ids)


def example_vectors(sizes: Sequence[int], seed: int = 0) -> ndarray:
    """Return clustered vectors float32 [N, D], with N above the largest level size and D of at least the number of levels."""
    source = np.random.default_rng(seed)
    count, width = 2 * max(sizes) + 100, max(16, len(sizes))
    centers = source.normal(size=(12, width))
    return (centers[source.integers(0, 12, count)] + 0.3 * source.normal(size=(count, width)) + 0.5).astype(np.float32)


def example_interactions(count: int, seed: int = 0) -> tuple[DataFrame, DataFrame]:
    """Return a catalog of `count` items and training interactions of users; the last item has none."""
    random, users = np.random.default_rng(seed), max(1, count // 2)
    items = DataFrame({"item_id": [f"{item:06}" for item in range(count)], "text": [f"item {item % 7}" for item in range(count)]})
    user = np.repeat(np.arange(1, users + 1), USER_EVENTS)
    events = {"user": user, "item": random.integers(1, max(2, count), len(user)), "time": np.arange(len(user))}
    return items, DataFrame(events).astype("int64")


def _level_sizes(quantizer: Quantizer, items: int) -> tuple[int, ...]:
    """Return the level sizes for this number of items, after a check of their type."""
    name = type(quantizer).__name__
    if isinstance(quantizer, AdaptiveQuantizer):
        quantizer = call_plugin(name, "for_items(items)", partial(quantizer.for_items, items))
    sizes = call_plugin(name, "level_sizes()", quantizer.level_sizes)
    if not isinstance(sizes, tuple) or not sizes or not all(type(size) is int and size >= 1 for size in sizes):
        raise ContractError(f"{name}: level_sizes must return a tuple of integers of at least 1, one per level; got {sizes!r}")
    return sizes


def _fit(quantizer: Quantizer, vectors: ndarray, item_ids: Sequence[str] | None) -> FittedQuantizer:
    """Fit the quantizer with a fixed seed."""
    name, generator = type(quantizer).__name__, torch.Generator().manual_seed(1)
    if isinstance(quantizer, CatalogQuantizer) and item_ids is not None:
        ids = item_ids
        fitted = call_plugin(name, "fit_catalog", lambda: quantizer.fit_catalog(ids, vectors, generator))
    elif isinstance(quantizer, InteractionQuantizer):
        items, events = example_interactions(len(vectors))
        fitted = call_plugin(name, "fit_interactions", lambda: quantizer.fit_interactions(vectors, items, events, generator))
    else:
        fitted = call_plugin(name, "fit", lambda: quantizer.fit(vectors, generator))
    if not isinstance(fitted, FittedQuantizer):
        raise ContractError(f"{name}: fit must return an object with encode, reconstruct and state; got {type(fitted).__name__}")
    return fitted


def _encode(name: str, fitted: FittedQuantizer, vectors: ndarray, sizes: tuple[int, ...]) -> ndarray:
    """Encode vectors and check the codes."""
    codes = call_plugin(name, f"encode of {len(vectors)} vectors", lambda: fitted.encode(vectors))
    _check_codes(name, codes, len(vectors), sizes, "encode")
    return codes


def _check_codes(name: str, codes: ndarray, count: int, sizes: tuple[int, ...], method: str) -> None:
    """Check type, shape and range of the codes that a method returned."""
    expected = f"int64 [{count}, {len(sizes)}], a column for each of level_sizes"
    if not isinstance(codes, ndarray) or codes.dtype != np.int64 or codes.shape != (count, len(sizes)):
        raise ContractError(f"{name}: {method} must return a NumPy array {expected}; got {form_of(codes, ndarray)}")
    wrong = (codes < 0) | (codes >= np.array(sizes))
    if wrong.any():
        row, level = (int(place) for place in np.argwhere(wrong)[0])
        raise ContractError(
            f"{name}: {method} gives row {row} the code {codes[row, level]} on level {level + 1}, but level_sizes allows "
            f"0..{sizes[level] - 1}"
        )


def _check_rows(name: str, fitted: FittedQuantizer, vectors: ndarray, codes: ndarray, sizes: tuple[int, ...]) -> None:
    """Check that a row's codes are the same in a second call, alone and in another batch, and that new vectors can be encoded."""
    if not np.array_equal(codes, _encode(name, fitted, vectors, sizes)):
        raise ContractError(
            f"{name}: encoding the same vectors twice gives different codes; encode must not keep state or draw random numbers"
        )
    sample = np.linspace(0, len(vectors) - 1, min(ALONE, len(vectors)), dtype=np.int64)
    alone = np.concatenate([_encode(name, fitted, vectors[row : row + 1], sizes) for row in sample])
    half = _encode(name, fitted, np.ascontiguousarray(vectors[::-2]), sizes)
    changed = int((alone != codes[sample]).any(1).sum()) - 1  # one tie is allowed, because it is a large share of so few rows
    if changed > TIES * len(sample) or (half != codes[::-2]).any(1).mean() > TIES:
        raise ContractError(
            f"{name}: an item's codes depend on the other items of the batch; compute statistics of the vectors (means, scales, "
            "cell sizes) in fit"
        )
    _encode(name, fitted, (vectors[:ALONE] + 0.01).astype(np.float32), sizes)


def _check_reconstruction(name: str, fitted: FittedQuantizer, vectors: ndarray, codes: ndarray) -> None:
    """Check type, shape and values of the reconstructed vectors."""
    found = call_plugin(name, "reconstruct", lambda: fitted.reconstruct(codes))
    if not isinstance(found, ndarray) or found.dtype != np.float32 or found.shape != vectors.shape:
        expected = f"a NumPy array float32 {list(vectors.shape)}, one vector per row"
        raise ContractError(f"{name}: reconstruct must return {expected}; got {form_of(found, ndarray)}")
    if not np.isfinite(found).all():
        raise ContractError(f"{name}: reconstruct returns {int((~np.isfinite(found)).any(1).sum())} non-finite vectors")
    if not np.allclose(
        found[:1], call_plugin(name, "reconstruct of 1 row", lambda: fitted.reconstruct(codes[:1])), rtol=1e-3, atol=1e-4
    ):
        raise ContractError(f"{name}: a reconstructed vector depends on the other rows passed to reconstruct")


def _check_extras(name: str, fitted: FittedQuantizer, vectors: ndarray, codes: ndarray, sizes: tuple[int, ...]) -> None:
    """Check the additional contracts of `ListedCodes` and `PricedCodes`."""
    if isinstance(fitted, ListedCodes):
        _check_codes(name, call_plugin(name, "listed_codes()", fitted.listed_codes), len(vectors), sizes, "listed_codes")
    if isinstance(fitted, PricedCodes):
        rows = slice(0, COSTED)
        costs = call_plugin(name, "last_level_costs", lambda: fitted.last_level_costs(vectors[rows], codes[rows]))
        shape = (len(codes[rows]), int(codes[:, -1].max()) + 1)
        if costs.dtype != np.float32 or len(costs.shape) != 2 or len(costs) != shape[0] or not shape[1] <= costs.shape[1] <= sizes[-1]:
            raise ContractError(
                f"{name}: last_level_costs must return float32 [{shape[0]}, C], C from {shape[1]} (codes in use) to {sizes[-1]} "
                f"(level_sizes); got {form_of(costs, ndarray)}"
            )
        if not np.isfinite(costs).all() or costs.min() < 0:
            raise ContractError(
                f"{name}: last_level_costs must be squared errors, finite and at least 0; got {costs.min()}..{costs.max()}"
            )


def _check_state(quantizer: Quantizer, fitted: FittedQuantizer, vectors: ndarray, codes: ndarray) -> None:
    """Check that the state is a dict of NumPy arrays and that `restore` makes an equal quantizer from it."""
    name = type(quantizer).__name__
    state = call_plugin(name, "state()", fitted.state)
    if not isinstance(state, dict) or not state:
        raise ContractError(f"{name}: state must return a dict of NumPy arrays, from which restore makes the quantizer; got {state!r}")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, ndarray) or value.dtype.kind not in "fiub":
            got = value.dtype if isinstance(value, ndarray) else type(value).__name__
            raise ContractError(f"{name}: state[{key!r}] must be a NumPy array of numbers, because nothing is pickled; got {got}")
    copied = {key: value.copy() for key, value in state.items()}
    restored = call_plugin(name, "restore", lambda: quantizer.restore(copied))
    _check_same(name, restored, vectors, codes, "restore(state()) gives different codes")
    if isinstance(fitted, ListedCodes) and not (
        isinstance(restored, ListedCodes) and np.array_equal(restored.listed_codes(), fitted.listed_codes())
    ):
        raise ContractError(f"{name}: restore(state()) gives different listed_codes")


def _check_same(name: str, other: FittedQuantizer, vectors: ndarray, codes: ndarray, fault: str) -> None:
    """Raise `ContractError` with this fault if another fitted quantizer gives different codes."""
    if not np.array_equal(call_plugin(name, "encode", lambda: other.encode(vectors)), codes):
        raise ContractError(
            f"{name}: {fault}; put everything that encode needs into state, and draw only from the generator passed to fit"
        )


def _check_invalid_vectors(quantizer: Quantizer, fitted: FittedQuantizer, vectors: ndarray, item_ids: Sequence[str] | None) -> None:
    """Check that non-finite vectors and vectors of another width raise an `InputError`."""
    name = type(quantizer).__name__
    for value in (np.nan, np.inf):
        broken = vectors.copy()
        broken[len(broken) // 2, -1] = value
        _must_raise(name, f"fit on a vector with {value}", lambda broken=broken: _fit(quantizer, broken, item_ids))  # type: ignore[misc]
        _must_raise(name, f"encode of a vector with {value}", lambda broken=broken: fitted.encode(broken))  # type: ignore[misc]
    wider = np.concatenate([vectors, vectors[:, :1]], 1)
    _must_raise(name, f"encode of vectors of width {wider.shape[1]} after fit on {vectors.shape[1]}", lambda: fitted.encode(wider))


def _must_raise(name: str, call: str, action: Callable[[], object]) -> None:
    """Raise `ContractError` unless the action raises an `InputError`."""
    rule = f"{name}: {call} must raise a genrec.errors.InputError"
    try:
        action()
    except ContractError as error:
        if error.__cause__ is None:
            raise
        raise ContractError(f"{rule}; it raised {error.__cause__!r}") from error
    except InputError:
        return
    except Exception as error:
        raise ContractError(f"{rule}; it raised {error!r}") from error
    raise ContractError(f"{rule}; it raised nothing")


@contextmanager
def _check_inputs_unchanged(name: str, vectors: ndarray) -> Iterator[None]:
    """Raise `ContractError` if the block changes global random state or the vectors."""
    before = vectors.copy()
    with check_no_global_draws(name, "draw from the generator passed to fit"):
        yield
    if not np.array_equal(before, vectors):
        raise ContractError(f"{name}: the input vectors were modified; work on a copy, because other code reads them too")
