"""Alignment: the first loss, logged metrics, learning, resuming, and errors of samplers."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import pytest
import torch
from alignments import align, constant, following, parts, recipe
from torch import Tensor

from genrec.errors import InputError, NumericsError, Stopped
from genrec.objectives.preference_logs import preference_logs
from genrec.objectives.scored_candidates import log_probs
from genrec.objectives.validation_pairs import pair_metrics
from genrec.preference.losses import DPO, Anchored, ContinuedSFT, SoftmaxDPO
from genrec.preference.negatives import Uniform
from genrec.types import Draw, SamplerContext, SequenceBatch


def test_log_probs_sum_over_levels() -> None:
    levels = torch.arange(12.0).view(1, 3, 4)  # candidates (0 1 2 3), (4 5 6 7), (8 9 10 11)
    ours = log_probs(levels, 2)
    assert (ours.chosen.tolist(), ours.rejected.tolist(), ours.length) == ([6.0], [[22.0, 38.0]], 4)
    assert ours.mismatched is None
    other = log_probs(levels, 1)  # the last candidate is a mismatched one
    assert other.mismatched is not None
    assert (other.rejected.tolist(), other.mismatched.tolist()) == ([[22.0]], [38.0])


def test_logs_by_hand() -> None:
    """One row, two levels. Log-ratios: positive (0.5, 0.5), negative 1 (0.2, -0.4), negative 2 masked.

    The margins are 0.5 - 0.2 = 0.3 and 0.5 + 0.4 = 0.9, in total 1.2; with beta = 0.5 the rewards are 0.5 * 1.0 and 0.5 * -0.2.
    """
    reference = torch.tensor([[[-1.0, -2.0], [-1.0, -1.0], [-9.0, -9.0]]])
    policy = reference + torch.tensor([[[0.5, 0.5], [0.2, -0.4], [7.0, 7.0]]])
    policy[:, 2] = reference[:, 2] = -torch.inf
    terms = SoftmaxDPO(beta=0.5)(log_probs(policy, 2), log_probs(reference, 2))
    logs = preference_logs(terms, policy, reference, torch.tensor([[4, 0]]))
    assert {name: round(value.item(), 5) for name, value in logs.items()} == {
        "chosen_reward": 0.5, "rejected_reward": -0.1, "chosen_drift": 1.0, "rejected_drift": -0.2,
        "margin": 1.2, "margin_level_1": 0.3, "margin_level_2": 0.9,
        "accuracy": 1.0, "accuracy_all": 1.0, "chosen_log_prob": -2.0, "rejected_log_prob": -2.2,
    }  # fmt: skip


def test_a_tie_is_half_a_pair_in_training_and_validation() -> None:
    """Margins 0.5, 0 and -0.5, and a masked negative: (1 + 1/2 + 0) / 3. The row has a pair in the wrong order."""
    reference = torch.full((1, 5, 1), -2.0)
    policy, negatives = reference.clone(), torch.tensor([[4, 5, 6, 0]])
    policy[0, :, 0] += torch.tensor([0.5, 0.0, 0.5, 1.0, 0.0])
    policy[:, 4] = reference[:, 4] = -torch.inf

    def both(levels: Tensor) -> tuple[float, float]:
        terms = SoftmaxDPO()(log_probs(levels, 4), log_probs(reference, 4))
        logs, validation = preference_logs(terms, levels, reference, negatives), pair_metrics(levels, reference, negatives)
        return logs["accuracy"].item(), validation["preference_accuracy"]

    assert both(policy) == pytest.approx((0.5, 0.5))
    policy[0, 0] += 0.25  # margins 0.75, 0.25 and -0.25
    assert both(policy) == pytest.approx((2 / 3, 2 / 3))
    assert both(reference) == (0.5, 0.5)


def test_logs_of_a_batch_without_negatives_are_finite() -> None:
    levels = torch.full((2, 3, 2), -1.0)
    levels[:, 1:] = -torch.inf
    terms = SoftmaxDPO()(log_probs(levels, 2), log_probs(levels, 2))
    assert all(
        torch.isfinite(value) for value in preference_logs(terms, levels, levels, torch.zeros(2, 2, dtype=torch.int64)).values()
    )


@pytest.mark.parametrize(("loss", "count", "start"), [(SoftmaxDPO(), 3, math.log(4)), (DPO(), 1, math.log(2))])
def test_the_first_loss_is_the_logarithm_of_the_candidates(loss: SoftmaxDPO | DPO, count: int, start: float, tmp_path: Path) -> None:
    """With a learning rate near 0 the mean of the first 20 losses still is ln(1 + K).

    60 users x 7 targets are 420 examples: an epoch has 13 batches of 32 and one of 4. With 6 more batches of 32, 612 examples.
    """
    built, entries, context = parts()
    change = {"loss": loss, "num_negatives": count, "learning_rate": 1e-12, "max_steps": 20}
    outcome, negatives, _ = align(built, entries, context, recipe(**change), 0, tmp_path / "last", constant)
    assert [row["loss"] for row in outcome.curves if "loss" in row] == pytest.approx([start], abs=1e-4)
    assert negatives["negatives"] == 612 * count


def test_preferences_are_learned_and_the_reference_stays(tmp_path: Path) -> None:
    """The margin grows, the accuracy exceeds 0.8, and the margin is the sum of its levels."""
    built, entries, context = parts()
    scores = iter([0.1, 0.2, 0.3])
    outcome, *_ = align(built, entries, context, recipe(), 0, tmp_path / "last", following(scores))
    rows = [row for row in outcome.curves if "loss" in row]
    assert rows[-1]["loss"] < rows[0]["loss"] < math.log(4)
    assert rows[-1]["margin"] > rows[0]["margin"] > 0
    assert rows[-1]["accuracy"] > 0.8
    assert rows[-1]["margin"] == pytest.approx(rows[-1]["margin_level_1"] + rows[-1]["margin_level_2"], abs=1e-5)
    assert outcome.best_step == 40


def test_the_sft_policy_is_kept_if_validation_gets_worse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built, entries, context = parts()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    scores = iter([0.5, 0.4, 0.3])
    outcome, *_ = align(built, entries, context, recipe(), 0, tmp_path / "last", following(scores))
    assert outcome.best_step == 0
    assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())
    assert "no step improved NDCG@10 on validation" in capsys.readouterr().err


def test_the_last_step_is_kept_with_keep_last(tmp_path: Path) -> None:
    """Although validation gets worse, the weights differ from those of the SFT policy."""
    built, entries, context = parts()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    scores = iter([0.5, 0.4, 0.3])
    outcome, *_ = align(built, entries, context, recipe(keep="last"), 0, tmp_path / "last", following(scores))
    assert (outcome.best_step, outcome.last_step) == (0, 40)
    assert not torch.equal(built.embedding.weight, before["embedding.weight"])


def test_continued_sft_raises_the_positive_and_ignores_the_negatives(tmp_path: Path) -> None:
    results = []
    for negatives in (Uniform(), Fixed(shift=2)):
        built, entries, context = parts()
        scores = iter([0.1, 0.2, 0.3])
        change = {"loss": ContinuedSFT(), "negatives": negatives, "num_negatives": 1}
        outcome, *_ = align(built, entries, context, recipe(**change), 0, tmp_path / str(len(results)), following(scores))
        results.append([row["chosen_log_prob"] for row in outcome.curves if "loss" in row])
    assert results[0] == results[1]
    assert results[0][-1] > results[0][0]


def test_a_resumed_alignment_gives_the_same_weights_and_statistics(tmp_path: Path) -> None:
    """The reference still is the SFT policy, each step has the same negatives, and every negative is counted once."""

    def run(folder: str, stop: bool) -> tuple[dict[str, torch.Tensor], object]:
        built, entries, context = parts()
        scores = iter([0.1] if stop else [0.1, 0.2, 0.3])

        def validate() -> dict[str, float]:
            try:
                return {"ndcg@10": next(scores)}
            except StopIteration:
                os.kill(os.getpid(), signal.SIGINT)  # in the validation after step 20
                return {"ndcg@10": 0.2}

        _, statistics, _ = align(built, entries, context, recipe(), 0, tmp_path / folder / "last", validate)
        return built.state_dict(), statistics

    whole, statistics = run("whole", stop=False)
    with pytest.raises(Stopped, match="stopped at step 20") as stopped:
        run("parts", stop=True)
    assert stopped.value.exit_code == 130
    built, entries, context = parts()
    _, again, _ = align(built, entries, context, recipe(), 0, tmp_path / "parts" / "last", lambda: {"ndcg@10": 0.3})
    assert again == statistics
    assert all(torch.equal(value, whole[name]) for name, value in built.state_dict().items())


class Fixed:
    """A sampler plug-in that returns the items `shift` places after the positive, without excluded ones."""

    def __init__(self, shift: int) -> None:
        self.shift = shift

    def build(self, context: SamplerContext) -> Draw:
        from genrec.preference.exclusions import Exclusions

        exclusions, items = Exclusions(context), context.item_count

        def draw(batch: SequenceBatch, count: int, generator: torch.Generator) -> torch.Tensor:
            candidates = (batch.target.unsqueeze(1) + self.shift + torch.arange(count)) % items + 1
            return candidates.masked_fill(exclusions(batch, candidates), 0).sort(1, descending=True).values

        return Draw(draw=draw)


class Positive:
    """A broken sampler that returns the target."""

    def build(self, context: SamplerContext) -> Draw:
        return Draw(draw=lambda batch, count, generator: batch.target.unsqueeze(1).repeat(1, count))


def test_invalid_negatives_stop_the_training(tmp_path: Path) -> None:
    built, entries, context = parts()
    with pytest.raises(InputError, match=r"Positive \(.*\): user 'user-\d+' .*: negative 'item-\d+' .* is the target"):
        align(built, entries, context, recipe(negatives=Positive(), num_negatives=1), 0, tmp_path / "last", constant)


def test_dropout_is_detected_in_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, entries, context = parts()
    monkeypatch.setattr(type(built), "eval", lambda self: self.train())
    with pytest.raises(NumericsError, match=r"expected ln\(1 \+ K\).*dropout"):
        align(built, entries, context, recipe(), 0, tmp_path / "last", constant)


def test_an_anchor_adds_the_mean_nll_to_the_first_loss(tmp_path: Path) -> None:
    losses = []
    for loss in (SoftmaxDPO(), Anchored(SoftmaxDPO(), alpha=0.5)):
        built, entries, context = parts()
        outcome, *_ = align(
            built,
            entries,
            context,
            recipe(loss=loss, learning_rate=1e-12, max_steps=20),
            0,
            tmp_path / str(len(losses)),
            constant,
        )
        losses.append(next(row for row in outcome.curves if "loss" in row))
    assert losses[1]["loss"] - losses[0]["loss"] == pytest.approx(-0.5 * losses[1]["chosen_log_prob"] / 2, abs=1e-4)
