"""The catalog: a table of the kept items by number, each with a text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genrec.data.event_log import EventLog
from genrec.data.normalization import normalize_items
from genrec.errors import InputError
from genrec.id_matching import FEW, SAMPLED, Ids, no_overlap, overlap_warning
from genrec.types import NO_TEXT


def write_catalog(log: EventLog, tables: Iterable[Any], path: Path) -> dict[str, Any]:
    """Write item_id, text and the source's other columns, all text; return counts of missing and unused metadata, and warnings.

    `tables` are the source's tables of items. An item without metadata or with an empty text gets the text `NO_TEXT`. Raise
    InputError if there are metadata, but of none of the items.
    """
    num_listed = 0
    for table in tables:
        items = normalize_items(table)
        num_listed += len(items)
        log.add_items(items)
    if not log.metadata_columns:
        log.add_items(pa.table({"item": pa.array([], pa.string()), "text": pa.array([], pa.string())}))
    duplicate = log.duplicate_item()
    if duplicate is not None:
        raise InputError(f"the source lists item {duplicate!r} twice; expected one row per item")
    # item_id is our column: the source's column of that name is renamed
    names = [f"{name} (source)" if name == "item_id" else name for name in log.metadata_columns]
    schema = pa.schema([(name, pa.string()) for name in ("item_id", *names)])
    without_metadata = without_text = 0
    with pq.ParquetWriter(path, schema) as writer:
        for batch in log.catalog():
            item_id, has_metadata, *columns = batch.columns
            filled, empty = _fill(dict(zip(names, columns, strict=True)))
            without_metadata += len(batch) - pc.sum(has_metadata, min_count=0).as_py()
            without_text += pc.sum(pc.and_(empty, has_metadata), min_count=0).as_py()
            writer.write_table(pa.table({"item_id": item_id, **filled}).cast(schema))
    total = log.count("SELECT count(*) FROM item_numbers")
    return {
        "items_without_metadata": without_metadata,
        "items_without_text": without_text,
        "metadata_without_events": log.metadata_without_events(),
        "warnings": _check_join(log, total, total - without_metadata) if num_listed else [],
    }


def _check_join(log: EventLog, total: int, matched: int) -> list[str]:
    """Raise InputError if no item of the interactions has a row of metadata; return a warning if fewer than half have one."""
    if matched >= FEW * total:
        return []
    events, items = map(Ids, ("the interactions", "the items"), log.unmatched_ids(SAMPLED))
    if not matched:
        raise no_overlap(events, items, f"none of the {total:,} items of the interactions has a row in the table of items")
    warning = overlap_warning(matched, total, events, items, "of the interactions have a row in the table of items")
    return [] if warning is None else [warning]


def _fill(columns: dict[str, pa.Array]) -> tuple[dict[str, pa.Array], pa.Array]:
    """Replace null by "" and an empty text by `NO_TEXT`; also return where the text was empty, bool [rows]."""
    filled = {name: pc.fill_null(column, "") for name, column in columns.items()}
    empty = pc.equal(pc.utf8_trim_whitespace(filled["text"]), "")
    return {**filled, "text": pc.if_else(empty, NO_TEXT, filled["text"])}, empty
