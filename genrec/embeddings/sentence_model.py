"""Stage 2: the sentence-transformers library, which only this file and the extra `text` know.

In: a `SentenceEncoder`'s fields. Out: a loaded model, its vectors float32 [rows, D], or an error that names the model.
"""

from __future__ import annotations

import errno
import importlib
import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from genrec.errors import InputError, NetworkError, ResourceError, UsageError

if TYPE_CHECKING:
    from genrec.embeddings.sentence_encoder import SentenceEncoder

LIBRARIES = ("sentence-transformers", "transformers", "torch")  # their versions may change a vector


def folder_of(model: str) -> Path | None:
    """The model's folder where it names one; None for a name on the hub. A path that is no folder is an InputError."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or model.startswith((".", "~")) or path.exists() or model.count("/") > 1:
        raise InputError(f"SentenceEncoder.model: {model!r} is no folder; expected a folder that holds a model, or a name on the hub")
    return None


def library_versions() -> list[str]:
    """The versions of what computes the vectors, where they are known."""
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found


def load_model(spec: SentenceEncoder) -> Any:
    """The model in evaluation mode; weights from safetensors only, since nothing is unpickled."""
    import torch

    try:
        library = importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise ResourceError(
            f"SentenceEncoder needs the library sentence-transformers, which can't be imported ({error}): pip install 'genrec[text]'"
        ) from None
    folder, offline = folder_of(spec.model), _offline()
    try:
        with torch.random.fork_rng(devices=[]):  # layers are drawn before their weights are read
            model = library.SentenceTransformer(
                spec.model if folder is None else str(folder),
                device=spec.device,
                revision=None if folder is not None else spec.revision,
                local_files_only=offline or folder is not None,
                trust_remote_code=spec.trust_remote_code,
                truncate_dim=spec.dim,
                model_kwargs={"use_safetensors": True, "dtype": spec.precision},
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # each kind of model has its own errors
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        raise _not_loaded(spec, folder is not None, offline, error) from error
    if spec.max_seq_length is not None:
        model.max_seq_length = spec.max_seq_length
    return model


def sentence_vectors(spec: SentenceEncoder, model: Any, texts: list[str]) -> ndarray:
    """Texts -> float32 [rows, D]. The library puts texts of a like length into one batch."""
    import torch

    try:
        found = model.encode(
            texts, prompt=spec.prompt, batch_size=spec.batch_size, show_progress_bar=False, normalize_embeddings=spec.normalize
        )
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"out of memory with {spec.model!r} ({error}); try SentenceEncoder(batch={max(1, spec.batch_size // 2)}): "
            "the vectors stay the same, and finished chunks are kept"
        ) from error
    except (IndexError, RuntimeError) as error:
        if spec.max_seq_length is None:
            raise
        raise UsageError(
            f"{spec.model!r} failed on texts of up to {spec.max_seq_length} tokens ({error}); set SentenceEncoder.max_seq_length to "
            "no more than the model was made for"
        ) from error
    vectors = np.asarray(found, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts) or spec.dim not in (None, vectors.shape[1]):
        raise InputError(
            f"{spec.model!r} gave vectors of shape {list(vectors.shape)} for {len(texts)} texts; expected [{len(texts)}, "
            f"{spec.dim or 'D'}]"
        )
    return vectors


def _offline() -> bool:
    return any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in ("GENREC_OFFLINE", "HF_HUB_OFFLINE"))


def _not_loaded(spec: SentenceEncoder, local: bool, offline: bool, error: Exception) -> InputError | NetworkError:
    """What to say of a model that could not be loaded."""
    said = f"SentenceEncoder.model: {spec.model!r} can't be loaded ({type(error).__name__}: {str(error).strip() or 'no message'}); "
    if local:
        return InputError(f"{said}expected a folder that sentence-transformers can read, with its weights as safetensors")
    if offline:
        return NetworkError(
            f"{said}GENREC_OFFLINE or HF_HUB_OFFLINE forbids to fetch it: allow it, or pass the folder of a copy as the model"
        )
    return NetworkError(
        f"{said}check the name, the revision and the connection; its weights must be there as safetensors (nothing is unpickled); "
        "or pass the folder of a copy as the model"
    )
