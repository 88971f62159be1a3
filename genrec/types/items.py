"""Items: their vectors, and the tokenizers that turn them into codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy import ndarray
    from pandas import DataFrame
    from torch import Generator


NO_TEXT = "item without description"  # an empty text in the catalog; the same for all, so that nothing tells them apart


@runtime_checkable
class ItemEncoder(Protocol):
    """Vectors of items."""

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        """Items (row i is item i+1) and *training* interactions -> float32 [N, D]."""
        ...


@runtime_checkable
class ResumableEncoder(ItemEncoder, Protocol):
    """An item encoder whose work is long: it keeps what it has, and goes on from there after a kill."""

    def encode_into(self, items: DataFrame, interactions: DataFrame, folder: Path) -> ndarray:
        """What `encode` returns; `folder`, which may not exist yet, holds what a killed try left, and goes when the stage is done."""
        ...


@runtime_checkable
class FittedQuantizer(Protocol):
    """A trained tokenizer: encodes the items it was trained on and those that come later."""

    def encode(self, vectors: ndarray) -> ndarray:
        """float32 [N, D] -> int64 [N, L]."""
        ...

    def reconstruct(self, codes: ndarray) -> ndarray:
        """int64 [N, L] -> float32 [N, D], the vectors that the codes stand for."""
        ...

    def state(self) -> dict[str, ndarray]:
        """The tensors to store; with the specification they make the quantizer again."""
        ...


@runtime_checkable
class ListedCodes(FittedQuantizer, Protocol):
    """A fitted quantizer whose items have codes of their own, which do not follow from their vectors (imported, random)."""

    def listed_codes(self) -> ndarray:
        """The codes of the items it was fitted on, in their order, int64 [N, L]; `encode` is for items that come later."""
        ...


@runtime_checkable
class PricedCodes(FittedQuantizer, Protocol):
    """A fitted quantizer that can say what another last code would cost an item: what reassigning collided items needs."""

    def last_level_costs(self, vectors: ndarray, codes: ndarray) -> ndarray:
        """Vectors float32 [M, D] and their codes int64 [M, L] -> float32 [M, C]: for each of the last level's C codes the squared
        error, in the space that is quantized, of the item with that code instead of its own; its other codes stay.
        """
        ...


@runtime_checkable
class Quantizer(Protocol):
    """A tokenizer's specification."""

    def fit(self, vectors: ndarray, generator: Generator) -> FittedQuantizer:
        """Train on float32 [N, D]; refuse NaN, and what it cannot use, by `genrec.errors.InputError`."""
        ...

    def level_sizes(self) -> tuple[int, ...]:
        """Number of codes of each level."""
        ...

    def restore(self, state: dict[str, ndarray]) -> FittedQuantizer:
        """The fitted quantizer again, from its stored tensors."""
        ...


@runtime_checkable
class CatalogQuantizer(Quantizer, Protocol):
    """A quantizer that must know which item a row is (one that reads published codes)."""

    def fit_catalog(self, item_ids: Sequence[str], vectors: ndarray, generator: Generator) -> FittedQuantizer:
        """`fit`, with the items' own ids: `item_ids[i]` is row i's."""
        ...
