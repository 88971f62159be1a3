"""Import experiments and plug-ins from `FILE.py:NAME` or `MODULE:NAME`.

The file's folder is put on the import path, so that an experiment can import a sampler from a file beside it.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from genrec import renamed
from genrec.errors import GenrecError, UsageError
from genrec.experiment import Experiment


def load(where: str) -> list[Experiment]:
    """Return the experiments that `FILE.py:FUNCTION` or `MODULE:FUNCTION` returns."""
    file, _, function = where.rpartition(":")
    if not file or not function:
        raise UsageError(f"expected FILE.py:FUNCTION or MODULE:FUNCTION, got {where!r}; for example genrec.quickstart:comparison")
    experiments = _call(_module(file), file, function)
    for experiment in experiments:
        if not isinstance(experiment, Experiment):
            raise UsageError(f"{where} must return an Experiment or a list of them, got {type(experiment).__name__}")
    if not experiments:
        raise UsageError(f"{where} returned an empty list")
    return experiments


def component(where: str) -> object:
    """Return the component that `FILE.py:CLASS` or `MODULE:CLASS` names, built with its defaults."""
    module, _, name = where.rpartition(":")
    if not module or not name:
        raise UsageError(f"expected FILE.py:CLASS or MODULE:CLASS, got {where!r}")
    return _call(_module(module), module, name)[0]


def _module(file: str) -> ModuleType:
    """Import a file and put its folder on the import path, or import a module by its dotted name."""
    if not file.endswith(".py"):
        if not all(name.isidentifier() for name in file.split(".")):
            raise UsageError(f"expected FILE.py:FUNCTION or MODULE:FUNCTION, got {file!r}, neither a .py file nor a module")
        try:
            return importlib.import_module(file)
        except GenrecError:
            raise
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and error.name is not None and f"{file}.".startswith(f"{error.name}."):
                raise UsageError(f"there is no module {file!r}; expected FILE.py:FUNCTION or MODULE:FUNCTION") from None
            raise UsageError(_own_error(f"{file} cannot be imported", error)) from None
    path = Path(file).resolve()
    if not path.is_file():
        raise UsageError(f"there is no file {file}")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.path.insert(0, str(path.parent))
    sys.modules[path.stem] = module
    try:
        specification.loader.exec_module(module)
    except GenrecError:
        raise
    except Exception as error:
        raise UsageError(_own_error(f"{file} cannot be imported", error)) from None
    return module


def _call(module: ModuleType, file: str, name: str) -> list[Any]:
    """Call the module's function or class and return the result as a list."""
    maker = getattr(module, name, None)
    if maker is None:
        if name in renamed.CLASSES:
            raise UsageError(f"{file} has no {name!r}: {name} is now {renamed.CLASSES[name]}")
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        public = getattr(module, "__all__", [key for key in own if key[0] != "_"])
        raise UsageError(f"{file} has no {name!r}; it has: {', '.join(public) or 'nothing'}")
    try:
        made = maker()
    except GenrecError:
        raise
    except Exception as error:
        if isinstance(maker, type) and isinstance(error, TypeError) and "required" in str(error):
            raise UsageError(
                f"{file}:{name} cannot be built without arguments ({error}); give its fields defaults, or name a function that "
                "returns an instance instead of the class"
            ) from None
        raise UsageError(_own_error(f"{file}:{name} failed", error)) from None
    return made if isinstance(made, list) else [made]


def _own_error(what: str, error: Exception) -> str:
    """Return a message with the present name if the file uses a former one, and with the file's own traceback."""
    former = renamed.explain(error)
    hint = f": {former} (see the changelog)" if former else ""
    return f"{what}{hint}; its own error:\n{''.join(traceback.format_exception(error))}"
