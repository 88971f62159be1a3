"""What reads the levels of a Semantic ID is refused before any stage where the policy scores an item as one code."""

from __future__ import annotations

from typing import Any

import pytest
from preference_stages import stage

from genrec.errors import UsageError
from genrec.experiment import Align, Experiment
from genrec.model import RPG, Tiger
from genrec.objectives import PolicyGradient, Preference
from genrec.preference.losses import Anchored, LevelWeighted, SoftmaxDPO
from genrec.preference.negatives import ModelBeams, PrefixNeighbors, Uniform
from genrec.preference.policy_gradient import SiblingAdvantage
from genrec.preference.rewards import PrefixMatch
from genrec.testing import Shop
from genrec.types import Objective

READERS: dict[str, tuple[Any, str]] = {
    "losses of weighted levels": (stage(loss=LevelWeighted(SoftmaxDPO())), "LevelWeighted needs log-probabilities of levels"),
    "a loss inside": (stage(loss=Anchored(LevelWeighted(SoftmaxDPO()))), "LevelWeighted needs log-probabilities of levels"),
    "sibling advantages": (Align(PolicyGradient(advantage=SiblingAdvantage())), "SiblingAdvantage needs log-probabilities of levels"),
    "prefix rewards": (Align(PolicyGradient(reward=PrefixMatch())), "PrefixMatch needs a policy that writes an item code by code"),
    "locked levels": (stage(negatives=ModelBeams(locked_levels=1)), r"ModelBeams needs a search below a prefix \(locked_levels = 1\)"),
}


def experiment(policy: Any, align: Align) -> Experiment:
    return Experiment(name="shop", source=Shop(), policy=policy, align=align)


@pytest.mark.parametrize("name", READERS)
def test_readers_of_levels_are_refused_by_name(name: str) -> None:
    align, message = READERS[name]
    with pytest.raises(UsageError, match=rf"shop: {message}, but RPG as set here scores an item as one code, without levels; leave"):
        experiment(RPG(), align)
    experiment(Tiger(), align)
    experiment(RPG(normalization="digits"), align)


@pytest.mark.parametrize("negatives", [Uniform(), ModelBeams(), PrefixNeighbors(1)])
def test_samplers_that_read_semantic_ids_alone_are_accepted(negatives: Any) -> None:
    experiment(RPG(), stage(negatives=negatives))


def test_an_objective_without_levels_is_accepted() -> None:
    objective: Objective = Preference(loss=Anchored(SoftmaxDPO()))
    experiment(RPG(), Align(objective))
