"""The hash of a plug-in's code, which is part of an artifact's key."""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
from collections.abc import Iterator

OWN_SCOPE = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)  # what these bind is not a name of the file


def source_hash(kind: type) -> str | None:
    """Return a hash of a class's code and of everything that it uses from its own file, 16 hexadecimal digits.

    A specification often builds another class of the file, such as the module of a policy, or calls a function of it. These count
    too, however long the chain of names is. Other parts of the file, comments and formatting do not count, nor does code that is
    imported from another file. Returns None for a class without source, such as one that was typed into an interpreter.
    """
    try:
        definitions = _definitions(inspect.getsource(inspect.getmodule(kind) or kind))
        if kind.__qualname__ not in definitions:  # a class within a function
            return _digest(ast.unparse(ast.parse(inspect.cleandoc("\n" + "".join(source_lines(kind)[0])))))
    except (OSError, TypeError, SyntaxError):
        return None
    used, waiting = {kind.__qualname__}, [kind.__qualname__]
    while waiting:
        names = {node.id for each in definitions[waiting.pop()] for node in ast.walk(each) if isinstance(node, ast.Name)}
        new = (names & definitions.keys()) - used
        used |= new
        waiting += new
    return _digest("\n".join(ast.unparse(each) for name in sorted(used) for each in definitions[name]))


def source_lines(kind: type) -> tuple[list[str], int]:
    """Return the lines of a class and the number of the first one in its file.

    Raises OSError or TypeError for a class without source. Since Python 3.13 `inspect` takes the line from the class. If the class was
    typed into an interpreter, it reads that line of the started program, which does not define the class.
    """
    lines, first = inspect.getsourcelines(kind)
    if not any(re.match(rf"\s*class\s+{kind.__name__}\b", line) for line in lines):
        raise OSError(f"no lines define the class {kind.__name__}")
    return lines, first


def _definitions(source: str) -> dict[str, list[ast.stmt]]:
    """Return the statements of a file's top level that bind each name: classes, functions, constants, also in an `if` or a tuple."""
    found: dict[str, list[ast.stmt]] = {}
    for node in ast.parse(source).body:
        for name in dict.fromkeys(_bound(node)):
            found.setdefault(name, []).append(node)
    return found


def _bound(node: ast.AST) -> Iterator[str]:
    """Iterate over the names that a statement binds in its own scope. Imports bind none: code of other files does not count."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name
    elif isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Store):
            yield node.id
    elif not isinstance(node, OWN_SCOPE):
        for child in ast.iter_child_nodes(node):
            yield from _bound(child)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
