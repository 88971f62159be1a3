"""The hash of a plug-in's code, which is part of an artifact's key."""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

_Codes = tuple[CodeType, ...]
_Definitions = dict[str, list[ast.stmt]]
_KNOWN: WeakKeyDictionary[type, tuple[_Codes, str]] = WeakKeyDictionary()  # the code of a class when its file was read, and the hash
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
_OPTIONS = ast.If | ast.Try | ast.TryStar | ast.With | ast.For | ast.While | ast.Match  # statements whose names are names of the file


def source_hash(kind: type) -> str | None:
    """Return a hash of a class's code and of everything that it uses from its own file, 16 hexadecimal digits.

    A specification often builds another class of the file, such as the module of a policy, or calls a function of it. These count
    too, however long the chain of names is. Other parts of the file, comments and formatting do not count, nor does code that is
    imported from another file.

    A file is read once for each class, because the class keeps the code that it was loaded with when its file is edited later. It is
    read again if the class has got other code (`%autoreload`). The code of a class of a notebook is that of its cells, as they were
    run last, with the present values of plain constants. Returns None, with a warning, for a class without source, such as one that
    was made by `exec`.
    """
    codes = tuple(_codes(kind))
    known = _KNOWN.get(kind)
    if known is not None and len(known[0]) == len(codes) and all(old is new for old, new in zip(known[0], codes, strict=True)):
        return known[1]
    found = _hash_of_file(kind)
    if found is not None:
        _KNOWN[kind] = codes, found
        return found
    found = _hash_of_cells(kind)
    if found is None:
        warnings.warn(
            f"no source was found of the class {kind.__qualname__}, so an edit of its code goes unnoticed and earlier results are "
            "used; define it in a file, or raise its class attribute VERSION with each edit",
            stacklevel=2,
        )
    return found


def source_lines(kind: type) -> tuple[list[str], int]:
    """Return the lines of a class and the number of the first one in its file.

    Raises OSError or TypeError for a class without source. Since Python 3.13 `inspect` takes the line from the class. If the class was
    typed into an interpreter, it reads that line of the started program, which does not define the class.
    """
    lines, first = inspect.getsourcelines(kind)
    if not any(re.match(rf"\s*class\s+{kind.__name__}\b", line) for line in lines):
        raise OSError(f"no lines define the class {kind.__name__}")
    return lines, first


def _hash_of_file(kind: type) -> str | None:
    """Return the hash of a class that a file defines, or None."""
    try:
        definitions = _definitions(inspect.getsource(inspect.getmodule(kind) or kind))
        if kind.__qualname__ in definitions:
            used, waiting, local = {kind.__qualname__}, definitions[kind.__qualname__], []
        else:  # a class within a function
            tree = ast.parse(inspect.cleandoc("\n" + "".join(source_lines(kind)[0])))
            used, waiting, local = set(), list(tree.body), [ast.unparse(tree)]
    except (OSError, TypeError, SyntaxError):
        return None
    while waiting:
        new = (_names(waiting) & definitions.keys()) - used
        used |= new
        waiting = [node for name in new for node in definitions[name]]
    return _digest("\n".join([*local, *(ast.unparse(node) for name in sorted(used) for node in definitions[name])]))


def _definitions(source: str) -> _Definitions:
    """Return the statements that bind or change each name of a file's top level, in their order."""
    body = ast.parse(source).body
    functions = {node.name: node for node in body if isinstance(node, _FUNCTIONS)}
    bound = [_bound(node) for node in body]
    own, found = set().union(*bound), _Definitions()
    for node, names in zip(body, bound, strict=True):
        for name in names | (_changed(node, functions) & own):  # a method of an imported module changes nothing of the file
            found.setdefault(name, []).append(node)
    return found


def _bound(node: ast.stmt) -> set[str]:
    """Return the names that a statement of the top level defines, assigns or changes; imports are left out."""
    if isinstance(node, ast.ClassDef | _FUNCTIONS):
        return {node.name}
    if isinstance(node, _OPTIONS):
        return set().union(*(_bound(inner) for inner in ast.walk(node) if isinstance(inner, ast.stmt) and inner is not node))
    named = {each.target.id for each in ast.walk(node) if isinstance(each, ast.NamedExpr)}
    return named.union(*map(_assigned, _targets(node)))


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign | ast.Delete):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign) else []


def _assigned(target: ast.expr) -> set[str]:
    """Return the names of the target of an assignment: a name, several, or the object with the entry or attribute that is set."""
    if isinstance(target, ast.Tuple | ast.List):
        return set().union(*(_assigned(each) for each in target.elts))
    while isinstance(target, ast.Subscript | ast.Attribute | ast.Starred):
        target = target.value
    return {target.id} if isinstance(target, ast.Name) else set()


def _changed(node: ast.stmt, functions: Mapping[str, ast.FunctionDef | ast.AsyncFunctionDef]) -> set[str]:
    """Return the names of objects that the calls of a statement of the top level may change, decorators among them.

    These are the object of a method (`TABLE.update(...)`), the arguments (`fill(TABLE)`), and what a function of the file changes.
    `functions` are those of the file.
    """
    if isinstance(node, _OPTIONS):
        return set().union(
            *(_changed(inner, functions) for inner in ast.walk(node) if isinstance(inner, ast.stmt) and inner is not node)
        )
    calls = node.decorator_list if isinstance(node, ast.ClassDef | _FUNCTIONS) else [node.value] if isinstance(node, ast.Expr) else []
    names: set[str] = set()
    for call in calls:
        called, given = (call.func, call.args) if isinstance(call, ast.Call) else (call, [])
        names.update(each.id for each in given if isinstance(each, ast.Name))
        if not isinstance(called, ast.Name):
            names |= _assigned(called)
        elif called.id in functions:
            names |= _changed_inside(functions[called.id])
    return names


def _changed_inside(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Return the names of objects that a function changes: its global names, entries that it sets, objects of the methods it calls."""
    names: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Global):
            names.update(node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            names |= _assigned(node.func)
        elif isinstance(node, ast.stmt):
            names.update(*(_assigned(each) for each in _targets(node) if not isinstance(each, ast.Name)))
    return names


def _names(nodes: list[ast.stmt]) -> set[str]:
    return {each.id for node in nodes for each in ast.walk(node) if isinstance(each, ast.Name)}


def _hash_of_cells(kind: type) -> str | None:
    """Return the hash of a class that was typed into a notebook or an interpreter which keeps the lines, or None.

    A name stands for the present object: a class or function of the same module by its lines, a plain value by itself. A value that is
    not plain counts by the statements that assign it in the cell of the class.
    """
    namespace: dict[str, Any] = dict(vars(sys.modules[kind.__module__])) if kind.__module__ in sys.modules else {}
    cell = _cell_of(kind)
    if kind.__qualname__ not in cell:
        return None
    used, waiting = {kind.__qualname__: _text(cell[kind.__qualname__])}, _names(cell[kind.__qualname__])
    while waiting:
        name = waiting.pop()
        if name in used:
            continue
        value = namespace.get(name)
        value = inspect.unwrap(value) if callable(value) else value
        if isinstance(value, type | FunctionType) and value.__module__ == kind.__module__:
            nodes = _cell_of(value).get(value.__name__, [])
        else:
            nodes = [] if name not in namespace or _is_plain(value) else cell.get(name, [])
        if nodes:
            used[name] = _text(nodes)
            waiting |= _names(nodes)
        elif name in namespace and _is_plain(value):
            used[name] = f"{name} = {value!r}"
    return _digest("\n".join(used[name] for name in sorted(used)))


def _cell_of(value: Any) -> _Definitions:
    """Return the definitions of the cell that defines a class or function; none if its lines are not kept."""
    for code in _codes(value):
        try:
            definitions = _definitions("".join(linecache.getlines(code.co_filename)))
        except SyntaxError:
            continue
        if value.__name__ in definitions:
            return definitions
    return {}


def _codes(value: Any) -> Iterator[CodeType]:
    """Iterate over the code of a function, or of the functions of a class itself."""
    for member in vars(value).values() if isinstance(value, type) else (value,):
        function = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "__func__", member))
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            yield code


def _is_plain(value: object) -> bool:
    """Return whether a value is made of numbers, texts and None alone, so that its text depends on the value only."""
    if isinstance(value, tuple | list):
        return all(_is_plain(each) for each in value)
    if isinstance(value, dict):
        return all(_is_plain(each) for entry in value.items() for each in entry)
    return value is None or type(value) in (bool, int, float, str)


def _text(nodes: list[ast.stmt]) -> str:
    return "\n".join(ast.unparse(node) for node in nodes)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
