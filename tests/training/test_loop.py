"""The training loop: learning rate, batches, stop and resume, early stopping, and recipe checks."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from preference_stages import stage
from torch import Tensor
from trainings import fine_tune, train
from worlds import TINY

from genrec.data.corpus_builder import prepare
from genrec.data.examples import Examples, examples
from genrec.data.splits import LeaveOneOut
from genrec.errors import Stopped, UsageError
from genrec.model import TigerPolicy
from genrec.objectives.supervised import negative_log_likelihood
from genrec.preference.losses import DPO, Anchored
from genrec.semantic_ids import SemanticIds
from genrec.store import describe
from genrec.testing import Cyclic
from genrec.training import checkpoint, loop
from genrec.training.batch_stream import BatchStream
from genrec.training.curves import Row, scores
from genrec.training.recipes import SFT, Align, Optimization, Validation
from genrec.training.schedule import learning_rate, schedule
from genrec.training.sft import build_policy
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
    """Warm-up over 10 steps to 1e-3, then a cosine over the remaining 40 steps: half of it at step 30."""
    plan = schedule(RECIPE, examples=100)
    assert learning_rate(plan, 0) == pytest.approx(1e-4)
    assert learning_rate(plan, 9) == pytest.approx(1e-3)
    assert learning_rate(plan, 10) == pytest.approx(1e-3)
    assert learning_rate(plan, 30) == pytest.approx(5e-4)
    assert learning_rate(plan, 50) == pytest.approx(0)


def test_a_stopped_training_has_the_learning_rates_of_the_longer_one() -> None:
    """A cosine to step 50 that stops at step 20: the same rates as in 50 steps, and 1e-3 * (1 + cos(pi / 4)) / 2 at step 20."""
    longer = schedule(RECIPE, examples=100)
    stopped = schedule(replace(RECIPE, optimization=replace(RECIPE.optimization, max_steps=20, decay_steps=50)), examples=100)
    assert stopped.max_steps == 20
    assert [learning_rate(stopped, step) for step in range(21)] == [learning_rate(longer, step) for step in range(21)]
    assert learning_rate(stopped, 20) == pytest.approx(8.5355339e-4)
    assert stopped.resolved()["decay_steps"] == 50
    assert "decay_steps" not in longer.resolved()  # recipe.json of a training without the field stays as it was


@pytest.mark.parametrize("max_steps", [51, None])
def test_the_learning_rate_is_not_0_before_the_end(max_steps: int | None) -> None:
    with pytest.raises(UsageError, match=f"decay_steps must be at least optimization.max_steps = {max_steps}, .* got 50"):
        Optimization(max_steps=max_steps, batch_size=16, decay_steps=50)


def test_the_default_of_decay_steps_keeps_the_keys_of_artifacts() -> None:
    assert "decay_steps" not in describe(RECIPE, Path())["optimization"]
    longer = replace(RECIPE.optimization, decay_steps=50)
    assert describe(longer, Path())["decay_steps"] == 50


def test_batches_are_a_function_of_the_step(corpus_examples: Examples) -> None:
    """A stream that starts at step i gives batch i of an uninterrupted stream, also across the end of an epoch."""
    epoch_steps = math.ceil(len(corpus_examples) / 100)
    whole = iter(BatchStream(corpus_examples, 100, seed=1, start=0))
    batches = [next(whole) for _ in range(2 * epoch_steps)]
    for start in (1, epoch_steps - 1, epoch_steps, epoch_steps + 2):
        torch.testing.assert_close(next(iter(BatchStream(corpus_examples, 100, seed=1, start=start))), batches[start])
    for epoch in (batches[:epoch_steps], batches[epoch_steps:]):  # every example once per epoch
        assert sum(len(part.batch.user) for parts in epoch for part in parts) == len(corpus_examples)
    first, second = (
        torch.cat([part.batch.target for parts in epoch for part in parts]) for epoch in (batches[:epoch_steps], batches[epoch_steps:])
    )
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


def test_initial_weights_depend_on_the_seed_and_leave_the_global_generator_unchanged() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    one = policy()
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), policy().parameters(), strict=True))


def test_negative_log_likelihood_by_hand(corpus_examples: Examples) -> None:
    """The mean of -log p over batch and levels."""
    built, batch = policy().eval(), corpus_examples.batch(torch.arange(4))
    levels = built.level_log_prob(batch.history, batch.target.unsqueeze(1))
    assert negative_log_likelihood(built, batch).item() == pytest.approx(-levels.sum().item() / 8, rel=1e-6)


@pytest.mark.parametrize("stop_at", [0, 13, 39])
def test_a_resumed_run_gives_the_same_weights_and_curves(tmp_path: Path, corpus_examples: Examples, stop_at: int) -> None:
    """SIGTERM finishes the step, saves and exits with 143. The resumed run equals the uninterrupted one bit for bit, with dropout."""

    emitted: list[Row] = []

    def run(built: TigerPolicy, folder: Path, stop: int | None) -> loop.Outcome:
        def objective(batch: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            if step == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return negative_log_likelihood(built, batch), {}

        def validate() -> dict[str, float]:  # a function of the weights alone
            return {"ndcg@10": float(built.embedding.weight.detach().abs().mean()), "recall@1": 0.5}

        built.train()
        emitted.clear()
        return train(built, objective, corpus_examples, RECIPE, 5, folder / "last", validate, "test", on_row=emitted.append)

    before = signal.getsignal(signal.SIGTERM)
    whole = policy()
    uninterrupted = run(whole, tmp_path / "whole", None)
    with pytest.raises(Stopped, match=f"stopped at step {stop_at + 1}, checkpoint saved") as stopped:
        run(policy(), tmp_path / "parts", stop_at)
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    resumed = policy()
    seconds = json.loads((tmp_path / "parts" / "last" / "progress.json").read_text())["seconds"]
    outcome = run(resumed, tmp_path / "parts", None)
    assert (uninterrupted.earlier_seconds, outcome.earlier_seconds) == (0.0, seconds)
    assert seconds > 0
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert (outcome.best_step, outcome.best_score, outcome.last_step) == (
        uninterrupted.best_step, uninterrupted.best_score, uninterrupted.last_step,
    )  # fmt: skip
    assert outcome.curves == uninterrupted.curves
    assert scores(outcome.curves, "recall@1") == {0: 0.5, 20: 0.5, 40: 0.5, 50: 0.5}
    assert [row["step"] for row in outcome.curves] == [0, 20, 40, 50]
    saved = (stop_at + 1) // 20 * 20
    assert emitted == [row for row in outcome.curves if row["step"] >= saved]  # the last saved row again, then each new one


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ((0.5, 0.6, 0.4), ["from 0.5000 at step 0 to 0.4000 at step 40", "--align.keep best would keep step 20 (0.6000)"]),
        (
            (0.5, 0.4, 0.3),
            ["from 0.5000 at step 0 to 0.3000 at step 40", "--align.keep best would keep the policy from before training"],
        ),
        ((0.5, 0.9, 0.6), []),  # below the best step, but not below step 0
        ((0.5, 0.5, 0.5), []),
    ],
)
def test_keeping_a_worse_last_step_warns(
    tmp_path: Path, corpus_examples: Examples, capsys: pytest.CaptureFixture[str], values: tuple[float, ...], messages: list[str]
) -> None:
    built = policy()

    def objective(batch: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return negative_log_likelihood(built, batch), {}

    def printed(keep: Literal["best", "last"]) -> str:
        found = iter(values)
        recipe = Align(
            keep=keep,
            optimization=Optimization(max_steps=40, batch_size=16, learning_rate=1e-4, warmup_steps=50),
            validation=Validation(every=20),
        )
        train(built, objective, corpus_examples, recipe, 0, tmp_path / keep, lambda: {"ndcg@10": next(found)}, "test")
        return capsys.readouterr().err

    last = printed("last")
    assert ("lowered NDCG@10" in last) == bool(messages)
    assert all(message in last for message in messages)
    assert "lowered NDCG@10" not in printed("best")


def test_warnings_of_watchers_are_printed(tmp_path: Path, corpus_examples: Examples, capsys: pytest.CaptureFixture[str]) -> None:
    """A watcher is called with every complete row. None prints nothing."""
    watched: list[Row] = []

    def watcher(row: Row) -> str | None:
        watched.append(dict(row))
        return f"row {row['step']:g} has a loss" if "loss" in row else None

    built = policy()

    def objective(batch: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return negative_log_likelihood(built, batch), {}

    def validate() -> dict[str, float]:
        return {"ndcg@10": 0.1}

    outcome = train(built, objective, corpus_examples, RECIPE, 0, tmp_path / "last", validate, "test", watchers=[watcher])
    assert watched == outcome.curves
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("row")]
    assert printed == [f"row {step} has a loss" for step in (20, 40, 50)]


def test_the_best_step_is_kept_and_patience_stops(tmp_path: Path, corpus_examples: Examples) -> None:
    """Scores 0.1 (step 0), 0.3 (step 20), 0.2, 0.2: with patience 2 training stops at step 60 with the weights of step 20."""
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_steps": 0}, r"optimization\.max_steps must be at least 1, got 0"),
        ({"learning_rate": float("nan")}, r"optimization\.learning_rate must be above 0 and finite, got nan"),
        ({"weight_decay": -1.0}, r"optimization\.weight_decay must be at least 0, got -1\.0"),
    ],
)
def test_optimization_refuses_values_out_of_range(change: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(RECIPE.optimization, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"every": 0}, r"validation\.every must be at least 1, got 0"),
        ({"patience": 0}, r"validation\.patience must be at least 1, got 0"),
        ({"users": -1}, r"validation\.users must be at least 0, got -1"),
    ],
)
def test_validation_refuses_values_out_of_range(change: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(RECIPE.validation, **change)  # type: ignore[arg-type]


def test_dpo_with_several_negatives_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"DPO takes one negative, got 3 from Sampled\(.*\); set num_negatives to 1 \(--align\.num-negatives 1\)"
    ):
        stage(loss=Anchored(DPO()), num_negatives=3)
    with pytest.raises(UsageError, match=r"Sampled\.num_negatives must be at least 1"):
        stage(num_negatives=0)


def test_bfloat16_trains_and_gradients_are_clipped(corpus_examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With autocast and a fused optimizer, the gradient norm that the optimizer sees is at most `max_grad_norm`."""
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def recording_step(self: torch.optim.AdamW, *arguments: object, **options: object) -> object:
        result = step(self, *arguments, **options)
        gradients = [p.grad.norm() for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack(gradients).norm()))
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", recording_step)
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
