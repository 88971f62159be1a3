"""Stage 2, long work in pieces: vectors that were computed are kept on the disk, so that a killed stage goes on from them.

In: rows of vectors, and a fingerprint of all that they follow from. Out: the same rows, where the file is whole and the fingerprint is
the one expected; whatever else lies there counts as nothing. A file is written under another name, flushed and renamed.
"""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy import ndarray


def write_chunk(folder: Path, number: int, vectors: ndarray, fingerprint: str) -> None:
    """Keep float32 [rows, D] as chunk `number`."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    path = _place(folder, number)
    partial = path.with_name(f".{path.name}.partial")
    about = {"fingerprint": fingerprint, "sha256": sha256(vectors.tobytes()).hexdigest()}
    save_file({"vectors": np.ascontiguousarray(vectors)}, partial, metadata={"chunk": json.dumps(about)})
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def read_chunk(folder: Path, number: int, rows: int, fingerprint: str) -> ndarray | None:
    """Chunk `number`, float32 [rows, D]; None where it is missing, damaged or follows from something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_place(folder, number), framework="numpy") as file:
            about = json.loads((file.metadata() or {})["chunk"])
            vectors: ndarray = file.get_tensor("vectors")
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    if about.get("fingerprint") != fingerprint or vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != rows:
        return None
    return vectors if about.get("sha256") == sha256(vectors.tobytes()).hexdigest() else None


def _place(folder: Path, number: int) -> Path:
    return folder / f"chunk-{number:06}.safetensors"
