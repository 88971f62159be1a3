"""check_advantage and check_surrogate: built-in ones pass, and each broken one raises its message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from stable_ids import stable_id
from torch import Tensor

from genrec.check_command import check
from genrec.preference.policy_gradient import (
    BoundedGradient,
    Clip,
    EarlyClip,
    GroupAdvantage,
    LeaveOneOutAdvantage,
    Reinforce,
    SequenceClip,
    SiblingAdvantage,
    WindowedAdvantage,
)
from genrec.testing import ContractError, check_advantage, check_surrogate
from genrec.types import Advantage, Advantages, CandidateGroups, GroupLogProbs, Surrogate, SurrogateTerms

ADVANTAGES: list[Advantage] = [
    GroupAdvantage(), GroupAdvantage(std="population", epsilon=0.0), GroupAdvantage(std="none"), LeaveOneOutAdvantage(),
    SiblingAdvantage(), WindowedAdvantage(), WindowedAdvantage(LeaveOneOutAdvantage(), place=1, size=2.0),
    WindowedAdvantage(SiblingAdvantage()),
]  # fmt: skip
SURROGATES: list[Surrogate] = [Clip(), Clip(high=0.28), EarlyClip(), SequenceClip(), Reinforce(), BoundedGradient()]


@pytest.mark.parametrize("advantage", ADVANTAGES, ids=stable_id)
def test_built_in_advantages_keep_the_contract(advantage: Advantage) -> None:
    check_advantage(advantage)


@pytest.mark.parametrize("surrogate", SURROGATES, ids=stable_id)
def test_built_in_surrogates_keep_the_contract(surrogate: Surrogate) -> None:
    check_surrogate(surrogate)


@dataclass(frozen=True)
class Ranks:
    """A valid advantage as a user would write it: 1 for the best reward of a group, -1 for the worst."""

    change: Callable[[Advantages, CandidateGroups], object] = lambda found, groups: found

    def estimate(self, groups: CandidateGroups) -> Advantages:
        """Return the advantages, float32 [X, M]."""
        high = groups.rewards.masked_fill(~groups.mask, -torch.inf).amax(1, keepdim=True)
        low = groups.rewards.masked_fill(~groups.mask, torch.inf).amin(1, keepdim=True)
        spread = (high > low).squeeze(1)
        values = (groups.rewards == high).float() - (groups.rewards == low).float()
        return self.change(Advantages(values.masked_fill(~groups.mask | ~spread.unsqueeze(1), 0.0), spread), groups)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found, groups: found.values, r"must return genrec\.types\.Advantages, got Tensor"),
        (lambda found, groups: found._replace(values=found.values.mean(1)), r"values must be float \[6, 5\] or \[6, 5, 3\], got"),
        (lambda found, groups: found._replace(spread=found.spread.float()), r"spread must be bool \[6\]"),
        (lambda found, groups: found._replace(values=found.values / found.spread.float().unsqueeze(1)), "values are not finite"),
        (lambda found, groups: found._replace(values=found.values + 1), "values of masked candidates are not 0"),
        (lambda found, groups: found._replace(spread=~found.spread), "spread is true for a group with equal rewards"),
        (lambda found, groups: found._replace(spread=found.spread & False, values=0 * found.values), "no group would be learned from"),
        (lambda found, groups: found._replace(values=-found.values), "a higher reward must not give a lower advantage"),
        (lambda found, groups: found._replace(values=found.values * groups.rewards.sum()), "masked candidates change values"),
        (lambda found, groups: found._replace(values=found.values * groups.mask.sum()), "change with the other groups"),
        (lambda found, groups: found._replace(values=found.values * torch.rand(())), "was drawn from or seeded"),
        (lambda found, groups: (groups.rewards.add_(1), found)[1], "changes its input in place"),
    ],
)
def test_broken_advantages(change: Callable[[Advantages, CandidateGroups], object], message: str) -> None:
    check_advantage(Ranks())
    with pytest.raises(ContractError, match=message):
        check_advantage(Ranks(change))


@dataclass(frozen=True)
class Plain:
    """A valid surrogate as a user would write it: `-A lp`."""

    change: Callable[[SurrogateTerms, GroupLogProbs], object] = lambda found, log_probs: found

    def terms(self, log_probs: GroupLogProbs, advantages: Advantages) -> SurrogateTerms:
        """Return the loss of each candidate."""
        values = advantages.values if advantages.values.ndim == 3 else advantages.values.unsqueeze(2)
        loss = -(values * log_probs.levels).sum(2)
        return self.change(SurrogateTerms(loss, torch.zeros_like(loss, dtype=torch.bool)), log_probs)  # type: ignore[return-value]


def joined(loss: Tensor) -> Tensor:
    """Return each loss with a share of the last one of its row, where there is a loss."""
    return loss + 0.01 * loss[:, 4:] * (loss != 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found, log_probs: found.loss, r"must return genrec\.types\.SurrogateTerms, got Tensor"),
        (lambda found, log_probs: found._replace(loss=found.loss.mean()), r"one value for each candidate \(no mean or sum\)"),
        (lambda found, log_probs: found._replace(clipped=found.loss), r"clipped must be bool \[6, 5\]"),
        (lambda found, log_probs: found._replace(loss=found.loss.detach()), "the loss has no gradient; do not detach"),
        (lambda found, log_probs: found._replace(loss=found.loss + 1), "an advantage of 0 has a loss other than 0"),
        (lambda found, log_probs: found._replace(loss=-found.loss), "the gradient of the loss has the wrong sign"),
        (lambda found, log_probs: found._replace(loss=found.loss / 0), "the loss is not finite"),
        (lambda found, log_probs: found._replace(loss=joined(found.loss)), "depends on the log-probabilities of another one"),
    ],
)
def test_broken_surrogates(change: Callable[[SurrogateTerms, GroupLogProbs], object], message: str) -> None:
    check_surrogate(Plain())
    with pytest.raises(ContractError, match=message):
        check_surrogate(Plain(change))


def test_the_command_knows_both(tmp_path: Path) -> None:
    assert check(GroupAdvantage(), tmp_path)[0].endswith("keeps its contract")
    assert check(Clip(), tmp_path)[0].endswith("keeps its contract")
