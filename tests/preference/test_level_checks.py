"""What reads the levels of a Semantic ID is refused before any stage where the policy scores an item as one code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from preference_stages import stage
from proposals import context_of, data_of, one_level, sasrec

from genrec.baselines import GRU4Rec, Popularity, SASRec
from genrec.errors import UsageError
from genrec.experiment import SFT, Align, Experiment, baselines
from genrec.model import RPG, Tiger
from genrec.objectives import PolicyGradient, Preference, PrefixContrast, Supervised
from genrec.preference.losses import Anchored, LevelWeighted, SoftmaxDPO
from genrec.preference.negatives import ModelBeams, PrefixNeighbors, Uniform
from genrec.preference.policy_gradient import GroupAdvantage, SiblingAdvantage, WindowedAdvantage
from genrec.preference.rewards import PrefixMatch
from genrec.semantic_ids import SemanticIds
from genrec.testing import Shop
from genrec.types import Objective

READERS: dict[str, tuple[Any, str]] = {
    "losses of weighted levels": (stage(loss=LevelWeighted(SoftmaxDPO())), "LevelWeighted needs log-probabilities of levels"),
    "a loss inside": (stage(loss=Anchored(LevelWeighted(SoftmaxDPO()))), "LevelWeighted needs log-probabilities of levels"),
    "sibling advantages": (Align(PolicyGradient(advantage=SiblingAdvantage())), "SiblingAdvantage needs log-probabilities of levels"),
    "prefix rewards": (Align(PolicyGradient(reward=PrefixMatch())), "PrefixMatch needs a policy that writes an item code by code"),
    "locked levels": (stage(negatives=ModelBeams(locked_levels=1)), r"ModelBeams needs a search below a prefix \(locked_levels = 1\)"),
    "contrasts of prefixes": (Align(PrefixContrast()), "PrefixContrast needs the log-probabilities of prefixes"),
}


def experiment(policy: Any, align: Align, **others: Any) -> Experiment:
    return Experiment(name="shop", source=Shop(), policy=policy, align=align, **others)


@pytest.mark.parametrize("name", READERS)
def test_readers_of_levels_are_refused_by_name(name: str) -> None:
    align, message = READERS[name]
    with pytest.raises(UsageError, match=rf"shop: {message}, but RPG as set here scores an item as one code, without levels; leave"):
        experiment(RPG(), align)
    experiment(Tiger(), align)
    experiment(RPG(normalization="digits"), align)


@pytest.mark.parametrize("policy", [SASRec(), GRU4Rec()], ids=["SASRec", "GRU4Rec"])
@pytest.mark.parametrize("name", [name for name in READERS if name != "locked levels"])  # refused by their number of codes
def test_readers_of_levels_are_refused_where_items_are_their_own_codes(name: str, policy: Any) -> None:
    align, message = READERS[name]
    with pytest.raises(UsageError, match=rf"shop: {message}, but with tokenize=None every item is a code of its own, .*; leave"):
        replace(experiment(policy, Align(Supervised()), tokenize=None), align=align)
    replace(experiment(policy, Align(Supervised()), tokenize=None), align=Align(PolicyGradient(advantage=GroupAdvantage())))


def test_what_does_the_same_for_items_of_one_code_is_named() -> None:
    for objective, instead in (
        (PolicyGradient(advantage=SiblingAdvantage()), r"use GroupAdvantage\(\), which is the same for items of one code"),
        (PolicyGradient(advantage=WindowedAdvantage(SiblingAdvantage())), r"use GroupAdvantage\(\)"),
        (PolicyGradient(reward=PrefixMatch()), r"use Hit\(\), or set tokenize"),
    ):
        with pytest.raises(UsageError, match=instead):
            experiment(SASRec(), Align(objective), tokenize=None)


def test_a_contrast_of_prefixes_in_sft_is_refused_and_baselines_of_it_are_not() -> None:
    """A baseline has no SFT, so that what its experiment holds there is not used."""
    sft = SFT(objective=PrefixContrast())
    with pytest.raises(UsageError, match="PrefixContrast needs the log-probabilities of prefixes, but with tokenize=None"):
        Experiment(name="shop", source=Shop(), policy=SASRec(), tokenize=None, sft=sft)
    Experiment(name="shop", source=Shop(), policy=Popularity(), tokenize=None, sft=sft)
    assert baselines(Experiment(name="shop", source=Shop(), policy=Tiger(), sft=sft))


@pytest.mark.parametrize("component", [PrefixContrast(), SiblingAdvantage()])
def test_a_tokenizer_of_one_level_is_refused_when_its_codes_are_known(component: Any) -> None:
    """It may have any name; the codes tell."""
    two = SemanticIds(torch.tensor([[0, 0], [0, 1]]))
    component.check_context(data_of(two))
    with pytest.raises(UsageError, match=r"but the Semantic IDs have one code; leave .* out, or give the quantizer two or"):
        component.check_context(data_of(one_level(2)))
    if isinstance(component, PrefixContrast):
        with pytest.raises(UsageError, match="the Semantic IDs have one code"):
            component.build_step(context_of(sasrec(6), data_of(one_level(6))))


@pytest.mark.parametrize("negatives", [Uniform(), ModelBeams(), PrefixNeighbors(1)])
def test_samplers_that_read_semantic_ids_alone_are_accepted(negatives: Any) -> None:
    experiment(RPG(), stage(negatives=negatives))


def test_an_objective_without_levels_is_accepted() -> None:
    objective: Objective = Preference(loss=Anchored(SoftmaxDPO()))
    experiment(RPG(), Align(objective))
