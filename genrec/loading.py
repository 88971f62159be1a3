"""Import experiments and plug-ins from `FILE.py:NAME` or `MODULE:NAME`.

The file's folder is added to the end of the import path. An experiment can therefore import a sampler from a file beside it, but no
file of the folder takes the place of a library, for example `random.py`.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from dataclasses import fields, is_dataclass
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from genrec import renamed, types
from genrec.command_lines import command_line
from genrec.errors import GenrecError, InputError, UsageError, did_you_mean
from genrec.experiment import Experiment
from genrec.plugin_source import own_line, own_traceback
from genrec.tuning import Tuning


def load(where: str) -> list[Experiment]:
    """Return the experiments that `FILE.py:FUNCTION` or `MODULE:FUNCTION` returns; of a tuning, its experiment."""
    experiments = [each.experiment if isinstance(each, Tuning) else each for each in _returned(where)]
    for experiment in experiments:
        if not isinstance(experiment, Experiment):
            raise UsageError(f"{where} must return an Experiment or a list of them, got {type(experiment).__name__}")
    if not experiments:
        raise UsageError(f"{where} returned an empty list")
    return experiments


def load_tuning(where: str) -> Tuning:
    """Return the tuning that `FILE.py:FUNCTION` or `MODULE:FUNCTION` returns."""
    found = _returned(where)
    if len(found) != 1 or not isinstance(found[0], Tuning):
        got = type(found[0]).__name__ if len(found) == 1 else f"a list of {len(found)}"
        raise UsageError(f"{where} must return a genrec.tuning.Tuning, got {got}; give it the experiment and the values to try")
    return found[0]


def _returned(where: str) -> list[Any]:
    """Return what the function returns, as a list."""
    file, _, function = where.rpartition(":")
    if not file and where.endswith(".py"):
        functions = _list_functions(_module(where), where)
        raise UsageError(f"expected FILE.py:FUNCTION or MODULE:FUNCTION, got {where!r}, a file without a function; {functions}")
    if not file or not function:
        raise UsageError(f"expected FILE.py:FUNCTION or MODULE:FUNCTION, got {where!r}; for example genrec.quickstart:comparison")
    return _call(_module(file), file, function)


def component(where: str, reuse: bool = False) -> object:
    """Return the component that `FILE.py:CLASS` or `MODULE:CLASS` names, built with its defaults.

    The name may also be that of a function that returns a component, or of an instance of a dataclass.
    `reuse` takes the file as it was imported before in this process, so that its classes are those of the experiments.
    """
    module, _, name = where.rpartition(":")
    loaded = _component_module(where, reuse)
    found = _member(loaded, module, name)
    if is_dataclass(found) and not isinstance(found, type):
        return found
    if not callable(found):
        raise UsageError(f"{where} is {found!r}, not a plug-in; {_list_classes(loaded, module)}")
    made = _call(loaded, module, name)
    if not made:
        raise UsageError(f"{where} returned an empty list, expected a plug-in")
    return made[0]


def own_classes(file: str) -> dict[str, type]:
    """Return the public classes that `FILE.py` or `MODULE` defines, by name, in the order of the file. The file is imported again."""
    return {name: value for name, value in _own(_module(file)).items() if isinstance(value, type)}


def member(where: str) -> Any:
    """Return the class or function that `FILE.py:NAME` or `MODULE:NAME` names; see `component` with `reuse`."""
    module, _, name = where.rpartition(":")
    return _member(_component_module(where, reuse=True), module, name)


def explain_exit(error: SystemExit, file: str = "") -> str:
    """Return a message about `sys.exit` in a user's file, with the line that called it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if file and Path(frame.filename) == Path(file).resolve()]
    last = (own or frames)[-1]
    return (
        f"{last.filename}, line {last.lineno}: sys.exit({error.code!r}) was called ({last.line}); an experiment file must return to "
        "genrec: remove the call, or put it below if __name__ == '__main__'"
    )


def with_line(error: UsageError | InputError) -> UsageError | InputError:
    """Return an error of a specification with the line of the user's file that raised it, which tells the rows of a list apart."""
    line = own_line(error)
    return error if line is None or str(line) in str(error) else type(error)(f"{error} (at {line})")


def _component_module(where: str, reuse: bool) -> ModuleType:
    module, _, name = where.rpartition(":")
    if not module and where.endswith(".py"):
        classes = _list_classes(_module(where), where)
        raise UsageError(f"expected FILE.py:CLASS or MODULE:CLASS, got {where!r}, a file without a class; {classes}")
    if not module or not name:
        raise UsageError(f"expected FILE.py:CLASS or MODULE:CLASS, got {where!r}")
    return import_once(module) if reuse else _module(module)


def import_once(file: str) -> ModuleType:
    """Return the module of FILE.py or MODULE as it was imported before in this process, or import it."""
    path = Path(file).resolve()
    before = sys.modules.get(_module_name(path)) if file.endswith(".py") else None
    return before if before is not None and before.__file__ == str(path) else _module(file)


def _module(file: str) -> ModuleType:
    """Import a file and put its folder on the import path, or import a module by its dotted name."""
    if not file.endswith(".py"):
        if not all(name.isidentifier() for name in file.split(".")):
            raise UsageError(f"expected FILE.py:FUNCTION or MODULE:FUNCTION, got {file!r}, neither a .py file nor a module")
        try:
            return importlib.import_module(file)
        except GenrecError:
            raise
        except SystemExit as error:
            raise UsageError(explain_exit(error)) from None
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and error.name is not None and f"{file}.".startswith(f"{error.name}."):
                raise UsageError(f"there is no module {file!r}; expected FILE.py:FUNCTION or MODULE:FUNCTION") from None
            raise UsageError(_own_error(f"{file} cannot be imported", error)) from None
    path = Path(file).resolve()
    if not path.is_file():
        others = [other.name for other in path.parent.glob("*.py")]
        raise UsageError(f"there is no file {file}{did_you_mean(path.name, others)}")
    return _import_file(path, file)


def _import_file(path: Path, file: str) -> ModuleType:
    """Import a file under the name of its stem, or under another name if a library has that name.

    The source is compiled each time. Python's own cache tells two versions of a file apart by size and whole seconds alone, so a quick
    edit could run the old code under the key of the new one.
    """
    name = _module_name(path)
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert isinstance(specification.loader, SourceFileLoader)
    module = importlib.util.module_from_spec(specification)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        exec(specification.loader.source_to_code(path.read_bytes(), str(path)), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        if isinstance(error, SystemExit):
            raise UsageError(explain_exit(error, file)) from None
        if isinstance(error, UsageError | InputError):
            raise with_line(error) from None
        if isinstance(error, GenrecError) or not isinstance(error, Exception):
            raise
        raise UsageError(_own_error(f"{file} cannot be imported", error, path.parent)) from None
    return module


def _module_name(path: Path) -> str:
    """Return the name under which a file is imported. It is part of the keys of the file's classes."""
    return f"genrec_experiment_{path.stem}" if _is_library(path.stem) else path.stem


def _is_library(name: str) -> bool:
    """Return whether a module of this name belongs to Python, to genrec or to an installed package."""
    installed = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    found = PathFinder.find_spec(name, installed)
    return name in sys.stdlib_module_names or name == "genrec" or (found is not None and found.origin is not None)


def _member(module: ModuleType, file: str, name: str) -> Any:
    """Return the module's member of this name. Raises UsageError with the nearest names if there is none."""
    if hasattr(module, name):
        return getattr(module, name)
    if name in renamed.CLASSES:
        raise UsageError(f"{file} has no {name!r}: {name} is now {renamed.CLASSES[name]}")
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    public = getattr(module, "__all__", [key for key in own if key[0] != "_"])
    raise UsageError(f"{file} has no {name!r}; it has: {', '.join(public) or 'nothing'}{did_you_mean(name, public)}")


def _call(module: ModuleType, file: str, name: str) -> list[Any]:
    """Call the module's function or class and return the result as a list."""
    maker = _member(module, file, name)
    if not callable(maker):
        raise UsageError(f"{file}:{name} is {maker!r}, not a function; {_list_functions(module, file)}")
    needed = _required_parameters(maker) if inspect.isfunction(maker) else []
    if needed:
        raise UsageError(
            f"{file}:{name} needs the arguments {', '.join(needed)}; name a function without required parameters: "
            f"{_list_functions(module, file)}"
        )
    try:
        made = maker()
    except (UsageError, InputError) as error:
        raise with_line(error) from None
    except GenrecError:
        raise
    except SystemExit as error:
        raise UsageError(explain_exit(error, file)) from None
    except Exception as error:
        if isinstance(maker, type) and isinstance(error, TypeError) and "required" in str(error):
            raise UsageError(
                f"{file}:{name} cannot be built without arguments ({error}); give its fields defaults, or name a function that "
                "returns an instance instead of the class"
            ) from None
        raise UsageError(_own_error(f"{file}:{name} failed", error)) from None
    return made if isinstance(made, list) else [made]


def _required_parameters(function: Any) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in optional]


def _list_functions(module: ModuleType, file: str) -> str:
    """Return the public functions of a file that may return experiments, one a line, and the command that runs the first."""
    found = {name: value for name, value in _own(module).items() if inspect.isfunction(value) and _may_return_experiments(value)}
    if not found:
        return f"{file} has no public function without required parameters that returns an Experiment or a list of them"
    return f"its functions are:{_with_documentation(found)}\nfor example: {command_line('run', f'{file}:{next(iter(found))}')}"


def _list_classes(module: ModuleType, file: str) -> str:
    """Return the public dataclasses of a file, one a line, and the command that checks the first."""
    found = {name: value for name, value in _own(module).items() if isinstance(value, type) and is_dataclass(value)}
    if not found:
        return f"{file} has no public dataclass"
    return f"its classes are:{_with_documentation(found)}\nfor example: {command_line('check', f'{file}:{next(iter(found))}')}"


def _own(module: ModuleType) -> dict[str, Any]:
    """Return the public functions and classes that a module defines."""
    return {
        name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__ and name[0] != "_"
    }


def _with_documentation(found: dict[str, Any]) -> str:
    """Return names with the first lines of their documentation, one a line; a dataclass without any has its signature there."""
    width = max(map(len, found))
    return "".join(
        f"\n  {name:{width}}  {(inspect.getdoc(value) or '').partition(chr(10))[0]}".rstrip() for name, value in found.items()
    )


def _may_return_experiments(function: Any) -> bool:
    """Return whether a function needs no argument, and has no annotation that rules experiments out."""
    annotation = function.__annotations__.get("return", "Experiment")
    return not _required_parameters(function) and any(name in str(annotation) for name in ("Experiment", "Tuning"))


def _own_error(what: str, error: Exception, folder: Path | None = None) -> str:
    """Return a message with a hint, if the cause is known, and with the file's own traceback.

    Known causes are former names of genrec, and a file beside the experiment that has the name of a library.
    """
    former = renamed.explain(error)
    hint = f": {former} (see the changelog)" if former else _known_fields(error)
    if folder is not None and isinstance(error, ImportError) and error.name and (folder / f"{error.name}.py").is_file():
        hint = hint or f": {error.name} is the name of a library, which comes before your {error.name}.py; rename your file"
    return f"{what}{hint}; its own error:\n{own_traceback(error)}"


def _known_fields(error: Exception) -> str:
    """Return the fields of a class of `genrec.types` that a file builds with an unknown one, for a message; '' for other errors."""
    found = re.search(r"(\w+)\.__(?:init|new)__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    kind = getattr(types, found[1], None) if isinstance(error, TypeError) and found else None
    names = [each.name for each in fields(kind)] if is_dataclass(kind) else list(getattr(kind, "_fields", ()))
    if found is None or not names:
        return ""
    return f": {found[1]} has no field {found[2]!r}; its fields are {', '.join(names)}{did_you_mean(found[2], names)}"
