"""The files of the tokenize stage: Semantic IDs, the fitted quantizer and its health."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from genrec.errors import ArtifactError
from genrec.semantic_ids import SemanticIds
from genrec.store import write_json
from genrec.tokenizer.tokenize import Tokenize, Tokenized, array_fingerprint, state_fingerprint

REBUILD = "rebuild the Semantic IDs and all policies trained on them (--refresh tokenize)"


def save_tokenized(made: Tokenized, folder: Path) -> None:
    """Write codes.safetensors, quantizer.safetensors and health.json to a folder."""
    made.semantic_ids.save(folder / "codes.safetensors")
    save_file({name: torch.from_numpy(value) for name, value in made.quantizer.state().items()}, folder / "quantizer.safetensors")
    write_json(folder / "health.json", made.health)


def load_tokenized(folder: Path, specification: Tokenize, vectors: ndarray | None = None) -> Tokenized:
    """Load the files of `save_tokenized`.

    Raise `ArtifactError` if a file is damaged, or if the files, the specification or the item vectors (if given) do not match.
    """
    semantic_ids = SemanticIds.load(folder / "codes.safetensors")
    state, figures = _read(folder / "quantizer.safetensors", _load_arrays), read_health(folder)
    found = {"semantic_ids": (semantic_ids.fingerprint, "codes.safetensors")}
    found["quantizer"] = (state_fingerprint(state), "quantizer.safetensors")
    if vectors is not None:
        found["vectors"] = (array_fingerprint(vectors), "the item vectors")
    for name, (fingerprint, source) in found.items():
        if figures.get(name) != fingerprint:
            raise ArtifactError(
                f"{folder}: health.json was written for other Semantic IDs: {source} has fingerprint {fingerprint}, expected "
                f"{figures.get(name)}; {REBUILD}"
            )
    specification = specification.for_items(figures.get("items_fitted", semantic_ids.items))
    sizes = specification.quantizer.level_sizes()
    if semantic_ids.level_sizes[: len(sizes)] != sizes or figures.get("collisions") != specification.collisions:
        raise ArtifactError(
            f"{folder} holds Semantic IDs with level sizes {semantic_ids.level_sizes} and collisions={figures.get('collisions')!r}, "
            f"but the specification has {sizes} and {specification.collisions!r}; pass the specification that made them"
        )
    return Tokenized(semantic_ids, specification.quantizer.restore(state), figures)


def read_health(folder: Path) -> dict[str, Any]:
    """Return the figures in health.json. Raise `ArtifactError` if the file is missing or damaged."""
    return _read(folder / "health.json", _load_figures)


def _read(path: Path, load: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Load a file. Raise `ArtifactError` if it is missing or damaged."""
    try:
        return load(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"{path} can't be read ({error}); {REBUILD}") from error


def _load_arrays(path: Path) -> dict[str, Any]:
    """Load a safetensors file as NumPy arrays."""
    return {name: tensor.numpy() for name, tensor in load_file(path).items()}


def _load_figures(path: Path) -> dict[str, Any]:
    """Load health.json."""
    figures = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(figures, dict):
        raise ValueError("it must hold a JSON object")
    return figures
