"""The files of an export, a folder that holds all that a trained row needs to recommend.

    genrec.json                  settings, protocol, metrics, a probe, and size and sha256 of the files below
    model.safetensors            weights of the policy, or the fitted tensors of a baseline
    semantic_ids.safetensors     codes int64 [N, L] and level sizes; only of a row with a tokenizer
    items.parquet                item_id, title and interactions (in training) of items 1..N, in this order
    README.md                    the model card, which may be edited

Nothing is pickled. Files are checked before they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from genrec.command_lines import command_line
from genrec.errors import ArtifactError, UsageError
from genrec.hashed_json import SHA256, Each, Listed, Matching, Optional, Shape, check_format, check_object, read_object
from genrec.serving.catalog_items import CatalogItems
from genrec.store import file_hash
from genrec.types import NO_TEXT

FORMAT = 1
SETTINGS, MODEL, SEMANTIC_IDS, ITEMS, CARD = (
    "genrec.json",
    "model.safetensors",
    "semantic_ids.safetensors",
    "items.parquet",
    "README.md",
)
ADVICE = "export the row again, or download the folder again"
_FILE: Mapping[str, Shape] = {"bytes": int, "sha256": Matching(SHA256)}
SHAPE: Mapping[str, Shape] = {
    "format": int,
    "genrec": str,  # version that wrote the export
    "row": str,
    "seed": int,
    "seeds": Listed(int),  # all seeds of the row
    "configuration": {  # settings of the row by key path
        "policy.class": str,
        "history_length": int,
        "evaluate.scoring": str,
        "evaluate.filter_seen": bool,
    },
    "protocol": dict,
    "metrics": Each(float),  # of this seed
    "command": str,  # that trains and evaluates the row
    "warning": Optional(str),  # that no step of a training is kept
    "probe": {"history": Listed(int), "items": Listed(int), "log_prob": Listed(float)},  # item numbers, scores of the items
    "files": {MODEL: _FILE, ITEMS: _FILE, SEMANTIC_IDS: Optional(_FILE)},
}


def folder_name(folder: Path) -> str:
    """Return the path as text that `genrec.load` reads as a folder, not as the name of a row."""
    return str(folder) if len(folder.parts) > 1 else f"./{folder}"


def is_export(folder: Path) -> bool:
    """Return whether a folder looks like an export."""
    return (folder / SETTINGS).is_file()


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the content of genrec.json. Raises UsageError for a folder that is no export, ArtifactError for one that is damaged."""
    if not is_export(folder):
        what = "holds no genrec.json, so it is no export" if folder.is_dir() else "does not exist"
        raise UsageError(f"the folder {folder} {what}; write one with: {command_line('export', 'NAME', folder_name(folder))}")
    path = folder / SETTINGS
    content = read_object(path, ADVICE)
    check_format(path, content, FORMAT, ADVICE)
    check_object(path, content, SHAPE, ADVICE)
    return content


def check_files(folder: Path, content: dict[str, Any]) -> None:
    """Raise ArtifactError for a file that is missing, cut or altered since the export."""
    for name, expected in content["files"].items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{path} is missing from the export; {ADVICE}")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise ArtifactError(f"{path} has {size:,} bytes, expected {expected['bytes']:,}{_pointer(path)}; {ADVICE}")
        if (found := file_hash(path)) != expected["sha256"]:
            raise ArtifactError(
                f"{path} has changed since the export (its sha256 is {found}, expected {expected['sha256']}); {ADVICE}"
            )


def _pointer(path: Path) -> str:
    """Return a hint if a repository was cloned without Git LFS, which leaves a small text in place of the file."""
    with path.open("rb") as file:
        return " (it is a pointer of Git LFS; run 'git lfs pull')" if file.read(23) == b"version https://git-lfs" else ""


def read_items(path: Path) -> CatalogItems:
    """Return the catalog of a checked file. Earlier versions wrote `NO_TEXT` for a missing title."""
    table = pq.read_table(path)
    ids, titles = (table[column].to_pylist() for column in ("item_id", "title"))
    return CatalogItems(tuple(ids), tuple("" if title == NO_TEXT else title for title in titles), table["interactions"].to_numpy())
