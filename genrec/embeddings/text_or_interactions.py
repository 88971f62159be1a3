"""Item vectors from texts if the items have any, otherwise from interactions: the default of an experiment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from genrec.embeddings.collaborative import Collaborative
from genrec.embeddings.tfidf import NoSharedWords, TfidfSvd
from genrec.embeddings.vector_checks import has_word
from genrec.errors import UsageError
from genrec.progress import say
from genrec.types import ItemEncoder, ResumableEncoder

if TYPE_CHECKING:
    from numpy import ndarray
    from pandas import DataFrame


@dataclass(frozen=True)
class TextOrInteractions:
    """The vectors of `text` if at least `min_share` of the items have a text, else those of `interactions`; a line says which.

    An item has a text if its column `text` holds a letter and is not the catalog's placeholder: prices and other numbers are no texts.
    If the encoder of texts finds no word that items share, `interactions` encodes the catalog, and another line says so. The vectors
    are those of the chosen encoder, to the bit. To encode both, use `Concatenated`.
    """

    text: ItemEncoder = field(default_factory=TfidfSvd)  # encoder of catalogs with text
    interactions: ItemEncoder = field(default_factory=Collaborative)  # encoder of catalogs without
    min_share: float = 0.5  # least share of items with text for the encoder of texts, above 0 and at most 1

    def __post_init__(self) -> None:
        for name, encoder in (("text", self.text), ("interactions", self.interactions)):
            if not isinstance(encoder, ItemEncoder) or isinstance(encoder, str | type):  # str and classes also have `encode`
                raise UsageError(f"TextOrInteractions.{name} must have encode(items, interactions), got {encoder!r}")
        if not 0 < self.min_share <= 1:
            raise UsageError(f"TextOrInteractions.min_share must be above 0 and at most 1, got {self.min_share}")

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        """Return vectors float32 [N, D] of the chosen encoder."""
        return self._encoded(items, interactions, None)

    def encode_into(self, items: DataFrame, interactions: DataFrame, folder: Path) -> ndarray:
        """Return the vectors of `encode`; a resumable encoder saves its intermediate results in `folder`."""
        return self._encoded(items, interactions, folder)

    def _encoded(self, items: DataFrame, interactions: DataFrame, folder: Path | None) -> ndarray:
        """Return the vectors of the chosen encoder, or those of `interactions` if the texts have no word in common."""
        chosen = self._chosen(items)
        try:
            return _vectors(chosen, items, interactions, folder)
        except NoSharedWords:
            if chosen is self.interactions:
                raise
        name = type(self.interactions).__name__
        say(f"item vectors: the texts have no words that relate items, so {name} encodes the training interactions instead")
        return _vectors(self.interactions, items, interactions, folder)

    def _chosen(self, items: DataFrame) -> ItemEncoder:
        """Return the encoder for this catalog, and log it."""
        with_text = int(has_word(items).sum())
        enough = with_text >= self.min_share * len(items)
        chosen = self.text if enough else self.interactions
        say(
            f"item vectors: {with_text:,} of {len(items):,} items have text, {'at least' if enough else 'less than'} "
            f"{self.min_share:.0%}: {type(chosen).__name__} encodes the {'texts' if enough else 'training interactions'}"
        )
        return chosen


def _vectors(encoder: ItemEncoder, items: DataFrame, interactions: DataFrame, folder: Path | None) -> ndarray:
    """Return an encoder's vectors; a resumable one saves its intermediate results in `folder`, if there is one."""
    if folder is not None and isinstance(encoder, ResumableEncoder):
        return encoder.encode_into(items, interactions, folder)
    return encoder.encode(items, interactions)
