"""The tokenize stage: fit a quantizer to item vectors, encode the items, resolve collisions and compute diagnostics.

    fit ──► encode ──► collisions ──► SemanticIds ──► extend (new items) ──► health
    (quantizer)        (append, sinkhorn, reassign, keep)

Vectors are float32 [N, D]; row i belongs to item i + 1. Source: TIGER (Rajput et al. 2023, 2305.05065), section 3.1.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from genrec.errors import InputError, NumericsError, UsageError
from genrec.semantic_ids import SemanticIds
from genrec.store import hash_of
from genrec.tokenizer.collisions import Costs, append_level, place_free, reassign, sinkhorn
from genrec.tokenizer.health import collapse, equal_rows, health
from genrec.tokenizer.health_bounds import health_warnings
from genrec.tokenizer.imported import Imported
from genrec.tokenizer.random_codes import RandomCodes
from genrec.tokenizer.rqkmeans import RQKMeans
from genrec.types import (
    AdaptiveQuantizer,
    CatalogQuantizer,
    FittedQuantizer,
    InteractionQuantizer,
    ListedCodes,
    PricedCodes,
    Quantizer,
)

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Tokenize:
    """The settings of the tokenize stage."""

    quantizer: Quantizer = field(default_factory=RQKMeans)  # maps a vector to codes
    # treatment of items with equal codes: append a level that numbers them; change last codes by optimal transport (some collisions
    # may remain) or at the least total cost (none remain); or keep shared Semantic IDs
    collisions: Literal["append", "sinkhorn", "reassign", "keep"] = "append"
    fit_on: Literal["all", "trained"] = "all"  # items to fit on; "trained" adds items without training interactions as new items
    min_usage: float = 0.5  # least share of used codes on the first level, in [0, 1]; less raises an error
    seed: int = 0  # seed of the quantizer, 0..2**63-1

    def __post_init__(self) -> None:
        if not isinstance(self.quantizer, Quantizer):
            raise UsageError(f"Tokenize.quantizer must have fit, restore and level_sizes, got {self.quantizer!r}")
        for name, allowed in (("collisions", ("append", "sinkhorn", "reassign", "keep")), ("fit_on", ("all", "trained"))):
            if getattr(self, name) not in allowed:
                raise UsageError(f"Tokenize.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.collisions in ("sinkhorn", "reassign") and isinstance(self.quantizer, Imported | RandomCodes):
            raise UsageError(
                f"Tokenize.collisions = {self.collisions!r} needs a quantizer with last_level_costs, got "
                f"{type(self.quantizer).__name__}; use 'append' or 'keep'"
            )
        if not 0 <= self.min_usage <= 1:
            raise UsageError(f"Tokenize.min_usage must lie in [0, 1], got {self.min_usage}")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"Tokenize.seed must lie in 0..2**63-1, got {self.seed}")

    def for_items(self, items: int) -> Tokenize:
        """Return the settings with the sizes that the quantizer has when it is fitted on this number of items."""
        quantizer = self.quantizer
        return replace(self, quantizer=quantizer.for_items(items)) if isinstance(quantizer, AdaptiveQuantizer) else self


class Tokenized(NamedTuple):
    """The result of the tokenize stage."""

    semantic_ids: SemanticIds
    quantizer: FittedQuantizer
    health: dict[str, Any]  # the diagnostics of genrec.tokenizer.health, and fingerprints of vectors, Semantic IDs and quantizer


def tokenize(
    vectors: ndarray,
    specification: Tokenize,
    items: DataFrame | None = None,
    interactions: DataFrame | None = None,
    warn: bool = True,
) -> Tokenized:
    """Fit the quantizer, encode every item and resolve collisions. Raise `NumericsError` if the Semantic IDs have collapsed.

    - `vectors`: float32 [N, D].
    - `items`: the catalog (item_id, text, ...; row i is item i + 1), for category purity. Required by quantizers that look codes up
      by item id or read interactions.
    - `interactions`: *training* interactions (user, item), for co-occurrence. Required by `fit_on="trained"` and by quantizers that
      read them.
    - `warn`: give the `health_warnings`; False if the caller reports them.
    """
    fitted = _fitted_rows(len(vectors), specification, interactions)
    specification = specification.for_items(len(fitted))
    quantizer = _fit(vectors[fitted], specification, fitted, items, interactions)
    sizes = specification.quantizer.level_sizes()
    codes = _codes_of(quantizer, vectors[fitted], sizes, specification)
    semantic_ids = _separate(codes, vectors[fitted], quantizer, specification)
    encoded = torch.empty(len(vectors), len(sizes), dtype=torch.int64)
    encoded[fitted] = codes
    new = np.setdiff1d(np.arange(len(vectors)), fitted)
    if len(new):
        encoded[new] = _check_codes(quantizer.encode(vectors[new]), len(new), sizes, specification)
        extended = _extend(semantic_ids, encoded[new], vectors[new], quantizer, specification)
        table = torch.empty_like(extended.codes)
        table[np.concatenate([fitted, new])] = extended.codes
        semantic_ids = SemanticIds(table, extended.level_sizes)
    figures = health(semantic_ids, vectors, quantizer.reconstruct(encoded.numpy()), encoded, sizes, items, interactions)
    figures |= {"items_fitted": len(fitted), "vectors": array_fingerprint(vectors), "semantic_ids": semantic_ids.fingerprint}
    figures |= {"quantizer": state_fingerprint(quantizer.state()), "collisions": specification.collisions}
    figures |= {"min_usage": specification.min_usage}
    if isinstance(quantizer, ListedCodes):
        figures["reconstruction"] = None  # a listed item is reconstructed from itself, so an error of 0 has no meaning
    _check_collapse(figures, specification, quantizer)
    for message in health_warnings(figures) if warn else ():
        warnings.warn(message, stacklevel=2)
    return Tokenized(semantic_ids, quantizer, figures)


def extend(made: Tokenized, specification: Tokenize, vectors: ndarray) -> SemanticIds:
    """Return the Semantic IDs of the N existing items and of M new items with vectors float32 [M, D]. Existing items are unchanged.

    New items are encoded by the fitted quantizer. With `append`, a new item gets the lowest free number among the items with its
    codes, and the last level grows if necessary. With `sinkhorn` and `reassign`, it gets the cheapest free last code. With `keep`, it
    may share the Semantic ID of another item, and a warning counts these items. See `SemanticIds.extend`.
    """
    _check_new_vectors(vectors)
    specification = specification.for_items(made.health.get("items_fitted", made.semantic_ids.items))
    encoded = made.quantizer.encode(vectors)
    codes = _check_codes(encoded, len(vectors), specification.quantizer.level_sizes(), specification)
    return _extend(made.semantic_ids, codes, vectors, made.quantizer, specification)


def _check_new_vectors(vectors: ndarray) -> None:
    """Raise `InputError` for all-zero vectors. The quantizer checks width and finite values."""
    zero = (vectors == 0).all(1) if vectors.ndim == 2 else np.zeros(0, dtype=bool)
    if zero.any():
        raise InputError(
            f"{zero.sum()} of {len(vectors)} vectors of new items are all-zero, the first in row {int(zero.argmax())}: "
            "the item encoder must give every item a non-zero vector"
        )


def _fitted_rows(count: int, specification: Tokenize, interactions: DataFrame | None) -> ndarray:
    """Return the rows that the quantizer is fitted on, int64, ascending."""
    if specification.fit_on == "all":
        return np.arange(count)
    if interactions is None or interactions.empty:
        raise InputError("Tokenize.fit_on = 'trained' needs training interactions, got none")
    return np.unique(interactions["item"].to_numpy(np.int64)) - 1


def _fit(
    vectors: ndarray, specification: Tokenize, fitted: ndarray, items: DataFrame | None, interactions: DataFrame | None
) -> FittedQuantizer:
    """Fit the quantizer with its seed to vectors float32 [M, D] of the rows `fitted`, int64 [M]."""
    quantizer, generator = specification.quantizer, torch.Generator().manual_seed(specification.seed)
    name = type(quantizer).__name__
    if isinstance(quantizer, InteractionQuantizer):
        if items is None or interactions is None:
            raise UsageError(f"{name} reads training interactions: pass items and interactions to tokenize")
        known = interactions.assign(item=np.searchsorted(fitted, interactions["item"].to_numpy(np.int64) - 1) + 1)
        return quantizer.fit_interactions(vectors, items.iloc[fitted].reset_index(drop=True), known, generator)
    if not isinstance(quantizer, CatalogQuantizer):
        return quantizer.fit(vectors, generator)
    if items is None:
        raise UsageError(f"{name} looks codes up by item id: pass items with a column item_id to tokenize")
    return quantizer.fit_catalog(items["item_id"].iloc[fitted].tolist(), vectors, generator)


def _codes_of(quantizer: FittedQuantizer, vectors: ndarray, sizes: tuple[int, ...], specification: Tokenize) -> Tensor:
    """Return the codes of the items that the quantizer was fitted on, int64 [N, L]."""
    if isinstance(quantizer, ListedCodes):
        return _check_codes(quantizer.listed_codes(), len(vectors), sizes, specification)
    codes = _check_codes(quantizer.encode(vectors), len(vectors), sizes, specification)
    return _equal_codes_for_equal_vectors(codes, vectors)


def _check_codes(encoded: ndarray, count: int, sizes: tuple[int, ...], specification: Tokenize) -> Tensor:
    """Return a quantizer's codes as int64 [count, L]. Raise `InputError` for another shape or type."""
    if encoded.shape != (count, len(sizes)) or encoded.dtype.kind != "i":
        raise InputError(
            f"{type(specification.quantizer).__name__} must encode {count} vectors to codes "
            f"int64 [{count}, {len(sizes)}], got {encoded.dtype} {list(encoded.shape)}"
        )
    return torch.as_tensor(encoded, dtype=torch.int64)


def _separate(codes: Tensor, vectors: ndarray, quantizer: FittedQuantizer, specification: Tokenize) -> SemanticIds:
    """Resolve collisions of codes int64 [N, L] and return the Semantic IDs."""
    sizes = specification.quantizer.level_sizes()
    if specification.collisions == "append":
        appended = append_level(codes)
        return SemanticIds(appended, (*sizes, int(appended[:, -1].max()) + 1))
    if specification.collisions == "keep":
        return SemanticIds(codes, sizes)
    change = reassign if specification.collisions == "reassign" else sinkhorn
    costs = _costs(codes, vectors, quantizer, specification)
    return SemanticIds(change(codes, costs, costs(np.arange(1)).shape[1]), sizes)  # a reduced codebook has fewer codes


def _extend(
    semantic_ids: SemanticIds, codes: Tensor, vectors: ndarray, quantizer: FittedQuantizer, specification: Tokenize
) -> SemanticIds:
    """Return `semantic_ids` extended by new items with codes int64 [M, L]."""
    if specification.collisions in ("append", "keep"):
        return semantic_ids.extend(codes)
    costs = _costs(codes, vectors, quantizer, specification)
    share = specification.collisions == "sinkhorn"
    return semantic_ids.extend(place_free(codes, costs, semantic_ids, costs(np.arange(1)).shape[1], share))


def _equal_codes_for_equal_vectors(codes: Tensor, vectors: ndarray) -> Tensor:
    """Give items with equal vectors the codes of the first one. Without it, rounding near a tie may depend on the row."""
    _, first, group = np.unique(equal_rows(vectors), return_index=True, return_inverse=True)
    return codes[torch.from_numpy(first[group])]


def _costs(codes: Tensor, vectors: ndarray, quantizer: FittedQuantizer, specification: Tokenize) -> Costs:
    """Return a function from rows to their last-level costs."""
    if not isinstance(quantizer, PricedCodes):
        raise UsageError(
            f"Tokenize.collisions = {specification.collisions!r} needs a quantizer with last_level_costs, got "
            f"{type(specification.quantizer).__name__}; use 'append' or 'keep'"
        )
    known = codes.numpy()
    return lambda rows: quantizer.last_level_costs(vectors[rows], known[rows])


def _check_collapse(figures: dict[str, Any], specification: Tokenize, quantizer: FittedQuantizer) -> None:
    """Raise `NumericsError` if the first level has collapsed, except for listed codes, of which it is a warning."""
    error = collapse(figures, specification.min_usage).error
    if error is not None and not isinstance(quantizer, ListedCodes):
        raise NumericsError(error)


def array_fingerprint(vectors: ndarray) -> str:
    """Return a hash of an array's type, shape and values."""
    digest = hashlib.sha256(repr((vectors.dtype.str, vectors.shape)).encode())
    digest.update(np.ascontiguousarray(vectors).data)
    return digest.hexdigest()[:16]


def state_fingerprint(state: dict[str, ndarray]) -> str:
    """Return a hash of a quantizer's state."""
    return hash_of({name: array_fingerprint(array) for name, array in state.items()})
