"""Stage 2: items' text becomes vectors by TF-IDF and truncated SVD (latent semantic analysis, Deerwester et al. 1990).

In: items with a column `text`. Out: float32 [N, D], rows of length 1. No download and no GPU: seconds for 10,000 titles. A sentence
encoder's vectors carry more; these are enough for tests, for the quick start and as the baseline that it has to beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genrec.embeddings.truncated_svd import check_svd_fields, svd_vectors
from genrec.errors import InputError, UsageError
from genrec.types import NO_TEXT

if TYPE_CHECKING:
    from numpy import ndarray
    from pandas import DataFrame


@dataclass(frozen=True)
class TfidfSvd:
    """TF-IDF of words and short phrases, weight (1 + ln tf)(1 + ln((1 + N) / (1 + df))), rows of length 1; then truncated SVD.

    Items without text, or with no word that is kept, get the mean vector of the others, and a warning counts them. Where the text
    has fewer distinct phrases (or there are fewer items) than `width`, the vectors are narrower, and a warning says so: nothing is
    padded.
    """

    dim: int = 64  # dimensions, at least 1
    max_ngram: int = 2  # words in the longest phrase counted, at least 1
    min_df: int = 2  # items a word or phrase must occur in, at least 1; one that occurs once relates no two items
    seed: int = 0  # of the randomized SVD, 0..2**32-1

    def __post_init__(self) -> None:
        check_svd_fields(self, self.dim, self.seed)
        for name in ("max_ngram", "min_df"):
            if getattr(self, name) < 1:
                raise UsageError(f"TfidfSvd.{name} must be at least 1, got {getattr(self, name)}")

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        """Items (row i is item i+1) -> float32 [N, D]; the interactions are not looked at."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        if "text" not in items:
            raise InputError(f"TfidfSvd reads the column 'text' of the items, got columns {list(items.columns)}")
        vectorizer = TfidfVectorizer(
            token_pattern=r"(?u)\b\w+\b",  # one-letter words too: "3" and "X" tell titles apart
            ngram_range=(1, self.max_ngram),
            min_df=self.min_df,
            sublinear_tf=True,
        )
        try:
            matrix = vectorizer.fit_transform(items["text"].fillna("").replace(NO_TEXT, ""))
        except ValueError as error:  # scikit-learn's only word for an empty vocabulary
            raise InputError(
                f"no word occurs in the text of {self.min_df} (TfidfSvd.min_df) of {len(items)} items: {error}"
            ) from error
        return svd_vectors(matrix, self.dim, self.seed, lacking="without usable text")
