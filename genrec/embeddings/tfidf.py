"""Item vectors from texts by TF-IDF and truncated SVD (latent semantic analysis, Deerwester et al. 1990).

Needs no download and no GPU; 10,000 titles take seconds. It serves tests, the quick start, and as a baseline for sentence encoders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genrec.embeddings.truncated_svd import check_dim_and_seed, svd_vectors
from genrec.embeddings.vector_checks import has_text
from genrec.errors import InputError, UsageError
from genrec.types import NO_TEXT

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

    def __post_init__(self) -> None:
        check_dim_and_seed(self, self.dim, self.seed)
        for name in ("max_ngram", "min_df"):
            if getattr(self, name) < 1:
                raise UsageError(f"TfidfSvd.{name} must be at least 1, got {getattr(self, name)}")

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        """Return vectors float32 [N, D] from the items' column `text`; interactions are not used."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        if "text" not in items:
            raise InputError(f"TfidfSvd needs the items' column 'text', got the columns {list(items.columns)}")
        vectorizer = TfidfVectorizer(
            token_pattern=r"(?u)\b\w+\b",  # keeps words of one letter: "3" and "X" distinguish titles
            ngram_range=(1, self.max_ngram),
            min_df=self.min_df,
            sublinear_tf=True,
        )
        with_text = int(has_text(items).sum())
        if not with_text:
            raise InputError(f"the {len(items)} items have no text: {INTERACTIONS} or give items a `text` column")
        try:
            matrix = vectorizer.fit_transform(items["text"].fillna("").replace(NO_TEXT, ""))
        except ValueError as error:  # scikit-learn's messages speak of documents, stop words and max_df
            raise NoSharedWords(self._no_words(items, with_text)) from error
        return svd_vectors(matrix, self.dim, self.seed, reason="without usable text")

    def _no_words(self, items: DataFrame, with_text: int) -> str:
        """Return the message for texts without a counted word."""
        found = f"({with_text} of {len(items)} items have text, the first is {items['text'][has_text(items)].iloc[0]!r})"
        if self.min_df == 1:
            return f"no text has a word of letters or digits {found}: {INTERACTIONS} or give items another `text`"
        return (
            f"no word occurs in the text of {self.min_df} or more items, as TfidfSvd.min_df = {self.min_df} requires {found}, so the "
            f"texts relate no items: {INTERACTIONS}, give items longer texts, or set min_df=1"
        )
