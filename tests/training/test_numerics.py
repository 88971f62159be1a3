"""Non-finite losses, gradients, weights and scores: what stops the training, what is kept, and what the message names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from alignments import corpus
from torch import Tensor, nn
from trainings import RECIPE, constant, likelihood, policy, train, training_examples
from worlds import cyclic

from genrec import pipeline
from genrec.data.corpus import Corpus
from genrec.errors import NumericsError
from genrec.model import TigerPolicy
from genrec.non_finite_source import find_source
from genrec.objectives.supervised import negative_log_likelihood
from genrec.overrides import override
from genrec.training import checkpoint, loop
from genrec.training.batch_stream import BatchStream, users_of_step
from genrec.training.loop import Outcome
from genrec.training.numerics import BadStep, FiniteCheck, StepRecord, check_finite, listed
from genrec.training.validation import user_ids
from genrec.types import SequenceBatch
from genrec.workspace import store


def run(
    built: TigerPolicy, folder: Path, objective: loop.Objective, validate: Callable[[], Mapping[str, float]] = constant
) -> Outcome:
    built.train()
    return train(
        built, objective, training_examples(), RECIPE, 5, folder / "last", validate, "SFT",
        user_ids=lambda users: user_ids(corpus(), users),
    )  # fmt: skip


def failing(built: TigerPolicy, step: int, change: Callable[[Tensor], Tensor]) -> loop.Objective:
    """Return the objective of SFT with another loss in the step of this number, counted from 1."""

    def objective(batch: SequenceBatch, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        loss = negative_log_likelihood(built, batch)
        return (change(loss) if number == step - 1 else loss), {}

    return objective


def finite_loss_with_a_bad_gradient(loss: Tensor) -> Tensor:
    """The root of 0 has an infinite slope."""
    return loss + (loss * 0).sqrt()


def bad_loss(loss: Tensor) -> Tensor:
    return loss * math.nan


@pytest.mark.parametrize("step", [31, 40])  # between two rows of the curves, and at a validation
@pytest.mark.parametrize("change", [finite_loss_with_a_bad_gradient, bad_loss], ids=lambda change: change.__name__)
def test_a_bad_step_is_refused_and_the_training_goes_on_from_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, change: Callable[[Tensor], Tensor]
) -> None:
    """The error names step, loss, gradient and users. The checkpoint of step 20 stays, and the repaired training resumes from it."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    built, whole = policy(), policy()
    with pytest.raises(NumericsError) as failure:
        run(built, tmp_path / "parts", failing(built, step, change))
    message = str(failure.value)
    loss = "nan" if change is bad_loss else r"\d\.\d+"
    names = listed(list(dict.fromkeys(user_ids(corpus(), users_of_step(training_examples(), 16, 5, step - 1)))), 5)
    assert failure.match(
        rf"SFT: the loss is {loss} and the norm of the gradient nan in step {step - 1} \(counted from 0\), expected finite numbers"
    )
    assert f"the histories of its batch are of the users {names}; " in message
    assert f"the last good checkpoint, of step 20, is kept in {tmp_path / 'parts' / 'last'}" in message
    assert (
        "the same command resumes from it, which helps if the fault was a passing one; if it comes back, try a smaller sft.op"
        in message
    )
    assert message.endswith(", which starts a new training")
    assert all(bool(value.isfinite().all()) for value in built.state_dict().values())  # the update was not applied
    repaired = policy()
    run(repaired, tmp_path / "parts", likelihood(repaired))
    run(whole, tmp_path / "whole", likelihood(whole))
    assert all(torch.equal(value, repaired.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize(
    ("change", "source"),
    [
        (
            finite_loss_with_a_bad_gradient,
            r"the gradient of sqrt at .*test_numerics\.py:\d+ is the first that is not finite; the slope of",
        ),
        (
            lambda loss: loss + (loss - loss).log(),
            r"log at .*test_numerics\.py:\d+ is the first that is not finite; the logarithm of 0",
        ),
    ],
)
def test_a_bad_first_step_names_the_line_and_not_the_learning_rate(
    tmp_path: Path, change: Callable[[Tensor], Tensor], source: str
) -> None:
    built = policy()
    with pytest.raises(NumericsError, match=source) as failure:
        run(built, tmp_path, failing(built, 1, change))
    assert "no weight has changed yet, so the learning rate is not the cause" in str(failure.value)
    assert "smaller" not in str(failure.value)


def test_the_masked_places_behind_a_loss_are_named() -> None:
    """Two of six places have no target: their log-probability -inf makes the mean infinite."""
    target = torch.tensor([[0, 4, 5], [0, 6, 7]])
    weight = torch.ones(2, 3, requires_grad=True)
    told = find_source(lambda: -(weight.log().masked_fill(target == 0, -math.inf)).mean(), {"batch.target": target})
    assert told is not None
    assert re.fullmatch(
        r"mean at .*test_numerics\.py:\d+ is the first that is not finite; its input \[2, 3\] is -inf at 2 of 6 places, first at "
        r"\[0, 0\], which are the places where batch\.target is 0 \(none\); masked places are -inf; set them to 0 .*",
        told,
    )
    assert find_source(lambda: weight.sum(), {}) is None
    assert weight.grad is None


def test_a_statistic_without_a_gradient_behind_a_loss_is_named() -> None:
    """A spread of 0 divides 0: NaN, in a value that has no gradient and is subtracted from one that has."""
    weight = torch.ones(2, requires_grad=True)

    def loss() -> Tensor:
        with torch.no_grad():
            score = (weight - weight.mean()) / weight.std(correction=0)
        return (weight - score).sum()

    told = find_source(loss, {})
    assert told is not None
    assert re.fullmatch(r"div at .*test_numerics\.py:\d+ is the first that is not finite; 0 / 0 is NaN; use .*", told)
    unused = find_source(lambda: weight.log().sub(torch.zeros(1) / 0).masked_fill(torch.tensor([True, True]), 0.0).sum(), {})
    assert unused is None  # a NaN that is masked later does no harm


def test_the_script_that_runs_a_training_is_not_named_as_the_line() -> None:
    """Nothing of this file computes the loss: the logarithm is called by PyTorch alone, and this line has only started it."""
    told = find_source(partial(torch.log, torch.tensor([-1.0], requires_grad=True)), {})
    assert told is not None
    assert told.startswith("log is the first that is not finite;")


def test_no_checkpoint_is_named_where_there_is_none(tmp_path: Path) -> None:
    built = policy()
    with pytest.raises(NumericsError, match=r"in step 2 \(counted from 0\), expected finite") as failure:
        run(built, tmp_path, failing(built, 3, bad_loss))
    assert "checkpoint" not in str(failure.value)
    assert not (tmp_path / "last").exists()


def test_non_finite_weights_are_neither_validated_nor_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights become NaN in step 40 although its loss and its gradient are finite."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    built, validated = policy(), 0

    def spoil(gradient: Tensor) -> None:
        built.embedding.weight.data.fill_(math.inf)

    def objective(batch: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        loss = negative_log_likelihood(built, batch)
        if step == 39:
            loss.register_hook(spoil)
        return loss, {}

    def validate() -> dict[str, float]:
        nonlocal validated
        validated += 1
        return constant()

    with pytest.raises(NumericsError, match=r"'embedding\.weight'.* hold NaN or infinity after step 40.* checkpoint, of step 20,"):
        run(built, tmp_path, objective, validate)
    assert validated == 2  # steps 0 and 20
    kept = checkpoint.load(tmp_path / "last", checkpoint.TrainingId("sft", 5, ""), policy(), 50)
    assert kept is not None
    assert kept.progress.step == 20
    assert all(bool(value.isfinite().all()) for value in kept.best.values())


def with_buffers() -> TigerPolicy:
    """Return a policy with a constant mask of infinities, and a finite buffer."""
    built = policy()
    built.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    built.register_buffer("scale", torch.ones(2))
    return built


@pytest.mark.parametrize("step", [0, 39])
def test_a_buffer_that_is_no_longer_finite_is_not_saved_and_a_constant_mask_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    whole = with_buffers()
    run(whole, tmp_path / "whole", likelihood(whole))
    assert whole.get_buffer("mask").tolist() == [0.0, -math.inf]
    built = with_buffers()

    def objective(batch: SequenceBatch, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        if number == step:
            built.get_buffer("scale").fill_(math.inf)
        return negative_log_likelihood(built, batch), {}

    with pytest.raises(NumericsError, match=rf"'scale' hold NaN or infinity after step {step // 20 * 20 + 20}, expected finite"):
        run(built, tmp_path, objective)


def test_a_buffer_that_the_last_validation_spoils_is_not_kept(tmp_path: Path) -> None:
    built, scores = with_buffers(), iter([0.1, 0.2, 0.3, 0.4])

    def validate() -> dict[str, float]:
        score = next(scores)
        if score == 0.4:
            built.get_buffer("scale").fill_(math.nan)
        return {"ndcg@10": score}

    with pytest.raises(NumericsError, match=r"'scale' hold NaN or infinity after step 50"):
        run(built, tmp_path, likelihood(built), validate)


def test_a_score_that_is_no_number_names_the_training_step(tmp_path: Path) -> None:
    built, scores = policy(), iter([0.1, math.nan])
    with pytest.raises(NumericsError, match=r"SFT: the validation score ndcg@10 is nan after step 20, expected a finite number"):
        run(built, tmp_path, likelihood(built), lambda: {"ndcg@10": next(scores)})


def test_an_error_of_the_validation_names_the_training_step(tmp_path: Path) -> None:
    built, scores = policy(), iter([0.1])

    def validate() -> dict[str, float]:
        for score in scores:
            return {"ndcg@10": score}
        raise NumericsError("recommend returned NaN scores for user 3")

    with pytest.raises(
        NumericsError, match=r"SFT: the validation after step 20 failed: recommend returned NaN scores for user 3; try"
    ):
        run(built, tmp_path, likelihood(built), validate)


def test_the_first_bad_step_is_remembered() -> None:
    """As on a GPU: nothing is read until the end."""
    record = StepRecord()
    assert record.read() is None
    record.add(0, torch.tensor(1.0), torch.tensor(2.0))
    assert record.read() is None
    record.add(1, torch.tensor(1.5), torch.tensor(math.inf))
    record.add(2, torch.tensor(math.nan), torch.tensor(math.nan))
    record.add(3, torch.tensor(1.0), torch.tensor(2.0))
    assert record.read() == BadStep(1, 1.5, math.inf)


def test_a_remembered_step_stops_the_training_at_the_next_check(tmp_path: Path) -> None:
    check = FiniteCheck("SFT", "sft", tmp_path, lambda step: ["a", "b", "b", "c", "d", "e", "f", "g"])
    check.steps.add(6, torch.tensor(1.0), torch.tensor(math.inf))
    with pytest.raises(
        NumericsError, match=r"inf in step 6 \(counted from 0\), .*users 'a', 'b', 'c', 'd', 'e' and 2 more; try a smaller sft\."
    ):
        check.check_weights(nn.Linear(1, 1), 20)


def test_users_of_a_step_are_those_of_its_batch() -> None:
    """Also in the second epoch: 420 examples in batches of 100 are 5 steps."""
    stream = iter(BatchStream(training_examples(), 100, seed=1, start=0))
    for step in range(8):
        (part,) = next(stream)
        assert torch.equal(users_of_step(training_examples(), 100, 1, step), part.batch.user)


def test_an_artifact_holds_finite_weights_only() -> None:
    module = nn.Linear(2, 1)
    check_finite(module, "the trained policy")
    module.bias.data.fill_(math.nan)
    with pytest.raises(NumericsError, match=r"the trained policy: 'bias' hold NaN or infinity, .* nothing is saved"):
        check_finite(module, "the trained policy")


def test_an_experiment_that_diverges_names_the_users_of_the_data_set_and_leaves_no_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learning rate of 1e30 makes the weights useless in the first step."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    experiment = override([cyclic(steps=20)], ["--sft.optimization.learning-rate", "1e30"])[0]
    users = set(Corpus.load(pipeline.run(experiment, last="data")["data"].folder).user_ids)
    with pytest.raises(
        NumericsError, match=r"SFT: the loss is .* in step 1 \(counted from 0\), .* batch are of the users '"
    ) as failure:
        pipeline.run(experiment)
    assert set(re.findall(r"'([^']+)'", str(failure.value))) < users
    assert "checkpoint" not in str(failure.value)
    step = next(step for step in pipeline.plan(experiment) if step.stage == "sft")
    assert not store().has("sft", step.key)
    assert failure.value.exit_code == 6
