"""The options of `genrec recommend`, `genrec export` and `genrec serve`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

from genrec import row_commands

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_recommend(commands: Commands) -> None:
    """Add the command `genrec recommend`."""
    recommend = commands.add_parser(
        "recommend",
        help="recommend items to a history or a user; write lists of many users to a file",
        description="Load a trained row and recommend items to a history, a user of the data or all users of a file. Items are "
        "given by id or by words of their title. The experiment's Python file is not needed.",
    )
    recommend.add_argument("name", metavar="NAME", help="a row, or the folder of an export")
    to = recommend.add_mutually_exclusive_group()
    to.add_argument(
        "--history",
        metavar="ITEM",
        nargs="*",
        action="extend",
        help="items, oldest first: ids, or whole words of titles ('title:...' is no id; 'id:...' and a number are nothing else). An "
        "id that reads as an option, such as -n5 or --json, is written --history=-n5; --history may be repeated",
    )
    to.add_argument("--user", metavar="ID", help="a user of the data, with all interactions (--user=-n5 for an id such as -n5)")
    to.add_argument("--file", metavar="FILE", type=Path, help="users or histories: Parquet, CSV or JSON lines; needs --out")
    to.add_argument("--all-users", action="store_true", help="all users of the data with a history; needs --out")
    to.add_argument("--search", metavar="TEXT", help="list the items with these words in their title")
    recommend.add_argument("--n", "-n", metavar="N", type=int, default=10, help="items of a list, and of a search (default: 10)")
    recommend.add_argument(
        "--exclude-seen", action=argparse.BooleanOptionalAction, help="leave out the items of the history (default: as evaluated)"
    )
    recommend.add_argument("--before", choices=("validation", "test"), help="end the histories of users before this part of the data")
    recommend.add_argument("--seed", metavar="N", type=int, help="seed of the row (default: its lowest)")
    recommend.add_argument("--json", action="store_true", help="print the list as JSON")
    recommend.add_argument("--out", metavar="FILE", type=Path, help="write the lists to a file: .parquet, .csv or .jsonl")
    recommend.add_argument(
        "--semantic-ids", metavar="FILE", type=Path,
        help="also write the Semantic IDs of all items to a file; in .csv a title that begins with = + - @ gets a leading apostrophe",
    )  # fmt: skip
    recommend.add_argument("--replace", action="store_true", help="replace files that genrec did not write")
    recommend.add_argument("--skip-unknown", action="store_true", help="leave out users and items of --file that the data do not have")
    recommend.add_argument("--code", metavar="FILE.py", help="file or module of a policy or baseline of your own")
    recommend.set_defaults(call=row_commands.recommend)


def add_export(commands: Commands) -> None:
    """Add the command `genrec export`."""
    export = commands.add_parser(
        "export",
        help="write a trained row to a folder that recommends without the data",
        description="Write weights, settings, Semantic IDs, items and a model card to a folder. 'genrec recommend FOLDER' and "
        "genrec.load(FOLDER) use it without the data; the Hugging Face Hub takes it as it is. Nothing is uploaded.",
    )
    export.add_argument("name", metavar="NAME")
    export.add_argument("folder", metavar="FOLDER", help="a new or empty folder")
    export.add_argument("--seed", metavar="N", type=int, help="seed of the row (default: its lowest)")
    export.add_argument("--code", metavar="FILE.py", help="file or module of a policy of your own, which the export does not hold")
    export.set_defaults(call=row_commands.export)


def add_serve(commands: Commands) -> None:
    """Add the command `genrec serve`."""
    serve = commands.add_parser(
        "serve",
        help="serve rows or exports over HTTP, with a page to try them",
        description="Search items by title, build a history and see the lists of one row or several side by side. Needs FastAPI and "
        "uvicorn: pip install 'genrec[serve]'. It asks for no password; keep it on this machine or behind a server that does.",
    )
    serve.add_argument("names", metavar="FOLDER", nargs="+", help="folders of exports, or rows")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)")
    serve.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000; 0: any free one)")
    serve.add_argument(
        "--allow-host", metavar="NAME", action="append", default=[],
        help="a further name under which clients reach this machine, such as that of a proxy; may be repeated",
    )  # fmt: skip
    serve.add_argument("--body-seconds", metavar="S", type=float, help="time in which the body of a request must arrive (default: 10)")
    serve.add_argument(
        "--idle-seconds", metavar="S", type=float,
        help="time after which a connection is closed if its client sends no header of a request, or reads no answer (default: 5)",
    )  # fmt: skip
    serve.add_argument("--code", metavar="FILE.py", help="file or module of a policy or baseline of your own")
    serve.set_defaults(call=row_commands.serve)
