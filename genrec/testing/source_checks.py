"""Contract checks for data sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pandas import DataFrame

from genrec.data.normalization import normalize_interactions, normalize_items
from genrec.data.readers.bad_rows import check_set_aside
from genrec.data.timestamps import TimeNormalizer
from genrec.errors import InputError, UsageError
from genrec.progress import say
from genrec.store import describe
from genrec.testing.plugin_watch import call_plugin
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import RawStream, RawTables, Source, StreamedSource

OPTIONAL = ("rating",)  # columns that may be left out if all values are missing


def check_source(source: Source, root: Path) -> None:
    """Raise ContractError if a source breaks the contract of `genrec.types.Source`. `root` is the folder of downloaded files.

    The source must be a frozen dataclass with a stable description. Its tables must have the required columns, text ids, times in
    whole seconds or milliseconds, and one row per item. Loading twice must give the same tables, and `stream`, if there is one, must
    give the same tables as `load`.
    """
    check_specification(source, Source, "load(root)")
    name = type(source).__name__
    try:
        first, second = (call_plugin(name, "fingerprint(root)", lambda: describe(source, root, name)) for _ in range(2))
    except UsageError as error:
        raise ContractError(f"{error} (such as genrec.data.download.digest of its file)") from None
    if first != second:
        raise ContractError(
            f"{name}: two descriptions differ, {first} and {second}; fingerprint(root) must depend only on the content"
        )
    if not hasattr(source, "fingerprint") and not type(source).__module__.startswith("genrec."):
        say(f"{name} has no fingerprint(root): if it reads files, changes of them go unnoticed and cached artifacts are reused")
    raw = call_plugin(name, "load(root)", lambda: source.load(root))
    _check_tables(name, raw)
    _check_equal(name, "a second load gives", raw, call_plugin(name, "a second load(root)", lambda: source.load(root)))
    if isinstance(source, StreamedSource):
        streamed = call_plugin(name, "stream(root)", lambda: _load_stream(name, source.stream(root)))
        _check_equal(name, "the stream gives", raw, streamed)


def _check_tables(name: str, raw: Any) -> None:
    if not isinstance(raw, RawTables):
        raise ContractError(f"{name}: load must return genrec.types.RawTables(interactions, items), got {type(raw).__name__}")
    for part, frame in (("interactions", raw.interactions), ("items", raw.items)):
        if not isinstance(frame, DataFrame):
            raise ContractError(f"{name}: load must return its {part} as a pandas DataFrame, got {type(frame).__name__}")
    if not len(raw.interactions):
        raise ContractError(f"{name}: load read no interactions")
    try:
        events, _ = normalize_interactions(raw.interactions), normalize_items(raw.items)
        TimeNormalizer().normalize(events.time)
        check_set_aside(raw.set_aside)
    except InputError as error:
        raise ContractError(f"{name}: {error}") from None
    odd = (events.time != events.time.round()) | (events.time < 0)
    if odd.mean() > 0.01:
        raise ContractError(
            f"{name}: {odd.mean():.1%} of the times are missing, negative or not whole numbers; return int64 seconds since 1970, or "
            "the row number if only the order is known"
        )
    repeated = raw.items["item"][raw.items["item"].duplicated()]
    if len(repeated):
        count = 1 + (repeated == repeated.iloc[0]).sum()
        raise ContractError(f"{name}: item {repeated.iloc[0]!r} has {count} rows in items; return one row per item")


def _load_stream(name: str, stream: Any) -> RawTables:
    if not isinstance(stream, RawStream):
        raise ContractError(f"{name}: stream must return genrec.types.RawStream, got {type(stream).__name__}")
    parts = [[_to_frame(table) for table in tables] for tables in (stream.interactions, stream.items)]
    interactions, items = (pd.concat(frames, ignore_index=True) if frames else DataFrame() for frames in parts)
    stream.set_aside()
    return RawTables(interactions, items)


def _to_frame(table: Any) -> DataFrame:
    if isinstance(table, DataFrame):
        return table
    frame: DataFrame = pa.table(table).to_pandas()
    return frame


def _check_equal(name: str, prefix: str, loaded: RawTables, other: RawTables) -> None:
    """Raise ContractError unless both have the same values in the same columns; types may differ."""
    for part, expected, actual in (("interactions", loaded.interactions, other.interactions), ("items", loaded.items, other.items)):
        if len(expected) != len(actual):
            raise ContractError(f"{name}: {prefix} {len(actual)} {part}, load gave {len(expected)}; both must read the same")
        for column in [column for column in expected.columns if column in actual or column not in OPTIONAL]:
            if column not in actual:
                raise ContractError(f"{name}: {prefix} {part} without the column {column!r} that load gave")
            wanted, got = expected[column].reset_index(drop=True), actual[column].reset_index(drop=True)
            different = ~((wanted == got) | (wanted.isna() & got.isna()))
            if different.any():
                row = int(different.argmax())
                raise ContractError(
                    f"{name}: {prefix} {part} with {column} {got[row]!r} in row {row + 1}, load gave {wanted[row]!r}; a source must "
                    "depend only on its fields and files"
                )
