"""Stage 1, the catalog: the kept items in the order of their numbers, each with a text.

In: a log whose items are numbered, and the source's items in pieces. Out: `items.parquet` and counts of what the items lack.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genrec.data.event_log import Log
from genrec.data.normalization import item_piece
from genrec.errors import InputError
from genrec.types import NO_TEXT


def save_items(log: Log, pieces: Iterable[Any], path: Path) -> dict[str, int]:
    """Write the items' table: item_id, text, and the source's other columns, all text."""
    for piece in pieces:
        log.list_items(item_piece(piece))
    if not log.columns:
        log.list_items(pa.table({"item": pa.array([], pa.string()), "text": pa.array([], pa.string())}))
    twice = log.listed_twice()
    if twice is not None:
        raise InputError(f"the source lists item {twice!r} twice; expected one row an item")
    # a column of the source's own that is called item_id would stand beside ours
    names = [f"{name} (source)" if name == "item_id" else name for name in log.columns]
    schema = pa.schema([(name, pa.string()) for name in ("item_id", *names)])
    unlisted = silent = 0
    with pq.ParquetWriter(path, schema) as writer:
        for batch in log.catalog():
            item, listed, *texts = batch.columns
            described, without = _described(dict(zip(names, texts, strict=True)))
            unlisted += len(batch) - pc.sum(listed, min_count=0).as_py()
            silent += pc.sum(pc.and_(without, listed), min_count=0).as_py()
            writer.write_table(pa.table({"item_id": item, **described}).cast(schema))
    return {
        "items_without_metadata": unlisted,
        "items_without_text": silent,
        "metadata_without_events": log.metadata_without_events(),
    }


def _described(texts: dict[str, pa.Array]) -> tuple[dict[str, pa.Array], pa.Array]:
    """The columns with "" for what is missing and the placeholder for an empty text, and where the text was empty: bool."""
    filled = {name: pc.fill_null(column, "") for name, column in texts.items()}
    without = pc.equal(pc.utf8_trim_whitespace(filled["text"]), "")
    return {**filled, "text": pc.if_else(without, NO_TEXT, filled["text"])}, without
