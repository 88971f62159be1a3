"""Protocols of items: encoders, which give items vectors, and quantizers, which give vectors codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy import ndarray
    from pandas import DataFrame
    from torch import Generator


NO_TEXT = "item without description"  # text in the catalog of every item without text; encoders treat it as empty


@runtime_checkable
class ItemEncoder(Protocol):
    """An item encoder."""

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        """Return item vectors, float32 [N, D], from the catalog (row i is item i+1) and the training interactions."""
        ...


@runtime_checkable
class ResumableEncoder(ItemEncoder, Protocol):
    """An item encoder that saves intermediate results and resumes from them after an interruption."""

    def encode_into(self, items: DataFrame, interactions: DataFrame, folder: Path) -> ndarray:
        """Return the vectors of `encode`, with intermediate results in `folder`.

        The folder may not exist yet, or may hold the results of an interrupted run. It is deleted after the stage.
        """
        ...


@runtime_checkable
class FittedQuantizer(Protocol):
    """A trained quantizer. It encodes the items it was trained on and items that are added later."""

    def encode(self, vectors: ndarray) -> ndarray:
        """Return the codes of vectors float32 [N, D], int64 [N, L]."""
        ...

    def reconstruct(self, codes: ndarray) -> ndarray:
        """Return the vectors that codes int64 [N, L] represent, float32 [N, D]."""
        ...

    def state(self) -> dict[str, ndarray]:
        """Return the arrays to store, for `Quantizer.restore`."""
        ...


@runtime_checkable
class ListedCodes(FittedQuantizer, Protocol):
    """A fitted quantizer with codes that do not depend on the vectors, such as imported or random ones."""

    def listed_codes(self) -> ndarray:
        """Return the codes of the items it was fitted on, in their order, int64 [N, L]. `encode` is for items added later."""
        ...


@runtime_checkable
class PricedCodes(FittedQuantizer, Protocol):
    """A fitted quantizer that knows the cost of another last code for an item. Reassigning collided items needs it."""

    def last_level_costs(self, vectors: ndarray, codes: ndarray) -> ndarray:
        """Return the squared quantization error of each item for each of the C codes of the last level, float32 [M, C].

        `vectors` is float32 [M, D] and `codes` int64 [M, L]; the other codes of an item stay the same.
        """
        ...


@runtime_checkable
class TrainedQuantizer(FittedQuantizer, Protocol):
    """A fitted quantizer that was trained in epochs and recorded them."""

    def training_curves(self) -> list[dict[str, float]]:
        """Return a row for each epoch: `epoch`, from 1, and metrics. Empty for a restored quantizer."""
        ...


@runtime_checkable
class Quantizer(Protocol):
    """The specification of a quantizer."""

    def fit(self, vectors: ndarray, generator: Generator) -> FittedQuantizer:
        """Train on vectors float32 [N, D]; raise `genrec.errors.InputError` for NaN and unusable vectors."""
        ...

    def level_sizes(self) -> tuple[int, ...]:
        """Return the number of codes of each level."""
        ...

    def restore(self, state: dict[str, ndarray]) -> FittedQuantizer:
        """Return the fitted quantizer from the arrays of its `state`."""
        ...


@runtime_checkable
class AdaptiveQuantizer(Quantizer, Protocol):
    """A quantizer with sizes that may depend on the number of items, such as `codebook_size=None`."""

    def for_items(self, items: int) -> Quantizer:
        """Return the quantizer with the sizes that `fit` gives it for this number of items; itself if all sizes are set."""
        ...


@runtime_checkable
class CatalogQuantizer(Quantizer, Protocol):
    """A quantizer that needs the items' ids, such as one that reads published codes."""

    def fit_catalog(self, item_ids: Sequence[str], vectors: ndarray, generator: Generator) -> FittedQuantizer:
        """Train like `fit`; `item_ids[i]` is the id of row i."""
        ...


@runtime_checkable
class InteractionQuantizer(Quantizer, Protocol):
    """A quantizer that is trained with the training interactions, such as one that aligns codes with a second item encoder."""

    def fit_interactions(self, vectors: ndarray, items: DataFrame, interactions: DataFrame, generator: Generator) -> FittedQuantizer:
        """Train like `fit`; row i of vectors and of `items` is item i + 1 of the training interactions.

        The fitted quantizer encodes vectors alone, so that items without interactions get codes too.
        """
        ...
