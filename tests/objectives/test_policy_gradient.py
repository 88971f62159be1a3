"""The policy-gradient objective on a tabular policy: what it learns, what it logs, and which candidates count."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from genrec.errors import InputError, UsageError
from genrec.experiment import Align, Experiment
from genrec.model import Tiger
from genrec.objectives.frozen_policy import FrozenCopy
from genrec.objectives.group_logs import JudgedGroups, group_logs
from genrec.objectives.policy_gradient import PolicyGradient
from genrec.preference.candidates import Pairs, Rollouts
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
from genrec.preference.rewards import Popular
from genrec.randomness import generator
from genrec.semantic_ids import SemanticIds
from genrec.testing import Shop
from genrec.testing.objective_checks import check_objective
from genrec.types import (
    Advantages,
    CandidateGroups,
    Candidates,
    Feedback,
    GroupLogProbs,
    ObjectiveContext,
    Padding,
    Proposals,
    Rating,
    RowScores,
    SamplerContext,
    SequenceBatch,
    SurrogateTerms,
    TrainingExamples,
    TrainingStep,
    WindowBatch,
)

CODES = [[0, 0], [0, 1], [1, 0], [1, 1]]  # the Semantic IDs of items 1..4


class Tabular(nn.Module):
    """A policy with one table of logits for each last item of the history: p(item) is a product over the codes."""

    def __init__(self, codes: list[list[int]], scale: float = 0.0) -> None:
        super().__init__()
        self.semantic_ids, self.calls = SemanticIds(torch.tensor(codes)), 0
        heads = math.prod(self.semantic_ids.level_sizes[:-1])
        source = torch.Generator().manual_seed(1)
        shapes = [(len(codes) + 1, heads, size) for size in self.semantic_ids.level_sizes]
        self.tables = nn.ParameterList([nn.Parameter(scale * torch.randn(shape, generator=source)) for shape in shapes])

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        self.calls += 1
        codes = self.semantic_ids.codes[(items - 1).clamp(min=0)]
        last, head, levels = history[:, -1:].expand_as(items), torch.zeros_like(items), []
        for level, (table, size) in enumerate(zip(self.tables, self.semantic_ids.level_sizes, strict=True)):
            levels.append(table.log_softmax(2)[last, head, codes[..., level]])
            head = (head * size + codes[..., level]) % table.shape[1]
        return torch.stack(levels, 2).masked_fill((items == 0).unsqueeze(2), -torch.inf)

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        return self.level_log_prob(history, items).sum(2)

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Any:
        raise NotImplementedError

    def sequence_log_prob(self, history: Tensor, targets: Tensor) -> Tensor:
        flat = self.level_log_prob(history.reshape(-1, 1), targets.reshape(-1, 1))
        return flat.view(*targets.shape, -1)

    def probabilities(self, last: int) -> Tensor:
        """Return p(item) of items 1..N after an item, [N]."""
        items = torch.arange(1, self.semantic_ids.items + 1).unsqueeze(0)
        return self.log_prob(torch.tensor([[last]]), items)[0].exp().detach()


@dataclass(frozen=True)
class Fixed:
    """The same candidates for every row, with what the test gives beside them."""

    items: tuple[int, ...]
    mask: tuple[int, ...] | None = None
    rows: tuple[int, ...] | None = None
    behavior: tuple[float, ...] | None = None
    codes: bool = False
    on_host: bool = False

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        def propose(rows: SequenceBatch, step: int) -> Candidates:
            items = torch.tensor([self.items]).repeat(len(rows.user), 1)
            return Candidates(
                items,
                items > 0 if self.mask is None else torch.tensor([self.mask]).bool().expand_as(items),
                None if self.rows is None else torch.tensor(self.rows).bool(),
                None if self.behavior is None else torch.tensor([self.behavior]).expand(len(items), -1),
                torch.zeros(*items.shape, 2, dtype=torch.int64) if self.codes else None,
            )

        if self.on_host:
            return Proposals(on_host=propose)
        return Proposals(in_step=lambda rows, host, step, scores: propose(host, step))


@dataclass(frozen=True)
class Drawn:
    """Independent draws from the policy in training, or with `top` its most likely items."""

    size: int = 16
    top: bool = False

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        count = context.data().item_count

        def in_step(rows: SequenceBatch, host: SequenceBatch, step: int, scores: RowScores) -> Candidates:
            catalog = torch.arange(1, count + 1).expand(len(rows.user), -1)
            with torch.no_grad():
                lp = scores.level_log_prob(catalog).sum(2)
            random = generator(context.seed, "drawn", step)
            places = lp.topk(self.size).indices if self.top else lp.exp().multinomial(self.size, True, generator=random)
            return Candidates(places + 1, torch.ones_like(places).bool(), behavior=None if self.top else lp.gather(1, places))

        return Proposals(in_step=in_step)


@dataclass(frozen=True)
class Values:
    """A reward for each item, the same for all users, with -inf for item 0; without values 1 for the target."""

    values: tuple[float, ...] | None = None

    def rate(self, context: SamplerContext) -> Rating:
        def rate_items(rows: SequenceBatch, items: Tensor) -> Tensor:
            hit = (items == rows.target.unsqueeze(1)).float()
            rewards = hit if self.values is None else torch.tensor((0.0, *self.values))[items]
            return rewards.masked_fill(items == 0, -torch.inf)

        return Rating(rate=rate_items)


class Rows:
    """One example for each item as the last one of the history; the target after item i is item i % N + 1."""

    def __init__(self, count: int) -> None:
        self.last = torch.arange(1, count + 1)

    def __len__(self) -> int:
        return len(self.last)

    def batch(self, index: Tensor) -> SequenceBatch:
        last = self.last[index]
        return SequenceBatch(index + 1, last.unsqueeze(1), last % len(self.last) + 1)


class Source:
    def __init__(self, count: int) -> None:
        self.count = count

    def prefixes(self, feedback: Feedback = "not disliked") -> TrainingExamples:
        return Rows(self.count)

    def windows(self, padding: Padding = "zero", feedback: Feedback = "not disliked") -> TrainingExamples:
        return Rows(self.count)


def context_of(policy: Tabular, reference: Tabular | None = None) -> ObjectiveContext:
    count = policy.semantic_ids.items
    data = SamplerContext(
        count, pd.DataFrame({"user": [1], "item": [1], "time": [0]}), torch.zeros(count + 1), torch.zeros(count + 1, 1),
        policy.semantic_ids,
    )  # fmt: skip
    frozen = FrozenCopy(policy if reference is None else reference)
    return ObjectiveContext(policy, frozen, Source(count), lambda: data, lambda name: frozen, "codes", 100, count, 0)


def one_step(
    objective: PolicyGradient, policy: Tabular, batch: SequenceBatch | WindowBatch | None = None, reference: Tabular | None = None
) -> tuple[float, list[Tensor], dict[str, float]]:
    """Return loss, gradients of the tables and logs of step 0; by default on one row, last item 1 and target 2."""
    step = objective.build_step(context_of(policy, reference))
    loss, logs = run(step, row() if batch is None else batch)
    assert not any(value.requires_grad or value.ndim for value in logs.values())
    found = torch.autograd.grad(loss, list(policy.tables), allow_unused=True, materialize_grads=True)
    return loss.item(), list(found), {name: float(value) for name, value in logs.items()}


def run(step: TrainingStep, batch: SequenceBatch | WindowBatch, number: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    assert step.prepare is not None
    return step.loss(step.prepare(batch, number), number)


def row(last: int = 1, target: int = 2) -> SequenceBatch:
    return SequenceBatch(torch.tensor([1]), torch.tensor([[last]]), torch.tensor([target]))


def train(objective: PolicyGradient, policy: Tabular, steps: int, rate: float, reference: Tabular | None = None) -> None:
    """Train on all rows with SGD, with a rate that falls to 0."""
    built, optimizer = objective.build_step(context_of(policy, reference)), torch.optim.SGD(policy.parameters(), rate)
    batch = built.examples.batch(torch.arange(len(built.examples)))
    for number in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - number / steps)
        optimizer.zero_grad()
        run(built, batch, number)[0].backward()
        optimizer.step()


PLAIN = PolicyGradient(candidates=Fixed((1, 2, 3, 4)), reward=Values(), likelihood=0.0)
METHODS = {
    "GRPO": PolicyGradient(advantage=GroupAdvantage(), surrogate=Clip(), kl=1e-3, likelihood=0.0),
    "DAPO": PolicyGradient(advantage=GroupAdvantage(), surrogate=Clip(high=0.28), likelihood=0.0),
    "Dr. GRPO": PolicyGradient(advantage=GroupAdvantage(std="none"), surrogate=Clip(), likelihood=0.0),
    "GSPO": PolicyGradient(advantage=GroupAdvantage(), surrogate=SequenceClip(), likelihood=0.0),
    "RLOO": PolicyGradient(
        advantage=LeaveOneOutAdvantage(), surrogate=Reinforce(), kl=0.05, kl_in="reward", gate=False, likelihood=0.0
    ),
    "ECPO": PolicyGradient(advantage=GroupAdvantage(), surrogate=EarlyClip(), likelihood=1.0),
    "ECPO alone": PolicyGradient(likelihood=0.0),
    "V-STAR": PolicyGradient(advantage=SiblingAdvantage(), surrogate=Clip(), likelihood=0.0),
    "TAWin": PolicyGradient(advantage=WindowedAdvantage(place=2, size=3.0), surrogate=Clip(), likelihood=0.0),
    "GBPO": PolicyGradient(advantage=GroupAdvantage(std="none"), surrogate=BoundedGradient(), likelihood=0.0),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_raises_the_hit_rate(name: str) -> None:
    """Twelve items of 3 x 4 codes, all equally likely at the start; the target of each history then has over 90 %."""
    codes = [[first, second] for first in range(3) for second in range(4)]
    policy = Tabular(codes)
    targets = [(last, last % 12 + 1) for last in range(1, 13)]
    assert all(float(policy.probabilities(last)[target - 1]) == pytest.approx(1 / 12) for last, target in targets)
    train(replace(METHODS[name], candidates=Drawn(), reward=Values()), policy, 150, 60.0 if name == "GSPO" else 30.0)
    assert min(float(policy.probabilities(last)[target - 1]) for last, target in targets) > 0.9


def test_the_policys_own_top_is_a_contrast_that_raises_the_hit_rate_too() -> None:
    policy = Tabular([[first, second] for first in range(3) for second in range(4)], scale=0.3)
    before = [float(policy.probabilities(last)[last % 12]) for last in range(1, 13)]
    train(PolicyGradient(candidates=Drawn(size=8, top=True), reward=Values(), likelihood=0.0), policy, 60, 5.0)
    after = [float(policy.probabilities(last)[last % 12]) for last in range(1, 13)]
    rank = [int((Tabular(policy.semantic_ids.codes.tolist(), 0.3).probabilities(last) > p).sum()) for last, p in enumerate(before, 1)]
    within = [place < 8 for place in rank]
    assert 0 < sum(within) < 12  # without a hit there is no gradient
    for start, end, is_within in zip(before, after, within, strict=True):
        assert end == pytest.approx(start) if not is_within else end > 0.5


def test_rloo_reaches_the_optimum_over_the_catalog() -> None:
    """Rewards 0, 1, 1/2, beta 1/2 and reference .5, .3, .2 give reference exp(r / beta) / Z."""
    reference, policy = Tabular([[0], [1], [2]]), Tabular([[0], [1], [2]])
    with torch.no_grad():
        reference.tables[0].copy_(torch.tensor([0.5, 0.3, 0.2]).log().expand(4, 1, 3))
    objective = PolicyGradient(
        candidates=Drawn(size=512), reward=Values((0.0, 1.0, 0.5)), advantage=LeaveOneOutAdvantage(), surrogate=Reinforce(), kl=0.5,
        kl_in="reward", gate=False, likelihood=0.0,
    )  # fmt: skip
    train(objective, policy, 300, 3.0, reference)
    for last in (1, 2, 3):
        assert policy.probabilities(last).tolist() == pytest.approx([0.153356677, 0.679896655, 0.166746668], abs=0.01)


def test_gradient_by_hand() -> None:
    """One hit of four with 1/4 each: A = (.75, -.25, ...) / .5001, d loss / d lp_i = -A_i / 4."""
    policy = Tabular([[0], [1], [2], [3]])
    loss, (found,), logs = one_step(PLAIN, policy)
    assert loss == pytest.approx(0, abs=1e-7)
    assert found[1, 0].tolist() == pytest.approx([0.25 / 0.5001 / 4] + [-0.75 / 0.5001 / 4] + [0.25 / 0.5001 / 4] * 2)
    assert not found[2:].any()
    assert logs == pytest.approx(
        {
            "reward": 0.25,
            "hit_share": 1,
            "gradient_share": 1,
            "no_hit_gradient": 0,
            "advantage_magnitude": (0.75 + 3 * 0.25) / 0.5001 / 4,
            "clip_share": 0,
            "hit_log_prob": math.log(1 / 4),
            "policy_loss": 0,
            "likelihood_loss": math.log(4),
        },
        abs=1e-6,
    )


def test_group_without_spread_or_hit_has_no_gradient_and_is_counted() -> None:
    """Rows: a hit among the candidates; no hit. The mean is over the first alone."""
    policy = Tabular(CODES, 0.5)
    batch = SequenceBatch(torch.tensor([1, 2]), torch.tensor([[1], [2]]), torch.tensor([2, 4]))
    objective = replace(PLAIN, candidates=Fixed((1, 2, 3)))
    loss, found, logs = one_step(objective, policy, batch)
    alone = one_step(objective, policy)
    assert loss == pytest.approx(alone[0])
    assert all(torch.allclose(each, other) for each, other in zip(found, alone[1], strict=True))
    assert not any(each[2].any() for each in found)
    assert (logs["gradient_share"], logs["hit_share"]) == (0.5, 0.5)
    assert logs["reward"] == pytest.approx(1 / 6)
    nothing = one_step(objective, policy, row(2, 4))
    assert nothing[0] == 0
    assert not any(each.any() for each in nothing[1])
    assert math.isnan(nothing[2]["hit_log_prob"])
    assert (nothing[2]["gradient_share"], nothing[2]["advantage_magnitude"], nothing[2]["clip_share"]) == (0, 0, 0)


def test_gate_stops_groups_without_a_hit_whatever_the_reward() -> None:
    policy, reference = Tabular(CODES, 0.5), Tabular(CODES)
    gated = replace(PLAIN, candidates=Fixed((1, 3, 4)), reward=Values((0.0, 0.0, 1.0, 0.5)), kl=0.1)
    loss, found, logs = one_step(gated, policy, reference=reference)
    assert loss == 0
    assert not any(each.any() for each in found)
    assert logs["kl"] == 0
    _, free, logs = one_step(replace(gated, gate=False), policy, reference=reference)
    assert any(each.any() for each in free)
    assert logs["gradient_share"] == 1
    assert logs["kl"] > 0


def test_rows_of_the_proposer_take_no_part() -> None:
    policy = Tabular(CODES, 0.5)
    batch = SequenceBatch(torch.tensor([1, 2]), torch.tensor([[1], [2]]), torch.tensor([2, 4]))
    loss, found, logs = one_step(replace(PLAIN, candidates=Fixed((1, 2, 3, 4), rows=(0, 1))), policy, batch)
    alone = one_step(PLAIN, policy, row(2, 4))
    assert loss == pytest.approx(alone[0])
    assert all(torch.allclose(each, other) for each, other in zip(found, alone[1], strict=True))
    assert logs["gradient_share"] == 0.5
    assert logs["hit_share"] == 1


@pytest.mark.parametrize("name", METHODS)
def test_masked_candidates_have_no_effect(name: str) -> None:
    """Masked items, padding, and other items of a Semantic ID that an earlier candidate has."""
    codes = [*CODES, [0, 1]]  # item 5 has the codes of item 2
    reference = Tabular(codes)
    expected = one_step(replace(METHODS[name], candidates=Fixed((4, 2, 1)), reward=Values()), Tabular(codes, 0.5), reference=reference)
    for candidates in (
        Fixed((4, 3, 2, 1), mask=(1, 0, 1, 1)),
        Fixed((4, 0, 2, 0, 1)),
        Fixed((4, 2, 5, 1)),
        Fixed((4, 0, 2, 1), mask=(1, 1, 1, 1), on_host=True),
    ):
        found = one_step(replace(METHODS[name], candidates=candidates, reward=Values()), Tabular(codes, 0.5), reference=reference)
        assert found[0] == pytest.approx(expected[0], abs=1e-6)
        assert found[2] == pytest.approx(expected[2], abs=1e-6)
        assert all(torch.allclose(each, other, atol=1e-6) for each, other in zip(found[1], expected[1], strict=True))


def test_item_with_the_targets_semantic_id_is_a_hit() -> None:
    """Item 5 has the codes of item 2, the target: the gate opens, and the reward decides."""
    objective = replace(PLAIN, candidates=Fixed((1, 5, 3)), reward=Values((0.0, 0.0, 0.0, 0.0, 1.0)))
    _, found, logs = one_step(objective, Tabular([*CODES, [0, 1]]))
    assert (logs["hit_share"], logs["gradient_share"]) == (1, 1)
    assert any(each.any() for each in found)


def test_behavior_log_probability_gives_the_ratio() -> None:
    """All items have 1/4; the hit was drawn with 1/8, so its ratio 2 is clipped, and a miss with 1/2, whose ratio is 1/2 < .8."""
    policy = Tabular([[0], [1], [2], [3]])
    behavior = (math.log(1 / 4), math.log(1 / 8), math.log(1 / 2), math.log(1 / 4))
    loss, _, logs = one_step(replace(PLAIN, candidates=Fixed((1, 2, 3, 4), behavior=behavior)), policy)
    assert loss == pytest.approx((-1.2 * 0.75 + 0.25 * (1 + 0.8 + 1)) / 0.5001 / 4)
    assert logs["clip_share"] == 0.5


def test_likelihood_and_weights() -> None:
    policy, reference = Tabular(CODES, 0.5), Tabular(CODES)
    batch = SequenceBatch(torch.tensor([1, 2]), torch.tensor([[1], [2]]), torch.tensor([2, 4]))
    nll = -policy.level_log_prob(batch.history, batch.target.unsqueeze(1)).mean()
    with_nll = one_step(replace(PLAIN, candidates=Fixed((1, 3)), likelihood=0.7), policy, batch)
    assert with_nll[0] == pytest.approx(0.7 * nll.item())
    expected = torch.autograd.grad(0.7 * nll, list(policy.tables))
    assert all(torch.allclose(each, other) for each, other in zip(with_nll[1], expected, strict=True))
    alone = one_step(replace(PLAIN, kl=0.3), policy, batch, reference)
    both = one_step(replace(PLAIN, kl=0.3, likelihood=0.7, weight=2.0), policy, batch, reference)
    assert both[0] == pytest.approx(2 * alone[0] + 0.7 * nll.item())
    for each, policy_part, nll_part in zip(both[1], alone[1], expected, strict=True):
        assert torch.allclose(each, 2 * policy_part + nll_part, atol=1e-6)


def test_divergence_is_k3_over_the_candidates() -> None:
    policy, reference = Tabular(CODES, 0.5), Tabular(CODES)
    loss, _, logs = one_step(replace(PLAIN, kl=0.3), policy, reference=reference)
    lp = policy.probabilities(1).log()
    expected = (torch.exp(math.log(1 / 4) - lp) - (math.log(1 / 4) - lp) - 1).mean()
    assert logs["kl"] == pytest.approx(float(expected), rel=1e-5)
    assert loss == pytest.approx(0.3 * float(expected) + logs["policy_loss"], rel=1e-5)


def test_a_file_of_pairs_is_refused_when_the_objective_is_made() -> None:
    with pytest.raises(UsageError, match=r"PolicyGradient\.candidates Pairs\(.*\) lists candidates in their order; use Preference"):
        PolicyGradient(candidates=Pairs("pairs.csv"))


def test_a_list_longer_than_the_beams_is_refused_with_its_flag() -> None:
    with pytest.raises(UsageError, match=r"Rollouts\.size must be at most .* = 5, got 9: lower it \(--align\.size 5\), or raise"):
        Experiment(name="long", source=Shop(), policy=Tiger(num_beams=5), align=Align(PolicyGradient(candidates=Rollouts(size=9))))


def test_reference_is_scored_only_for_the_divergence() -> None:
    for kl, calls in ((0.0, 0), (0.1, 1)):
        context = context_of(Tabular(CODES))
        run(replace(PLAIN, kl=kl).build_step(context), row())
        assert context.reference is not None
        frozen = context.reference.policy
        assert isinstance(frozen, Tabular)
        assert frozen.calls == calls
    context = context._replace(reference=None)
    replace(PLAIN, kl=0.0).build_step(context)
    with pytest.raises(UsageError, match=r"PolicyGradient.kl 0.1 needs a reference, which SFT has not; set kl to 0"):
        replace(PLAIN, kl=0.1).build_step(context)


@pytest.mark.parametrize("name", METHODS)
def test_windows_equal_their_rows(name: str) -> None:
    """Every target of a window is a row of its own."""
    window = WindowBatch(torch.tensor([1, 2]), torch.tensor([[0, 1, 3], [2, 4, 1]]), torch.tensor([[0, 2, 1], [0, 3, 4]]))
    rows = SequenceBatch(
        torch.tensor([1, 1, 2, 2]), torch.tensor([[0, 0, 1], [0, 1, 3], [0, 2, 4], [2, 4, 1]]), torch.tensor([2, 1, 3, 4])
    )
    objective = replace(METHODS[name], candidates=Fixed((1, 2, 3)), reward=Values())
    reference = Tabular(CODES)
    expected = one_step(objective, Tabular(CODES, 0.5), rows, reference)
    found = one_step(replace(objective, targets="all"), Tabular(CODES, 0.5), window, reference)
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    assert found[2] == pytest.approx(expected[2], abs=1e-6)
    assert all(torch.allclose(each, other, atol=1e-6) for each, other in zip(found[1], expected[1], strict=True))


@pytest.mark.parametrize("objective", [PolicyGradient(kl=0.1), *METHODS.values()], ids=["default", *METHODS])
def test_contract_of_objectives_with_a_transformer(objective: PolicyGradient) -> None:
    """The reward differs between items, because a step without a hit has no gradient."""
    check_objective(replace(objective, candidates=Drawn(size=4), reward=Popular(), gate=False))


def test_codes_of_no_item_are_refused() -> None:
    with pytest.raises(UsageError, match="PolicyGradient takes items as candidates, got codes of no item from Fixed"):
        one_step(replace(PLAIN, candidates=Fixed((1, 2), codes=True)), Tabular(CODES))


@dataclass(frozen=True)
class Narrow:
    """An advantage and a surrogate with wrong results, as a plug-in may have them."""

    part: str

    def estimate(self, groups: CandidateGroups) -> Any:
        spread = torch.ones(len(groups.mask)).bool()
        return groups.rewards if self.part == "type" else Advantages(groups.rewards.mean(1), spread)

    def terms(self, log_probs: GroupLogProbs, advantages: Advantages) -> Any:
        loss = -advantages.values * log_probs.levels.sum(2)
        if self.part == "type":
            return loss
        return SurrogateTerms(loss.mean(1) if self.part == "mean" else loss.detach(), torch.zeros_like(loss).bool())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"advantage": Narrow("type")}, "Narrow.* must return genrec.types.Advantages, got Tensor"),
        ({"advantage": Narrow("mean")}, r"values must be float \[1, 4\] or \[1, 4, 2\], got float32 \[1\]"),
        ({"surrogate": Narrow("type")}, "Narrow.* must return genrec.types.SurrogateTerms, got Tensor"),
        ({"surrogate": Narrow("mean")}, r"one value for each candidate \(no mean or sum\), got float32 \[1\]"),
        ({"surrogate": Narrow("detached")}, "the loss has no gradient; do not detach"),
    ],
)
def test_wrong_results_of_plug_ins_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        one_step(replace(PLAIN, **fields), Tabular(CODES))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PolicyGradient(kl=-1.0), "PolicyGradient.kl must be 0 or more"),
        (lambda: PolicyGradient(weight=math.nan), "PolicyGradient.weight must be 0 or more"),
        (lambda: PolicyGradient(kl_in="both"), "PolicyGradient.kl_in must be one of 'loss', 'reward', got 'both'"),  # type: ignore[arg-type]
        (lambda: PolicyGradient(gate=1), "PolicyGradient.gate must be True or False, got 1"),  # type: ignore[arg-type]
        (lambda: PolicyGradient(targets="some"), "PolicyGradient.targets must be one of 'one', 'all'"),  # type: ignore[arg-type]
        (lambda: PolicyGradient(surrogate=GroupAdvantage()), r"PolicyGradient.surrogate must be .*Surrogate, such as EarlyClip\(\)"),  # type: ignore[arg-type]
        (lambda: PolicyGradient(advantage=Clip()), r"PolicyGradient.advantage must be .*Advantage, such as GroupAdvantage\(\)"),  # type: ignore[arg-type]
        (lambda: PolicyGradient(reward=Values), r"PolicyGradient.reward must be .*Reward, such as Hit\(\), got the class "),  # type: ignore[arg-type]
        (lambda: PolicyGradient(candidates=Values()), r"PolicyGradient.candidates must be .*Proposer, such as Rollouts\(\)"),  # type: ignore[arg-type]
    ],
)
def test_wrong_fields_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()


def test_a_candidate_with_an_advantage_of_0_is_not_counted_among_those_with_a_gradient() -> None:
    """Advantages 2, 0, -1 in the first group, the second has no gradient: |2| and |-1| are averaged, and one of the two is clipped."""
    advantages = torch.tensor([[2.0, 0.0, -1.0], [1.0, 1.0, 1.0]])
    mask, clipped = torch.ones(2, 3, dtype=torch.bool), torch.tensor([[True, True, False], [True, True, True]])
    counted = torch.tensor([True, False])

    def logs(values: Tensor) -> dict[str, Tensor]:
        return group_logs(JudgedGroups(mask, mask, values, values, values, clipped, counted))

    found = logs(advantages)
    assert (found["advantage_magnitude"], found["clip_share"]) == (1.5, 0.5)
    levels = torch.stack([advantages, torch.zeros_like(advantages)], 2)  # one advantage for each of two codes
    found = group_logs(JudgedGroups(mask, mask, advantages, advantages, levels, clipped, counted))
    assert (found["advantage_magnitude"], found["clip_share"]) == (0.75, 0.5)
    assert logs(torch.zeros(2, 3))["advantage_magnitude"] == 0
