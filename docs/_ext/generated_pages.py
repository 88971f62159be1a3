"""Sphinx extension: pages that are generated at build time into docs/_generated.

- `commands.md`: every command of the command line, from its argparse parser.
- `results.md` and `results/`: the results of the experiments, copied from the folder of the experiments.

Links from the documentation to files of the repository outside docs/ lead to the copies, or to the repository.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

PROJECT = Path(__file__).parents[2]
GENERATED = PROJECT / "docs" / "_generated"
REPOSITORY = "https://example.org/genrec/blob/main"  # placeholder, as in the README
STUDIES = "\n```{toctree}\n:hidden:\n:glob:\n\nresults/*\n```\n"
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the hooks."""
    app.connect("builder-inited", generate)
    app.connect("source-read", link_outside)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def generate(app: Sphinx) -> None:
    """Write the generated pages."""
    from genrec import command_parser

    write(GENERATED / "commands.md", "\n".join(commands(command_parser.build())))
    for source in [PROJECT / "experiments" / "results.md", *(PROJECT / "experiments" / "results").glob("*.md")]:
        text = source.read_text(encoding="utf-8")
        write(GENERATED / source.relative_to(PROJECT / "experiments"), text + STUDIES if source.name == "results.md" else text)


def write(path: Path, text: str) -> None:
    """Write a file if its text has changed, so that Sphinx does not read it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Iterate over the Markdown lines that describe every command."""
    (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    helps = {action.dest: action.help or "" for action in subparsers._choices_actions}
    for name, command in subparsers.choices.items():
        command.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
        usage = command.format_usage().removeprefix("usage: ").rstrip()
        description = command.description or helps[name]
        yield from [f"### genrec {name}", "", "```text", usage, "```", "", sentence(description), ""]
        rows = [action for action in command._actions if action.help and not isinstance(action, argparse._HelpAction)]
        if rows:
            yield from ["| argument | meaning |", "|---|---|", *(row(action) for action in rows), ""]


def row(action: argparse.Action) -> str:
    """Return the table row of an argument."""
    value = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper())
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    shown = f"{names} {value}" if action.option_strings and value and action.nargs != 0 else names
    return f"| `{shown}` | {cell(action.help or '')} |"


def sentence(text: str) -> str:
    """Return the text as a sentence, with quoted commands and flags as code."""
    text = re.sub(r"'([^']+)'", r"`\1`", text)
    text = re.sub(r"(?<![`\w])(--[\w.-]+(?: [\w.]+)??)(?=[\s,;.]|$)", r"`\1`", text)
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def cell(text: str) -> str:
    """Return the text for a table cell."""
    return text.replace("|", "\\|")


def link_outside(app: Sphinx, docname: str, source: list[str]) -> None:
    """Redirect relative links that leave docs/: to the copy of a results page, else to the repository."""
    page = PROJECT / "docs" / f"{docname}.md"
    origin = PROJECT / "experiments" / page.relative_to(GENERATED) if page.is_relative_to(GENERATED) else page
    docs = PROJECT / "docs"

    def redirect(match: re.Match[str]) -> str:
        target, anchor = (origin.parent / match[1]).resolve(), match[2] or ""
        copy = GENERATED / target.relative_to(PROJECT / "experiments") if target.is_relative_to(PROJECT / "experiments") else None
        if copy is not None and copy.is_file():
            return f"{relative(copy, page.parent)}{anchor}"
        if target.is_relative_to(docs):
            return f"{relative(target, page.parent)}{anchor}"
        if target.is_relative_to(PROJECT) and target.exists():
            return f"{REPOSITORY}/{target.relative_to(PROJECT)}{anchor}"
        return match[0]

    source[0] = LINK.sub(redirect, source[0])


def relative(path: Path, folder: Path) -> str:
    """Return a path relative to a folder, with `..` where it is needed."""
    common = next(parent for parent in [folder, *folder.parents] if path.is_relative_to(parent))
    ups = len(folder.relative_to(common).parts)
    return "/".join([*[".."] * ups, str(path.relative_to(common))])
