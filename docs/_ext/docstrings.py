"""Sphinx extension: show genrec's plain docstrings and the trailing comments of dataclass fields in the API pages.

Docstrings are plain text with `code` in single backticks. They contain shapes such as `[B, T]` and characters that reStructuredText
would interpret, so the text is escaped and only backticks, lists, indented blocks and `Args:` sections keep their meaning.
A field's comment (`beta: float = 0.1  # strength of the tie, above 0`) becomes the field's entry in the list of parameters.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator
from typing import Any, NamedTuple

from sphinx.application import Sphinx

CODE = re.compile(r"(`+)(.+?)\1")
SPECIAL = re.compile(r"([\\*_|`])")
ITEM = re.compile(r"([-*]|\d+\.) ")


class Field(NamedTuple):
    """A field of a dataclass or NamedTuple, as written in the source."""

    name: str
    kind: str  # the annotation
    default: str  # the expression, or "" for a required field
    comment: str


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the hooks."""
    app.connect("autodoc-process-docstring", process_docstring)
    app.connect("autodoc-process-signature", process_signature)
    app.connect("autodoc-skip-member", skip_member)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def process_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Replace the lines of a docstring by reStructuredText, followed by the fields of a dataclass or NamedTuple."""
    if what in ("class", "exception") and is_record(obj) and "\n".join(lines).startswith(f"{obj.__name__}("):
        lines.clear()  # the signature that dataclasses write where there is no docstring
    result = list(to_rst(lines))
    if what == "class" and is_record(obj):
        result += ["", *parameters(obj)]
    lines[:] = [*result, ""]


def process_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """Write the signature of a dataclass from its source, without types: the list of parameters has them."""
    if what != "class":
        return None
    if getattr(obj, "_is_protocol", False):
        return "", None
    if not is_record(obj):
        return None
    parts = [f"{field.name}={field.default}" if field.default else field.name for field in fields(obj)]
    return f"({', '.join(parts)})", None


def skip_member(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Skip the accessors of NamedTuple fields: their entries are in the list of parameters."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def is_record(obj: Any) -> bool:
    """Return whether a class is a dataclass or a NamedTuple."""
    return inspect.isclass(obj) and (dataclasses.is_dataclass(obj) or (issubclass(obj, tuple) and hasattr(obj, "_fields")))


def fields(obj: type) -> list[Field]:
    """Return the fields of a class in the order of the source, each with its comment."""
    source = textwrap.dedent(inspect.getsource(obj))
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    own_line = {number for number, line in enumerate(source.splitlines(), 1) if line.lstrip().startswith("#")}
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    found = []
    for node in body.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        kind = ast.unparse(node.annotation)
        if kind.startswith("ClassVar"):
            continue
        lines = list(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        before = node.lineno - 1
        while before in own_line:  # a comment above the field
            lines.insert(0, before)
            before -= 1
        comment = " ".join(comments[line] for line in lines if line in comments and "noqa" not in comments[line])
        found.append(Field(node.target.id, kind, default(node.value), comment))
    return found


def default(value: ast.expr | None) -> str:
    """Return the default of a field as source text: that of `field(default_factory=Tiger)` is `Tiger()`."""
    if not isinstance(value, ast.Call) or ast.unparse(value.func) not in ("field", "dataclasses.field"):
        return "" if value is None else ast.unparse(value)
    for keyword in value.keywords:
        if keyword.arg == "default":
            return ast.unparse(keyword.value)
        if keyword.arg == "default_factory":
            if isinstance(keyword.value, ast.Lambda):
                return ast.unparse(keyword.value.body)
            return f"{ast.unparse(keyword.value)}()"
    return ""


def parameters(obj: type) -> Iterator[str]:
    """Iterate over the lines of a field list: name, type and comment of each field."""
    for field in fields(obj):
        comment = escape(field.comment)
        first = comment.partition(" ")[0]
        if first.isalpha() and first.islower():
            comment = comment[0].upper() + comment[1:]
        yield f":param {field.name}: {comment}".rstrip()
        kind = field.kind.strip("'\"")
        yield f":type {field.name}: ``{kind}``"


def to_rst(lines: list[str]) -> Iterator[str]:
    """Convert a plain docstring into lines of reStructuredText."""
    block: list[str] = []  # an indented block, shown as it is written
    in_list = in_arguments = False
    previous = ""
    for line in [*lines, ""]:
        indented = line.startswith("    ") and not in_list and not in_arguments
        if block and line.strip() and not indented:
            yield from literal(block)
            block = []
        if indented or (block and not line.strip()):
            block.append(line)
            continue
        if line.strip() in ("Args:", "Arguments:"):
            in_arguments = True
            yield ""
            continue
        if not line.strip():
            in_list = in_arguments = False
        elif in_arguments and (argument := re.match(r"\s+(\w+):\s*(.*)", line)):
            yield f":param {argument[1]}: {escape(argument[2])}"
            previous = line
            continue
        elif ITEM.match(line.lstrip()) and not in_arguments:
            if not in_list and previous.strip():
                yield ""
            in_list = True
            marker = ITEM.match(line.lstrip())
            assert marker is not None
            yield f"- {escape(line.lstrip()[marker.end() :])}"
            previous = line
            continue
        text = escape(line.strip())
        yield f"  {text}" if (in_list or in_arguments) and text else text
        previous = line
    if block:
        yield from literal(block)


def literal(block: list[str]) -> Iterator[str]:
    """Iterate over the lines of a literal block."""
    while block and not block[-1].strip():
        block = block[:-1]
    yield from ["", ".. code-block:: none", "", *block, ""]


def escape(text: str) -> str:
    """Escape what reStructuredText would interpret, and turn `code` into a literal, `genrec.module.Name` into a link."""
    result, end = "", 0
    for match in CODE.finditer(text):
        result += SPECIAL.sub(r"\\\1", text[end : match.start()])
        code, end = match[2].strip(), match.end()
        if result and not result[-1].isspace():
            result += "\\ "  # a literal begins after a space, or after this invisible one
        result += f":py:obj:`{code}`" if re.fullmatch(r"genrec(\.\w+)+", code) else f"``{code}``"
        if text[end : end + 1].isalnum():
            result += "\\ "
    return result + SPECIAL.sub(r"\\\1", text[end:])
