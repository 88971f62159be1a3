"""The tokenize stage: fit a quantizer to item vectors, encode the items, resolve collisions and compute diagnostics.

    fit ──► encode ──► collisions ──► SemanticIds ──► extend (new items) ──► health
    (quantizer)        (append, sinkhorn, reassign, keep)

Vectors are float32 [N, D]; row i belongs to item i + 1. Source: TIGER (Rajput et al. 2023, 2305.05065), section 3.1.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
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

REBUILD = "rebuild the Semantic IDs and all policies trained on them (--refresh tokenize)"


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


class Tokenized(NamedTuple):
    """The result of the tokenize stage."""

    semantic_ids: SemanticIds
    quantizer: FittedQuantizer
    health: dict[str, Any]  # the diagnostics of genrec.tokenizer.health, and fingerprints of vectors, Semantic IDs and quantizer


def tokenize(
    vectors: ndarray, specification: Tokenize, items: DataFrame | None = None, interactions: DataFrame | None = None
) -> Tokenized:
    """Fit the quantizer, encode every item and resolve collisions. Raise `NumericsError` if the Semantic IDs have collapsed.

    - `vectors`: float32 [N, D].
    - `items`: the catalog (item_id, text, ...; row i is item i + 1), for category purity. Required by quantizers that look codes up
      by item id.
    - `interactions`: *training* interactions (user, item), for co-occurrence. Required by `fit_on="trained"`.
    """
    fitted = _fitted_rows(len(vectors), specification, interactions)
    quantizer = _fit(vectors[fitted], specification, None if items is None else items["item_id"].iloc[fitted].tolist())
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
    figures |= {"items_fitted": len(fitted), "vectors": _fingerprint(vectors), "semantic_ids": semantic_ids.fingerprint}
    figures |= {"quantizer": _state_fingerprint(quantizer.state()), "collisions": specification.collisions}
    if isinstance(quantizer, ListedCodes):
        figures["reconstruction"] = None  # a listed item is reconstructed from itself, so an error of 0 has no meaning
    _check_collapse(figures, specification, quantizer)
    _warn_shared(semantic_ids, specification)
    return Tokenized(semantic_ids, quantizer, figures)


def extend(made: Tokenized, specification: Tokenize, vectors: ndarray) -> SemanticIds:
    """Return the Semantic IDs of the N existing items and of M new items with vectors float32 [M, D]. Existing items are unchanged.

    New items are encoded by the fitted quantizer. With `append`, a new item gets the lowest free number among the items with its
    codes, and the last level grows if necessary. With `sinkhorn` and `reassign`, it gets the cheapest free last code. With `keep`, it
    may share the Semantic ID of another item, and a warning counts these items. See `SemanticIds.extend`.
    """
    _check_new_vectors(vectors)
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


def save_tokenized(made: Tokenized, folder: Path) -> None:
    """Write codes.safetensors, quantizer.safetensors and health.json to a folder."""
    made.semantic_ids.save(folder / "codes.safetensors")
    save_file({name: torch.from_numpy(value) for name, value in made.quantizer.state().items()}, folder / "quantizer.safetensors")
    write_json(folder / "health.json", made.health)


def load_tokenized(folder: Path, specification: Tokenize, vectors: ndarray | None = None) -> Tokenized:
    """Load the files of `save_tokenized`.

    Raise `ArtifactError` if a file is damaged, or if the files, the specification or the item vectors (if given) do not match.
    """
    semantic_ids = SemanticIds.load(folder / "codes.safetensors")
    state, figures = _read(folder / "quantizer.safetensors", _load_arrays), _read(folder / "health.json", _load_figures)
    found = {"semantic_ids": (semantic_ids.fingerprint, "codes.safetensors")}
    found["quantizer"] = (_state_fingerprint(state), "quantizer.safetensors")
    if vectors is not None:
        found["vectors"] = (_fingerprint(vectors), "the item vectors")
    for name, (fingerprint, source) in found.items():
        if figures.get(name) != fingerprint:
            raise ArtifactError(
                f"{folder}: health.json was written for other Semantic IDs: {source} has fingerprint {fingerprint}, expected "
                f"{figures.get(name)}; {REBUILD}"
            )
    sizes = specification.quantizer.level_sizes()
    if semantic_ids.level_sizes[: len(sizes)] != sizes or figures.get("collisions") != specification.collisions:
        raise ArtifactError(
            f"{folder} holds Semantic IDs with level sizes {semantic_ids.level_sizes} and collisions={figures.get('collisions')!r}, "
            f"but the specification has {sizes} and {specification.collisions!r}; pass the specification that made them"
        )
    return Tokenized(semantic_ids, specification.quantizer.restore(state), figures)


def _read(path: Path, load: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Load a file. Raise `ArtifactError` if it is missing or damaged."""
    try:
        return load(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"{path} can't be read ({error}); {REBUILD}") from error


def _load_arrays(path: Path) -> dict[str, Any]:
    """Load a safetensors file as NumPy arrays."""
    return {name: tensor.numpy() for name, tensor in load_file(path).items()}


def _load_figures(path: Path) -> dict[str, Any]:
    """Load health.json."""
    figures = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(figures, dict):
        raise ValueError("it must hold a JSON object")
    return figures


def _fitted_rows(count: int, specification: Tokenize, interactions: DataFrame | None) -> ndarray:
    """Return the rows that the quantizer is fitted on, int64, ascending."""
    if specification.fit_on == "all":
        return np.arange(count)
    if interactions is None or interactions.empty:
        raise InputError("Tokenize.fit_on = 'trained' needs training interactions, got none")
    return np.unique(interactions["item"].to_numpy(np.int64)) - 1


def _fit(vectors: ndarray, specification: Tokenize, item_ids: list[str] | None) -> FittedQuantizer:
    """Fit the quantizer with its seed."""
    quantizer, generator = specification.quantizer, torch.Generator().manual_seed(specification.seed)
    if not isinstance(quantizer, CatalogQuantizer):
        return quantizer.fit(vectors, generator)
    if item_ids is None:
        raise UsageError(f"{type(quantizer).__name__} looks codes up by item id: pass items with a column item_id to tokenize")
    return quantizer.fit_catalog(item_ids, vectors, generator)


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
    """Raise `NumericsError` if the first level has collapsed; warn for later levels and for listed codes."""
    error, warning = collapse(figures, specification.min_usage)
    if error is not None and not isinstance(quantizer, ListedCodes):
        raise NumericsError(error)
    for message in (error, warning):
        if message is not None:
            warnings.warn(message, stacklevel=3)


def _fingerprint(vectors: ndarray) -> str:
    """Return a hash of an array's type, shape and values."""
    digest = hashlib.sha256(repr((vectors.dtype.str, vectors.shape)).encode())
    digest.update(np.ascontiguousarray(vectors).data)
    return digest.hexdigest()[:16]


def _state_fingerprint(state: dict[str, ndarray]) -> str:
    """Return a hash of a quantizer's state."""
    return hash_of({name: _fingerprint(array) for name, array in state.items()})


def _warn_shared(semantic_ids: SemanticIds, specification: Tokenize) -> None:
    """Warn of items that share their Semantic ID."""
    if semantic_ids.collided:
        warnings.warn(
            f"{semantic_ids.collided} of {semantic_ids.items} items share their Semantic ID with another item "
            f"(Tokenize.collisions = {specification.collisions!r}); 'append' and 'reassign' give every item a different one",
            stacklevel=3,
        )
