"""Stage 3: vectors become Semantic IDs. In: float32 [N, D], row i for item i+1. Out: `SemanticIds`, the quantizer, its health.

    fit ──► encode ──► collisions ──► SemanticIds ──► extend: items that came later ──► health
    (quantizer)        (append, sinkhorn, reassign, keep)

Source: TIGER (Rajput et al. 2023, 2305.05065), section 3.1.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genrec.errors import ArtifactError, InputError, NumericsError, UsageError
from genrec.semantic_ids import SemanticIds
from genrec.store import hash_of, write_json
from genrec.tokenizer.collisions import Costs, append_level, place_free, reassign, sinkhorn
from genrec.tokenizer.health import collapse, equal_rows, health
from genrec.tokenizer.imported import Imported
from genrec.tokenizer.random_codes import RandomCodes
from genrec.tokenizer.rqkmeans import RQKMeans
from genrec.types import CatalogQuantizer, FittedQuantizer, ListedCodes, PricedCodes, Quantizer

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Tokenize:
    """How items get their Semantic IDs."""

    quantizer: Quantizer = field(default_factory=RQKMeans)  # what turns a vector into codes
    # what becomes of items that share their codes: a last level tells them apart; the last code is changed, by optimal transport
    # (some collisions may stay) or at the least cost (none stays); or they share their Semantic ID
    collisions: Literal["append", "sinkhorn", "reassign", "keep"] = "append"
    fit_on: Literal["all", "trained"] = "all"  # "trained": items without a training event get theirs afterwards, as if they came later
    min_usage: float = 0.5  # share of the first level's codes that must be used, in [0, 1]; fewer is a collapse
    seed: int = 0  # of the quantizer, 0..2**63-1

    def __post_init__(self) -> None:
        if not isinstance(self.quantizer, Quantizer):
            raise UsageError(f"Tokenize.quantizer must have fit, restore and level_sizes, got {self.quantizer!r}")
        for name, allowed in (("collisions", ("append", "sinkhorn", "reassign", "keep")), ("fit_on", ("all", "trained"))):
            if getattr(self, name) not in allowed:
                raise UsageError(f"Tokenize.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.collisions in ("sinkhorn", "reassign") and isinstance(self.quantizer, Imported | RandomCodes):
            raise UsageError(
                f"Tokenize.collisions = {self.collisions!r} asks what another code would cost, which {type(self.quantizer).__name__} "
                "cannot say; use 'append' or 'keep'"
            )
        if not 0 <= self.min_usage <= 1:
            raise UsageError(f"Tokenize.min_usage must lie in [0, 1], got {self.min_usage}")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"Tokenize.seed must lie in 0..2**63-1, got {self.seed}")


class Tokenized(NamedTuple):
    """What the stage stores."""

    semantic_ids: SemanticIds
    quantizer: FittedQuantizer
    health: dict[str, Any]  # see genrec.tokenizer.health; also the fingerprints of the vectors and of the Semantic IDs


def tokenize(
    vectors: ndarray, specification: Tokenize, items: DataFrame | None = None, interactions: DataFrame | None = None
) -> Tokenized:
    """Fit the quantizer, encode every item, deal with collisions, and refuse a collapse (fault S2).

    `items` (item_id, text, ...; row i is item i+1) and the *training* `interactions` (user, item) are what prefixes are held
    against; a quantizer that reads published codes needs the first, `fit_on="trained"` the second.
    """
    known = _known(len(vectors), specification, interactions)
    quantizer = _fit(vectors[known], specification, None if items is None else items["item_id"].iloc[known].tolist())
    sizes = specification.quantizer.level_sizes()
    codes = _codes_of(quantizer, vectors[known], sizes, specification)
    semantic_ids = _apart(codes, vectors[known], quantizer, specification)
    encoded = torch.empty(len(vectors), len(sizes), dtype=torch.int64)
    encoded[known] = codes
    later = np.setdiff1d(np.arange(len(vectors)), known)
    if len(later):
        encoded[later] = _checked(quantizer.encode(vectors[later]), len(later), sizes, specification)
        grown = _grown(semantic_ids, encoded[later], vectors[later], quantizer, specification)
        table = torch.empty_like(grown.codes)
        table[np.concatenate([known, later])] = grown.codes
        semantic_ids = SemanticIds(table, grown.level_sizes)
    figures = health(semantic_ids, vectors, quantizer.reconstruct(encoded.numpy()), encoded, sizes, items, interactions)
    figures |= {"items_fitted": len(known), "vectors": _fingerprint(vectors), "semantic_ids": semantic_ids.fingerprint}
    figures |= {"quantizer": _state_fingerprint(quantizer.state()), "collisions": specification.collisions}
    if isinstance(quantizer, ListedCodes):
        figures["reconstruction"] = None  # what a listed item's codes stand for is the item itself: an error of 0 would say nothing
    _guard(figures, specification, quantizer)
    _say_shared(semantic_ids, specification)
    return Tokenized(semantic_ids, quantizer, figures)


def extend(made: Tokenized, specification: Tokenize, vectors: ndarray) -> SemanticIds:
    """Semantic IDs of items that came later, behind those that are there and stay as they are: float32 [M, D] -> N + M items.

    They are encoded by the quantizer as it is. Under `append` a new item gets the lowest free number among those that share its
    codes, and the last level grows where it must; under `sinkhorn` and `reassign` the cheapest last code that is free; under
    `keep` it may share the Semantic ID of another, and a warning counts these. See `SemanticIds.extend`.
    """
    _check_later(vectors)
    encoded = made.quantizer.encode(vectors)
    codes = _checked(encoded, len(vectors), specification.quantizer.level_sizes(), specification)
    return _grown(made.semantic_ids, codes, vectors, made.quantizer, specification)


def _check_later(vectors: ndarray) -> None:
    """Refuse vectors that say nothing (fault S1); a quantizer refuses those that are not finite, or of another width."""
    zero = (vectors == 0).all(1) if vectors.ndim == 2 else np.zeros(0, dtype=bool)
    if zero.any():
        raise InputError(
            f"{zero.sum()} of {len(vectors)} vectors of new items are all-zero, the first in row {int(zero.argmax())}: "
            "an item encoder must give every item a vector that is not zero"
        )


def save_tokenized(made: Tokenized, folder: Path) -> None:
    """Write codes.safetensors, quantizer.safetensors and health.json."""
    made.semantic_ids.save(folder / "codes.safetensors")
    save_file({name: torch.from_numpy(value) for name, value in made.quantizer.state().items()}, folder / "quantizer.safetensors")
    write_json(folder / "health.json", made.health)


def load_tokenized(folder: Path, specification: Tokenize, vectors: ndarray | None = None) -> Tokenized:
    """Read what `save_tokenized` wrote. `vectors`, where given, must be those that the Semantic IDs were made of (fault S4)."""
    semantic_ids = SemanticIds.load(folder / "codes.safetensors")
    state, figures = _read(folder / "quantizer.safetensors", _load_arrays), _read(folder / "health.json", _load_figures)
    found = {"semantic_ids": (semantic_ids.fingerprint, "codes.safetensors is not what was written with")}
    found["quantizer"] = (_state_fingerprint(state), "quantizer.safetensors is not what was written with")
    if vectors is not None:
        found["vectors"] = (_fingerprint(vectors), "these vectors are not those that made")
    for name, (fingerprint, what) in found.items():
        if figures.get(name) != fingerprint:
            raise ArtifactError(
                f"{folder}: {what} the Semantic IDs: fingerprint {fingerprint}, expected {figures.get(name)}; "
                "make the Semantic IDs anew (--refresh tokenize), and what was trained on them"
            )
    sizes = specification.quantizer.level_sizes()
    if semantic_ids.level_sizes[: len(sizes)] != sizes or figures.get("collisions") != specification.collisions:
        raise ArtifactError(
            f"{folder} holds Semantic IDs of level sizes {semantic_ids.level_sizes}, collisions {figures.get('collisions')!r}; the "
            f"specification says {sizes} and {specification.collisions!r}: give the one that they were made with"
        )
    return Tokenized(semantic_ids, specification.quantizer.restore(state), figures)


def _read(path: Path, load: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    try:
        return load(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(
            f"{path} can't be read ({error}); make the Semantic IDs anew (--refresh tokenize), and what was trained on them"
        ) from error


def _load_arrays(path: Path) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in load_file(path).items()}


def _load_figures(path: Path) -> dict[str, Any]:
    figures = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(figures, dict):
        raise ValueError("it holds no table of figures")
    return figures


def _known(count: int, specification: Tokenize, interactions: DataFrame | None) -> ndarray:
    """The rows that the quantizer is fitted on, int64, ascending."""
    if specification.fit_on == "all":
        return np.arange(count)
    if interactions is None or interactions.empty:
        raise InputError("Tokenize.fit_on = 'trained' needs training interactions, got none")
    return np.unique(interactions["item"].to_numpy(np.int64)) - 1


def _fit(vectors: ndarray, specification: Tokenize, item_ids: list[str] | None) -> FittedQuantizer:
    quantizer, generator = specification.quantizer, torch.Generator().manual_seed(specification.seed)
    if not isinstance(quantizer, CatalogQuantizer):
        return quantizer.fit(vectors, generator)
    if item_ids is None:
        raise UsageError(f"{type(quantizer).__name__} must know which item a row is: give tokenize the items (a column item_id)")
    return quantizer.fit_catalog(item_ids, vectors, generator)


def _codes_of(quantizer: FittedQuantizer, vectors: ndarray, sizes: tuple[int, ...], specification: Tokenize) -> Tensor:
    """The codes of the items that the quantizer was fitted on, int64 [N, L]."""
    if isinstance(quantizer, ListedCodes):
        return _checked(quantizer.listed_codes(), len(vectors), sizes, specification)
    codes = _checked(quantizer.encode(vectors), len(vectors), sizes, specification)
    return _same_for_equal(codes, vectors)


def _checked(encoded: ndarray, count: int, sizes: tuple[int, ...], specification: Tokenize) -> Tensor:
    """What a quantizer says, as int64 [count, L]; refuses another shape or type."""
    if encoded.shape != (count, len(sizes)) or encoded.dtype.kind != "i":
        raise InputError(
            f"{type(specification.quantizer).__name__} must encode {count} vectors to codes "
            f"int64 [{count}, {len(sizes)}], got {encoded.dtype} {list(encoded.shape)}"
        )
    return torch.as_tensor(encoded, dtype=torch.int64)


def _apart(codes: Tensor, vectors: ndarray, quantizer: FittedQuantizer, specification: Tokenize) -> SemanticIds:
    """The items' codes int64 [N, L] as Semantic IDs, after what `collisions` says."""
    sizes = specification.quantizer.level_sizes()
    if specification.collisions == "append":
        appended = append_level(codes)
        return SemanticIds(appended, (*sizes, int(appended[:, -1].max()) + 1))
    if specification.collisions == "keep":
        return SemanticIds(codes, sizes)
    change = reassign if specification.collisions == "reassign" else sinkhorn
    costs = _costs(codes, vectors, quantizer, specification)
    return SemanticIds(change(codes, costs, costs(np.arange(1)).shape[1]), sizes)  # a codebook that shrank has fewer codes


def _grown(
    semantic_ids: SemanticIds, codes: Tensor, vectors: ndarray, quantizer: FittedQuantizer, specification: Tokenize
) -> SemanticIds:
    """`semantic_ids` and behind them those of new items with these codes int64 [M, L]."""
    if specification.collisions in ("append", "keep"):
        return semantic_ids.extend(codes)
    costs = _costs(codes, vectors, quantizer, specification)
    share = specification.collisions == "sinkhorn"
    return semantic_ids.extend(place_free(codes, costs, semantic_ids, costs(np.arange(1)).shape[1], share))


def _same_for_equal(codes: Tensor, vectors: ndarray) -> Tensor:
    """Items with equal vectors get the codes of the first of them: near a tie, rounding may depend on a row's place."""
    _, first, group = np.unique(equal_rows(vectors), return_index=True, return_inverse=True)
    return codes[torch.from_numpy(first[group])]


def _costs(codes: Tensor, vectors: ndarray, quantizer: FittedQuantizer, specification: Tokenize) -> Costs:
    if not isinstance(quantizer, PricedCodes):
        raise UsageError(
            f"Tokenize.collisions = {specification.collisions!r} asks what another last code would cost, which "
            f"{type(specification.quantizer).__name__} cannot say (it has no last_level_costs); use 'append' or 'keep'"
        )
    return partial(_costs_of, quantizer, vectors, codes.numpy())


def _costs_of(quantizer: PricedCodes, vectors: ndarray, codes: ndarray, rows: ndarray) -> ndarray:
    return quantizer.last_level_costs(vectors[rows], codes[rows])


def _guard(figures: dict[str, Any], specification: Tokenize, quantizer: FittedQuantizer) -> None:
    """Refuse a collapsed first level and warn of others; codes that are given, not fitted, are what they are: a warning too."""
    refused, warned = collapse(figures, specification.min_usage)
    if refused is not None and not isinstance(quantizer, ListedCodes):
        raise NumericsError(refused)
    for message in (refused, warned):
        if message is not None:
            warnings.warn(message, stacklevel=3)


def _fingerprint(vectors: ndarray) -> str:
    digest = hashlib.sha256(repr((vectors.dtype.str, vectors.shape)).encode())
    digest.update(np.ascontiguousarray(vectors).data)
    return digest.hexdigest()[:16]


def _state_fingerprint(state: dict[str, ndarray]) -> str:
    return hash_of({name: _fingerprint(array) for name, array in state.items()})


def _say_shared(semantic_ids: SemanticIds, specification: Tokenize) -> None:
    if semantic_ids.collided:
        warnings.warn(
            f"{semantic_ids.collided} of {semantic_ids.items} items share their Semantic ID with another item "
            f"(Tokenize.collisions = {specification.collisions!r}); 'append' and 'reassign' tell them apart",
            stacklevel=3,
        )
