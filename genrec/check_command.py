"""The command `genrec check`: the contract of plug-ins, and their checks of an experiment that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from genrec import loading
from genrec.baselines import SASRec
from genrec.errors import GenrecError, UsageError
from genrec.experiment import SFT, Align, Evaluate, Experiment
from genrec.objectives import PolicyGradient, Preference, ViewContrast
from genrec.plugin_source import name_with_place, short
from genrec.preference.candidates import Sampled
from genrec.preference.negatives import FaissNeighbors, Filtered, Uniform
from genrec.preference.rewards import Popular
from genrec.testing import ContractError, Shop, check_component
from genrec.testing.component_checks import KINDS, kind_of, misspelt_method
from genrec.tokenizer import Tokenize
from genrec.types import PreferenceLoss


def _preference(loss: PreferenceLoss) -> Preference:
    """Return the objective with a loss, and with a reward if the loss needs one."""
    return Preference(loss=loss, reward=Popular() if loss.needs.rewards else None)


HOLDERS: dict[str, Callable[[Any], dict[str, Any]]] = {  # protocol -> the fields of an experiment that holds the component
    "PolicySpecification": lambda policy: {"policy": policy},
    "Objective": lambda objective: {"align": Align(objective)},
    "Proposer": lambda proposer: {"align": Align(Preference(candidates=proposer))},
    "HistoryViews": lambda views: {"sft": SFT(objective=ViewContrast(views=views))},
    "NegativeSampler": lambda sampler: {"align": Align(Preference(candidates=Sampled(sampler)))},
    "PreferenceLoss": lambda loss: {"align": Align(_preference(loss=loss))},
    "Reward": lambda reward: {"align": Align(Preference(reward=reward, chosen="best"))},
    "Advantage": lambda advantage: {"align": Align(PolicyGradient(advantage=advantage))},
    "Surrogate": lambda surrogate: {"align": Align(PolicyGradient(surrogate=surrogate))},
    "CandidateFilter": lambda candidate_filter: {
        "align": Align(Preference(candidates=Sampled(Filtered(Uniform(), (candidate_filter,)))))
    },
    "Source": lambda source: {"source": source},
    "Split": lambda split: {"split": split},
    "Quantizer": lambda quantizer: {"tokenize": Tokenize(quantizer=quantizer)},
    "Baseline": lambda baseline: {"policy": baseline},
    "ItemEncoder": lambda encoder: {"embed": encoder},
    "ItemLoss": lambda loss: {"policy": SASRec(loss=loss), "tokenize": None},
    "ItemVectors": lambda vectors: {"align": Align(Preference(candidates=Sampled(FaissNeighbors(vectors=vectors))))},
    "EvaluationMetric": lambda metric: {"evaluate": Evaluate(metrics=(metric,))},
}


NO_PLUGINS = (nn.Module, tuple, BaseException)  # base classes of helpers in the file of a plug-in


class Named(NamedTuple):
    """A name on the command line, `FILE.py:CLASS`, with the function that returns its component."""

    where: str
    build: Callable[[], object]


class Skipped(NamedTuple):
    """A class of a file that is no plug-in."""

    where: str


def run(names: Sequence[str], raw: Path, say: Callable[[str], None] = print) -> int:
    """Check the plug-ins that `names` list and say a line for each as soon as it is known. Return the exit code.

    A name is `FILE.py:CLASS`, or `FILE.py` for all plug-ins that the file defines; a module may stand for the file. The error of
    a single `FILE.py:CLASS` is raised. Of several plug-ins all are checked, and the exit code is 1 if one fails.
    """
    if len(names) == 1 and _has_class(names[0]):
        say("\n".join(check(loading.component(names[0]), raw)))
        return 0
    kept, failed = 0, []
    for each in _listed(names):
        if isinstance(each, Skipped):
            say(f"{each.where}: not checked, because it has the methods of no protocol of plug-ins")
            continue
        try:
            say("\n".join(check(each.build(), raw)))
            kept += 1
        except GenrecError as error:
            say(f"FAILED {error}")
            failed.append(each.where.rpartition(":")[2])
    if not kept and not failed:
        raise UsageError(
            f"{' and '.join(names)}: no class has the methods of a protocol of plug-ins; see docs/plugins.md in the repository of "
            "genrec"
        )
    names_of_failed = f"; failed: {', '.join(failed)}" if failed else ""
    say(f"{kept} of {kept + len(failed)} plug-ins keep their contract{names_of_failed}")
    return 1 if failed else 0


def _has_class(name: str) -> bool:
    return ":" in name


def _listed(names: Sequence[str]) -> Iterator[Named | Skipped]:
    """Iterate over the components that `names` list. A file is imported once, so that all components share its classes."""
    imported: set[str] = set()
    for name in names:
        file = name.rpartition(":")[0] if _has_class(name) else name
        if _has_class(name):
            yield Named(name, partial(loading.component, name, reuse=file in imported))
        else:
            for own, kind in loading.own_classes(file).items():
                where = f"{file}:{own}"
                if issubclass(kind, NO_PLUGINS) or not _may_be_plugin(kind):
                    if is_dataclass(kind):
                        yield Skipped(where)
                    continue
                yield Named(where, partial(loading.component, where, reuse=True))
        imported.add(file)


def _may_be_plugin(kind: type) -> bool:
    """Return whether a class has the methods of a protocol, maybe misspelt. It need not be a dataclass, which its check tells."""
    if any(issubclass(kind, each.protocol) for each in KINDS):
        return True
    return is_dataclass(kind) and (any("__call__" in vars(each) for each in kind.__mro__) or misspelt_method(kind) is not None)


def check(component: object, raw: Path) -> list[str]:
    """Check a component and return lines to print. Raises ContractError if it breaks its contract.

    The last check is `check(experiment)`, on an experiment with the component and otherwise default settings. A component may refuse
    it, since it may need other settings; the refusal is printed. Any other error of the method breaks the contract.
    """
    if isinstance(component, Experiment):
        raise UsageError(f"{component.name} is an Experiment, not a plug-in; run it with 'genrec run FILE.py:FUNCTION'")
    check_component(component, raw)
    lines = [f"{short(component)} keeps its contract"]
    try:
        fields: dict[str, Any] = {"name": "check", "source": Shop()} | HOLDERS[kind_of(component).protocol.__name__](component)
        Experiment(**fields)
    except UsageError as error:
        if error.__cause__ is not None:  # not a refusal, see `genrec.experiment`
            raise ContractError(str(error)) from error.__cause__
        lines.append(f"an experiment with {name_with_place(type(component))} and default settings is refused: {error}")
    return lines
