"""`genrec recommend`: a list for a history or a user on the screen or as JSON, and lists of many users in a file."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from typing import Any

import pyarrow as pa
from pandas import DataFrame

from genrec.errors import UsageError, counted
from genrec.input_files import file_suffix
from genrec.progress import say
from genrec.serving.bulk_lists import SCHEMA, NamedHistory, left_out_in_words, requested_histories, users_of, write_lists
from genrec.serving.catalog_items import NO_TITLE, shortened
from genrec.serving.history_files import read_requests
from genrec.serving.item_recommender import History
from genrec.serving.row_loading import load
from genrec.serving.table_files import check_format, has_columns, safe_for_spreadsheets, write_table
from genrec.serving.trained_rows import TrainedRow
from genrec.written_files import check_different, check_replaceable, check_writable

SHOWN_HISTORY = 10  # most recent items of a history that are printed
MIN_TITLE = 20  # characters of a title where the terminal is narrow
MAX_TITLE = 60  # characters of a title in a pipe
ID_COLUMNS = ["item_id", "title", "interactions", "semantic_id"]  # the first columns of `TrainedRow.semantic_ids`
MAX_CODES = 40  # characters of a Semantic ID on the screen


def recommend(options: argparse.Namespace) -> int:
    """Run the command."""
    _check(options)
    lists = options.history is not None or options.user is not None or options.file is not None or options.all_users
    row = load(options.name, options.seed, options.code, options.n if lists else 0)  # a search needs no beams
    if options.seed is None and len(row.seeds) > 1:
        say(f"{row.name} has the seeds {', '.join(map(str, row.seeds))}; this is seed {row.seed}, --seed N takes another")
    if lists and options.n > len(row.items.catalog):
        say(f"--n {options.n}: {row.name} has {counted(len(row.items.catalog), 'item')}, so no list is longer")
    if options.search is not None:
        _search(row, options)
    if options.semantic_ids is not None:
        _write_semantic_ids(row, options)
    if options.file is not None or options.all_users:
        _write_lists(row, options)
    elif options.history is not None or options.user is not None:
        _recommend_one(row, options)
    return 0


def _search(row: TrainedRow, options: argparse.Namespace) -> None:
    """Print the first `--n` items of a search in titles, and how many there are if these are more; or those with similar words."""
    catalog = row.items.catalog
    found = catalog.search(options.search)
    shown = found[: options.n] or catalog.nearest(options.search, options.n)
    if shown or options.json:
        _print(row.item_table(shown), options)
    if len(found) > options.n:
        say(f"{len(found):,} items match, and these are the {counted(options.n, 'most popular one')}; --n {len(found)} lists all")
    if not found:
        say(f"no title has these words{', and these have similar ones' if shown else ' or similar ones'}")


def _check(options: argparse.Namespace) -> None:
    """Raise UsageError for options that do not fit each other, before anything is loaded."""
    if options.n < 1:
        raise UsageError(f"--n must be 1 or more, got {options.n}")
    if options.search is not None and not options.search.strip():
        raise UsageError(f"--search needs words of a title, got {options.search!r}")
    bulk = options.file is not None or options.all_users
    sources = (
        options.history is not None,
        options.user is not None,
        bulk,
        options.search is not None,
        options.semantic_ids is not None,
    )
    if not any(sources):
        raise UsageError(
            "nothing to recommend to: give --history ITEM ITEM ..., --user ID, --file FILE or --all-users; --search TEXT finds "
            "items by title"
        )
    if bulk and options.out is None:
        what = "--all-users" if options.all_users else "--file"
        raise UsageError(f"{what} makes many lists; name the file for them with --out lists.parquet (or .csv, .jsonl)")
    if bulk and options.json:
        raise UsageError("--json prints one list; many lists are written as JSON lines with --out lists.jsonl")
    if options.skip_unknown and options.file is None:
        raise UsageError("--skip-unknown leaves out unknown users and items of a --file; give one")
    if options.before is not None and options.history is not None:
        raise UsageError("--before ends the history of a user of the data; it has no meaning for --history")
    for path, option in ((options.out, "--out"), (options.semantic_ids, "--semantic-ids")):
        if path is not None:
            check_format(path, option)
            check_writable(path, option)
    check_replaceable(options.out, "--out", lambda _: has_columns(options.out, SCHEMA.names), options.replace)
    check_replaceable(options.semantic_ids, "--semantic-ids", lambda _: has_columns(options.semantic_ids, ID_COLUMNS), options.replace)
    check_different({"--out": options.out, "--semantic-ids": options.semantic_ids})


def _recommend_one(row: TrainedRow, options: argparse.Namespace) -> None:
    """Print the list of one history, or write it to a file."""
    exclude = row.excludes_seen(options.exclude_seen)
    history = row.history(options.history, user=options.user, exclude_seen=exclude, before=options.before)
    if options.out is not None:
        lines = write_lists(row, [NamedHistory(options.user or "", history)], options.n, options.out)
        say(f"{counted(lines, 'line')} written to {options.out}")
        return
    taken, found = row.history_table(history), row.items.table(history, options.n)
    if options.json:
        about = {"row": row.name, "seed": row.seed, "user": options.user, "exclude_seen": exclude}
        lists = {"history": taken.to_dict("records"), "recommendations": found.to_dict("records")}
        print(json.dumps(about | lists, ensure_ascii=False, indent=1))
        return
    whose = f"user {options.user}" if options.user is not None else "this history"
    print(f"{row.name}, seed {row.seed}: {counted(len(found), 'item')} for {shortened(whose, 0)}")
    print(_about_history(row, history))
    _print(taken.tail(SHOWN_HISTORY), options)
    title = "without items of the history" if exclude else "also items of the history (--exclude-seen leaves them out)"
    print(f"\nrecommended, {title}:")
    _print(found, options)


def _about_history(row: TrainedRow, history: History) -> str:
    """Return a line about the items of a history that are read and printed."""
    count, length = len(history.items), row.items.history_length
    read = f", of which the last {length} are read" if count > length else ""
    shown = f" (the last {SHOWN_HISTORY} of them)" if count > SHOWN_HISTORY else ""
    return f"\nhistory of {counted(count, 'item')}{read}, oldest first{shown}:"


def _write_lists(row: TrainedRow, options: argparse.Namespace) -> None:
    """Write the lists of many users to a file."""
    exclude = row.excludes_seen(options.exclude_seen)
    left_out: Counter[str] = Counter()
    if options.all_users:
        entries = users_of(row, None, exclude, options.before)
    else:
        requests = read_requests(options.file)
        entries = requested_histories(row, requests, exclude, options.before, options.skip_unknown, left_out)
    lines = write_lists(row, entries, options.n, options.out)
    omitted = left_out_in_words(left_out)
    say(f"{counted(lines, 'line')} written to {options.out}{f'; left out: {omitted}' if omitted else ''}")


def _write_semantic_ids(row: TrainedRow, options: argparse.Namespace) -> None:
    """Write the Semantic IDs of all items to a file."""
    table = row.semantic_ids()
    if file_suffix(options.semantic_ids) == ".csv":
        table["title"] = table["title"].map(safe_for_spreadsheets)
    write_table(options.semantic_ids, pa.Table.from_pandas(table, preserve_index=False))
    say(f"the Semantic IDs of {counted(len(table), 'item')} written to {options.semantic_ids}")


def _print(table: DataFrame, options: argparse.Namespace) -> None:
    """Print a table of items: as JSON with --json, else in columns that fit into the terminal; a pipe gets short titles."""
    if options.json:
        print(json.dumps(table.to_dict("records"), ensure_ascii=False, indent=1))
        return
    columns = {name: [_cell(name, value) for value in table[name]] for name in table.columns}
    widths = {name: max(map(len, [name, *cells])) for name, cells in columns.items()}
    room = shutil.get_terminal_size((0, 0)).columns if sys.stdout.isatty() else 0
    others = sum(width + 2 for name, width in widths.items() if name != "title")
    widths["title"] = min(widths["title"], max(MIN_TITLE, room - others - 1) if room else MAX_TITLE)
    print("  ".join(_aligned(name, name, widths) for name in columns).rstrip())
    for cells in zip(*columns.values(), strict=True):
        print("  ".join(_aligned(name, cell, widths) for name, cell in zip(columns, cells, strict=True)).rstrip())


def _aligned(name: str, cell: str, widths: dict[str, int]) -> str:
    text = shortened(cell, widths[name])
    return f"{text:{'>' if name in ('position', 'score', 'interactions') else '<'}{widths[name]}}"


def _cell(name: str, value: Any) -> str:
    if name == "score":
        return f"{value:.4g}"
    if name == "cold":
        return "cold" if value else ""
    if name == "title" and not value:
        return NO_TITLE
    return shortened(str(value), MAX_CODES if name == "semantic_id" else 0)
