"""Stage 1, the catalogue: the kept items in the order of their numbers, each with a text.

In: a log whose items are numbered, and the source's items in pieces. Out: `items.parquet` and counts of what the items lack.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genrec.data.log import Log
from genrec.data.pieces import item_piece
from genrec.errors import InputError

NO_TEXT = "item without description"  # the same for all: vectors must not tell apart what nothing is known of


def save_items(log: Log, pieces: Iterable[Any], path: Path) -> dict[str, int]:
    """Write the items' table: item_id, text, and the source's other columns, all text."""
    for piece in pieces:
        log.list_items(item_piece(piece))
    if not log.columns:
        log.list_items(pa.table({"item": pa.array([], pa.string()), "text": pa.array([], pa.string())}))
    twice = log.listed_twice()
    if twice is not None:
        raise InputError(f"the source lists item {twice!r} twice; expected one row an item")
    schema = pa.schema([(name, pa.string()) for name in ("item_id", *log.columns)])
    unlisted = silent = 0
    with pq.ParquetWriter(path, schema) as writer:
        for batch in log.catalogue():
            table, without = _described(pa.Table.from_batches([batch]))
            listed = table["listed"]
            unlisted += len(table) - pc.sum(listed, min_count=0).as_py()
            silent += pc.sum(pc.and_(without, listed), min_count=0).as_py()
            writer.write_table(table.select(schema.names).cast(schema))
    return {
        "items_without_metadata": unlisted,
        "items_without_text": silent,
        "metadata_without_events": log.metadata_without_events(),
    }


def _described(table: pa.Table) -> tuple[pa.Table, pa.ChunkedArray]:
    """The table with "" for what is missing and the placeholder for an empty text, and where the text was empty: bool."""
    for place, name in enumerate(table.column_names):
        if name not in ("item_id", "listed"):
            table = table.set_column(place, name, pc.fill_null(table[name], ""))
    without = pc.equal(pc.utf8_trim_whitespace(table["text"]), "")
    text = pc.if_else(without, NO_TEXT, table["text"])
    return table.set_column(table.column_names.index("text"), "text", text), without
