"""The command `genrec check`: the contract of a plug-in, and its check of an experiment that holds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from genrec.baselines import SASRec
from genrec.errors import UsageError
from genrec.experiment import Align, Evaluate, Experiment
from genrec.objectives import Preference
from genrec.plugin_source import name_with_place, short
from genrec.preference.candidates import Sampled
from genrec.preference.negatives import FaissNeighbors, Filtered, Uniform
from genrec.preference.rewards import Popular
from genrec.testing import ContractError, Shop, check_component
from genrec.testing.component_checks import kind_of
from genrec.tokenizer import Tokenize
from genrec.types import PreferenceLoss


def _preference(loss: PreferenceLoss) -> Preference:
    """Return the objective with a loss, and with a reward if the loss needs one."""
    return Preference(loss=loss, reward=Popular() if loss.needs.rewards else None)


HOLDERS: dict[str, Callable[[Any], dict[str, Any]]] = {  # protocol -> the fields of an experiment that holds the component
    "PolicySpecification": lambda policy: {"policy": policy},
    "Objective": lambda objective: {"align": Align(objective)},
    "Proposer": lambda proposer: {"align": Align(Preference(candidates=proposer))},
    "NegativeSampler": lambda sampler: {"align": Align(Preference(candidates=Sampled(sampler)))},
    "PreferenceLoss": lambda loss: {"align": Align(_preference(loss=loss))},
    "Reward": lambda reward: {"align": Align(Preference(reward=reward))},
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
