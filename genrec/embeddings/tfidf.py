"""Item vectors from texts by TF-IDF and truncated SVD (latent semantic analysis, Deerwester et al. 1990).

Needs no download and no GPU; 10,000 titles take seconds. It serves tests, the quick start, and as a baseline for sentence encoders.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from genrec.embeddings.text_columns import check_columns, joined_texts
from genrec.embeddings.truncated_svd import check_dim_and_seed, svd_vectors
from genrec.errors import InputError, UsageError
from genrec.store import NEW_IN_KEY

if TYPE_CHECKING:
    from numpy import ndarray
    from pandas import DataFrame

INTERACTIONS = "use embed=Collaborative() (genrec.embeddings)"  # the next step in messages


class NoSharedWords(InputError):
    """No word is counted in any text, so that the texts relate no items."""


@dataclass(frozen=True)
class TfidfSvd:
    """TF-IDF of words and n-grams with the weight (1 + ln tf)(1 + ln((1 + N) / (1 + df))), rows of length 1; then truncated SVD.

    Items without text, or without a counted word, get the mean vector of the others, with a warning. If there are fewer than `dim`
    distinct n-grams or items, the vectors are narrower, with a warning; they are not padded.
    """

    dim: int = 64  # number of dimensions, at least 1
    max_ngram: int = 2  # maximum number of words in an n-gram, at least 1
    min_df: int = 2  # minimum number of items with an n-gram, at least 1; an n-gram of one item relates no items
    seed: int = 0  # seed of the randomized SVD, 0..2**32-1
    columns: tuple[str, ...] = field(default=("text",), metadata=NEW_IN_KEY)  # of the items; their texts are joined

    def __post_init__(self) -> None:
        check_dim_and_seed(self, self.dim, self.seed)
        check_columns(self)
        for name in ("max_ngram", "min_df"):
            if getattr(self, name) < 1:
                raise UsageError(f"TfidfSvd.{name} must be at least 1, got {getattr(self, name)}")

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        """Return vectors float32 [N, D] from the items' text columns; interactions are not used."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts = joined_texts(items, self.columns, " ", "TfidfSvd")
        vectorizer = TfidfVectorizer(
            token_pattern=r"(?u)\b\w+\b",  # keeps words of one letter: "3" and "X" distinguish titles
            ngram_range=(1, self.max_ngram),
            min_df=self.min_df,
            sublinear_tf=True,
        )
        if not any(text.strip() for text in texts):
            raise InputError(f"the {len(items)} items have no text: {INTERACTIONS} or give items a {self._named()} column")
        try:
            matrix = vectorizer.fit_transform(texts)
        except ValueError as error:  # scikit-learn's messages speak of documents, stop words and max_df
            raise NoSharedWords(self._no_words(texts)) from error
        return svd_vectors(matrix, self.dim, self.seed, reason="without usable text")

    def _named(self) -> str:
        return " or ".join(f"`{name}`" for name in self.columns)

    def _no_words(self, texts: list[str]) -> str:
        """Return the message for texts without a counted word."""
        with_text = [text for text in texts if text.strip()]
        found = f"({len(with_text)} of {len(texts)} items have text, the first is {with_text[0]!r})"
        if self.min_df == 1:
            return f"no text has a word of letters or digits {found}: {INTERACTIONS} or give items another {self._named()}"
        return (
            f"no word occurs in the text of {self.min_df} or more items, as TfidfSvd.min_df = {self.min_df} requires {found}, so the "
            f"texts relate no items: {INTERACTIONS}, give items longer texts, or set min_df=1"
        )
