"""The checks of quantizers. In: a quantizer's specification, and vectors. Out: nothing, or a `ContractError`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy import ndarray

from genrec.errors import InputError, UsageError
from genrec.testing.plugin_watch import call_plugin, check_no_global_draws
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import CatalogQuantizer, FittedQuantizer, ListedCodes, PricedCodes, Quantizer

TIES = 0.02  # share of rows whose codes may change with the company: those at a border between cells, by rounding
ALONE = 16  # rows encoded one by one
COSTED = 32  # rows whose last-level costs are looked at


def check_quantizer(quantizer: Quantizer, vectors: ndarray | None = None, item_ids: Sequence[str] | None = None) -> None:
    """Refuse a quantizer that breaks `genrec.types.Quantizer`, on synthetic vectors or on your own float32 [N, D].

    Checked: a frozen dataclass; codes int64 [N, L] within the level sizes, also of items that come later; a row's codes don't depend
    on the other rows; reconstructions float32 [N, D], finite; equal quantizers from equal generators; a state of plain arrays, from
    which `restore` makes a quantizer with the same codes; vectors and global random state left alone; vectors that are not finite,
    or have another width, refused by an `InputError`. Of `ListedCodes` and `PricedCodes` what they promise besides. A
    `CatalogQuantizer` needs `item_ids`, one a vector.
    """
    check_specification(quantizer, Quantizer, "fit(vectors, generator), level_sizes() and restore(state)")
    name, sizes = type(quantizer).__name__, _level_sizes(quantizer)
    if isinstance(quantizer, CatalogQuantizer) and (vectors is None or item_ids is None):
        raise UsageError(f"{name} knows items by their ids: pass check_quantizer vectors and item_ids that it has codes for")
    vectors = example_vectors(sizes) if vectors is None else vectors
    given = vectors.copy()
    with _left_alone(name, vectors):
        fitted = _fit(quantizer, vectors, item_ids)
        codes = _encode(name, fitted, vectors, sizes)
        _check_rows(name, fitted, vectors, codes, sizes)
        _check_reconstruction(name, fitted, vectors, codes)
        _check_extras(name, fitted, vectors, codes, sizes)
        _check_state(quantizer, fitted, vectors, codes)
        _check_same(name, _fit(quantizer, given, item_ids), vectors, codes, "fits from generators of one seed give other codes")
        _check_refusals(quantizer, fitted, vectors, item_ids)


def example_vectors(sizes: Sequence[int], seed: int = 0) -> ndarray:
    """Clustered vectors float32 [N, D]: more of them than any level has codes, wider than there are levels."""
    source = np.random.default_rng(seed)
    count, width = 2 * max(sizes) + 100, max(16, len(sizes))
    centers = source.normal(size=(12, width))
    return (centers[source.integers(0, 12, count)] + 0.3 * source.normal(size=(count, width)) + 0.5).astype(np.float32)


def _level_sizes(quantizer: Quantizer) -> tuple[int, ...]:
    name, sizes = type(quantizer).__name__, quantizer.level_sizes()
    if not isinstance(sizes, tuple) or not sizes or not all(type(size) is int and size >= 1 for size in sizes):
        raise ContractError(f"{name}: level_sizes must give a tuple of whole numbers of at least 1, one a level; got {sizes!r}")
    return sizes


def _fit(quantizer: Quantizer, vectors: ndarray, item_ids: Sequence[str] | None) -> FittedQuantizer:
    name, generator = type(quantizer).__name__, torch.Generator().manual_seed(1)
    if isinstance(quantizer, CatalogQuantizer) and item_ids is not None:
        ids = item_ids
        fitted = call_plugin(name, "fit_catalog", lambda: quantizer.fit_catalog(ids, vectors, generator))
    else:
        fitted = call_plugin(name, "fit", lambda: quantizer.fit(vectors, generator))
    if not isinstance(fitted, FittedQuantizer):
        raise ContractError(f"{name}: fit must return what has encode, reconstruct and state; got {type(fitted).__name__}")
    return fitted


def _encode(name: str, fitted: FittedQuantizer, vectors: ndarray, sizes: tuple[int, ...]) -> ndarray:
    codes = call_plugin(name, f"encode of {len(vectors)} vectors", lambda: fitted.encode(vectors))
    _check_codes(name, codes, len(vectors), sizes, "encode")
    return codes


def _check_codes(name: str, codes: ndarray, count: int, sizes: tuple[int, ...], method: str) -> None:
    wanted = f"int64 [{count}, {len(sizes)}], a column for each of level_sizes"
    if not isinstance(codes, ndarray) or codes.dtype != np.int64 or codes.shape != (count, len(sizes)):
        got = f"{codes.dtype} {list(codes.shape)}" if isinstance(codes, ndarray) else type(codes).__name__
        raise ContractError(f"{name}: {method} must give a NumPy array {wanted}; got {got}")
    wrong = (codes < 0) | (codes >= np.array(sizes))
    if wrong.any():
        row, level = (int(place) for place in np.argwhere(wrong)[0])
        raise ContractError(
            f"{name}: {method} gives row {row} the code {codes[row, level]} on level {level + 1}, where level_sizes allows "
            f"0..{sizes[level] - 1}"
        )


def _check_rows(name: str, fitted: FittedQuantizer, vectors: ndarray, codes: ndarray, sizes: tuple[int, ...]) -> None:
    """The same again, and the same alone, in other company, and for items that come later."""
    if not np.array_equal(codes, _encode(name, fitted, vectors, sizes)):
        raise ContractError(f"{name}: encoding the same vectors twice gives other codes; keep no state, draw nothing in encode")
    some = np.linspace(0, len(vectors) - 1, min(ALONE, len(vectors)), dtype=np.int64)
    alone = np.concatenate([_encode(name, fitted, vectors[row : row + 1], sizes) for row in some])
    half = _encode(name, fitted, np.ascontiguousarray(vectors[::-2]), sizes)
    changed = int((alone != codes[some]).any(1).sum()) - 1  # a tie among so few would be a large share
    if changed > TIES * len(some) or (half != codes[::-2]).any(1).mean() > TIES:
        raise ContractError(
            f"{name}: an item's codes depend on which others are encoded with it; what is computed from the vectors (means, scales, "
            "cell sizes) belongs into fit"
        )
    _encode(name, fitted, (vectors[:ALONE] + 0.01).astype(np.float32), sizes)


def _check_reconstruction(name: str, fitted: FittedQuantizer, vectors: ndarray, codes: ndarray) -> None:
    found = call_plugin(name, "reconstruct", lambda: fitted.reconstruct(codes))
    if not isinstance(found, ndarray) or found.dtype != np.float32 or found.shape != vectors.shape:
        got = f"{found.dtype} {list(found.shape)}" if isinstance(found, ndarray) else type(found).__name__
        raise ContractError(f"{name}: reconstruct must give a NumPy array float32 {list(vectors.shape)}, one vector a row; got {got}")
    if not np.isfinite(found).all():
        raise ContractError(f"{name}: reconstruct gives {int((~np.isfinite(found)).any(1).sum())} vectors that are not finite")
    if not np.allclose(found[:1], fitted.reconstruct(codes[:1]), rtol=1e-3, atol=1e-4):
        raise ContractError(f"{name}: what codes stand for depends on the other rows given to reconstruct")


def _check_extras(name: str, fitted: FittedQuantizer, vectors: ndarray, codes: ndarray, sizes: tuple[int, ...]) -> None:
    """What listed and priced codes promise besides."""
    if isinstance(fitted, ListedCodes):
        _check_codes(name, fitted.listed_codes(), len(vectors), sizes, "listed_codes")
    if isinstance(fitted, PricedCodes):
        some = slice(0, COSTED)
        costs = call_plugin(name, "last_level_costs", lambda: fitted.last_level_costs(vectors[some], codes[some]))
        shape = (len(codes[some]), int(codes[:, -1].max()) + 1)
        if costs.dtype != np.float32 or len(costs.shape) != 2 or len(costs) != shape[0] or not shape[1] <= costs.shape[1] <= sizes[-1]:
            raise ContractError(
                f"{name}: last_level_costs must give float32 [{shape[0]}, C], C from {shape[1]} (codes in use) to {sizes[-1]} "
                f"(level_sizes); got {costs.dtype} {list(costs.shape)}"
            )
        if not np.isfinite(costs).all() or costs.min() < 0:
            raise ContractError(f"{name}: last_level_costs are squared errors, finite and from 0; got {costs.min()}..{costs.max()}")


def _check_state(quantizer: Quantizer, fitted: FittedQuantizer, vectors: ndarray, codes: ndarray) -> None:
    name, state = type(quantizer).__name__, fitted.state()
    if not isinstance(state, dict) or not state:
        raise ContractError(f"{name}: state must give a dict of NumPy arrays, for restore to make the quantizer again; got {state!r}")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, ndarray) or value.dtype.kind not in "fiub":
            got = value.dtype if isinstance(value, ndarray) else type(value).__name__
            raise ContractError(f"{name}: state[{key!r}] must be a NumPy array of numbers, since nothing is pickled; got {got}")
    copied = {key: value.copy() for key, value in state.items()}
    restored = call_plugin(name, "restore", lambda: quantizer.restore(copied))
    _check_same(name, restored, vectors, codes, "restore(state()) gives other codes")
    if isinstance(fitted, ListedCodes) and not (
        isinstance(restored, ListedCodes) and np.array_equal(restored.listed_codes(), fitted.listed_codes())
    ):
        raise ContractError(f"{name}: restore(state()) gives other listed_codes")


def _check_same(name: str, other: FittedQuantizer, vectors: ndarray, codes: ndarray, what: str) -> None:
    if not np.array_equal(call_plugin(name, "encode", lambda: other.encode(vectors)), codes):
        raise ContractError(f"{name}: {what}; what encode needs belongs into state, all randomness into the generator passed")


def _check_refusals(quantizer: Quantizer, fitted: FittedQuantizer, vectors: ndarray, item_ids: Sequence[str] | None) -> None:
    """Vectors that are not finite, and of another width."""
    name = type(quantizer).__name__
    for value in (np.nan, np.inf):
        broken = vectors.copy()
        broken[len(broken) // 2, -1] = value
        _must_refuse(name, f"fit on a vector with {value}", lambda broken=broken: _fit(quantizer, broken, item_ids))  # type: ignore[misc]
        _must_refuse(name, f"encode of a vector with {value}", lambda broken=broken: fitted.encode(broken))  # type: ignore[misc]
    wider = np.concatenate([vectors, vectors[:, :1]], 1)
    _must_refuse(name, f"encode of vectors of width {wider.shape[1]} after fit on {vectors.shape[1]}", lambda: fitted.encode(wider))


def _must_refuse(name: str, what: str, action: Callable[[], object]) -> None:
    try:
        action()
    except ContractError as error:
        if error.__cause__ is None:
            raise
        raise ContractError(f"{name}: {what} must be refused by a genrec.errors.InputError; it raised {error.__cause__!r}") from error
    except InputError:
        return
    except Exception as error:
        raise ContractError(f"{name}: {what} must be refused by a genrec.errors.InputError; it raised {error!r}") from error
    raise ContractError(f"{name}: {what} must be refused by a genrec.errors.InputError; it went through")


@contextmanager
def _left_alone(name: str, vectors: ndarray) -> Iterator[None]:
    """Refuse a change of global random state or of the vectors."""
    before = vectors.copy()
    with check_no_global_draws(name, "draw from the generator that is passed"):
        yield
    if not np.array_equal(before, vectors):
        raise ContractError(f"{name}: the vectors were modified, which others read too; work on a copy")
