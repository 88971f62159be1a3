"""check_loss: built-in losses pass, and each broken loss raises its message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from stable_ids import stable_id
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference.losses import (
    CPO,
    DMPO,
    DPO,
    IPO,
    KTO,
    ORPO,
    Anchored,
    ConservativeDPO,
    ContinuedSFT,
    Hinge,
    LevelWeighted,
    RecPO,
    RobustDPO,
    RosePO,
    SimPO,
    Smoothed,
    SoftmaxDPO,
)
from genrec.preference.negatives import Uniform
from genrec.preference.rewards import Popular
from genrec.testing import ContractError, check_component, check_loss
from genrec.types import LogProbs, LossNeeds, PreferenceLoss, PreferenceTerms, Reward

LOSSES: list[PreferenceLoss] = [
    DPO(), DPO(2.0), SoftmaxDPO(), SoftmaxDPO(0.1), Anchored(SoftmaxDPO()), Anchored(DPO(), alpha=0.2), ContinuedSFT(),
    ConservativeDPO(), ConservativeDPO(label_smoothing=0.4), RobustDPO(), RobustDPO(2.0, 0.4), IPO(), IPO(reduction="mean"), Hinge(),
    Hinge(2.0), DMPO(), KTO(), KTO(2.0, 1.5, 0.5), KTO(paired=False), SimPO(), SimPO(10.0, 0.0), CPO(), CPO(alpha=0.0), ORPO(),
    ORPO(2.0), RosePO(), RosePO(label_smoothing=0.49), RecPO(), RecPO(0.1, weight=0.0),
    Smoothed(DPO()), Smoothed(SimPO(), 0.3), Smoothed(KTO()), Smoothed(RecPO()), Anchored(KTO()), Anchored(Smoothed(CPO(alpha=0.0))),
    Anchored(RecPO()), Anchored(KTO(paired=False)), Smoothed(KTO(paired=False)), LevelWeighted(DPO()),
    LevelWeighted(SoftmaxDPO(), (1, 0.3, 0)),
    LevelWeighted(RecPO(), 1), Anchored(LevelWeighted(IPO())), Smoothed(LevelWeighted(DPO())), LevelWeighted(Smoothed(SimPO())),
    LevelWeighted(ORPO(), (0.2, 0.2, 2.0)),
]  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES, ids=stable_id)
def test_built_in_losses_keep_the_contract(loss: PreferenceLoss, capfd: pytest.CaptureFixture[str]) -> None:
    """And print no note."""
    check_loss(loss)
    assert not capfd.readouterr().err


LossFunction = Callable[[LogProbs, LogProbs], PreferenceTerms]
VALID = SoftmaxDPO()


@dataclass(frozen=True)
class BrokenLoss:
    function: LossFunction
    needs: ClassVar[LossNeeds] = LossNeeds()

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        return self.function(policy, reference)


def naive(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    """The formula as written, which overflows."""
    chosen, rejected = policy.chosen - reference.chosen, policy.rejected - reference.rejected
    return VALID(policy, reference)._replace(loss=-(chosen.exp() / (chosen.exp() + rejected.exp().sum(1))).log())


def log_of_sigmoid(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    """-log(sigmoid(D)) as written: the sigmoid is 0 far below 0."""
    masked = policy.rejected.isneginf() | reference.rejected.isneginf()
    gap = ((policy.chosen - reference.chosen).unsqueeze(1) - (policy.rejected - reference.rejected)).masked_fill(masked, 0.0)
    return VALID(policy, reference)._replace(loss=-torch.where(masked, 0.0, gap.sigmoid().log()).sum(1))


def careless(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    """Numerically stable, but -inf minus -inf is NaN."""
    ratios = torch.cat([(policy.chosen - reference.chosen).unsqueeze(1), policy.rejected - reference.rejected], 1)
    return VALID(policy, reference)._replace(loss=-ratios.log_softmax(1)[:, 0])


def mean_over_all(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    """The mean over K; masked negatives count as log-ratio 0."""
    gap = (policy.chosen - reference.chosen).unsqueeze(1) - (policy.rejected - reference.rejected).nan_to_num(nan=0.0)
    valid = VALID(policy, reference)
    return valid._replace(loss=-torch.nn.functional.logsigmoid(gap).mean(1))


def first_counts_more(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    weighted = VALID(policy, reference)
    return weighted._replace(loss=weighted.loss + 0.1 * policy.rejected[:, -1].exp())


def in_place(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    reference.chosen.sub_(1.0)
    return VALID(policy, reference)


def with_state() -> LossFunction:
    calls = [0.0]

    def function(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        calls[0] += 1
        terms = VALID(policy, reference)
        return terms._replace(loss=terms.loss * calls[0])

    return function


def rewards(policy: LogProbs, reference: LogProbs, **change: Tensor) -> PreferenceTerms:
    return VALID(policy, reference)._replace(**change)


def swapped(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    """The loss has the wrong sign."""
    terms = VALID(policy, reference)
    return terms._replace(loss=-terms.loss)


def positive_counts_twice(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    """Raise the positive and the negatives."""
    terms = VALID(policy, reference)
    valid = ~policy.rejected.isneginf()
    return terms._replace(loss=terms.loss - policy.rejected.masked_fill(~valid, 0.0).sum(1) - policy.chosen)


def gradient_where_masked(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    """Add 0 to the loss, and 1 to the gradient of a masked negative."""
    terms = VALID(policy, reference)
    return terms._replace(loss=terms.loss + _zero_with_gradient(policy.rejected, policy.rejected.isneginf()).sum(1))


def _zero_with_gradient(rejected: Tensor, masked: Tensor) -> Tensor:
    class Through(torch.autograd.Function):
        @staticmethod
        def forward(context: object, values: Tensor) -> Tensor:
            return torch.zeros_like(values)

        @staticmethod
        def backward(context: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient * masked

    return Through.apply(rejected)  # type: ignore[no-any-return, no-untyped-call]


def undeclared_rewards(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    """Read rewards without LossNeeds(rewards=True)."""
    terms = VALID(policy, reference)
    return terms._replace(loss=terms.loss * policy.rewards[:, 0])  # type: ignore[index]


def rewards_swapped(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    terms = VALID(policy, reference)
    masked, chosen = terms.rejected_reward.isneginf(), terms.chosen_reward.unsqueeze(1)
    best = terms.rejected_reward.masked_fill(masked, -1e6).amax(1)
    return terms._replace(chosen_reward=best, rejected_reward=torch.where(masked, -torch.inf, chosen))


def masked_place(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    """Write into masked places of the reference."""
    terms = VALID(policy, reference)
    reference.rejected[reference.rejected.isneginf()] = 0.0
    return terms


def coupled(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
    """Give each row the negatives of the row before it."""
    ours, theirs = (part._replace(rejected=part.rejected.roll(1, 0)) for part in (policy, reference))
    return VALID(ours, theirs)


BROKEN_LOSSES: dict[str, tuple[LossFunction, str]] = {
    "reduced": (lambda p, r: rewards(p, r, loss=VALID(p, r).loss.mean()), r"one loss per example, not reduced; got \[\]"),
    "tensor": (lambda p, r: VALID(p, r).loss, r"must return PreferenceTerms\(.*got Tensor"),  # type: ignore[dict-item, return-value]
    "detached": (lambda p, r: rewards(p, r, loss=VALID(p, r).loss.detach()), r"the loss has no gradient"),
    "reward shape": (lambda p, r: rewards(p, r, chosen_reward=torch.zeros(1)), r"chosen_reward must be \[8\]; got \[1\]"),
    "reward attached": (lambda p, r: rewards(p, r, chosen_reward=p.chosen - r.chosen), r"chosen_reward must be detached"),
    "overflow": (
        naive,
        r"is not finite at log-ratios -?9999.98 \(positive\) and -?9999.98 \(negative\); exp at .*use softplus, .*clamp the exponent",
    ),
    "log of 0": (
        log_of_sigmoid,
        r"; log at .*test_conformance_losses\.py:\d+ is the first .*of 0 is -inf; use logsigmoid or log_soft",
    ),
    "masked NaN": (careless, r"is not finite at log-ratios .* a masked negative \(-inf\); sub at .*before subtracting"),
    "masked counts": (mean_over_all, r"a masked negative must not change the loss; got .* in example \d of 8"),
    "masked reward": (
        lambda p, r: rewards(p, r, rejected_reward=VALID(p, r).rejected_reward.nan_to_num(neginf=0.0)),
        r"rejected_reward must be -inf where the negative is masked",
    ),
    "order": (first_counts_more, r"the order of the negatives must not matter"),
    "sign": (swapped, r"must raise the positive and no negative.*check the sign"),
    "in place": (in_place, r"the log-probabilities were modified"),
    "raises negatives": (positive_counts_twice, r"must raise the positive and no negative"),
    "masked gradient": (gradient_where_masked, r"the gradient of a masked negative .* must be 0"),
    "rejected shape": (lambda p, r: rewards(p, r, rejected_reward=p.chosen.detach()), r"rejected_reward must be .* got \[8\]"),
    "undeclared rewards": (
        undeclared_rewards,
        r"and no optional input .*LogProbs.rewards are set only .*raised TypeError",
    ),
    "list": (lambda p, r: rewards(p, r, loss=VALID(p, r).loss.tolist()), r"loss must be a tensor float32 \[8\], got list"),
    "reward list": (lambda p, r: rewards(p, r, chosen_reward=[0.0] * 8), r"chosen_reward must be a tensor float32 \[8\], got list"),
    "half": (
        lambda p, r: rewards(p, r, loss=VALID(p, r).loss.half()),
        r"loss must be float32 like the log-probabilities; got float16",
    ),
    "reward NaN": (lambda p, r: rewards(p, r, chosen_reward=p.chosen.detach() * torch.nan), r"the chosen_reward is not finite"),
    "rewards swapped": (rewards_swapped, r"the rewards are swapped or have the wrong sign: for log-probabilities -1 of the positive"),
    "masked place": (masked_place, r"the log-probabilities were modified"),
    "coupled": (coupled, r"the loss of example 1 has a gradient with respect to the log-probabilities of example 8"),
    "seed": (lambda p, r: (VALID(p, r), torch.manual_seed(71))[0], r"torch's global generator was drawn from or seeded; a loss"),
    "state": (with_state(), r"a second call with the same inputs gives another loss"),
}


@pytest.mark.parametrize("name", BROKEN_LOSSES)
def test_a_broken_loss_raises_its_message(name: str) -> None:
    function, message = BROKEN_LOSSES[name]
    with pytest.raises(ContractError, match=rf"^BrokenLoss: .*{message}"):
        check_loss(BrokenLoss(function))


@dataclass(frozen=True)
class ScaledByInputs:
    """S-DPO times a factor from its optional inputs."""

    function: Callable[[LogProbs, LogProbs], Tensor]
    needs: ClassVar[LossNeeds] = LossNeeds(mismatched=True, rewards=True)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        terms = VALID(policy, reference)
        return terms._replace(loss=terms.loss * self.function(policy, reference))


def optional_inputs(part: LogProbs) -> tuple[Tensor, Tensor]:
    assert part.rewards is not None
    assert part.mismatched is not None
    return part.rewards, part.mismatched


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda p, r: optional_inputs(p)[0].sum(1), r"is not finite at"),  # the reward of a masked negative is -inf
        (lambda p, r: optional_inputs(p)[0][:, 1:].nan_to_num(neginf=0.0).mean(1), r"a masked negative must not change the loss"),
        (lambda p, r: optional_inputs(p)[0][:, 1] if p.rejected.shape[1] > 1 else 1.0, r"is not finite at|order of the negatives"),
        (lambda p, r: optional_inputs(p)[1] - optional_inputs(r)[1], r"is not finite at"),  # a mismatched pair may be masked
        (lambda p, r: optional_inputs(p)[1].exp() - optional_inputs(p)[0][:, 0], r"must raise the positive and no negative"),
        (lambda p, r: (optional_inputs(p)[0].sub_(1.0), 1.0)[1], r"is not finite at|were modified"),
        (lambda p, r: 1.0 + (optional_inputs(r)[1].sub_(1.0) * 0).nan_to_num(), r"were modified"),
    ],
)  # fmt: skip
def test_misused_optional_inputs_raise(function: Callable[[LogProbs, LogProbs], Tensor], message: str) -> None:
    with pytest.raises(ContractError, match=rf"^ScaledByInputs: .*({message})"):
        check_loss(ScaledByInputs(function))


def test_a_loss_with_all_optional_inputs_passes() -> None:
    check_loss(ScaledByInputs(lambda p, r: optional_inputs(p)[0][:, 0] + (optional_inputs(p)[1].exp()).mean()))


@dataclass(frozen=True)
class Requires:
    needs: object = None

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        return VALID(policy, reference)


@dataclass(frozen=True)
class WithoutNeeds:
    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        return VALID(policy, reference)


@dataclass(frozen=True)
class Misspelt:
    need: ClassVar[LossNeeds] = LossNeeds(rewards=True)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        return VALID(policy, reference)


@dataclass(frozen=True)
class MisspeltCheck:
    needs: ClassVar[LossNeeds] = LossNeeds()

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        return VALID(policy, reference)

    def check_kontext(self, context: object) -> None:
        raise UsageError("never called")


@dataclass(frozen=True)
class NeedsIsAMethod:
    def needs(self) -> LossNeeds:
        return LossNeeds()

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        return VALID(policy, reference)


@dataclass(frozen=True)
class FormerMismatched:
    needs: ClassVar[LossNeeds] = LossNeeds()
    mismatched: ClassVar[bool] = True

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        return VALID(policy, reference)


@dataclass(frozen=True)
class FormerReward:
    reward: Reward = Popular()  # noqa: RUF009
    needs: ClassVar[LossNeeds] = LossNeeds()

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        return VALID(policy, reference)


@dataclass(frozen=True)
class OneArgument:
    needs: ClassVar[LossNeeds] = LossNeeds()

    def __call__(self, policy: LogProbs) -> PreferenceTerms:
        return VALID(policy, policy)


NEEDS_MESSAGES: list[tuple[object, str]] = [
    (Requires(), r"Requires: needs must be a genrec\.types\.LossNeeds, such as .*; got None"),
    (Requires({"rewards": True}), r"Requires: needs must be a genrec\.types\.LossNeeds, .*; got \{'rewards': True\}"),
    (NeedsIsAMethod(), r"NeedsIsAMethod: needs must be .*; write it as an attribute or a property, not as a method"),
    (WithoutNeeds(), r"WithoutNeeds has no attribute needs, which every loss must have; write needs = LossNeeds\(\), or"),
    (Misspelt(), r"Misspelt: the attribute need has no effect; did you mean 'needs'\?"),
    (MisspeltCheck(), r"MisspeltCheck: the attribute check_kontext has no effect; did you mean 'check_context'\?"),
    (FormerMismatched(), r"FormerMismatched: the attribute mismatched has no effect; write needs = LossNeeds\(mismatched=True\)"),
    (FormerReward(), r"FormerReward: the attribute reward has no effect; write .*rewards=True\), .* align\.objective\.reward"),
    (OneArgument(), r"OneArgument: a call with 8 examples, 3 negatives each .*raised TypeError"),
]


@pytest.mark.parametrize(("loss", "message"), NEEDS_MESSAGES, ids=stable_id)
def test_needs_are_checked(loss: object, message: str, tmp_path: Path) -> None:
    """By `check_loss`, and by `genrec check`, which also takes a loss without `needs` for a loss."""
    with pytest.raises(ContractError, match=f"^{message}"):
        check_loss(loss)  # type: ignore[arg-type]
    with pytest.raises(ContractError, match=f"^{message}"):
        check_component(loss, tmp_path)


def test_needs_may_be_a_property_or_a_field() -> None:
    check_loss(Requires(LossNeeds()))  # type: ignore[arg-type]
    check_loss(KTO(paired=False))
    assert not isinstance(vars(KTO).get("needs"), LossNeeds)


@dataclass(frozen=True)
class Unpaired:
    """A loss that says that it learns from rows without a positive."""

    function: LossFunction
    needs: ClassVar[LossNeeds] = LossNeeds(positive=False)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        return self.function(policy, reference)


def test_rows_without_a_positive_are_checked_where_a_loss_accepts_them() -> None:
    """S-DPO ignores such rows. Pushing all negatives down is a loss for them, if it gives the missing positive no weight."""

    def push_down(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        terms = VALID(policy, reference)
        valid = ~(policy.rejected.isneginf() | reference.rejected.isneginf())
        ratio = policy.rejected.masked_fill(~valid, 0.0) - reference.rejected.masked_fill(~valid, 0.0)
        pushed = torch.where(valid, ratio.sigmoid(), 0.0).sum(1)
        rewards = (policy.rejected - reference.rejected).detach().masked_fill(~valid, -torch.inf)
        return terms._replace(loss=terms.loss + pushed, rejected_reward=rewards)

    check_loss(Unpaired(push_down))
    with pytest.raises(ContractError, match=r"^Unpaired: rows without a positive have no gradient; write LossNeeds\(positive=True\)"):
        check_loss(Unpaired(VALID))
    with pytest.raises(ContractError, match=r"^Unpaired: the .* is not finite at log-ratios nan \(positive\)"):
        check_loss(Unpaired(lambda p, r: push_down(p, r)._replace(loss=push_down(p, r).loss - (p.chosen - r.chosen))))

    def visible(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        terms = push_down(policy, reference)
        return terms._replace(chosen_reward=terms.chosen_reward.nan_to_num(neginf=0.0))

    with pytest.raises(ContractError, match=r"^Unpaired: in a row without a positive .* chosen_reward -inf"):
        check_loss(Unpaired(visible))


@dataclass(frozen=True)
class OfLevels:
    """A loss of the levels alone, with a weight for the masked ones if `careless`."""

    careless: bool = False
    needs: ClassVar[LossNeeds] = LossNeeds()

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        parts = []
        for part in (policy, reference):
            assert part.levels is not None
            total = part.levels.nan_to_num(neginf=-4.0).sum(2) if self.careless else part.levels.sum(2)
            parts.append(part._replace(chosen=total[:, 0], rejected=total[:, 1:]))
        return VALID(*parts)


def test_levels_are_given_to_every_loss() -> None:
    check_loss(OfLevels())
    with pytest.raises(ContractError, match=r"^OfLevels: (rejected_reward must be -inf|a masked negative|the gradient of a masked)"):
        check_loss(OfLevels(careless=True))


def test_a_loss_for_one_negative_is_checked_with_one() -> None:
    def only_one(policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        return swapped(policy, reference) if policy.rejected.shape[1] == 1 else DPO()(policy, reference)

    with pytest.raises(ContractError, match="check the sign"):
        check_loss(BrokenLoss(only_one))


def test_a_loss_is_a_frozen_dataclass() -> None:
    with pytest.raises(ContractError, match=r"Uniform does not implement PreferenceLoss.*with __call__"):
        check_loss(Uniform())  # type: ignore[arg-type]
    with pytest.raises(ContractError, match=r"function does not implement PreferenceLoss.* needs = LossNeeds\(\)"):
        check_loss(naive)


@dataclass(frozen=True)
class BatchMargin:
    """S-DPO times 1 plus the sigmoid of the z-score, over the batch, of the log-ratio of the positive."""

    correction: int = 0
    smallest: float = 1e-6  # lower bound of the standard deviation
    needs: LossNeeds = field(default=LossNeeds(batch=True))

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        ratio = (policy.chosen - reference.chosen).detach()
        score = (ratio - ratio.mean()) / ratio.std(correction=self.correction).clamp(min=self.smallest)
        terms = VALID(policy, reference)
        return terms._replace(loss=terms.loss * (1 + score.sigmoid()))


def test_a_loss_is_tried_at_the_start_and_with_one_example(capfd: pytest.CaptureFixture[str]) -> None:
    """The spread of a batch is 0 where policy and reference are equal, and that of one example is 0 or, unbiased, NaN."""
    check_loss(BatchMargin())
    equal = r"log-ratios 0 \(positive\) and 0 \(negative\), where policy and reference are equal, as at the first step"
    with pytest.raises(ContractError, match=rf"{equal}; div at .*test_conformance_losses\.py:\d+ is the first .*; 0 / 0 is NaN"):
        check_loss(BatchMargin(smallest=0.0))
    with (
        pytest.warns(UserWarning, match="degrees of freedom"),
        pytest.raises(ContractError, match=r", in a batch of one example; std at .* a single value is NaN; use correction=0"),
    ):
        check_loss(BatchMargin(correction=1))
    assert "batch" not in capfd.readouterr().err


def test_a_loss_that_reads_its_batch_is_told_of_the_capability(capfd: pytest.CaptureFixture[str]) -> None:
    check_loss(BatchMargin(needs=LossNeeds()))
    told = capfd.readouterr().err
    assert "BatchMargin: the loss of an example changes with the other examples of its batch" in told
    assert "needs = LossNeeds(batch=True)" in told
