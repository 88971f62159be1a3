"""Components by class name, for the command line: `--align.negatives Uniform`.

A name is looked up among the public classes that satisfy the protocol of the field; nothing is registered. A class from elsewhere is
named `FILE.py:CLASS` or `MODULE:CLASS`.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import FunctionType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from genrec import loading, renamed
from genrec.errors import UsageError, did_you_mean
from genrec.types import (
    Advantage,
    Baseline,
    CandidateFilter,
    EvaluationMetric,
    HistoryViews,
    ItemEncoder,
    ItemLoss,
    ItemVectors,
    NegativeSampler,
    Objective,
    PolicySpecification,
    PreferenceLoss,
    Proposer,
    Quantizer,
    Reward,
    Source,
    Split,
    Surrogate,
    ValueSchedule,
)

MODULES: dict[type, tuple[str, ...]] = {  # protocol of a field -> the public modules with its classes
    Source: ("genrec.data.sources", "genrec.testing"),
    Split: ("genrec.data.splits",),
    ItemEncoder: ("genrec.embeddings",),
    Quantizer: ("genrec.tokenizer",),
    PolicySpecification: ("genrec.model", "genrec.baselines"),
    Baseline: ("genrec.baselines",),
    ItemLoss: ("genrec.baselines",),
    Objective: ("genrec.objectives",),
    HistoryViews: ("genrec.objectives",),
    Proposer: ("genrec.preference.candidates",),
    Advantage: ("genrec.preference.policy_gradient",),
    Surrogate: ("genrec.preference.policy_gradient",),
    PreferenceLoss: ("genrec.preference.losses",),
    NegativeSampler: ("genrec.preference.negatives",),
    CandidateFilter: ("genrec.preference.filters",),
    Reward: ("genrec.preference.rewards", "genrec.preference.reward_models"),
    ItemVectors: ("genrec.preference.vectors",),
    ValueSchedule: ("genrec.preference.schedules",),
    EvaluationMetric: ("genrec.evaluation",),
}

NAMES_IN_PAPERS = {  # in lower case without hyphens -> the public class
    "sdpo": "SoftmaxDPO",
    "cdpo": "ConservativeDPO",
    "rdpo": "RobustDPO",
    "slic": "Hinge",
    "slichf": "Hinge",
    **dict.fromkeys(("ecpo", "grpo", "dapo", "gspo", "rloo"), "PolicyGradient"),
    "recr1": "ListPolicyGradient",
    "apao": "PrefixContrast",
    **dict.fromkeys(("cl4srec", "duorec"), "ViewContrast"),
    "ppo": "ProximalPolicy",
}


def kinds_of(component: Any, field: str) -> tuple[type, ...]:
    """Return the protocols of the components that a field may hold, or () if its value is not chosen by class name.

    `component` is a dataclass or its class. An optional component of one class (`Align | None`) counts too.
    """
    return tuple(
        kind for kind in _types(component, field) if kind in MODULES or (is_dataclass(kind) and is_optional(component, field))
    )


def is_optional(component: Any, field: str) -> bool:
    """Return whether a field may be None."""
    return type(None) in _types(component, field)


def holds_number(component: Any, field: str) -> bool:
    """Return whether a field may hold a number in place of a component."""
    return float in _types(component, field)


def _types(component: Any, field: str) -> list[Any]:
    owner: Any = component if isinstance(component, type) else type(component)
    try:
        return _alternatives(_hints(owner)[field])
    except NameError:  # a plug-in imports a type only for type checkers
        return []


@cache  # annotations are text and slow to evaluate
def _hints(owner: Any) -> dict[str, Any]:
    return get_type_hints(owner, include_extras=True)


def _alternatives(hint: Any) -> list[Any]:
    """Return the members of a union, also of one that is the metadata of an annotation."""
    if get_origin(hint) in (Annotated, Union, UnionType):
        return [each for inner in get_args(hint) for each in _alternatives(inner)]
    return [hint]


@cache
def classes_of(kinds: tuple[type, ...]) -> dict[str, type]:
    """Return the public classes that satisfy one of the protocols, by name."""
    found: dict[str, type] = {}
    for kind in kinds:
        if is_dataclass(kind):
            found[kind.__name__] = kind
        for name in MODULES.get(kind, ()):
            for value in _public(name):
                if is_dataclass(value) and issubclass(value, kind):
                    found.setdefault(value.__name__, value)
    return dict(sorted(found.items()))


def _public(name: str) -> list[type]:
    """Return the public classes of a module: those in `__all__`, or those that it defines."""
    module = importlib.import_module(name)
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == name and key[0] != "_"]
    members = [getattr(module, key) for key in getattr(module, "__all__", own)]
    return [value for value in members if isinstance(value, type)]


def class_named(kinds: tuple[type, ...], name: str) -> Any:
    """Return a public class of these kinds by its name, or what `FILE.py:CLASS` or `MODULE:CLASS` names; None if there is none."""
    return loading.member(name) if ":" in name else classes_of(kinds).get(name)


def public_fields() -> set[str]:
    """Return the names of the fields of all public classes, for messages; this imports all of them."""
    return {field.name for kind in MODULES for each in classes_of((kind,)).values() for field in fields(each)}


def required(maker: Any) -> list[str]:
    """Return the fields without a default of a dataclass; [] for a function or None."""
    return [field.name for field in fields(maker) if _is_required(field)] if isinstance(maker, type) and is_dataclass(maker) else []


def choose(kinds: tuple[type, ...], name: str, path: str, given: Mapping[str, object]) -> object:
    """Return the component of a class, with the defaults of the class.

    Args:
        kinds: the protocols of the field.
        name: a public class, `FILE.py:CLASS` or `MODULE:CLASS`.
        path: the key path of the field, for messages.
        given: the values of the fields of a class that has fields without a default.

    Raises:
        UsageError: there is no such class, it does not satisfy the protocol, or a field without a default has no value.

    """
    wanted, classes, maker = " or ".join(kind.__name__ for kind in kinds), classes_of(kinds), class_named(kinds, name)
    if maker is None:
        inner = [f"--{path}.{field}" for kind in kinds for field in _fields_for(kind, name)]
        if inner:
            raise UsageError(f"{name} is no {wanted} but a component of one; did you mean {inner[0].replace('_', '-')} {name}?")
        former = f"{name} is now {renamed.CLASSES[name]}; " if name in renamed.CLASSES else ""
        meant = NAMES_IN_PAPERS.get(name.lower().replace("-", ""))
        near = f"; did you mean {meant!r}?" if meant in classes else did_you_mean(name, classes)
        raise UsageError(f"{former}there is no {wanted} {name!r}; the choices: {', '.join(classes)}, or FILE.py:CLASS{near}")
    needed = required(maker)
    if set(needed) - set(given):
        raise UsageError(_needs(name, maker, path))
    reuse = ":" in name and not needed
    component = loading.component(name, reuse=True) if reuse else maker(**given)
    if not any(isinstance(component, kind) for kind in kinds):
        raise UsageError(f"{name} is no {wanted}: {' or '.join(map(_described, kinds))}, see genrec.types")
    return component


def _fields_for(kind: type, name: str) -> list[str]:
    """Return the nearest fields inside a dataclass with default values that may hold a public class of this name."""
    level: list[Any] = [kind()] if is_dataclass(kind) and not required(kind) else []
    while level:
        found = [field.name for each in level for field in fields(each) if name in classes_of(kinds_of(each, field.name))]
        if found:
            return found
        inner = (getattr(each, field.name) for each in level for field in fields(each))
        level = [each for each in inner if is_dataclass(each) and not isinstance(each, type)]
    return []


def _needs(name: str, maker: Any, path: str) -> str:
    """Return a message about a class with fields without a default: the flags that give them, and the line for the file."""
    needed = [field for field in fields(maker) if _is_required(field)]
    typed = ", ".join(f"{field.name} ({field.type})" for field in needed)
    values = ", ".join(f"{field.name}=..." for field in needed)
    code = (
        f"in the experiment's file, after 'from dataclasses import replace' and 'from {public_module(maker)} import "
        f"{maker.__name__}': {replacing(path, f'{maker.__name__}({values})')}"
    )
    if any(_holds_several(maker, field.name) for field in needed):
        return f"{name} has fields without a default, which the command line cannot give: {typed}; write {code}"
    flags = " ".join(
        f"--{path}.{field.name} {'CLASS' if kinds_of(maker, field.name) else 'VALUE'}".replace("_", "-") for field in needed
    )
    return f"{name} has fields without a default: {typed}; give them too: {flags}; or write {code}"


def _holds_several(maker: Any, field: str) -> bool:
    """Return whether a field holds a tuple of components."""
    return any(kind in MODULES for hint in _types(maker, field) for inner in get_args(hint) for kind in _alternatives(inner))


def public_module(maker: Any) -> str:
    """Return the outermost package that exports a class in its `__all__`, or else the module that defines it."""
    names = maker.__module__.split(".")
    packages = (".".join(names[:depth]) for depth in range(1, len(names)))
    found = (name for name in packages if maker.__name__ in getattr(sys.modules.get(name), "__all__", ()))
    return next(found, maker.__module__)


def replacing(path: str, code: str) -> str:
    """Return the Python expression that replaces the field at a path of `experiment` by some code."""
    owner, _, field = path.rpartition(".")
    place = re.sub(r"\.(\d+)", r"[\1]", f"experiment.{owner}".rstrip("."))
    if field.isdecimal():  # of a tuple
        expression = f"(*{place}[:{field}], {code}, *{place}[{int(field) + 1}:])"
    else:
        expression = f"replace({place}, {field}={code})"
    return replacing(owner, expression) if owner else expression


def _members(kind: type) -> list[str]:
    """Return the methods and properties of a protocol."""
    return [
        name
        for name, value in vars(kind).items()
        if isinstance(value, FunctionType | property) and (name[0] != "_" or name == "__call__")
    ]


def _described(kind: type) -> str:
    """Return what a component of this kind must have."""
    return f"{kind.__name__} has {', '.join(_members(kind))}" if kind in MODULES else f"only {kind.__name__} is one"


def _is_required(field: Any) -> bool:
    return bool(field.init) and field.default is MISSING and field.default_factory is MISSING
