"""The text of each item from one or several columns of the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genrec.errors import InputError, UsageError
from genrec.types import NO_TEXT

if TYPE_CHECKING:
    from pandas import DataFrame


def check_columns(encoder: Any) -> None:
    """Make `encoder.columns` a tuple, so that a list gives the same key. Raise UsageError unless it names columns."""
    name, columns = type(encoder).__name__, encoder.columns
    if not columns or isinstance(columns, str) or not all(isinstance(each, str) for each in columns):
        raise UsageError(f'{name}.columns must name at least one column, as in ("title", "text"), got {columns!r}')
    object.__setattr__(encoder, "columns", tuple(columns))


def joined_texts(items: DataFrame, columns: tuple[str, ...], separator: str, encoder: str) -> list[str]:
    """Return the text of each item: its columns without empty ones and placeholders, "" if none is left.

    A column that is absent raises `InputError`; `encoder` is the name in its message.
    """
    absent = [name for name in columns if name not in items]
    if absent:
        raise InputError(f"{encoder} needs the items' columns {absent}, got the columns {list(items.columns)}")
    cells = [items[name].fillna("").astype(str).tolist() for name in columns]
    return [separator.join(cell for cell in row if cell.strip() not in ("", NO_TEXT)) for row in zip(*cells, strict=True)]
