"""The source of plug-ins, for messages: where a plug-in's class stands, and which plug-in raised an error in which line.

A plug-in is a dataclass from outside this package: a component that an experiment imports from the user's own files.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType, NoneType
from typing import NamedTuple

from genrec.command_lines import command_line
from genrec.source_hash import source_lines

PACKAGE = Path(__file__).resolve().parent
NO_OBJECTS = frozenset({bool, int, float, str, NoneType, tuple, list})
MAX_ERROR_LENGTH = 300  # characters of an error's text, or of a component, in the first line of a message


class Place(NamedTuple):
    """A line of a file."""

    path: str
    line: int

    def __str__(self) -> str:
        path = Path(self.path)
        return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{self.line}"


class Failure(NamedTuple):
    """An error in the code of a plug-in."""

    plugin: object
    place: Place  # the innermost line of the plug-in's file that was running
    own_traceback: str  # the traceback from the plug-in's first line on


def is_plugin_class(kind: type) -> bool:
    """Return whether a class is defined outside this package."""
    return kind.__module__.partition(".")[0] not in ("genrec", "builtins")


def named_components(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Iterate over everything that a dataclass holds, however deep, in tuples and lists too, with key paths below `path`."""
    if is_dataclass(value) and not isinstance(value, type):
        children: list[tuple[str, object]] = [(each.name, getattr(value, each.name)) for each in fields(value)]
    elif isinstance(value, tuple | list):
        children = [(str(place), child) for place, child in enumerate(value)]
    else:
        return
    for name, child in children:
        below = f"{path}.{name}" if path else name
        yield below, child
        yield from named_components(child, below)


def components(value: object) -> Iterator[object]:
    """Iterate over everything that a dataclass holds, however deep, in tuples and lists too; the value itself is left out."""
    return (component for _, component in named_components(value))


def named_objects(value: object) -> Iterator[tuple[str, object]]:
    """Iterate over `named_components` without numbers, texts, None, tuples and lists.

    Python takes long to check whether a value has the methods of a protocol, and most values have none.
    """
    return ((path, each) for path, each in named_components(value) if type(each) not in NO_OBJECTS)


def plugins_in(value: object) -> list[object]:
    """Return the plug-ins among a component and everything that it holds, the outer ones first."""
    return [each for each in (value, *components(value)) if is_dataclass(each) and is_plugin_class(type(each))]


def place_of(kind: type) -> Place | None:
    """Return where a class is defined, or None if it has no source file, such as one that was typed into an interpreter."""
    try:
        path, (_, line) = inspect.getsourcefile(kind), source_lines(kind)
    except (OSError, TypeError):
        return None
    return None if path is None else Place(str(Path(path).resolve()), line)


def name_with_place(kind: type) -> str:
    """Return the name of a class, for a plug-in followed by its file and line: `Rare (mine.py:12)`."""
    place = place_of(kind) if is_plugin_class(kind) else None
    return kind.__qualname__ if place is None else f"{kind.__qualname__} ({place})"


def check_command(kind: type) -> str:
    """Return the command that checks a plug-in's class on its own."""
    place = place_of(kind)
    return command_line("check", f"{'FILE.py' if place is None else str(place).rpartition(':')[0]}:{kind.__qualname__}")


def short(value: object) -> str:
    """Return the type and text of an error, or a component with its fields, in one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= MAX_ERROR_LENGTH else f"{text[:MAX_ERROR_LENGTH]}..."


def own_line(error: BaseException) -> Place | None:
    """Return the innermost line of the traceback that is neither of this package nor of an installed library, or None."""
    found = (Place(frame.f_code.co_filename, line) for frame, line in reversed(_frames(error)) if _is_own(frame))
    return next(found, None)


def own_traceback(error: BaseException) -> str:
    """Return the traceback from the first line on that is neither of this package nor of an installed library.

    A file that Python cannot read has no such line: only the error, which names the place. Other errors keep all lines.
    """
    frames = _frames(error)
    first = next((number for number, (frame, _) in enumerate(frames) if _is_own(frame)), None)
    if first is None:
        first = len(frames) if isinstance(error, SyntaxError) else 0
    return _traceback_from(error, first)


def find_failure(error: BaseException, plugins: Sequence[object]) -> Failure | None:
    """Return the plug-in that raised an error, or None if no line of the traceback stands in the file of a plug-in."""
    frames = _frames(error)
    files: dict[str, list[object]] = {}
    for plugin in plugins:
        for file in _files_of(type(plugin)):
            files.setdefault(file, []).append(plugin)
    inside = [number for number, (frame, _) in enumerate(frames) if _file(frame) in files]
    if not inside:
        return None
    innermost, line = frames[inside[-1]]
    candidates = files[_file(innermost)]
    plugin = candidates[0]
    for number in reversed(inside):  # a file may hold several plug-ins, and helpers that belong to none
        running = [each for each in candidates if _runs_method(frames[number][0], type(each))]
        if running:
            plugin = running[0]
            break
    return Failure(plugin, Place(_file(innermost), line), _traceback_from(error, inside[0]))


def _frames(error: BaseException) -> list[tuple[FrameType, int]]:
    """Return the frames of the traceback with their current lines, the outermost first."""
    return list(traceback.walk_tb(error.__traceback__))


def _files_of(kind: type) -> set[str]:
    """Return the files of a class and of its methods. A class of a notebook has no source file, but its methods have a cell."""
    place, methods = place_of(kind), [member for member in vars(kind).values() if isinstance(member, FunctionType)]
    cells = {_resolved(method.__code__) for method in methods if method.__code__.co_filename != "<string>"}  # made by dataclass
    return cells if place is None else cells | {place.path}


def is_own_file(name: str) -> bool:
    """Return whether a file of Python code is neither of this package nor of Python or an installed library."""
    path = Path(name)
    return path.is_file() and not _is_installed(path)


def _is_own(frame: FrameType) -> bool:
    return is_own_file(frame.f_code.co_filename)


def _file(frame: FrameType) -> str:
    return _resolved(frame.f_code)


def _resolved(code: CodeType) -> str:
    return str(Path(code.co_filename).resolve())


def _runs_method(frame: FrameType, kind: type) -> bool:
    """Return whether a frame runs a method of the class, or a function within one."""
    return frame.f_code.co_qualname.startswith(f"{kind.__qualname__}.")


def _is_installed(path: Path) -> bool:
    parts = path.resolve().parts
    return path.resolve().is_relative_to(PACKAGE) or "site-packages" in parts or "dist-packages" in parts or _is_standard(path)


def _is_standard(path: Path) -> bool:
    return path.resolve().is_relative_to(Path(inspect.getfile(inspect)).resolve().parent)


def _traceback_from(error: BaseException, first: int) -> str:
    """Return the formatted traceback without the frames before the number `first`."""
    shown = error.__traceback__
    for _ in range(first):
        assert shown is not None
        shown = shown.tb_next
    return "".join(traceback.format_exception(type(error), error, shown))
