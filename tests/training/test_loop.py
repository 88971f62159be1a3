"""The training loop: what a stop, a resume, and numbers that are none do to it."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor
from worlds import TINY

from genrec.data.corpus_builder import prepare
from genrec.data.examples import Examples, examples
from genrec.data.splits import LeaveOneOut
from genrec.errors import ArtifactError, NumericsError, Stopped, UsageError
from genrec.model import TigerPolicy
from genrec.preference.losses import DPO, Anchored
from genrec.semantic_ids import SemanticIds
from genrec.testing import Cyclic
from genrec.training import checkpoint, loop
from genrec.training.batch_stream import Batches
from genrec.training.curves import Row, scores
from genrec.training.loop import learning_rate, train
from genrec.training.recipes import SFT, Align, Optimization, Validation
from genrec.training.sft import build_policy, fine_tune, negative_log_likelihood
from genrec.types import SequenceBatch


@pytest.fixture(scope="module")
def corpus_examples() -> Examples:
    corpus = prepare(Cyclic(num_items=40, num_users=60, length=10).load(Path()), LeaveOneOut())
    return examples(corpus, "train", 8)


def policy() -> TigerPolicy:
    codes = torch.stack(torch.unravel_index(torch.arange(40), (8, 5)), 1)
    built = build_policy(TINY, SemanticIds(codes, (8, 5)), seed=3)
    assert isinstance(built, TigerPolicy)
    return built


RECIPE = SFT(
    optimization=Optimization(max_steps=50, batch_size=16, learning_rate=1e-3, warmup_steps=10, weight_decay=0.035),
    validation=Validation(every=20, patience=15),
)


def test_learning_rate_by_hand() -> None:
    """Warm-up of 10 steps to 1e-3, then a cosine over the 40 left: half way, at step 30, half of it."""
    assert learning_rate(RECIPE, 0) == pytest.approx(1e-4)
    assert learning_rate(RECIPE, 9) == pytest.approx(1e-3)
    assert learning_rate(RECIPE, 10) == pytest.approx(1e-3)
    assert learning_rate(RECIPE, 30) == pytest.approx(5e-4)
    assert learning_rate(RECIPE, 50) == pytest.approx(0)


def test_batches_are_a_function_of_the_step(corpus_examples: Examples) -> None:
    """Starting at step 7 gives what step 7 of an uninterrupted run gives, over the border of an epoch too."""
    an_epoch = math.ceil(len(corpus_examples) / 100)
    whole = iter(Batches(corpus_examples, 100, seed=1, start=0))
    batches = [next(whole) for _ in range(2 * an_epoch)]
    for start in (1, an_epoch - 1, an_epoch, an_epoch + 2):
        torch.testing.assert_close(next(iter(Batches(corpus_examples, 100, seed=1, start=start))), batches[start])
    for epoch in (batches[:an_epoch], batches[an_epoch:]):  # every example once an epoch
        assert sum(len(batch.user) for batch in epoch) == len(corpus_examples)
    first, second = (torch.cat([batch.target for batch in epoch]) for epoch in (batches[:an_epoch], batches[an_epoch:]))
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


def test_initial_weights_are_the_seeds_and_global_state_is_left_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    one = policy()
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), policy().parameters(), strict=True))


def test_likelihood_by_hand(corpus_examples: Examples) -> None:
    """The mean over batch and levels of -log p."""
    built, batch = policy().eval(), corpus_examples.batch(torch.arange(4))
    levels = built.level_log_prob(batch.history, batch.target.unsqueeze(1))
    assert negative_log_likelihood(built, batch).item() == pytest.approx(-levels.sum().item() / 8, rel=1e-6)


@pytest.mark.parametrize("stop_at", [0, 13, 39])
def test_a_stopped_training_goes_on_to_the_same_weights_and_curves(tmp_path: Path, corpus_examples: Examples, stop_at: int) -> None:
    """SIGTERM finishes the step, saves and says 143; the resumed run equals the uninterrupted one bit for bit, dropout included."""

    told: list[Row] = []

    def constant(built: TigerPolicy, folder: Path, stop: int | None) -> loop.Outcome:
        def objective(batch: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            if step == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return negative_log_likelihood(built, batch), {}

        def validate() -> dict[str, float]:  # a function of the weights alone, as a real one is
            return {"ndcg@10": float(built.embedding.weight.detach().abs().mean()), "recall@1": 0.5}

        built.train()
        told.clear()
        return train(built, objective, corpus_examples, RECIPE, 5, folder / "last", validate, "test", on_row=told.append)

    before = signal.getsignal(signal.SIGTERM)
    whole = policy()
    uninterrupted = constant(whole, tmp_path / "whole", None)
    with pytest.raises(Stopped, match=f"stopped at step {stop_at + 1}, saved") as stopped:
        constant(policy(), tmp_path / "parts", stop_at)
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    resumed = policy()
    outcome = constant(resumed, tmp_path / "parts", None)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert (outcome.best_step, outcome.best_score, outcome.last_step) == (
        uninterrupted.best_step, uninterrupted.best_score, uninterrupted.last_step,
    )  # fmt: skip
    assert scores(outcome.curves) == scores(uninterrupted.curves)
    assert scores(outcome.curves, "recall@1") == {0: 0.5, 20: 0.5, 40: 0.5, 50: 0.5}
    assert [row["step"] for row in outcome.curves] == sorted({0, 20, 40, 50, stop_at + 1})  # a stop ends a row, and no other
    assert told == [row for row in outcome.curves if row["step"] > stop_at]  # the last kept row again, then each new one


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((0.5, 0.6, 0.4), ["worse: 0.5000 at step 0 -> 0.4000 at step 40", "keep='best' would have kept step 20 (0.6000)"]),
        ((0.5, 0.4, 0.3), ["worse: 0.5000 at step 0 -> 0.3000 at step 40", "would have kept the policy that it began with"]),
        ((0.5, 0.9, 0.6), []),  # worse than the best, but not than what it began with
        ((0.5, 0.5, 0.5), []),
    ],
)
def test_keeping_the_last_step_although_it_is_worse_is_said(
    tmp_path: Path, corpus_examples: Examples, capsys: pytest.CaptureFixture[str], given: tuple[float, ...], said: list[str]
) -> None:
    built = policy()

    def objective(batch: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return negative_log_likelihood(built, batch), {}

    def printed(keep: Literal["best", "last"]) -> str:
        found = iter(given)
        recipe = Align(
            keep=keep,
            optimization=Optimization(max_steps=40, batch_size=16, learning_rate=1e-4, warmup_steps=50),
            validation=Validation(every=20),
        )
        train(built, objective, corpus_examples, recipe, 0, tmp_path / keep, lambda: {"ndcg@10": next(found)}, "test")
        return capsys.readouterr().err

    last = printed("last")
    assert ("worse" in last) == bool(said)
    assert all(part in last for part in said)
    assert "worse" not in printed("best")


def test_what_a_watcher_says_of_a_row_is_said(tmp_path: Path, corpus_examples: Examples, capsys: pytest.CaptureFixture[str]) -> None:
    """It is given every row when it is whole; None is not said."""
    seen: list[Row] = []

    def watcher(row: Row) -> str | None:
        seen.append(dict(row))
        return f"row {row['step']:g} has a loss" if "loss" in row else None

    built = policy()

    def objective(batch: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return negative_log_likelihood(built, batch), {}

    def validate() -> dict[str, float]:
        return {"ndcg@10": 0.1}

    outcome = train(built, objective, corpus_examples, RECIPE, 0, tmp_path / "last", validate, "test", watchers=[watcher])
    assert seen == outcome.curves
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("row")]
    assert said == [f"row {step} has a loss" for step in (20, 40, 50)]


def test_the_best_step_is_kept_and_patience_stops(tmp_path: Path, corpus_examples: Examples) -> None:
    """Validation says .1 (step 0), .3 (step 20), .2, .2, .2: with patience 2 training stops at step 60 with the weights of step 20."""
    scores = iter([0.1, 0.3, 0.2, 0.2, 0.2, 0.2])
    built, kept = policy(), {}
    recipe = SFT(
        optimization=Optimization(max_steps=400, batch_size=16, learning_rate=3e-4, warmup_steps=1, weight_decay=0.035),
        validation=Validation(every=20, patience=2),
    )

    def validate() -> dict[str, float]:
        score = next(scores)
        if score == 0.3:
            kept.update(checkpoint.weights(built))
        return {"recall@10": 1 - score, "ndcg@10": score}

    outcome = fine_tune(built, corpus_examples, recipe, 0, tmp_path / "last", validate)
    assert (outcome.best_step, outcome.best_score, outcome.last_step) == (20, 0.3, 60)
    assert all(torch.equal(value, kept[name]) for name, value in built.state_dict().items())
    assert not built.training


def test_numbers_that_are_none_stop_the_training_and_keep_the_checkpoint(
    tmp_path: Path, corpus_examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    built = policy()

    def objective(batch: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        loss = negative_log_likelihood(built, batch)
        return (loss * float("nan") if step == 30 else loss), {}

    with pytest.raises(NumericsError, match=r"the loss is nan in steps 21\.\.40; the last good checkpoint is kept"):
        train(built, objective, corpus_examples, RECIPE, 5, tmp_path / "last", lambda: {"ndcg@10": 0.1}, "test")
    kept = checkpoint.load(tmp_path / "last", policy())
    assert kept is not None
    assert kept.progress.step == 20


def test_a_checkpoint_of_another_policy_is_refused(tmp_path: Path) -> None:
    built = policy()
    optimizer = torch.optim.AdamW(built.parameters())
    checkpoint.save(tmp_path / "last", built, optimizer, checkpoint.weights(built), {}, checkpoint.Progress(1, 0, 0.0, 0, []))
    other = build_policy(TINY, SemanticIds(torch.arange(40).unsqueeze(1)), seed=0)
    assert isinstance(other, TigerPolicy)
    with pytest.raises(ArtifactError, match="does not fit this policy"):
        checkpoint.load(tmp_path / "last", other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 0}, r"sft\.steps must be at least 1, got 0"),
        ({"learning_rate": float("nan")}, r"sft\.learning_rate must be above 0 and finite, got nan"),
        ({"weight_decay": -1.0}, r"sft\.weight_decay must be 0 or more"),
    ],
)
def test_recipes_refuse_values_out_of_range(change: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        SFT(**change)  # type: ignore[arg-type]


def test_dpo_with_several_negatives_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match=r"DPO takes one negative, got align\.count 3"):
        Align(loss=Anchored(DPO()), num_negatives=3)
    with pytest.raises(UsageError, match=r"align\.count must be at least 1"):
        Align(num_negatives=0)


def test_bfloat16_trains_and_gradients_are_clipped(corpus_examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast, a fused optimizer and clipping at once: the norm that the optimizer is given is the recipe's at most."""
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *arguments: object, **options: object) -> object:
        result = step(self, *arguments, **options)
        gradients = [p.grad.norm() for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack(gradients).norm()))
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    recipe = SFT(
        optimization=Optimization(
            max_steps=5,
            batch_size=16,
            learning_rate=3e-4,
            warmup_steps=1_000,
            weight_decay=0.035,
            max_grad_norm=0.05,
            precision="bf16-mixed",
        ),
        validation=Validation(every=5, patience=15),
    )
    outcome = fine_tune(policy(), corpus_examples, recipe, 0, tmp_path / "last", lambda: {"ndcg@10": 0.0})
    assert outcome.last_step == 5
    assert len(norms) == 5
    assert max(norms) == pytest.approx(0.05, rel=0.01)
