"""Policy gradients over lists: the probability of a list, its reward, the expected gradient, and what the objective refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations
from typing import Any

import pandas as pd
import pytest
import torch
from worlds import cyclic

from genrec import pipeline
from genrec.baselines import SASRec
from genrec.errors import UsageError
from genrec.experiment import Align, Experiment, Optimization, Validation
from genrec.model import RPG, Tiger
from genrec.objectives import ListPolicyGradient
from genrec.preference.candidates.policy_scores import CatalogScores
from genrec.preference.policy_gradient import GroupAdvantage, SiblingAdvantage, WindowedAdvantage, group_advantages
from genrec.preference.policy_gradient.list_log_prob import discounted_sum, list_log_prob

Q = torch.tensor([0.5, 0.3, 0.15, 0.05])


def every(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


def test_the_probability_of_a_list_by_hand() -> None:
    """log .5 + log(.15 / .5) + log(.3 / .35) = -2.051271."""
    found = list_log_prob(Q[torch.tensor([[0, 2, 1]])].log(), every(1, 3))
    torch.testing.assert_close(found, torch.tensor([-2.051270665]))


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_probabilities_of_all_lists_add_up_to_1(length: int) -> None:
    lists = torch.tensor(list(permutations(range(4), length)))
    assert list_log_prob(Q[lists].log(), every(*lists.shape)).exp().sum() == pytest.approx(1, abs=1e-6)


def test_the_end_of_a_short_list_changes_nothing() -> None:
    mask = torch.tensor([[True, True, False], [False, False, False]])
    log_prob = torch.tensor([[0.5, 0.3, 0.0], [0.0, 0.0, 0.0]]).log().requires_grad_()
    found = list_log_prob(log_prob, mask)
    torch.testing.assert_close(found, torch.tensor([math.log(0.5) + math.log(0.3 / 0.5), 0.0]))
    found.sum().backward()
    assert log_prob.grad is not None
    assert log_prob.grad.isfinite().all()
    assert (log_prob.grad[~mask] == 0).all()


def test_a_certain_item_leaves_finite_values() -> None:
    log_prob = torch.tensor([[0.0, -30.0]], requires_grad=True)
    found = list_log_prob(log_prob, every(1, 2))
    torch.testing.assert_close(found, torch.tensor([-30 + math.log(1e6)]))
    found.sum().backward()
    assert log_prob.grad is not None
    assert log_prob.grad.isfinite().all()


def test_the_gradient_is_that_of_finite_differences() -> None:
    scores = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda each: list_log_prob(each.log_softmax(1)[:, :3], every(3, 3)), scores)


def test_the_reward_of_a_list_is_its_ndcg() -> None:
    """Hits at places 1 and 3, none, and at place 6 of 10; the advantages with the population's deviation."""
    rewards = torch.zeros(4, 10)
    rewards[0, 0] = rewards[1, 2] = rewards[3, 5] = 1
    values = discounted_sum(rewards)
    torch.testing.assert_close(values, torch.tensor([1, 0.5, 0, 0.356207187]))
    found = group_advantages(values.unsqueeze(0), every(1, 4), "population", 0).values
    torch.testing.assert_close(found, torch.tensor([[1.492916141, 0.100135895, -1.292644352, -0.300407684]]))


def test_the_gradient_of_drawn_lists_is_that_of_the_expected_reward() -> None:
    """Lists of 2 of 4 items that are drawn by Gumbel top-k, against the sum over all 12 lists, by reward minus mean."""
    scores = Q.log().double().requires_grad_()
    every_list = torch.tensor(list(permutations(range(4), 2)))
    value = discounted_sum((every_list == 2).double())
    expected = (list_log_prob(scores.log_softmax(0)[every_list], every(12, 2)).exp() * value).sum()
    (exact,) = torch.autograd.grad(expected, scores)
    rows = scores.log_softmax(0).expand(40_000, 4)
    drawn = CatalogScores(rows.float()).sample(2, None, torch.Generator().manual_seed(3)).items - 1
    rewards = discounted_sum((drawn == 2).double())
    surrogate = ((rewards - rewards.mean()) * list_log_prob(rows.gather(1, drawn), every(*drawn.shape))).mean()
    (estimate,) = torch.autograd.grad(surrogate, scores)
    torch.testing.assert_close(estimate, exact, atol=6e-3, rtol=0)
    assert exact.abs().max() > 0.05


SMALL: dict[str, Any] = {"d_model": 32, "d_ff": 64, "num_heads": 2, "d_kv": 16, "dropout": 0.0, "num_beams": 12}
TIGER = Tiger(**SMALL, num_encoder_layers=1, num_decoder_layers=1, history="items", encoder="causal")


def row(policy: Any, steps: int, normalize: Any = "codes", **change: Any) -> Experiment:
    """Return an alignment by lists of 5 items after a short SFT; `change` is of the objective."""
    objective = ListPolicyGradient(**{"lists": 4, "length": 5, "likelihood": 0.0} | change)
    align = Align(
        objective, keep="last", normalize=normalize, optimization=Optimization(max_steps=steps, batch_size=32, learning_rate=2e-3),
        validation=Validation(every=10),
    )  # fmt: skip
    short = cyclic(steps=10)
    tokenize = None if isinstance(policy, SASRec) else short.tokenize
    return replace(short, name="cyclic-lists", policy=policy, tokenize=tokenize, align=align)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(tmp_path_factory.mktemp("lists") / "data"))
        yield


def curves(experiment: Experiment) -> pd.DataFrame:
    return pd.read_parquet(pipeline.run(experiment)["align"].folder / "curves.parquet")


@pytest.mark.parametrize(
    ("policy", "steps", "normalize", "targets"),
    [(TIGER, 30, "children", "one"), (SASRec(d_model=32, num_layers=1), 80, "codes", "all")],
)
def test_lists_become_better(policy: Any, steps: int, normalize: Any, targets: Any) -> None:
    found = curves(row(policy, steps, normalize, targets=targets))
    logged = found[found["reward"].notna()]
    assert logged["reward"].iloc[-1] > 1.3 * logged["reward"].iloc[0]
    assert found["validation_ndcg@10"].dropna().iloc[-1] > found["validation_ndcg@10"].dropna().iloc[0]
    assert (logged["kl"] >= 0).all()


def test_probabilities_over_all_codes_are_refused_when_the_experiment_is_made() -> None:
    with pytest.raises(UsageError, match=r"cyclic-lists: .* add up to less; use it in an alignment with align\.normalize children"):
        row(TIGER, 1)
    assert row(RPG(d_model=32, num_layers=1), 1).policy == RPG(d_model=32, num_layers=1)  # scores whole items


def test_a_divergence_in_sft_is_refused_when_the_experiment_is_made() -> None:
    sft = replace(cyclic().sft, objective=ListPolicyGradient())
    with pytest.raises(UsageError, match=r"kl 0\.001 needs a reference, which SFT has not; set kl to 0"):
        replace(cyclic(), sft=sft, align=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lists": 1}, "lists must be"),
        ({"length": 0}, "length must be"),
        ({"kl": -1.0}, "kl must be"),
        ({"reward": 1}, "reward must be a genrec.types.Reward, such as Hit"),
        ({"advantage": GroupAdvantage}, "advantage must be a genrec.types.Advantage"),
        ({"advantage": WindowedAdvantage(SiblingAdvantage())}, r"a list has no Semantic ID"),
        ({"advantage": SiblingAdvantage()}, r"a list has no Semantic ID; use GroupAdvantage\(\) or"),
    ],
)
def test_settings_without_meaning_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ListPolicyGradient(**change)
