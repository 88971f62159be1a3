"""Rounds of objectives, refreshed references and sampled policies, rewards, mismatched pairs, resuming."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from alignments import IDS, align, built_step, constant, parts, recipe, take
from proposals import Growing
from torch import Tensor

from genrec.errors import Stopped, UsageError
from genrec.experiment import Experiment
from genrec.objectives import PolicyGradient, Preference, Rounds, Supervised
from genrec.objectives.column_parts import columns_of_part, without_part
from genrec.objectives.prepared_rows import PreparedRows, mismatched_items
from genrec.policy_modules import as_module
from genrec.preference.candidates import Sampled
from genrec.preference.candidates.row_scores import scores_of
from genrec.preference.candidates.step_sampler import StepSampler
from genrec.preference.exclusions import Exclusions
from genrec.preference.losses import DPO, KTO, Anchored, SoftmaxDPO
from genrec.preference.negative_statistics import Summary
from genrec.preference.negatives import ModelBeams, Uniform
from genrec.semantic_ids import SemanticIds
from genrec.testing import Cyclic, objective_world
from genrec.types import (
    Draw,
    LogProbs,
    LossNeeds,
    NegativeSampler,
    ObjectiveContext,
    Policy,
    PreferenceTerms,
    Rating,
    SamplerContext,
    SequenceBatch,
    TrainingStep,
)  # fmt: skip


def rounds(steps: tuple[int, ...] = (1, 3), refresh_before: int | None = -1, negatives: NegativeSampler | None = None) -> Rounds:
    """Return rounds of SFT and of S-DPO."""
    preference = Preference(loss=SoftmaxDPO(), candidates=Sampled(negatives or Uniform(), 3))
    return Rounds(objectives=(Supervised(), preference), steps=steps, refresh_before=refresh_before)


def test_the_parts_of_a_round_come_in_turn() -> None:
    """Rounds of one step of SFT and three of S-DPO: steps 0, 4 and 8 log the loss of SFT alone."""
    step, _, frozen, batch = built_step(recipe(max_steps=12, objective=rounds()))
    logged = [set(take(step, frozen, batch, number)[1]) for number in range(12)]
    assert [number for number, names in enumerate(logged) if names == {"sft_loss"}] == [0, 4, 8]
    assert all("margin" in names for number, names in enumerate(logged) if number % 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": (20,)}, r"Rounds\.steps must have a number of 1 or more for each of the 2 objectives, got \(20,\)"),
        ({"steps": (20, 0)}, r"for each of the 2 objectives, got \(20, 0\)"),
        ({"objectives": (), "steps": ()}, r"for each of the 0 objectives"),
        ({"objectives": (Supervised, Preference())}, r"Rounds\.objectives\[0\] must be an objective"),
        ({"refresh_before": 2}, r"Rounds\.refresh_before must be None or in -2\.\.1, got 2"),
    ],
)
def test_invalid_rounds_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Rounds(**change)  # type: ignore[arg-type]


def test_a_training_ends_with_a_whole_round() -> None:
    with pytest.raises(UsageError, match=r"a round has 40 steps \(20 \+ 20\), which must divide align\.optimization\.max_steps = 50"):
        Experiment(name="odd", source=Cyclic(), align=recipe(max_steps=50, objective=Rounds()))


def test_all_parts_train_on_the_same_batches() -> None:
    """Windows and prefixes have other batches. The examples of this test are prefixes, whatever is asked for."""
    mixed = recipe(objective=Rounds(objectives=(Supervised(), Halved()), steps=(1, 1)))
    with pytest.raises(UsageError, match="must train on the same batches, got 210 Examples, 420 Examples"):
        built_step(mixed)


@dataclass(frozen=True)
class Halved:
    """An objective on half of the examples."""

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        step = Supervised().build_step(context)
        return replace(step, examples=parts()[1].select(torch.arange(210)))


def perturb(policy: Policy) -> None:
    with torch.no_grad():
        for parameter in as_module(policy).parameters():
            parameter.add_(0.01)


def same(one: Policy, other: Policy) -> bool:
    return all(torch.equal(a, b) for a, b in zip(as_module(one).parameters(), as_module(other).parameters(), strict=True))


def test_the_reference_is_refreshed_every_so_many_steps() -> None:
    """At step 5, not at 4. The drift then is 0, and the reference has no gradient."""
    step, context, frozen, batch = built_step(recipe(max_steps=10, refresh_reference=5))
    perturb(context.policy)
    assert take(step, frozen, batch, 4)[1]["chosen_drift"].abs() > 1e-4
    assert not same(context.policy, frozen.reference.policy)
    assert take(step, frozen, batch, 5)[1]["chosen_drift"] == 0
    assert same(context.policy, frozen.reference.policy)
    assert not any(parameter.requires_grad for parameter in as_module(frozen.reference.policy).parameters())


@pytest.mark.parametrize(("refresh_before", "refreshed"), [(-1, True), (None, False)])
def test_the_reference_of_rounds_is_the_policy_after_their_sft(refresh_before: int | None, refreshed: bool) -> None:
    """Steps 0 to 3 are SFT; the negatives of step 4 come from the reference's beams."""
    objective = rounds((4, 6), refresh_before, ModelBeams(num_beams=10))
    step, context, frozen, batch = built_step(recipe(max_steps=10, objective=objective))
    perturb(context.policy)
    assert set(take(step, frozen, batch, 3)[1]) == {"sft_loss"}
    assert not same(context.policy, frozen.reference.policy)
    assert bool(take(step, frozen, batch, 4)[1]["chosen_drift"] == 0) == refreshed
    assert same(context.policy, frozen.reference.policy) == refreshed


def test_the_sampled_policy_is_refreshed_as_the_sampler_requires() -> None:
    """Every four steps, while the reference stays the SFT policy. Negatives are sampled in the step, not in advance."""
    step, context, frozen, batch = built_step(recipe(negatives=ModelBeams(num_beams=10, refresh_every=4)))
    assert step.prepare is not None
    assert step.prepare(batch, 1).candidates is None
    sampled = frozen.copies["sampled"].policy
    perturb(context.policy)
    for number in range(1, 4):
        take(step, frozen, batch, number)
    assert not same(context.policy, sampled)
    take(step, frozen, batch, 4)
    assert same(context.policy, sampled)
    assert not same(context.policy, frozen.reference.policy)


def test_a_copy_that_is_due_in_the_steps_of_another_objective_is_refreshed_there() -> None:
    """Steps 0 to 3 are SFT, and the copy is due every eighth step: at 0, 8 and 16, all of them steps of SFT."""
    objective = rounds((4, 4), None, ModelBeams(num_beams=10, refresh_every=8))
    step, context, frozen, batch = built_step(recipe(max_steps=24, objective=objective))
    sampled = frozen.copies["sampled"].policy
    perturb(context.policy)
    take(step, frozen, batch, 7)
    assert not same(context.policy, sampled)
    take(step, frozen, batch, 8)
    assert same(context.policy, sampled)


def step_sampler(negatives: NegativeSampler, **change: object) -> StepSampler:
    """Return a sampler of three negatives, with epochs of 14 steps."""
    _, context, _, _ = built_step(recipe(negatives=negatives, **change))
    return StepSampler(negatives, 3, context._replace(epoch_steps=14))


def test_refreshes_in_epochs_are_counted_in_steps() -> None:
    assert step_sampler(ModelBeams(num_beams=10, refresh_every=2, refresh_unit="epochs")).refresh_every == 28


def test_negatives_depend_on_the_example_not_on_the_batch() -> None:
    """An example gets the same negatives in any batch and at any step of an epoch, and others in the next epoch."""
    _, entries, _ = parts()
    sampler = step_sampler(Uniform())
    together = sampler(entries.batch(torch.arange(16)), 3)
    apart = torch.cat([sampler(entries.batch(torch.arange(begin, begin + 4)), 5) for begin in (0, 4, 8, 12)])
    assert torch.equal(together, apart)
    assert not torch.equal(together, sampler(entries.batch(torch.arange(16)), 14))


def test_a_sampler_that_changes_gets_the_progress_of_training() -> None:
    _, entries, _ = parts()
    growing = Growing()
    sampler = step_sampler(growing, max_steps=40)
    for step in (0, 10, 39):
        sampler(entries.batch(torch.arange(4)), step)
    assert growing.calls == [0.0, 0.25, 0.975]


def test_mismatched_items_are_the_next_examples_positives() -> None:
    """Items 1 and 2 share a Semantic ID, so the first example has no mismatched item."""
    context = parts()[2]._replace(semantic_ids=SemanticIds(torch.cat([IDS.codes[:1], IDS.codes[:1], IDS.codes[2:]]), IDS.level_sizes))
    batch = SequenceBatch(torch.tensor([1, 2, 3]), torch.tensor([[9], [9], [9]]), torch.tensor([2, 7, 1]))
    assert mismatched_items(batch, Exclusions(context)).tolist() == [0, 2, 7]


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

    def rate(self, context: SamplerContext) -> Rating:
        return Rating(rate=lambda batch, items: items.float())


@dataclass(frozen=True)
class RewardLoss:
    """A loss plug-in that needs rewards and keeps what it is called with."""

    calls: list[LogProbs] = field(default_factory=list)

    needs = LossNeeds(rewards=True)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        self.calls.append(policy)
        return SoftmaxDPO()(policy, reference)


def test_a_loss_gets_the_rewards_that_it_needs() -> None:
    """The rewards of the positive and the negatives, in this order, also inside `Anchored`."""
    loss = RewardLoss()
    step, _, frozen, batch = built_step(recipe(loss=Anchored(loss), reward=ItemNumber()))
    take(step, frozen, batch, 0)
    rewards = loss.calls[-1].rewards
    assert rewards is not None
    assert torch.equal(rewards[:, 0], batch.target.float())
    assert rewards.shape == (16, 4)


def test_normalize_children_gives_probabilities_over_items() -> None:
    """The probabilities of all items sum to 1."""
    _, context, _, batch = built_step(recipe(normalize="children"))
    everything = torch.arange(1, 41).expand(16, -1)
    levels = scores_of(context.policy, batch, None, batch, context.normalize).level_log_prob(everything)
    assert levels.sum(-1).exp().sum(1).tolist() == pytest.approx([1.0] * 16, abs=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"objective": rounds((10, 10), negatives=ModelBeams(num_beams=10))},
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
    step, _, _, batch = built_step(recipe())
    assert step.prepare is not None
    prepared = step.prepare(batch, 0)
    assert isinstance(prepared, PreparedRows)
    assert prepared.candidates is prepared.host.candidates
    assert prepared.candidates is not None


@dataclass(frozen=True)
class CountedBuilds:
    """A sampler that counts its builds."""

    sampler: NegativeSampler
    builds: list[int] = field(default_factory=list)

    def inner_samplers(self) -> tuple[NegativeSampler, ...]:
        return (self.sampler,)

    def build(self, context: SamplerContext) -> Draw:
        self.builds.append(1)
        return self.sampler.build(context)


@pytest.mark.parametrize("sampler", [Uniform(), ModelBeams(num_beams=10), ModelBeams(num_beams=10, refresh_every=4)])
def test_a_sampler_that_tells_its_refresh_is_built_once(sampler: NegativeSampler) -> None:
    """Building may compute neighbors of the whole catalog."""
    counted = CountedBuilds(sampler)
    built_step(recipe(negatives=counted))
    assert len(counted.builds) == 1


def test_the_negatives_of_several_preferences_are_counted_together(tmp_path: Path) -> None:
    """Rounds of two preferences with 3 and 1 negatives, 20 steps of 30 examples each, also where one is in inner rounds."""
    three, one = (Preference(loss=SoftmaxDPO(), candidates=Sampled(Uniform(), number)) for number in (3, 1))
    inner = Rounds(objectives=(Supervised(), one), steps=(1, 1))
    for name, last, examples, draws in (("flat", one, 40, 20 * 3 + 20), ("nested", inner, 30, 20 * 3 + 10)):
        objective = Rounds(objectives=(three, last), steps=(2, 2))
        _, summary, counts = align(*parts(), recipe(objective=objective, batch_size=30), 0, tmp_path / name, constant)
        assert (summary["examples"], summary["negatives"]) == (30 * examples, 30 * draws)
        assert counts["count"].sum() == 30 * draws
        assert not counts.duplicated(["user", "item"]).any()


def test_metrics_of_one_name_are_told_apart_by_the_part() -> None:
    """A mock measures in place of the validation pairs: parts 1 and 3 have a margin, part 3 alone a share."""
    step = Rounds(objectives=(Preference(), Supervised(feedback="not disliked"), Preference()), steps=(1, 1, 1)).build_step(
        objective_world()
    )
    assert step.measure is not None
    built = step.measure.__self__  # type: ignore[attr-defined]
    built.parts = [
        replace(built.parts[0], measure=lambda: {"margin": 1.0}),
        built.parts[1],
        replace(built.parts[2], measure=lambda: {"margin": 2.0, "share": 3.0}),
    ]
    assert step.measure() == {"margin_part_1": 1.0, "margin_part_3": 2.0, "share": 3.0}


def several() -> Rounds:
    """Return rounds of SFT, S-DPO with 3 negatives, a policy gradient and S-DPO with 1, two steps each."""
    preferences = [Preference(loss=SoftmaxDPO(), candidates=Sampled(Uniform(), number), likelihood=0.5) for number in (3, 1)]
    gradient = PolicyGradient(candidates=Sampled(Uniform(), 3), gate=False)
    return Rounds(objectives=(Supervised(), preferences[0], gradient, preferences[1]), steps=(2, 2, 2, 2))


def test_columns_of_one_name_are_told_apart_by_the_objective(tmp_path: Path) -> None:
    """By hand: a row of 20 steps has the mean over the steps of all objectives, as before, and that of each objective."""
    step, _, frozen, batch = built_step(recipe(objective=several()))
    logged = [{name: value.item() for name, value in take(step, frozen, batch, number)[1].items()} for number in range(8)]
    assert [set(each) for each in logged[:2]] == [{"sft_loss"}] * 2
    for number, part in ((2, 2), (3, 2), (6, 4), (7, 4)):
        own = {name for name in logged[number] if name.endswith(f"_part_{part}")}
        assert {"margin", f"margin_part_{part}", f"likelihood_loss_part_{part}", f"loss_part_{part}"} <= set(logged[number])
        assert len(own) == (len(logged[number]) + 1) / 2
        assert all(
            logged[number][name.removesuffix(f"_part_{part}")] == logged[number][name] for name in own if "loss_part" not in name
        )
    assert {"reward_part_3", "likelihood_loss_part_3"} <= set(logged[4])
    outcome, *_ = align(*parts(), recipe(objective=several()), 0, tmp_path / "a", constant)
    row = next(row for row in outcome.curves if "margin" in row)
    assert row["margin"] == pytest.approx((6 * row["margin_part_2"] + 4 * row["margin_part_4"]) / 10, rel=1e-4)  # steps 0 to 19
    assert row["loss_part_2"] != row["loss_part_4"]
    assert {"drawn_depth_part_2", "hit_share_part_3", "sft_loss"} <= set(row)
    assert not any(name.startswith("sft_loss_part") for name in row)


@pytest.mark.parametrize("objective", [rounds(), Rounds(), rounds((2, 2))])
def test_rounds_of_sft_and_one_objective_have_plain_columns(objective: Rounds) -> None:
    step, _, frozen, batch = built_step(recipe(max_steps=4, objective=replace(objective, steps=(1, 3))))
    names = {name for number in range(4) for name in take(step, frozen, batch, number)[1]}
    assert not any("_part_" in name for name in names)


def test_watchers_of_an_objective_read_its_own_columns() -> None:
    """The positives of part 3 fall by 2 nats, those of part 1 rise: the mean hides it, and the warning is of part 3."""
    preferences = tuple(Preference(loss=SoftmaxDPO(), candidates=Sampled(Uniform(), 3)) for _ in range(2))
    objective = Rounds(objectives=(preferences[0], Supervised(feedback="not disliked"), preferences[1]), steps=(1, 1, 1))
    watchers = objective.build_step(objective_world()).watchers
    names = ("chosen_log_prob", "chosen_drift", "rejected_log_prob", "rejected_drift")
    told: list[str] = []
    for step, fall in ((20, 0.0), (40, 2.0), (60, 2.0)):
        columns = {
            f"{name}_part_{part}": sign * value
            for part, sign in ((1, 0.1), (3, 1.0))
            for name, value in zip(names, (-5 - fall, 0.0 - fall, -6 - fall, 0.0 - fall), strict=True)
        }
        means = dict.fromkeys(names, -5.0)
        row = {"step": float(step), "loss": 0.7, **means, **columns}
        told += [message for watcher in watchers if (message := watcher(row)) is not None]
    (message,) = told
    assert "by step 60 their log-probability fell by 2.00 nats per Semantic ID (-5.00 -> -7.00)" in message


def test_the_columns_of_a_part_by_hand() -> None:
    row = {
        "step": 20.0,
        "margin": 2.0,
        "margin_part_1": 1.0,
        "margin_part_2": 3.0,
        "reward_part_1": 5.0,
        "reward": 5.0,
        "sft_loss": 4.0,
    }
    assert columns_of_part(row, 2) == {"step": 20.0, "sft_loss": 4.0, "margin": 3.0}
    assert columns_of_part(row, 1) == {"step": 20.0, "sft_loss": 4.0, "margin": 1.0, "reward": 5.0}
    nested = {"margin_part_1_part_2": 1.0, "margin_part_1": 2.0}
    assert columns_of_part(nested, 2) == {"margin_part_1": 1.0}
    assert without_part("margin_part_12") == ("margin", 12)
    assert without_part("margin_level_1") == ("margin_level_1", None)
