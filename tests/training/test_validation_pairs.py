"""Preferences on validation pairs: by hand, against a loop over pairs, the same at every validation, without effect on training."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from alignments import align, built_step, constant, corpus, parts, recipe
from torch import Tensor

from genrec.data.examples import Examples, examples
from genrec.errors import InputError, Stopped
from genrec.objectives import Preference, Rounds, Supervised, validation_pairs
from genrec.objectives.validation_pairs import PairMetrics, pair_metrics
from genrec.policy_modules import as_module
from genrec.preference.candidates import Sampled
from genrec.preference.candidates.step_sampler import StepSampler
from genrec.preference.exclusions import Exclusions
from genrec.preference.losses import DPO, KTO, Anchored, ContinuedSFT, RosePO, SimPO
from genrec.preference.negatives import AlreadySeen, BestOf, Curriculum, InBatch, ModelBeams, PrefixNeighbors, Uniform
from genrec.preference.rewards import LogProbability
from genrec.training import align as aligning
from genrec.training.policy_divergence import ENTROPY, KL
from genrec.training.recipes import Align
from genrec.types import Candidates, Draw, NegativeSampler, SamplerContext, SequenceBatch

BEAMS = Preference(loss=DPO(), candidates=Sampled(ModelBeams(num_beams=10, refresh_every=3), 1))
COLUMNS = ("preference_accuracy", "margin", "likelihood_accuracy")


def held_out() -> Examples:
    """Return the validation examples of 60 users."""
    return examples(corpus(), "validation", 8)


def drawn_for_validation(sampler: NegativeSampler, batch: SequenceBatch, seed: int) -> Tensor:
    """Return three negatives of each validation user."""
    _, context, _, _ = built_step(recipe(negatives=sampler), seed)
    return StepSampler(sampler, 3, context._replace(epoch_steps=14)).for_validation(batch)


def test_by_hand() -> None:
    """Two users, two levels, four pairs of which one is masked. Log-ratios: 1.0 against -0.2 and 1.0; -0.5 against 0.5.

    The margins are 1.2, 0.0 and -1.0: one above, one tie, one below. In the policy the items have -2.0 against -2.2 and -1.0, and
    -3.5 against -3.5: one above, one below, one tie.
    """
    reference = torch.tensor([[[-1.0, -2.0], [-1.0, -1.0], [-1.0, -1.0]], [[-1.0, -2.0], [-2.0, -2.0], [-9.0, -9.0]]])
    change = torch.tensor([[[0.5, 0.5], [0.0, -0.2], [0.5, 0.5]], [[0.0, -0.5], [0.25, 0.25], [7.0, 7.0]]])
    policy = reference + change
    policy[1, 2] = reference[1, 2] = -torch.inf
    found = pair_metrics(policy, reference, torch.tensor([[4, 7], [9, 0]]))
    assert found == pytest.approx({"preference_accuracy": 1.5 / 3, "margin": (1.2 + 0.0 - 1.0) / 3, "likelihood_accuracy": 1.5 / 3})


def test_no_pair_has_no_metrics() -> None:
    levels = torch.full((2, 3, 2), -1.0)
    levels[:, 1:] = -torch.inf
    assert pair_metrics(levels, levels, torch.zeros(2, 2, dtype=torch.int64)) == {}


def test_equal_to_a_loop_over_pairs() -> None:
    """A policy that differs from the reference, 60 users in batches of 32, with negatives of 3 places."""
    _, context, frozen, _ = built_step(recipe())
    built, reference = context.policy, frozen.reference.policy
    with torch.no_grad():
        for parameter in as_module(built).parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    batch = held_out().batch(torch.arange(60))
    negatives = StepSampler(Uniform(), 3, context._replace(epoch_steps=14)).for_validation(batch)
    negatives[3, 2] = 0
    margins: list[float] = []
    more_likely: list[float] = []
    for history, target, drawn in zip(batch.history, batch.target, negatives, strict=True):
        for item in drawn[drawn > 0]:
            candidates = torch.stack([target, item]).unsqueeze(0)
            with torch.no_grad():
                ours, theirs = (each.log_prob(history.unsqueeze(0), candidates)[0] for each in (built, reference))
            margins.append(float((ours - theirs)[0] - (ours - theirs)[1]))
            more_likely.append(float(ours[0] > ours[1]))
    assert len(margins) == 60 * 3 - 1
    items = torch.cat([batch.target.unsqueeze(1), negatives], 1)
    pairs = PairMetrics(context._replace(validation=held_out()), lambda _: Candidates(items, items > 0))
    found = pairs.measure()
    expected = torch.tensor(margins)
    assert found["margin"] == pytest.approx(expected.mean().item(), abs=1e-5)
    assert found["preference_accuracy"] == pytest.approx((expected > 0).float().mean().item())
    assert found["likelihood_accuracy"] == pytest.approx(sum(more_likely) / len(more_likely))
    assert 0 < found["preference_accuracy"] < 1


@pytest.mark.parametrize(
    "sampler",
    [Uniform(), InBatch(), PrefixNeighbors(depth=1), AlreadySeen(recent=4), ModelBeams(num_beams=10, refresh_every=5)],
    ids=lambda sampler: type(sampler).__name__,
)
def test_pairs_are_the_same_for_all_seeds_and_keep_the_exclusions(sampler: NegativeSampler) -> None:
    """The negatives are neither the held-out item nor a training item, except those that are offered from the history."""
    batch = held_out().batch(torch.arange(60))
    drawn = [drawn_for_validation(sampler, batch, seed) for seed in (0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert (drawn[0] > 0).any()
    exclusions = Exclusions(parts()[2])
    mask = exclusions.allowing_history if isinstance(sampler, AlreadySeen) else exclusions
    assert not (mask(batch, drawn[0]) & (drawn[0] > 0)).any()


def test_a_curriculum_draws_as_at_its_start() -> None:
    batch = held_out().batch(torch.arange(60))
    easy, both = Uniform(), Curriculum((Uniform(), PrefixNeighbors(depth=1)), until=(0.5,))
    drawn = [drawn_for_validation(each, batch, 0) for each in (easy, both)]
    assert torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize(
    "change",
    [
        {},
        pytest.param({"loss": ContinuedSFT()}, marks=pytest.mark.slow),
        pytest.param({"loss": Anchored(RosePO()), "reward": LogProbability(), "num_negatives": 2}, marks=pytest.mark.slow),
        {"loss": KTO(), "negatives": BestOf(Uniform(), LogProbability(), num_candidates=6)},
        pytest.param({"loss": SimPO(), "normalize": "children"}, marks=pytest.mark.slow),
        {"objective": Rounds(objectives=(Supervised(), BEAMS), steps=(2, 18))},
    ],
    ids=["sdpo", "control", "reward", "mismatched", "children", "self-play"],
)
def test_training_is_the_same_with_and_without_pairs(change: dict[str, object], tmp_path: Path) -> None:
    """Weights, draws and all other columns are equal bit for bit. At step 0 all pairs are ties, later they are not."""
    weights: list[dict[str, Tensor]] = []
    rows: list[list[dict[str, float]]] = []
    tables = []
    for entries in (None, held_out()):
        built, trained, context = parts()
        settings: Align = replace(recipe(**change), keep="last")
        outcome, _, draws = align(
            built, trained, context, settings, 0, tmp_path / str(len(rows)) / "last", constant, held_out=entries
        )  # fmt: skip
        weights.append(built.state_dict())
        rows.append(outcome.curves)
        tables.append(draws)
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert tables[0].equals(tables[1])
    names = {f"validation_{name}" for name in (*COLUMNS, ENTROPY, KL)}
    assert [{name: value for name, value in row.items() if name not in names} for row in rows[1]] == rows[0]
    judged = {row["step"]: row for row in rows[1] if names <= set(row)}
    assert list(judged) == [0, 20, 40]
    assert (judged[0]["validation_preference_accuracy"], judged[0]["validation_margin"]) == (0.5, 0.0)
    assert judged[40]["validation_margin"] != 0


@pytest.mark.parametrize("refresh", [0, 7])
def test_a_resumed_training_judges_the_same_pairs(refresh: int, tmp_path: Path) -> None:
    """The pairs come from the SFT policy's beams. A run that resumes at step 20 gets the same, and the same counts of draws."""

    def run(folder: str, stop: bool) -> tuple[list[dict[str, float]], list[list[int]]]:
        built, entries, context = parts()
        calls: list[int] = []

        def validate() -> dict[str, float]:
            calls.append(1)
            if stop and len(calls) == 2:
                os.kill(os.getpid(), signal.SIGINT)  # in the validation after step 20
            return {"ndcg@10": 0.1}

        settings = recipe(negatives=ModelBeams(num_beams=10, refresh_every=refresh), keep="last")
        outcome, _, draws = align(
            built, entries, context, settings, 0, tmp_path / folder / "last", validate, held_out=held_out()
        )  # fmt: skip
        return outcome.curves, draws.to_numpy().tolist()

    whole = run("whole", stop=False)
    with pytest.raises(Stopped):
        run("parts", stop=True)
    assert run("parts", stop=False) == whole
    assert sum(count for _, _, count in whole[1]) > 0


def test_at_most_so_many_users_have_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aligning, "MAX_USERS", 7)
    sizes: list[int] = []
    scored = validation_pairs.pair_metrics
    monkeypatch.setattr(validation_pairs, "pair_metrics", lambda *tensors: sizes.append(len(tensors[2])) or scored(*tensors))
    built, entries, context = parts()
    align(built, entries, context, recipe(max_steps=4, every=2), 0, tmp_path / "last", constant, held_out=held_out())
    assert sizes == [7, 7, 7]


@dataclass(frozen=True)
class TrainedPositivesOnly:
    """A broken sampler that knows training targets alone."""

    def build(self, context: SamplerContext) -> Draw:
        known = set(zip(context.interactions["user"], context.interactions["item"], strict=True))
        uniform = Uniform().build(context)

        def draw(batch: SequenceBatch, count: int, generator: torch.Generator) -> Tensor:
            for pair in zip(batch.user.tolist(), batch.target.tolist(), strict=True):
                if pair not in known:
                    raise KeyError(pair)
            return uniform.draw(batch, count, generator)

        return Draw(draw=draw)


def test_a_sampler_that_fails_for_validation_users_is_named(tmp_path: Path) -> None:
    built, entries, context = parts()
    settings = recipe(negatives=TrainedPositivesOnly())
    with pytest.raises(InputError, match=r"TrainedPositivesOnly.*while it sampled negatives for validation users"):
        align(built, entries, context, settings, 0, tmp_path / "last", constant, held_out=held_out())
