"""Shell completion by argcomplete: commands, options, `FILE.py:FUNCTION` and the names of runs. Nothing heavy is imported."""

from __future__ import annotations

import argparse
import ast
import os
import sys
from pathlib import Path


def answer(parser: argparse.ArgumentParser) -> None:
    """Print the completions and exit if the shell requests them; otherwise return at once."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:
        sys.exit("genrec: completion needs argcomplete: pip install 'genrec[completion]'")
    completers = {"experiment": functions, "components": classes, "name": runs, "names": runs, "reference": runs}
    for commands in (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)):
        for command in commands.values():
            for action in command._actions:
                if action.dest in completers:
                    vars(action)["completer"] = completers[action.dest]
    argcomplete.autocomplete(parser, always_complete_options=False)


def functions(prefix: str, **_: object) -> list[str]:
    """Return `FILE.py:FUNCTION` for the public functions without required parameters, or files and folders before the colon."""
    return _members(prefix, ast.FunctionDef)


def classes(prefix: str, **_: object) -> list[str]:
    """Return `FILE.py:CLASS` for the public classes, or files and folders before the colon."""
    return _members(prefix, ast.ClassDef)


def runs(prefix: str, **_: object) -> list[str]:
    """Return the names of the runs in the data folder."""
    from genrec.workspace import runs_folder

    return [path.stem for path in runs_folder().glob("*.json")]


def _members(prefix: str, kind: type[ast.FunctionDef] | type[ast.ClassDef]) -> list[str]:
    file, colon, _ = prefix.partition(":")
    if not colon:
        folder = prefix[: prefix.rfind("/") + 1]
        entries = [path for path in Path(folder or ".").glob("*") if not path.name.startswith((".", "__"))]
        folders = [f"{folder}{path.name}/" for path in entries if path.is_dir()]
        return folders + [f"{folder}{path.name}:" for path in entries if path.suffix == ".py"]
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return []
    return [f"{file}:{node.name}" for node in tree.body if isinstance(node, kind) and node.name[0] != "_" and _is_callable(node)]


def _is_callable(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Return whether the function takes no required parameter; of a class this is not known without an import."""
    return isinstance(node, ast.ClassDef) or len(node.args.posonlyargs + node.args.args) <= len(node.args.defaults)
