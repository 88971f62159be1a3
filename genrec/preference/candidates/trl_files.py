"""Writing pairs in TRL's preference format."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from genrec.errors import UsageError
from genrec.input_files import file_suffix
from genrec.preference.candidates.pair_rows import JSON_LINES, PairRow, trl_row


def write_trl(rows: Iterable[PairRow], path: Path | str) -> None:
    """Write a file in TRL's preference format, one line for each rejected item; prompts are texts, as TRL expects (see `read_trl`).

    The format has no users and no weights: raises UsageError for a row without a history or with a weight other than 1, for any other
    row that `read_trl` refuses, and for a file name that does not end in `.jsonl` or `.ndjson`.
    """
    if file_suffix(Path(path)) not in JSON_LINES:
        raise UsageError(f"write_trl writes JSON lines, expected a path that ends in {' or '.join(JSON_LINES)}, got {path}")
    lines = [line for number, row in enumerate(rows, 1) for line in _lines(row, number)]
    if not lines:
        raise UsageError("write_trl got no rows; a file needs one or more")
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _lines(row: PairRow, number: int) -> list[str]:
    """Return the lines of row `number`, from 1. Raise UsageError if the format cannot hold it."""
    if row.history is None:
        raise UsageError(
            f"row {number} has user {row.user!r} and no history, which TRL's format needs as the prompt; give PairRow.history"
        )
    if row.weight != 1:
        raise UsageError(f"row {number} has the weight {row.weight}, which TRL's format cannot hold; write a pair file with `weight`")
    if not row.rejected:
        raise UsageError(f"row {number} has no rejected item; give PairRow.rejected")
    prompt = json.dumps(row.history, ensure_ascii=False)
    records = [{"prompt": prompt, "chosen": row.chosen, "rejected": each} for each in row.rejected]
    for record in records:
        try:
            trl_row(record, number)
        except ValueError as error:
            raise UsageError(
                f"row {number}: {': '.join(error.args)}; read_trl would refuse it, so correct or leave out the row"
            ) from None
    return [json.dumps(record, ensure_ascii=False) for record in records]
