"""Item vectors from texts by any model of sentence-transformers (Reimers and Gurevych 2019, 1908.10084). Needs the extra `text`.

Equal texts are encoded once and get the same bits. Distinct texts are encoded in chunks, which are saved: an interrupted stage resumes
after the last saved chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from genrec.embeddings.content_hashes import content_hash
from genrec.embeddings.mean_fill import fill_with_mean
from genrec.embeddings.sentence_model import SentenceModel, folder_of, library_versions
from genrec.embeddings.text_columns import check_columns, joined_texts
from genrec.embeddings.vector_chunks import read_chunk, write_chunk
from genrec.errors import InputError, UsageError
from genrec.progress import Progress
from genrec.store import NOT_IN_KEY, describe, hash_of

if TYPE_CHECKING:
    from numpy import ndarray
    from pandas import DataFrame


@dataclass(frozen=True)
class SentenceEncoder:
    """A sentence encoder, which is a `genrec.types.ResumableEncoder`.

    Items without text (all columns empty, or the catalog's placeholder) and items with an all-zero vector get the mean vector of the
    others, with a warning. The key holds a hash of the model's folder, or its name and revision: pin the revision of a model on the
    hub, because its main branch may change. With GENREC_OFFLINE or HF_HUB_OFFLINE nothing is downloaded.
    """

    model: Path | str = field(metadata=NOT_IN_KEY)  # a folder, or a name on the hub; `fingerprint` is in the key instead
    revision: str | None = None  # commit, tag or branch of a model on the hub; None: its main branch
    columns: tuple[str, ...] = ("text",)  # of the items; their texts are joined, without empty ones
    separator: str = " "  # between the texts of two columns
    prompt: str | None = None  # prefix of every text, such as "passage: "; None: the model's default; "": no prefix
    normalize: bool = True  # scale rows to length 1
    dim: int | None = None  # number of first dimensions to keep, at least 1, for Matryoshka models; None: all
    max_seq_length: int | None = None  # maximum number of tokens of a text, at least 1; None: the model's own limit
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of the weights; vectors are always float32
    trust_remote_code: bool = False  # run the code of a model on the hub; pin its revision
    batch_size: int = field(default=64, metadata=NOT_IN_KEY)  # texts per batch, at least 1
    chunk_size: int = field(default=2048, metadata=NOT_IN_KEY)  # distinct texts per saved chunk, at least 1
    device: str | None = field(default=None, metadata=NOT_IN_KEY)  # such as "cpu" or "cuda:1"; None: a GPU if there is one

    def __post_init__(self) -> None:
        if not isinstance(self.model, str | Path):
            raise UsageError(f"SentenceEncoder.model must be text or a path, got {self.model!r}")
        is_hub_name = isinstance(self.model, str)  # a path is a folder, also where it looks like a name on the hub
        object.__setattr__(self, "model", self.model if is_hub_name else str(Path.cwd() / Path(self.model).expanduser()))
        if not self._model.strip():
            raise UsageError("SentenceEncoder.model must name a folder or a model on the hub, got ''")
        check_columns(self)
        for name in ("dim", "max_seq_length", "batch_size", "chunk_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"SentenceEncoder.{name} must be at least 1, got {value}")

    def fingerprint(self, root: Path) -> str:
        """Return a hash of the model's folder, or its name and revision."""
        folder = folder_of(self._model)
        return f"hub {self.model}@{self.revision or 'main'}" if folder is None else f"files {content_hash(folder)}"

    def file_names(self) -> tuple[str, ...]:
        """Return the name of the model's folder, or of the model on the hub, for labels."""
        folder = folder_of(self._model)
        return (self._model if folder is None else folder.name,)

    @property
    def _model(self) -> str:
        return str(self.model)

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        """Return vectors float32 [N, D] from the items' text columns; interactions are not used."""
        return self._encode(items, None)

    def encode_into(self, items: DataFrame, interactions: DataFrame, folder: Path) -> ndarray:
        """Return the vectors of `encode`; save chunks in `folder`, and reuse valid chunks that it holds."""
        return self._encode(items, folder)

    def texts(self, items: DataFrame) -> list[str]:
        """Return the text of each item, "" if it has none."""
        return joined_texts(items, self.columns, self.separator, "SentenceEncoder")

    def _encode(self, items: DataFrame, folder: Path | None) -> ndarray:
        texts = self.texts(items)
        row_of = {text: row for row, text in enumerate(dict.fromkeys(text for text in texts if text))}
        if not row_of:
            raise InputError(
                f"none of the {len(texts)} items has text in {', '.join(self.columns)}; SentenceEncoder needs at least one: "
                "use embed=Collaborative() (genrec.embeddings), or name other columns (SentenceEncoder.columns)"
            )
        distinct = self._encode_distinct(list(row_of), folder)
        vectors = distinct[[row_of.get(text, 0) for text in texts]]
        missing = np.array([not text for text in texts]) | ~vectors.any(1)
        return fill_with_mean(vectors, missing, "without usable text", unit=self.normalize)

    def _encode_distinct(self, texts: list[str], folder: Path | None) -> ndarray:
        """Return the vectors of distinct texts, float32 [rows, D]. The model is loaded only if a chunk is missing."""
        settings = [describe(self, Path(), "SentenceEncoder"), library_versions()]
        model: SentenceModel | None = None
        result: ndarray | None = None
        with Progress("sentence vectors", len(texts)) as progress:
            for number, begin in enumerate(range(0, len(texts), self.chunk_size)):
                chunk = texts[begin : begin + self.chunk_size]
                fingerprint = hash_of([settings, chunk]) if folder is not None else ""
                vectors = None if folder is None else read_chunk(folder, number, len(chunk), fingerprint)
                if vectors is None:
                    model = self._load_model() if model is None else model
                    vectors = model.encode(chunk, prompt=self.prompt, batch_size=self.batch_size, normalize=self.normalize)
                    if folder is not None:
                        write_chunk(folder, number, vectors, fingerprint)
                if result is None:
                    result = np.empty((len(texts), vectors.shape[1]), np.float32)
                result[begin : begin + len(chunk)] = vectors
                progress.advance(len(chunk))
        assert result is not None
        return result

    def _load_model(self) -> SentenceModel:
        return SentenceModel(
            self._model,
            revision=self.revision,
            dim=self.dim,
            max_seq_length=self.max_seq_length,
            precision=self.precision,
            trust_remote_code=self.trust_remote_code,
            device=self.device,
        )
