"""A trial of the user's own proposers and samplers on a few examples, so that their errors are found before a training begins."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec import plugin_errors
from genrec.errors import InputError
from genrec.objectives.checked_proposer import CheckedProposer
from genrec.objectives.one_negative import check_one_negative
from genrec.objectives.policy_gradient import PolicyGradient
from genrec.objectives.preferences import Preference
from genrec.objectives.prefix_contrast import PrefixContrast
from genrec.objectives.supervised import examples_of
from genrec.objectives.training_length import with_length
from genrec.plugin_source import check_command, components, name_with_place, plugins_in
from genrec.types import Candidates, NegativeSampler, Objective, ObjectiveContext, Proposer

Proposing = Preference | PolicyGradient | PrefixContrast
TRIED = 16  # examples of a trial: the first ones
TRIED_AGAIN = 256  # examples from the whole training set, if the first ones get nothing to compare


def proposing_parts(objective: Objective) -> list[Proposing]:
    """Return the objectives with a proposer or sampler of the user among an objective and its parts, such as those of `Rounds`."""
    found = [each for each in (objective, *components(objective)) if isinstance(each, Proposing)]
    return [each for each in found if _own_parts(each)]


def try_candidates(objective: Objective, context: ObjectiveContext) -> None:
    """Let the user's own proposers and samplers give candidates for the first examples, and check these.

    Raises InputError for candidates that break the contract and for preferences without anything to compare, and UsageError for
    candidates that the objective cannot use. What is built is dropped, so `context` needs frozen copies of its own.
    """
    for part in proposing_parts(objective):
        given = examples_of(context.source, part.targets, feedback=part.feedback)
        known = with_length(context, given)
        with plugin_errors.attribute_to(part.candidates, "while it was tried on the first examples, before the training"):
            proposer = CheckedProposer(part.candidates, known, masks=isinstance(part, PolicyGradient))
            if not isinstance(part, Preference):
                proposer.check_not_listed(part)
            examples = proposer.examples(given)
            candidates = proposer.of_examples(examples, torch.arange(min(TRIED, len(examples))), known)
            if isinstance(part, Preference) and _is_empty(part, candidates):
                spread = _spread(len(examples))
                if _is_empty(part, proposer.of_examples(examples, spread, known)):
                    raise InputError(_nothing_to_compare(part, len(spread)))
        if isinstance(part, Preference):
            check_one_negative(part.loss, part.candidates, candidates)


def _own_parts(part: Proposing) -> list[object]:
    """Return the proposers and samplers of the user among the candidates of an objective, the outer ones first."""
    return [plugin for plugin in plugins_in(part.candidates) if isinstance(plugin, Proposer | NegativeSampler)]


def _is_empty(part: Preference, candidates: Candidates) -> bool:
    """Return whether no row has two candidates to compare. Proposers that leave out rows on purpose may have none at first."""
    return part.loss.needs.positive and candidates.rows is None and not bool((candidates.mask.sum(1) > 1).any())


def _spread(number: int) -> Tensor:
    """Return the places int64 [X] of at most `TRIED_AGAIN` of `number` examples, at equal distances."""
    count = min(TRIED_AGAIN, number)
    return torch.arange(count) * number // count


def _nothing_to_compare(part: Preference, tried: int) -> str:
    kind = type(_own_parts(part)[0])
    return (
        f"{name_with_place(kind)} gave no negative to any of {tried} training examples, so the preference loss would be 0 in every "
        f"step; let it return items, 1..N, with 0 only at places without a candidate, and test it with '{check_command(kind)}'"
    )
