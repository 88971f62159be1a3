"""A step in parts (`Optimization.accumulate`): the gradient of the whole batch, random numbers of its own for each part, refusals."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from alignments import align, corpus, parts
from alignments import recipe as alignment
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from pandas.testing import assert_frame_equal
from torch import Tensor
from trainings import RECIPE, constant, fine_tune, likelihood, policy, train, training_examples

from genrec import process_group
from genrec.data.examples import windows
from genrec.errors import Stopped, UsageError
from genrec.preference.losses import DPO, KTO, SoftmaxDPO
from genrec.preference.losses.kto import check_mismatched_pairs
from genrec.randomness import PartOfStep, generator, seed_of
from genrec.store import describe
from genrec.training.batch_stream import BatchStream, Part, targets_in
from genrec.training.lightning_module import PartLog, mean_logs, with_shares
from genrec.training.recipes import SFT, Optimization
from genrec.types import SequenceBatch


def in_parts(recipe: SFT, accumulate: int, **change: object) -> SFT:
    return replace(recipe, optimization=replace(recipe.optimization, accumulate=accumulate, **change))  # type: ignore[arg-type]


def weights_after(accumulate: int, folder: Path) -> dict[str, Tensor]:
    """Return the weights after 15 steps of SFT without dropout; the last batch of an epoch has 4 of 16 examples."""
    built = policy()
    built.eval()
    recipe = in_parts(RECIPE, accumulate, max_steps=15)
    fine = replace(recipe, validation=replace(recipe.validation, every=15))
    train(built, likelihood(built), training_examples(), fine, 0, folder, constant, "SFT")
    return built.state_dict()


@pytest.mark.parametrize("accumulate", [3, 16])
def test_the_parts_of_a_step_have_the_gradient_of_its_batch(accumulate: int, tmp_path: Path) -> None:
    """In float32, 15 steps differ in rounding alone. 16 parts have one example each."""
    whole, cut = weights_after(1, tmp_path / "whole"), weights_after(accumulate, tmp_path / "cut")
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, rtol=1e-3, atol=2e-5)


@given(st.integers(1, 60), st.integers(1, 9))
def test_parts_hold_each_example_once_in_their_order(batch_size: int, count: int) -> None:
    entries = training_examples()
    count = min(count, batch_size)
    whole = iter(BatchStream(entries, batch_size, seed=1, start=5))
    cut = iter(BatchStream(entries, batch_size, seed=1, start=5, parts=count))
    for _ in range(3):
        (one,), several = next(whole), next(cut)
        assert torch.equal(torch.cat([part.batch.target for part in several]), one.batch.target)
        sizes = [part.targets for part in several]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1
        assert [part.number for part in several] == list(range(len(several)))
        assert max(sizes) <= Optimization(batch_size=batch_size, accumulate=count).part_size


def test_random_numbers_differ_between_the_parts_and_not_from_those_of_a_whole_step() -> None:
    step, second = PartOfStep(7), PartOfStep(7, 1)
    assert seed_of(3, "negatives", step) == seed_of(3, "negatives", 7)
    assert seed_of(3, "negatives", second) != seed_of(3, "negatives", 7)
    assert not torch.equal(torch.rand(4, generator=generator(3, second)), torch.rand(4, generator=generator(3, step)))
    assert (second, second % 4, second // 2, f"{second}") == (7, 3, 3, "7")
    assert seed_of(3, "epoch", second // 2) == seed_of(3, "epoch", 3)  # by example: the same for all parts


def test_shares_and_logs_by_hand() -> None:
    """Parts of 1 and 3 targets: shares of 1/4 and 3/4. A metric that is NaN in a part is the mean over the other."""
    shared = with_shares([Part(None, 1, 0), Part(None, 0, 1), Part(None, 3, 2)])
    assert [(part.number, share) for part, share in shared] == [(0, 0.25), (2, 0.75)]
    assert [share for _, share in with_shares([Part(None, 0, 0), Part(None, 0, 1)])] == [0.5, 0.5]
    logs = [
        PartLog(0, 0.25, {"loss": torch.tensor(1.0), "hit": torch.tensor(torch.nan)}),
        PartLog(2, 0.75, {"loss": torch.tensor(3.0), "hit": torch.tensor(5.0)}),
    ]
    found = mean_logs(logs)
    assert {name: float(value) for name, value in found.items()} == {"loss": 2.5, "hit": 5.0}
    assert mean_logs(logs[:1]) is logs[0].metrics


def test_targets_of_windows_are_their_places() -> None:
    batch = windows(corpus(), 8).batch(torch.arange(5))
    assert targets_in(batch) == int((batch.target > 0).sum()) > 5
    assert targets_in(training_examples().batch(torch.arange(5))) == 5


def test_negatives_drawn_by_example_do_not_depend_on_the_parts(tmp_path: Path) -> None:
    """The draws of all parts are counted, and each example has those that it has in one batch."""

    def counts(accumulate: int) -> DataFrame:
        settings = alignment(accumulate=accumulate, max_steps=2, every=2, num_negatives=2)
        return align(*parts(), settings, 0, tmp_path / str(accumulate), constant)[2]

    whole = counts(1)
    assert whole["count"].sum() == 2 * 32 * 2
    assert_frame_equal(counts(2), whole)


def test_an_alignment_in_parts_resumes(tmp_path: Path) -> None:
    """Stopped at a validation, with dropout and draws of its own in each part, it ends with the same weights."""
    settings = alignment(accumulate=2, max_steps=6, every=3)

    def weights(folder: Path, validate: Callable[[], dict[str, float]]) -> dict[str, Tensor]:
        built, *others = parts()
        align(built, *others, settings, 0, tmp_path / folder, validate)
        return built.state_dict()

    calls: list[int] = []

    def terminated() -> dict[str, float]:
        calls.append(0)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return constant()

    with pytest.raises(Stopped, match=r"stopped at step [34], checkpoint saved"):
        weights(Path("cut"), terminated)
    whole, resumed = weights(Path("whole"), constant), weights(Path("cut"), constant)
    for name, value in whole.items():
        assert torch.equal(resumed[name], value)


def test_the_default_keeps_the_keys_of_artifacts() -> None:
    assert "accumulate" not in describe(Optimization(batch_size=16), Path())
    assert describe(Optimization(batch_size=16, accumulate=2), Path())["accumulate"] == 2


@pytest.mark.parametrize("accumulate", [0, 17])
def test_a_number_of_parts_that_does_not_fit_is_refused(accumulate: int) -> None:
    with pytest.raises(UsageError, match="accumulate must be at "):
        Optimization(batch_size=16, accumulate=accumulate)


def test_kto_needs_two_examples_in_each_part(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """z0 pairs a history with the positive of another example of the part. 100 examples in batches of 16 leave 4 in the last."""
    with pytest.raises(UsageError, match=r"batch_size 16, align\.optimization\.accumulate 16"):
        check_mismatched_pairs(100, 16, steps=7, parts=16)
    check_mismatched_pairs(100, 16, steps=7, parts=2)
    assert capsys.readouterr().err == ""
    check_mismatched_pairs(100, 16, steps=7, parts=4)
    assert "a part of the last batch of each epoch has 1 of the 100 examples" in capsys.readouterr().err
    assert alignment(loss=KTO(), accumulate=2).optimization.part_size == 16
    monkeypatch.setattr(process_group, "size", lambda: 8)  # two parts one after the other, each of eight processes
    check_mismatched_pairs(100, 16, steps=6, parts=16)
    with pytest.raises(UsageError, match="got 1 from"):  # the last of 12 parts is that of a process alone
        check_mismatched_pairs(100, 12, steps=6, parts=12)
    assert alignment(loss=DPO(), num_negatives=1).objective != alignment(loss=SoftmaxDPO()).objective


def test_the_schedule_names_the_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine_tune(policy(), training_examples(), in_parts(RECIPE, 4, max_steps=2), 0, tmp_path, constant)
    assert "2 steps of 16 examples in 4 parts" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_is_found_in_its_part(tmp_path: Path) -> None:
    built = policy()
    base = likelihood(built)

    def second_is_infinite(batch: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        loss, logs = base(batch, step)
        return (loss / 0 if isinstance(step, PartOfStep) and step.part == 1 else loss), logs

    with pytest.raises(Exception, match=r"in step 0 \(counted from 0\), expected finite numbers"):
        train(built, second_is_infinite, training_examples(), in_parts(RECIPE, 2), 0, tmp_path, constant, "SFT")
