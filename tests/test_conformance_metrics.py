"""check_metric: built-in metrics pass, and each broken metric raises its message."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_ids import stable_id
from torch import Tensor

from genrec import check_command
from genrec.baselines import BPR, EASE, ItemKNN, Popularity
from genrec.embeddings import Collaborative, TfidfSvd
from genrec.errors import UsageError
from genrec.evaluation import CandidateHitRate, IntraListDistance, ListOverlap
from genrec.evaluation.user_metrics import standard_metrics
from genrec.experiment import BEYOND_ACCURACY
from genrec.preference.rewards import Popular
from genrec.testing import ContractError, check_component, check_metric, evaluated_world
from genrec.types import Evaluated, EvaluationMetric


@dataclass(frozen=True)
class Standard:
    """The metrics of every evaluation as one metric, under names of its own."""

    def measure(self, evaluated: Evaluated) -> dict[str, Tensor]:
        return {f"own_{name}": values for name, values in standard_metrics(evaluated).items()}


METRICS: list[EvaluationMetric] = [
    *BEYOND_ACCURACY,
    IntraListDistance(TfidfSvd(dim=8, min_df=1)),
    IntraListDistance(Collaborative(dim=8)),
    ListOverlap(Popularity()),
    ListOverlap(EASE(), name="ease"),
    ListOverlap(BPR(epochs=1)),
    CandidateHitRate(5, seed=3),
    Standard(),
]


@pytest.mark.filterwarnings("ignore:vectors get")
@pytest.mark.parametrize("metric", METRICS, ids=stable_id)
def test_built_in_metrics_keep_the_contract(metric: EvaluationMetric) -> None:
    check_metric(metric)


@pytest.mark.parametrize("baseline", [ItemKNN(), BPR(epochs=1)], ids=stable_id)
def test_metrics_of_other_recommenders_keep_the_contract(baseline: object) -> None:
    world = evaluated_world(seed=1)
    check_metric(CandidateHitRate(), replace(world, recommender=baseline.fit(world.train(), 60)))  # type: ignore[attr-defined]


Measure = Callable[[Evaluated], dict[str, Tensor]]


def valid(evaluated: Evaluated) -> dict[str, Tensor]:
    return {"mine@1": evaluated.popularity[evaluated.items[:, 0]].double()}


@dataclass(frozen=True)
class MyMetric:
    """A valid metric as a user would write it: training interactions of the first item."""

    function: Measure = field(default=valid, metadata={"key": False})

    def measure(self, evaluated: Evaluated) -> dict[str, Tensor]:
        return self.function(evaluated)


def with_state() -> Measure:
    calls = [0]

    def function(evaluated: Evaluated) -> dict[str, Tensor]:
        calls[0] += 1
        return {"mine@1": valid(evaluated)["mine@1"] + calls[0]}

    return function


def of_first_batch(evaluated: Evaluated) -> dict[str, Tensor]:
    return {"mine": torch.full((len(evaluated.user),), float(evaluated.batches[0].target[0]), dtype=torch.float64)}


def in_order_of_batches(evaluated: Evaluated) -> dict[str, Tensor]:
    return {"mine": torch.cat([batch.target for batch in evaluated.batches]).double()}


def global_draw(evaluated: Evaluated) -> dict[str, Tensor]:
    torch.rand(1)
    return valid(evaluated)


def numpy_draw(evaluated: Evaluated) -> dict[str, Tensor]:
    np.random.rand()  # noqa: NPY002
    return valid(evaluated)


def unseeded(evaluated: Evaluated) -> dict[str, Tensor]:
    own = torch.Generator().manual_seed(random.SystemRandom().getrandbits(40))
    return {"mine": torch.rand(len(evaluated.user), generator=own).double()}


def sorts_lists(evaluated: Evaluated) -> dict[str, Tensor]:
    evaluated.items.copy_(evaluated.items.sort(1).values)
    return valid(evaluated)


def adds_column(evaluated: Evaluated) -> dict[str, Tensor]:
    evaluated.catalog["length"] = evaluated.catalog["text"].str.len()
    return valid(evaluated)


def forgets_times(evaluated: Evaluated) -> dict[str, Tensor]:
    evaluated.train().loc[:, "time"] = 0
    return valid(evaluated)


def trains(evaluated: Evaluated) -> dict[str, Tensor]:
    evaluated.recommender.train()  # type: ignore[attr-defined]
    return valid(evaluated)


def changes_weights(evaluated: Evaluated) -> dict[str, Tensor]:
    next(evaluated.recommender.parameters()).data.add_(1)  # type: ignore[attr-defined]
    return valid(evaluated)


def other_names() -> Measure:
    names = iter("abcdefgh")
    return lambda evaluated: {next(names): evaluated.rank.double()}


BROKEN: dict[str, tuple[Measure, str]] = {
    "nothing": (lambda evaluated: {}, r"measure returned no figure, so nothing was checked"),
    "dtype": (
        lambda evaluated: {"x": evaluated.rank.float()},
        r"'x' must be float64 \[40\], .*got float32 \[40\]",
    ),
    "infinite": (lambda evaluated: {"x": 1 / evaluated.rank.double()}, r"'x' must be finite, or NaN"),
    "name": (lambda evaluated: {"my metric": evaluated.rank.double()}, r"a figure must be named like novelty.*got 'my metric'"),
    "state": (with_state(), r"a second call gives other values of mine@1; draw from a generator seeded by a field, keep no state"),
    "unseeded": (unseeded, r"a second call gives other values of mine"),
    "names": (other_names(), r"a second call gives other figures, b instead of a"),
    "first batch": (of_first_batch, r"the same users in other batches give other values of mine; use evaluated\.by_user"),
    "order": (in_order_of_batches, r"the same users in other batches give other values of mine"),
    "torch": (global_draw, r"torch's global generator was drawn from or seeded"),
    "numpy": (numpy_draw, r"NumPy's global generator was drawn from"),
    "lists": (sorts_lists, r"evaluated\.items was modified, but other metrics read it too; work on a copy"),
    "catalog": (adds_column, r"evaluated\.catalog was modified"),
    "train": (forgets_times, r"evaluated\.train\(\) was modified"),
    "mode": (trains, r"evaluated\.recommender was left in another mode"),
    "weights": (changes_weights, r"evaluated\.recommender's vectors was modified"),
    "raises": (lambda evaluated: {"x": evaluated.nothing}, r"measure\(evaluated\) raised AttributeError"),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_metric_raises_its_message(name: str) -> None:
    function, message = BROKEN[name]
    with pytest.raises(ContractError, match=rf"^MyMetric.*: .*{message}"):
        check_metric(MyMetric(function))


def test_a_valid_metric_passes_and_is_recognized(tmp_path: Path) -> None:
    check_metric(MyMetric())
    check_component(MyMetric(), tmp_path)
    assert check_command.check(CandidateHitRate(), tmp_path) == ["CandidateHitRate(num_candidates=20, seed=0) keeps its contract"]
    with pytest.raises(ContractError, match="must be float64"):
        check_component(MyMetric(BROKEN["dtype"][0]), tmp_path)
    with pytest.raises(UsageError, match=r"implements none of the protocols .*EvaluationMetric \(measure\(evaluated\)\)"):
        check_component(object(), tmp_path)


def test_a_metric_is_a_frozen_dataclass_with_a_stable_description() -> None:
    class Loose:
        def measure(self, evaluated: Evaluated) -> dict[str, Tensor]:
            return valid(evaluated)

    @dataclass(frozen=True)
    class Held:
        function: Measure = valid

        def measure(self, evaluated: Evaluated) -> dict[str, Tensor]:
            return self.function(evaluated)

    with pytest.raises(ContractError, match=r"Loose is not a frozen dataclass"):
        check_metric(Loose())
    with pytest.raises(ContractError, match=r"Held\.function is a .*function, which has no stable description"):
        check_metric(Held())
    with pytest.raises(ContractError, match=r"Popular does not implement EvaluationMetric.*with measure\(evaluated\)"):
        check_metric(Popular())  # type: ignore[arg-type]


def test_the_world_is_an_evaluation_with_shared_semantic_ids() -> None:
    world, filtered = evaluated_world(), evaluated_world(filter_seen=True)
    assert world.user.tolist() == list(range(1, 41))
    assert world.items.shape == (40, 10)
    assert world.shared is not None
    assert len(world.shared) == 61
    assert int(world.shared.unique().numel()) < 61
    assert 0 < int((world.rank > 0).sum()) < 40
    seen = filtered.seen(filtered.user)
    assert not bool((filtered.items.unsqueeze(2) == seen.masked_fill(seen == 0, -1).unsqueeze(1)).any())
    assert bool((world.items.unsqueeze(2) == seen.masked_fill(seen == 0, -1).unsqueeze(1)).any())
    assert int(world.popularity.sum()) == int(world.history_length.sum()) == len(world.train())
