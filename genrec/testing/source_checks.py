"""The checks of data sources. In: a source, and the folder of fetched files. Out: nothing, or a `ContractError`."""

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
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import RawStream, RawTables, Source, StreamedSource

OPTIONAL = ("rating",)


def check_source(source: Source, root: Path) -> None:
    """Refuse a source that breaks `genrec.types.Source`; its data must be there. `root` is where fetched files are kept.

    Checked: a frozen dataclass that can be described for a key; tables with the columns that are owed; text ids, times in whole
    seconds or milliseconds, one row an item; loading twice gives the same; a stream, where there is one, is what `load` reads.
    """
    check_specification(source, Source, "load(root)")
    name = type(source).__name__
    try:
        first, again = (describe(source, root, name) for _ in range(2))
    except UsageError as error:
        raise ContractError(f"{error} (such as genrec.data.download.digest of its file)") from None
    if first != again:
        raise ContractError(f"{name}: two descriptions differ, {first} and {again}; fingerprint(root) must depend on content alone")
    if not hasattr(source, "fingerprint") and not type(source).__module__.startswith("genrec."):
        say(f"{name} has no fingerprint(root): where it reads files, their edits go unnoticed, and an old artifact is served")
    raw = source.load(root)
    _check_tables(name, raw)
    _check_same(name, "a second load gives", raw, source.load(root))
    if isinstance(source, StreamedSource):
        _check_same(name, "the stream gives", raw, _gathered(name, source.stream(root)))


def _check_tables(name: str, raw: Any) -> None:
    if not isinstance(raw, RawTables):
        raise ContractError(f"{name}: load must return genrec.types.RawTables(interactions, items), got {type(raw).__name__}")
    for what, frame in (("interactions", raw.interactions), ("items", raw.items)):
        if not isinstance(frame, DataFrame):
            raise ContractError(f"{name}: load must give its {what} as a pandas DataFrame, got {type(frame).__name__}")
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
            f"{name}: {odd.mean():.1%} of the times are missing, negative or no whole number; give int64 seconds since 1970, or the "
            "row's number where only the order is known"
        )
    twice = raw.items["item"][raw.items["item"].duplicated()]
    if len(twice):
        raise ContractError(
            f"{name}: item {twice.iloc[0]!r} has {1 + (twice == twice.iloc[0]).sum()} rows in items; give one row an item"
        )


def _gathered(name: str, stream: Any) -> RawTables:
    if not isinstance(stream, RawStream):
        raise ContractError(f"{name}: stream must return genrec.types.RawStream, got {type(stream).__name__}")
    parts = [[_frame(piece) for piece in pieces] for pieces in (stream.interactions, stream.items)]
    interactions, items = (pd.concat(part, ignore_index=True) if part else DataFrame() for part in parts)
    stream.set_aside()
    return RawTables(interactions, items)


def _frame(piece: Any) -> DataFrame:
    if isinstance(piece, DataFrame):
        return piece
    frame: DataFrame = pa.table(piece).to_pandas()
    return frame


def _check_same(name: str, what: str, first: RawTables, second: RawTables) -> None:
    """The same rows in the same columns, whatever their types; a rating that is missing everywhere may be left out."""
    for part, ours, theirs in (("interactions", first.interactions, second.interactions), ("items", first.items, second.items)):
        if len(ours) != len(theirs):
            raise ContractError(f"{name}: {what} {len(theirs)} {part}, load gave {len(ours)}; both must read the same")
        for column in [column for column in ours.columns if column in theirs or column not in OPTIONAL]:
            if column not in theirs:
                raise ContractError(f"{name}: {what} {part} without the column {column!r} that load gave")
            mine, other = ours[column].reset_index(drop=True), theirs[column].reset_index(drop=True)
            different = ~((mine == other) | (mine.isna() & other.isna()))
            if different.any():
                row = int(different.argmax())
                raise ContractError(
                    f"{name}: {what} {part} whose row {row + 1} has {column} {other[row]!r}, load gave {mine[row]!r}; a source is a "
                    "function of its fields and files"
                )
