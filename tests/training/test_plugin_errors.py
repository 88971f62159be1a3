"""Plug-ins that fail during training: the error names the plug-in and what it did wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from alignments import align, constant, parts, recipe
from stable_ids import stable_id
from torch.nn.functional import pad

from genrec import plugin_errors
from genrec.errors import InputError, UsageError
from genrec.plugin_source import plugins_in
from genrec.preference.filters import SimilarityWindow
from genrec.preference.losses import Anchored, RosePO, SoftmaxDPO
from genrec.preference.negatives import BestOf, Filtered, Uniform
from genrec.types import Draw, LogProbs, LossNeeds, PreferenceTerms, Rating, SamplerContext, SequenceBatch


@dataclass(frozen=True)
class Sampler:
    """A sampler plug-in that fails in the place named by `where`, or finds one negative only."""

    where: str

    def build(self, context: SamplerContext) -> Draw:
        if self.where == "build":
            raise KeyError("weights")
        draw = Uniform().build(context)
        if self.where == "result":
            return [1, 2]  # type: ignore[return-value]
        if self.where == "arity":
            return Draw(draw=lambda batch, count: draw.draw(batch, count, torch.Generator()))  # type: ignore[misc, arg-type]
        if self.where == "one":
            return Draw(draw=lambda batch, count, generator: pad(draw.draw(batch, 1, generator), (0, count - 1)))
        return draw


@dataclass(frozen=True)
class Reward:
    """A reward plug-in that fails when it rates items."""

    def rate(self, context: SamplerContext) -> Rating:
        return Rating(rate=lambda batch, items: torch.zeros(3).view(2))


@dataclass(frozen=True)
class ShapelessReward:
    """A reward plug-in that returns one number per example."""

    rows: int | None = None

    def rate(self, context: SamplerContext) -> Rating:
        return Rating(rate=lambda batch, items: torch.zeros(len(items)) if self.rows is None else torch.zeros(self.rows))


@dataclass(frozen=True)
class ScoringFilter:
    """A filter plug-in that returns numbers in place of a mask."""

    def refuse(self, context: SamplerContext) -> Callable[[SequenceBatch, torch.Tensor], torch.Tensor]:
        return lambda batch, candidates: candidates.float()


@dataclass(frozen=True)
class Loss:
    """A loss plug-in that returns `make` of the terms of S-DPO."""

    make: Callable[[PreferenceTerms], object]

    needs = LossNeeds()

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        return self.make(SoftmaxDPO()(policy, reference))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"negatives": Sampler("build")},
            r"Sampler \(.*:\d+\) raised KeyError\('weights'\) at .*test_plugin_errors\.py:\d+ while it was built(?s:.*)Traceback",
        ),
        (
            {"negatives": Filtered(Sampler("arity"), (SimilarityWindow(),))},
            r"TypeError.* was raised while it sampled negatives for step 0 by code that uses the result of Sampler \(",
        ),
        (
            {"negatives": BestOf(Uniform(), Reward())},
            r"Reward \(.*\) raised RuntimeError.* at .*:\d+ while it sampled negatives",
        ),
        ({"negatives": Sampler("result")}, r"Sampler \(.*:\d+\): build\(context\) must return a genrec\.types\.Draw, got \[1, 2\]"),
        (
            {"negatives": BestOf(Uniform(), ShapelessReward())},
            r"ShapelessReward \(.*:\d+\): must return float32 \[32, 16\], one reward per item; got torch\.float32 \[32\]",
        ),
        (
            {"loss": RosePO(), "reward": ShapelessReward()},
            r"ShapelessReward \(.*:\d+\): must return float32 \[32, 4\], one reward per item",
        ),
        (
            {"negatives": Filtered(Uniform(), (ScoringFilter(),))},
            r"ScoringFilter \(.*:\d+\): for candidates .* the result must be bool .*; got torch\.float32",
        ),
        ({"loss": Anchored(Loss(lambda terms: terms.nothing))}, r"Loss \(.*\) raised AttributeError.* at .*:\d+ in step 0"),
        ({"loss": Loss(lambda terms: terms.loss)}, r"Loss \(.*\) must return genrec.types.PreferenceTerms, got Tensor"),
        ({"loss": Loss(lambda terms: terms._replace(loss=terms.loss.mean()))}, r"Loss \(.*\): loss must be a tensor \[32\].*got \[\]"),
        ({"loss": Loss(lambda terms: terms._replace(rejected_reward=[1]))}, r"rejected_reward must be a tensor \[32, 3\].*got list"),
        ({"loss": Loss(lambda terms: terms._replace(loss=terms.loss.detach()))}, "the loss has no gradient"),
    ],
    ids=stable_id,
)
def test_a_failing_plug_in_is_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    built, entries, context = parts()
    with pytest.raises(InputError, match=message):
        align(built, entries, context, recipe(**change), 0, tmp_path / "last", constant)


def test_the_reward_must_be_a_reward() -> None:
    with pytest.raises(UsageError, match=r"Preference\.reward must be a genrec\.types\.Reward, got 1\.0"):
        recipe(reward=1.0)


def test_bugs_of_the_package_and_out_of_memory_pass_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), plugin_errors.attribute_to(Anchored(SoftmaxDPO()), "in step 3"):
        _ = 1 / 0
    with pytest.raises(RuntimeError, match="out of memory"), plugin_errors.attribute_to(Sampler("draw"), "in step 3"):
        raise RuntimeError("CUDA out of memory")


def test_components_with_a_plug_in_inside_are_plug_ins() -> None:
    assert not plugins_in(Filtered(Uniform(), (SimilarityWindow(),)))
    assert plugins_in(Filtered(Sampler("draw"), (SimilarityWindow(),))) == [Sampler("draw")]
    loss = Loss(lambda terms: terms)
    assert plugins_in((None, Anchored(loss))) == [loss]


def test_an_alignment_without_negatives_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The filter rejects every candidate, so no negative is sampled."""
    built, entries, context = parts()
    nothing = Filtered(Uniform(), (SimilarityWindow(high=-1.0),))
    _, statistics, _ = align(built, entries, context, recipe(negatives=nothing), 0, tmp_path / "last", constant)
    assert statistics["negatives"] == 0
    assert "examples got no negative" in capsys.readouterr().err


@pytest.mark.parametrize(("num_negatives", "missing"), [(1, 0.0), (2, 0.5)])
def test_an_alignment_with_missing_negatives_tells_their_share(
    num_negatives: int, missing: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sampler with one negative for each example lacks one of two requested ones."""
    changed = recipe(negatives=Sampler("one"), num_negatives=num_negatives)
    _, statistics, _ = align(*parts(), changed, 0, tmp_path / "last", constant)
    assert (statistics["examples_without_negatives"], statistics["shortfall_share"]) == (0, missing)
    message = r"alignment: Sampler \(.*test_plugin_errors\.py:\d+\) did not find 50\.0% of the requested negatives"
    assert bool(re.search(message, capsys.readouterr().err)) == bool(missing)
