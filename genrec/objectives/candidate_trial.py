"""A trial of the user's own proposers on a few examples, so that their errors are found before a training begins."""

from __future__ import annotations

from genrec import plugin_errors
from genrec.data.examples import epoch_steps
from genrec.objectives.checked_proposer import CheckedProposer
from genrec.objectives.one_negative import check_one_negative
from genrec.objectives.policy_gradient import PolicyGradient
from genrec.objectives.preferences import Preference
from genrec.objectives.prefix_contrast import PrefixContrast
from genrec.objectives.supervised import examples_of
from genrec.plugin_source import components, plugins_in
from genrec.types import Objective, ObjectiveContext, Proposer

Proposing = Preference | PolicyGradient | PrefixContrast


def proposing_parts(objective: Objective) -> list[Proposing]:
    """Return the objectives with a proposer of the user among an objective and its parts, such as those of `Rounds`."""
    found = [each for each in (objective, *components(objective)) if isinstance(each, Proposing)]
    return [each for each in found if any(isinstance(plugin, Proposer) for plugin in plugins_in(each.candidates))]


def try_candidates(objective: Objective, context: ObjectiveContext) -> None:
    """Let the user's own proposers of an objective propose candidates for the first examples, and check these.

    Raises InputError for candidates that break the contract, and UsageError for those that the objective cannot use. What is built is
    dropped, so `context` needs frozen copies of its own.
    """
    for part in proposing_parts(objective):
        examples = examples_of(context.source, part.targets, feedback=part.feedback)
        known = context._replace(epoch_steps=epoch_steps(len(examples), context.batch_size))
        with plugin_errors.attribute_to(part.candidates, "while it was tried on the first examples, before the training"):
            proposer = CheckedProposer(part.candidates, known, masks=isinstance(part, PolicyGradient))
            if not isinstance(part, Preference):
                proposer.check_not_listed(part)
            candidates = proposer.of_first_examples(examples, known)
        if isinstance(part, Preference):
            check_one_negative(part.loss, part.candidates, candidates)
