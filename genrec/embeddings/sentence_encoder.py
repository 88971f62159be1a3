"""Stage 2: items' text becomes vectors by any model of sentence-transformers (Reimers and Gurevych 2019, 1908.10084).

In: items with text columns. Out: float32 [N, D], rows of length 1 unless `normalize` is off. Needs the extra `text`. Equal texts are
encoded once and get the same bits; the distinct ones are encoded in chunks, which are kept: a killed stage goes on from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from genrec.embeddings.content_hashes import content_hash
from genrec.embeddings.mean_fill import fill_with_mean
from genrec.embeddings.sentence_model import folder_of, library_versions, load_model, sentence_vectors
from genrec.embeddings.vector_chunks import read_chunk, write_chunk
from genrec.errors import InputError, UsageError
from genrec.progress import Progress
from genrec.store import NOT_IN_KEY, describe, hash_of
from genrec.types import NO_TEXT

if TYPE_CHECKING:
    from numpy import ndarray
    from pandas import DataFrame


@dataclass(frozen=True)
class SentenceEncoder:
    """A `genrec.types.ResumableEncoder`.

    Items without text (all columns empty, or the catalog's placeholder) and those whose vector is all zero get the mean vector of
    the others, and a warning counts them. A model is known by its folder's contents, or by its name and revision: pin the revision
    of a model on the hub, or its vectors depend on the day. With GENREC_OFFLINE or HF_HUB_OFFLINE nothing is fetched.
    """

    model: str = field(metadata=NOT_IN_KEY)  # a folder, or a name on the hub; in the key by `fingerprint`
    revision: str | None = None  # of a model on the hub: a commit, tag or branch; None: its main branch
    columns: tuple[str, ...] = ("text",)  # of the items; their texts are joined, empty ones left out
    separator: str = " "  # between the texts of two columns
    prompt: str | None = None  # put before every text, such as "passage: "; None: the model's own default, "" none
    normalize: bool = True  # rows of length 1
    dim: int | None = None  # first dimensions kept, at least 1, of models made for it (Matryoshka); None: all
    max_seq_length: int | None = None  # of a text, at least 1; the rest is cut off; None: the model's own limit
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of the weights; vectors are float32 in any case
    trust_remote_code: bool = False  # let a model on the hub run its own code; pin its revision
    batch_size: int = field(default=64, metadata=NOT_IN_KEY)  # texts encoded at once, at least 1
    chunk_size: int = field(default=2048, metadata=NOT_IN_KEY)  # distinct texts kept in one file, at least 1
    device: str | None = field(default=None, metadata=NOT_IN_KEY)  # such as "cpu" or "cuda:1"; None: the best there is

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise UsageError("SentenceEncoder.model must name a folder or a model on the hub, got ''")
        if not self.columns or isinstance(self.columns, str):
            raise UsageError(f'SentenceEncoder.columns must name at least one column, as in ("title", "text"), got {self.columns!r}')
        for name in ("dim", "max_seq_length", "batch_size", "chunk_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"SentenceEncoder.{name} must be at least 1, got {value}")
        object.__setattr__(self, "columns", tuple(self.columns))  # a list would be no part of the key

    def fingerprint(self, root: Path) -> str:
        """What the model is: a hash of the folder's files, or its name and revision."""
        folder = folder_of(self.model)
        return f"hub {self.model}@{self.revision or 'main'}" if folder is None else f"files {content_hash(folder)}"

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        """Items (row i is item i+1) -> float32 [N, D]; the interactions are not looked at."""
        return self._encode(items, None)

    def encode_into(self, items: DataFrame, interactions: DataFrame, folder: Path) -> ndarray:
        """`encode` with its chunks kept in `folder`; those that are there and fit are not computed again."""
        return self._encode(items, folder)

    def _encode(self, items: DataFrame, folder: Path | None) -> ndarray:
        texts = self.texts(items)
        order = {text: place for place, text in enumerate(dict.fromkeys(text for text in texts if text))}
        if not order:
            raise InputError(
                f"none of the {len(texts)} items has text in {', '.join(self.columns)}; SentenceEncoder needs some to encode"
            )
        distinct = self._distinct(list(order), folder)
        vectors = distinct[[order.get(text, 0) for text in texts]]
        lacking = np.array([not text for text in texts]) | ~vectors.any(1)
        return fill_with_mean(vectors, lacking, "without usable text", unit=self.normalize)

    def texts(self, items: DataFrame) -> list[str]:
        """The text of each item, "" where there is none."""
        absent = [name for name in self.columns if name not in items]
        if absent:
            raise InputError(f"SentenceEncoder reads the columns {absent} of the items, got columns {list(items.columns)}")
        cells = [items[name].fillna("").astype(str).tolist() for name in self.columns]
        return [self.separator.join(cell for cell in row if cell.strip() not in ("", NO_TEXT)) for row in zip(*cells, strict=True)]

    def _distinct(self, texts: list[str], folder: Path | None) -> ndarray:
        """Distinct texts -> float32 [rows, D]; the model is loaded only where a chunk is missing."""
        about = [describe(self, Path(), "SentenceEncoder"), library_versions()]
        model: Any = None
        result: ndarray | None = None
        with Progress("sentence vectors", len(texts)) as progress:
            for number, begin in enumerate(range(0, len(texts), self.chunk_size)):
                part = texts[begin : begin + self.chunk_size]
                fingerprint = hash_of([about, part]) if folder is not None else ""
                vectors = None if folder is None else read_chunk(folder, number, len(part), fingerprint)
                if vectors is None:
                    model = load_model(self) if model is None else model
                    vectors = sentence_vectors(self, model, part)
                    if folder is not None:
                        write_chunk(folder, number, vectors, fingerprint)
                if result is None:
                    result = np.empty((len(texts), vectors.shape[1]), np.float32)
                result[begin : begin + len(part)] = vectors
                progress.advance(len(part))
        assert result is not None
        return result
