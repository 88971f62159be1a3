"""Chunks of computed vectors on the disk, from which an interrupted stage resumes.

A chunk holds a fingerprint of its inputs and a hash of its contents. It is written under a temporary name, flushed and renamed.
"""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy import ndarray


def write_chunk(folder: Path, number: int, vectors: ndarray, fingerprint: str) -> None:
    """Write float32 [rows, D] as chunk `number`. `fingerprint` identifies the inputs of the vectors."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    path = _chunk_path(folder, number)
    partial = path.with_name(f".{path.name}.partial")
    header = {"fingerprint": fingerprint, "sha256": sha256(vectors.tobytes()).hexdigest()}
    save_file({"vectors": np.ascontiguousarray(vectors)}, partial, metadata={"chunk": json.dumps(header)})
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def read_chunk(folder: Path, number: int, rows: int, fingerprint: str) -> ndarray | None:
    """Return chunk `number`, float32 [rows, D]; None if it is missing, damaged or has another fingerprint."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_chunk_path(folder, number), framework="numpy") as file:
            header = json.loads((file.metadata() or {})["chunk"])
            vectors: ndarray = file.get_tensor("vectors")
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    if header.get("fingerprint") != fingerprint or vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != rows:
        return None
    return vectors if header.get("sha256") == sha256(vectors.tobytes()).hexdigest() else None


def _chunk_path(folder: Path, number: int) -> Path:
    return folder / f"chunk-{number:06}.safetensors"
