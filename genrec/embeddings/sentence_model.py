"""A model of the library sentence-transformers. No other file imports it; the extra `text` installs it."""

from __future__ import annotations

import errno
import importlib
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from genrec.errors import InputError, NetworkError, ResourceError, UsageError

LIBRARIES = ("sentence-transformers", "transformers", "torch")  # another version may compute other vectors


def folder_of(name: str) -> Path | None:
    """Return the folder of a model, or None for the name of a model on the hub; raise InputError for a path without a folder."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")) or path.exists() or name.count("/") > 1:
        raise InputError(f"SentenceEncoder.model: {name!r} is no folder; expected a folder with a model, or a name on the hub")
    return None


def library_versions() -> list[str]:
    """Return the versions of the installed libraries that compute the vectors."""
    versions = []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return versions


class SentenceModel:
    """A loaded model in evaluation mode. Weights are read from safetensors only; nothing is unpickled.

    Arguments are the fields of the same name of `SentenceEncoder`.
    """

    def __init__(
        self,
        name: str,
        *,
        revision: str | None,
        dim: int | None,
        max_seq_length: int | None,
        precision: str,
        trust_remote_code: bool,
        device: str | None,
    ) -> None:
        import torch

        self.name, self.dim, self.max_seq_length = name, dim, max_seq_length
        library, folder, offline = _library(), folder_of(name), _offline()
        try:
            with torch.random.fork_rng(devices=[]):  # layers are initialized at random before their weights are read
                self._model = library.SentenceTransformer(
                    name if folder is None else str(folder),
                    device=device,
                    revision=None if folder is not None else revision,
                    local_files_only=offline or folder is not None,
                    trust_remote_code=trust_remote_code,
                    truncate_dim=dim,
                    model_kwargs={"use_safetensors": True, "dtype": precision},
                )
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # each kind of model raises other errors
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            raise _load_error(name, folder is not None, offline, error) from error
        if max_seq_length is not None:
            self._model.max_seq_length = max_seq_length

    def encode(self, texts: list[str], *, prompt: str | None, batch_size: int, normalize: bool) -> ndarray:
        """Return the vectors of texts, float32 [rows, D]. The library batches texts of similar length."""
        import torch

        try:
            output = self._model.encode(
                texts, prompt=prompt, batch_size=batch_size, show_progress_bar=False, normalize_embeddings=normalize
            )
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"out of memory with {self.name!r} ({error}); try SentenceEncoder(batch_size={max(1, batch_size // 2)}): "
                "the vectors stay the same, and finished chunks are kept"
            ) from error
        except (IndexError, RuntimeError) as error:
            if self.max_seq_length is None:
                raise
            raise UsageError(
                f"{self.name!r} failed on texts of up to {self.max_seq_length} tokens ({error}); set "
                "SentenceEncoder.max_seq_length to at most the model's own limit"
            ) from error
        vectors = np.asarray(output, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts) or self.dim not in (None, vectors.shape[1]):
            raise InputError(
                f"{self.name!r} returned vectors of shape {list(vectors.shape)} for {len(texts)} texts; expected [{len(texts)}, "
                f"{self.dim or 'D'}]"
            )
        return vectors


def _library() -> Any:
    try:
        return importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise ResourceError(
            f"SentenceEncoder needs the library sentence-transformers, which can't be imported ({error}): pip install 'genrec[text]'"
        ) from None


def _offline() -> bool:
    return any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in ("GENREC_OFFLINE", "HF_HUB_OFFLINE"))


def _load_error(name: str, local: bool, offline: bool, error: Exception) -> InputError | NetworkError:
    """Return the error for a model that could not be loaded."""
    cause = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
    problem = f"SentenceEncoder.model: {name!r} can't be loaded ({cause})"
    if local:
        return InputError(f"{problem}; expected a folder that sentence-transformers can read, with weights as safetensors")
    if offline:
        return NetworkError(
            f"{problem}; GENREC_OFFLINE or HF_HUB_OFFLINE forbids downloads: unset it, or pass the folder of a local copy as the model"
        )
    return NetworkError(
        f"{problem}; check the name, the revision and the connection; the model needs weights as safetensors (nothing is unpickled); "
        "or pass the folder of a local copy as the model"
    )
