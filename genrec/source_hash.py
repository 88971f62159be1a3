"""The hash of a plug-in's code, which is part of an artifact's key."""

from __future__ import annotations

import ast
import hashlib
import inspect
import re


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
        names = {node.id for node in ast.walk(definitions[waiting.pop()]) if isinstance(node, ast.Name)}
        new = (names & definitions.keys()) - used
        used |= new
        waiting += new
    return _digest("\n".join(ast.unparse(definitions[name]) for name in sorted(used)))


def source_lines(kind: type) -> tuple[list[str], int]:
    """Return the lines of a class and the number of the first one in its file.

    Raises OSError or TypeError for a class without source. Since Python 3.13 `inspect` takes the line from the class. If the class was
    typed into an interpreter, it reads that line of the started program, which does not define the class.
    """
    lines, first = inspect.getsourcelines(kind)
    if not any(re.match(rf"\s*class\s+{kind.__name__}\b", line) for line in lines):
        raise OSError(f"no lines define the class {kind.__name__}")
    return lines, first


def _definitions(source: str) -> dict[str, ast.stmt]:
    """Return the classes, functions and constants of a file's top level by name."""
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
