"""Alignment in rounds, and what losses and samplers ask of it: references, refreshed policies, rewards, mismatched pairs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from alignments import IDS, parts, recipe, steady
from torch import Generator, Tensor

from genrec.errors import Stopped, UsageError
from genrec.preference.draw_contract import DrawContract
from genrec.preference.losses import DPO, KTO, Anchored, SoftmaxDPO
from genrec.preference.negative_statistics import Summary
from genrec.preference.negatives import ModelBeams, Uniform
from genrec.semantic_ids import SemanticIds
from genrec.training.align import Alignment, Drawing, Pairs, align, mismatched, module_of, round_of
from genrec.training.recipes import Align
from genrec.types import DrawNegatives, LogProbs, Policy, PreferenceTerms, Reward, SamplerContext, SequenceBatch


def test_a_round_is_sft_and_then_preferences() -> None:
    """Twelve steps in three rounds of four, the first of each SFT: preferences begin at steps 1, 5 and 9."""
    scheme = recipe(max_steps=12, rounds=3, round_sft_steps=1)
    assert [step for step in range(12) if round_of(scheme, step).supervised] == [0, 4, 8]
    assert [step for step in range(12) if round_of(scheme, step).begins] == [1, 5, 9]
    plain = recipe(max_steps=12)
    assert [step for step in range(12) if round_of(plain, step).begins] == [0]
    assert not any(round_of(plain, step).supervised for step in range(12))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rounds": 0}, r"align\.rounds must be 1 or more"),
        ({"rounds": 3}, r"divide align\.steps = 40, got 3"),
        ({"rounds": 4, "round_sft": 10}, r"align\.round_sft must lie in 0\.\.9"),
        ({"loss": Anchored(Anchored(DPO())), "count": 2}, "DPO takes one negative"),
    ],
)
def test_what_is_no_round(change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        recipe(**change)


def started(settings: Align) -> tuple[Alignment, SequenceBatch]:
    built, entries, context = parts()
    objective = Alignment(built, context, settings, 0, 14)
    return objective, entries.batch(torch.arange(16))


def nudge(policy: Policy) -> None:
    with torch.no_grad():
        for parameter in module_of(policy).parameters():
            parameter.add_(0.01)


def same(one: Policy, other: Policy) -> bool:
    return all(torch.equal(a, b) for a, b in zip(module_of(one).parameters(), module_of(other).parameters(), strict=True))


def take(objective: Alignment, batch: SequenceBatch, step: int) -> dict[str, Tensor]:
    return objective(objective.prepare(batch, step), step)[1]


def test_the_reference_is_the_rounds_own() -> None:
    """Refreshed at step 5, not at 4: there the drift starts from zero again, and it is not trained."""
    objective, batch = started(recipe(max_steps=10, rounds=2))
    nudge(objective.policy)
    assert take(objective, batch, 4)["chosen_drift"].abs() > 1e-4
    assert not same(objective.policy, objective.reference)
    assert take(objective, batch, 5)["chosen_drift"] == 0
    assert same(objective.policy, objective.reference)
    assert same(objective.policy, objective.sampled)
    assert not any(parameter.requires_grad for parameter in module_of(objective.reference).parameters())


def test_supervised_steps_see_no_negatives() -> None:
    objective, batch = started(recipe(max_steps=10, rounds=1, round_sft_steps=4))
    before = module_of(objective.reference).state_dict()["embedding.weight"].clone()
    nudge(objective.policy)
    assert set(take(objective, batch, 3)) == {"sft_loss"}
    assert objective.drawn.summary()["examples"] == 0
    assert torch.equal(module_of(objective.reference).state_dict()["embedding.weight"], before)
    assert take(objective, batch, 4)["chosen_drift"] == 0  # this round's SFT policy is the reference
    assert objective.drawn.summary()["examples"] == 16


def test_what_is_sampled_from_is_refreshed_as_the_sampler_says() -> None:
    """Every four steps, while the reference stays the SFT policy; a batch drawn in the step, not ahead of it."""
    objective, batch = started(recipe(negatives=ModelBeams(num_beams=10, refresh_every=4)))
    assert objective.prepare(batch, 1).negatives is None
    nudge(objective.policy)
    for step in range(1, 4):
        take(objective, batch, step)
    assert not same(objective.policy, objective.sampled)
    take(objective, batch, 4)
    assert same(objective.policy, objective.sampled)
    assert not same(objective.policy, objective.reference)


def test_epochs_are_counted_in_steps() -> None:
    _, _, context = parts()
    policy, _, _ = parts()
    sampler = ModelBeams(num_beams=10, refresh_every=2, refresh_unit="epochs")
    assert Drawing(recipe(negatives=sampler), context._replace(policy=policy), 14, 0).refresh_every == 28


def test_draws_are_the_examples_own() -> None:
    """The same examples in other batches, and at another step of the epoch, get the same negatives; in the next epoch others."""
    _, entries, context = parts()
    drawing = Drawing(recipe(negatives=Uniform()), context, 14, 0)
    together = drawing(entries.batch(torch.arange(16)), 3)
    apart = torch.cat([drawing(entries.batch(torch.arange(begin, begin + 4)), 5) for begin in (0, 4, 8, 12)])
    assert torch.equal(together, apart)
    assert not torch.equal(together, drawing(entries.batch(torch.arange(16)), 14))


@dataclass(frozen=True)
class Growing:
    """A sampler that changes: it notes how far the training is."""

    def build(self, context: SamplerContext) -> DrawNegatives:
        return Progressing(Uniform().build(context), [])


class Progressing:
    def __init__(self, inner: DrawNegatives, seen: list[float]) -> None:
        self.inner, self.seen = inner, seen

    def at(self, progress: float) -> DrawNegatives:
        self.seen.append(progress)
        return self.inner

    def __call__(self, batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
        raise AssertionError("what `at` returns draws")


def test_a_sampler_that_changes_is_told_how_far_the_training_is() -> None:
    _, entries, context = parts()
    drawing = Drawing(recipe(negatives=Growing(), steps=40), context, 14, 0)
    for step in (0, 10, 39):
        drawing(entries.batch(torch.arange(4)), step)
    assert drawing.draw.seen == [0.0, 0.25, 0.975]  # type: ignore[attr-defined]


def test_mismatched_items_are_the_next_examples_positives() -> None:
    """Items 1 and 2 share a Semantic ID, so that the first example has no mismatched item."""
    context = parts()[2]._replace(semantic_ids=SemanticIds(torch.cat([IDS.codes[:1], IDS.codes[:1], IDS.codes[2:]]), IDS.level_sizes))
    batch = SequenceBatch(torch.tensor([1, 2, 3]), torch.tensor([[9], [9], [9]]), torch.tensor([2, 7, 1]))
    assert mismatched(batch, DrawContract(context)).tolist() == [0, 2, 7]


def test_kto_learns_with_its_baseline(tmp_path: Path) -> None:
    built, entries, context = parts()
    outcome, _ = align(built, entries, context, recipe(loss=KTO(beta=0.5), count=2), 0, tmp_path / "last", steady)
    rows = [row for row in outcome.curves if "loss" in row]
    assert rows[-1]["margin"] > rows[0]["margin"] > 0
    assert rows[-1]["loss"] < rows[0]["loss"]


@dataclass(frozen=True)
class ItemNumber:
    """A reward of one's own."""

    def rate(self, context: SamplerContext) -> Callable[[SequenceBatch, Tensor], Tensor]:
        return lambda batch, items: items.float()


SEEN: list[LogProbs] = []


@dataclass(frozen=True)
class Asking:
    """A loss of one's own that asks for a reward."""

    reward: Reward | None = ItemNumber()

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        SEEN.append(policy)
        return SoftmaxDPO()(policy, reference)


def test_a_loss_gets_the_reward_it_asks_for() -> None:
    """Through an anchor too: the rewards are of the positive and of the negatives, in their order."""
    objective, batch = started(recipe(loss=Anchored(Asking())))
    take(objective, batch, 0)
    rewards = SEEN[-1].rewards
    assert rewards is not None
    assert torch.equal(rewards[:, 0], batch.target.float())
    assert rewards.shape == (16, 4)


def test_probabilities_over_real_items_alone() -> None:
    """With `children` the log-probabilities of all items add up to one; the first loss still is ln(1 + K)."""
    objective, batch = started(recipe(normalize="children"))
    take(objective, batch, 0)
    everything = torch.arange(1, 41).expand(16, -1)
    total = objective._score(objective.policy, batch.history, everything).sum(-1).exp().sum(1)
    assert total.tolist() == pytest.approx([1.0] * 16, abs=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": 2, "round_sft": 10, "negatives": ModelBeams(num_beams=10), "count": 1, "loss": DPO()},
        {"negatives": ModelBeams(num_beams=10, refresh_every=15)},
    ],
    ids=["self-play", "refreshed beams"],
)
def test_a_stopped_round_goes_on_to_the_same_weights(change: dict[str, object], tmp_path: Path) -> None:
    """Stopped after step 20: the reference and the policy that is sampled from are of earlier steps, and in the checkpoint."""

    def run(folder: str, stop: bool) -> tuple[dict[str, Tensor], Summary]:
        built, entries, context = parts()
        calls: list[int] = []

        def validate() -> dict[str, float]:
            calls.append(1)
            if stop and len(calls) == 2:
                os.kill(os.getpid(), signal.SIGINT)  # in the validation after step 20
            return {"ndcg@10": 0.1}

        settings = replace(recipe(**change), keep="last")
        _, drawn = align(built, entries, context, settings, 0, tmp_path / folder / "last", validate)
        return built.state_dict(), drawn

    whole, drawn = run("whole", stop=False)
    with pytest.raises(Stopped):
        run("parts", stop=True)
    again, counted = run("parts", stop=False)
    assert counted == drawn
    assert all(torch.equal(value, whole[name]) for name, value in again.items())


def test_pairs_say_what_waits() -> None:
    objective, batch = started(recipe())
    pairs = objective.prepare(batch, 0)
    assert isinstance(pairs, Pairs)
    assert pairs.negatives is pairs.host.negatives
    assert pairs.negatives is not None
