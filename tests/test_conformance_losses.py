"""The checks of losses: all of ours pass, and each broken one is told what it breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from genrec.preference.losses import DPO, Anchored, ContinuedSFT, SoftmaxDPO
from genrec.preference.negatives import Uniform
from genrec.testing import ContractError, check_loss
from genrec.types import LogProbs, PreferenceLoss, PreferenceTerms

LOSSES: list[PreferenceLoss] = [
    DPO(), DPO(2.0), SoftmaxDPO(), SoftmaxDPO(0.1), Anchored(SoftmaxDPO()), Anchored(DPO(), alpha=0.2), ContinuedSFT(),
]  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_our_losses_keep_the_contract(loss: PreferenceLoss) -> None:
    check_loss(loss)


Spoil = Callable[[LogProbs, LogProbs], PreferenceTerms]
RIGHT = SoftmaxDPO()


@dataclass(frozen=True)
class BrokenLoss:
    function: Spoil

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        return self.function(policy, reference)


def naive(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    """The formula as it is written, without care for overflow."""
    chosen, rejected = policy.chosen - reference.chosen, policy.rejected - reference.rejected
    return RIGHT(policy, reference)._replace(loss=-(chosen.exp() / (chosen.exp() + rejected.exp().sum(1))).log())


def careless(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    """Stable, but -inf minus -inf is NaN."""
    ratios = torch.cat([(policy.chosen - reference.chosen).unsqueeze(1), policy.rejected - reference.rejected], 1)
    return RIGHT(policy, reference)._replace(loss=-ratios.log_softmax(1)[:, 0])


def mean_over_all(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    """The mean over K, where masked negatives count as log-ratio 0."""
    gap = (policy.chosen - reference.chosen).unsqueeze(1) - (policy.rejected - reference.rejected).nan_to_num(nan=0.0)
    right = RIGHT(policy, reference)
    return right._replace(loss=-torch.nn.functional.logsigmoid(gap).mean(1))


def first_counts_more(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    weighted = RIGHT(policy, reference)
    return weighted._replace(loss=weighted.loss + 0.1 * policy.rejected[:, -1].exp())


def in_place(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    reference.chosen.sub_(1.0)
    return RIGHT(policy, reference)


def with_state() -> Spoil:
    calls = [0.0]

    def function(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        calls[0] += 1
        terms = RIGHT(policy, reference)
        return terms._replace(loss=terms.loss * calls[0])

    return function


def rewards(policy: LogProbs, reference: LogProbs, **change: Tensor) -> PreferenceTerms:
    return RIGHT(policy, reference)._replace(**change)


def swapped(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    """The sign the wrong way round."""
    terms = RIGHT(policy, reference)
    return terms._replace(loss=-terms.loss)


BROKEN_LOSSES: dict[str, tuple[Spoil, str]] = {
    "reduced": (lambda p, r: rewards(p, r, loss=RIGHT(p, r).loss.mean()), r"loss \[8\], one an example, not reduced; got loss \[\]"),
    "tensor": (lambda p, r: RIGHT(p, r).loss, r"must return PreferenceTerms .*got Tensor"),  # type: ignore[dict-item, return-value]
    "detached": (lambda p, r: rewards(p, r, loss=RIGHT(p, r).loss.detach()), r"the loss has no gradient"),
    "reward shape": (lambda p, r: rewards(p, r, chosen_reward=torch.zeros(1)), r"chosen_reward must have shape \[8\], got \[1\]"),
    "reward attached": (lambda p, r: rewards(p, r, chosen_reward=p.chosen - r.chosen), r"chosen_reward must be detached"),
    "overflow": (naive, r"is not finite at log-ratios -?9999.98 \(positive\) and -?9999.98 \(negative\); use logsumexp"),
    "masked NaN": (careless, r"is not finite at log-ratios .* nan \(negative\).*before subtracting"),
    "masked counts": (mean_over_all, r"a masked negative must count as if it were not there; got .* in example \d of 8"),
    "masked reward": (
        lambda p, r: rewards(p, r, rejected_reward=RIGHT(p, r).rejected_reward.nan_to_num(neginf=0.0)),
        r"rejected_reward must be -inf where the negative is masked",
    ),
    "order": (first_counts_more, r"the order of the negatives must not matter"),
    "sign": (swapped, r"push the positive up and no negative.*wrong way round"),
    "in place": (in_place, r"the log-probabilities were modified"),
    "state": (with_state(), r"the same input gives another loss the second time"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_LOSSES)
def test_a_broken_loss_is_told_what_it_breaks(name: str) -> None:
    function, message = BROKEN_LOSSES[name]
    with pytest.raises(ContractError, match=rf"^BrokenLoss: .*{message}"):
        check_loss(BrokenLoss(function))


def test_a_loss_for_one_negative_is_checked_with_one() -> None:
    def only_one(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        return swapped(policy, reference) if policy.rejected.shape[1] == 1 else DPO()(policy, reference)

    with pytest.raises(ContractError, match="wrong way round"):
        check_loss(BrokenLoss(only_one))


def test_a_loss_is_a_frozen_dataclass() -> None:
    with pytest.raises(ContractError, match=r"Uniform is no PreferenceLoss.*has __call__"):
        check_loss(Uniform())  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="function is no frozen dataclass"):
        check_loss(naive)
