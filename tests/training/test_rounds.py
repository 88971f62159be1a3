"""Alignment in rounds: refreshed references and sampled policies, rewards, mismatched pairs, resuming."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from alignments import align, IDS, constant, parts, recipe
from torch import Generator, Tensor

from genrec.errors import Stopped, UsageError
from genrec.preference.draw_contract import DrawContract
from genrec.preference.losses import DPO, KTO, Anchored, SoftmaxDPO
from genrec.preference.negative_statistics import Summary
from genrec.preference.negatives import ModelBeams, Uniform
from genrec.semantic_ids import SemanticIds
from genrec.training.align import Alignment, AlignmentBatch, StepSampler, align, as_module, mismatched_items, round_step
from genrec.training.recipes import Align
from genrec.types import DrawNegatives, LogProbs, Policy, PreferenceTerms, Reward, SamplerContext, SequenceBatch


def test_a_round_starts_with_sft() -> None:
    """Twelve steps in three rounds of four. The first step of each is SFT, so preferences start at steps 1, 5 and 9."""
    scheme = recipe(max_steps=12, rounds=3, round_sft_steps=1)
    assert [step for step in range(12) if round_step(scheme, step).is_sft] == [0, 4, 8]
    assert [step for step in range(12) if round_step(scheme, step).starts_preferences] == [1, 5, 9]
    plain = recipe(max_steps=12)
    assert [step for step in range(12) if round_step(plain, step).starts_preferences] == [0]
    assert not any(round_step(plain, step).is_sft for step in range(12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, r"align\.rounds must be 1 or more"),
        ({"rounds": 3}, r"divide align\.optimization\.max_steps = 40, got 3"),
        ({"rounds": 4, "round_sft_steps": 10}, r"align\.round_sft_steps must lie in 0\.\.9"),
        ({"loss": Anchored(Anchored(DPO())), "num_negatives": 2}, "DPO takes one negative"),
    ],
)
def test_invalid_rounds_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe(**change)


def started(settings: Align) -> tuple[Alignment, SequenceBatch]:
    built, entries, context = parts()
    objective = Alignment(built, context, settings, 0, 14)
    return objective, entries.batch(torch.arange(16))


def perturb(policy: Policy) -> None:
    with torch.no_grad():
        for parameter in as_module(policy).parameters():
            parameter.add_(0.01)


def same(one: Policy, other: Policy) -> bool:
    return all(torch.equal(a, b) for a, b in zip(as_module(one).parameters(), as_module(other).parameters(), strict=True))


def take(objective: Alignment, batch: SequenceBatch, step: int) -> dict[str, Tensor]:
    return objective(objective.prepare(batch, step), step)[1]


def test_the_reference_is_refreshed_at_the_start_of_a_round() -> None:
    """The reference is refreshed at step 5, not at 4. The drift then is 0, and the reference has no gradient."""
    objective, batch = started(recipe(max_steps=10, rounds=2))
    perturb(objective.policy)
    assert take(objective, batch, 4)["chosen_drift"].abs() > 1e-4
    assert not same(objective.policy, objective.reference)
    assert take(objective, batch, 5)["chosen_drift"] == 0
    assert same(objective.policy, objective.reference)
    assert same(objective.policy, objective.sampler_policy)
    assert not any(parameter.requires_grad for parameter in as_module(objective.reference).parameters())


def test_sft_steps_use_no_negatives() -> None:
    objective, batch = started(recipe(max_steps=10, rounds=1, round_sft_steps=4))
    before = as_module(objective.reference).state_dict()["embedding.weight"].clone()
    perturb(objective.policy)
    assert set(take(objective, batch, 3)) == {"sft_loss"}
    assert objective.statistics.summary()["examples"] == 0
    assert torch.equal(as_module(objective.reference).state_dict()["embedding.weight"], before)
    assert take(objective, batch, 4)["chosen_drift"] == 0  # the reference is the policy after this round's SFT
    assert objective.statistics.summary()["examples"] == 16


def test_the_sampler_policy_is_refreshed_as_the_sampler_requires() -> None:
    """Every four steps, while the reference stays the SFT policy. Negatives are sampled in the step, not in advance."""
    objective, batch = started(recipe(negatives=ModelBeams(num_beams=10, refresh_every=4)))
    assert objective.prepare(batch, 1).negatives is None
    perturb(objective.policy)
    for step in range(1, 4):
        take(objective, batch, step)
    assert not same(objective.policy, objective.sampler_policy)
    take(objective, batch, 4)
    assert same(objective.policy, objective.sampler_policy)
    assert not same(objective.policy, objective.reference)


def test_refreshes_in_epochs_are_counted_in_steps() -> None:
    _, _, context = parts()
    policy, _, _ = parts()
    sampler = ModelBeams(num_beams=10, refresh_every=2, refresh_unit="epochs")
    assert StepSampler(recipe(negatives=sampler), context._replace(policy=policy), 14, 0).refresh_every == 28


def test_negatives_depend_on_the_example_not_on_the_batch() -> None:
    """An example gets the same negatives in any batch and at any step of an epoch, and others in the next epoch."""
    _, entries, context = parts()
    sampler = StepSampler(recipe(negatives=Uniform()), context, 14, 0)
    together = sampler(entries.batch(torch.arange(16)), 3)
    apart = torch.cat([sampler(entries.batch(torch.arange(begin, begin + 4)), 5) for begin in (0, 4, 8, 12)])
    assert torch.equal(together, apart)
    assert not torch.equal(together, sampler(entries.batch(torch.arange(16)), 14))


@dataclass(frozen=True)
class Growing:
    """A sampler that changes during training and records the progress that it is given."""

    def build(self, context: SamplerContext) -> DrawNegatives:
        return Progressing(Uniform().build(context), [])


class Progressing:
    def __init__(self, inner: DrawNegatives, calls: list[float]) -> None:
        self.inner, self.calls = inner, calls

    def at(self, progress: float) -> DrawNegatives:
        self.calls.append(progress)
        return self.inner

    def __call__(self, batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
        raise AssertionError("call the sampler that `at` returns")


def test_a_sampler_that_changes_gets_the_progress_of_training() -> None:
    _, entries, context = parts()
    sampler = StepSampler(recipe(negatives=Growing(), max_steps=40), context, 14, 0)
    for step in (0, 10, 39):
        sampler(entries.batch(torch.arange(4)), step)
    assert sampler.draw.calls == [0.0, 0.25, 0.975]  # type: ignore[attr-defined]


def test_mismatched_items_are_the_next_examples_positives() -> None:
    """Items 1 and 2 share a Semantic ID, so the first example has no mismatched item."""
    context = parts()[2]._replace(semantic_ids=SemanticIds(torch.cat([IDS.codes[:1], IDS.codes[:1], IDS.codes[2:]]), IDS.level_sizes))
    batch = SequenceBatch(torch.tensor([1, 2, 3]), torch.tensor([[9], [9], [9]]), torch.tensor([2, 7, 1]))
    assert mismatched_items(batch, DrawContract(context)).tolist() == [0, 2, 7]


def test_kto_learns_with_mismatched_items(tmp_path: Path) -> None:
    built, entries, context = parts()
    outcome, *_ = align(built, entries, context, recipe(loss=KTO(beta=0.5), num_negatives=2), 0, tmp_path / "last", constant)
    rows = [row for row in outcome.curves if "loss" in row]
    assert rows[-1]["margin"] > rows[0]["margin"] > 0
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_an_alignment_reports_a_last_batch_without_mismatched_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The batch size is the number of examples minus 1, so the second step of the epoch has one example. DPO reads no such pairs."""
    built, entries, context = parts()
    for loss, said in ((KTO(), True), (DPO(), False)):
        short = recipe(loss=loss, num_negatives=1, batch_size=len(entries) - 1, max_steps=2)
        align(built, entries, context, short, 0, tmp_path / str(said), constant)
        assert (f"has 1 of the {len(entries)} examples" in capsys.readouterr().err) == said


@dataclass(frozen=True)
class ItemNumber:
    """A reward plug-in: the item id."""

    def rate(self, context: SamplerContext) -> Callable[[SequenceBatch, Tensor], Tensor]:
        return lambda batch, items: items.float()


CALLS: list[LogProbs] = []


@dataclass(frozen=True)
class RewardLoss:
    """A loss plug-in that needs a reward."""

    reward: Reward | None = ItemNumber()

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        CALLS.append(policy)
        return SoftmaxDPO()(policy, reference)


def test_a_loss_gets_the_reward_that_it_needs() -> None:
    """The rewards of the positive and the negatives, in this order, also inside `Anchored`."""
    objective, batch = started(recipe(loss=Anchored(RewardLoss())))
    take(objective, batch, 0)
    rewards = CALLS[-1].rewards
    assert rewards is not None
    assert torch.equal(rewards[:, 0], batch.target.float())
    assert rewards.shape == (16, 4)


def test_normalize_children_gives_probabilities_over_items() -> None:
    """The probabilities of all items sum to 1, and the first loss still is ln(1 + K)."""
    objective, batch = started(recipe(normalize="children"))
    take(objective, batch, 0)
    everything = torch.arange(1, 41).expand(16, -1)
    total = objective._score(objective.policy, batch.history, everything).sum(-1).exp().sum(1)
    assert total.tolist() == pytest.approx([1.0] * 16, abs=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": 2, "round_sft_steps": 10, "negatives": ModelBeams(num_beams=10), "num_negatives": 1, "loss": DPO()},
        {"negatives": ModelBeams(num_beams=10, refresh_every=15)},
    ],
    ids=["self-play", "refreshed beams"],
)
def test_a_resumed_round_gives_the_same_weights(change: dict[str, object], tmp_path: Path) -> None:
    """At step 20 the reference and the sampled policy hold weights of earlier steps, which the checkpoint must contain."""

    def run(folder: str, stop: bool) -> tuple[dict[str, Tensor], Summary]:
        built, entries, context = parts()
        calls: list[int] = []

        def validate() -> dict[str, float]:
            calls.append(1)
            if stop and len(calls) == 2:
                os.kill(os.getpid(), signal.SIGINT)  # in the validation after step 20
            return {"ndcg@10": 0.1}

        settings = replace(recipe(**change), keep="last")
        _, statistics, _ = align(built, entries, context, settings, 0, tmp_path / folder / "last", validate)
        return built.state_dict(), statistics

    whole, statistics = run("whole", stop=False)
    with pytest.raises(Stopped):
        run("parts", stop=True)
    again, counted = run("parts", stop=False)
    assert counted == statistics
    assert all(torch.equal(value, whole[name]) for name, value in again.items())


def test_prepared_batches_keep_a_copy_on_the_host() -> None:
    objective, batch = started(recipe())
    prepared = objective.prepare(batch, 0)
    assert isinstance(prepared, AlignmentBatch)
    assert prepared.negatives is prepared.host.negatives
    assert prepared.negatives is not None
