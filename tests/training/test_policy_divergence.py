"""Entropy and divergence from SFT on validation users: by hand, against enumeration, and with a reference that moves."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from alignments import align, constant, corpus, parts, recipe
from policies import GPT, build
from proposals import TablePolicy, one_level
from torch import Tensor, nn

from genrec.data.examples import examples
from genrec.objectives.frozen_policy import FrozenCopy
from genrec.training import policy_divergence
from genrec.training.align import FrozenPolicies
from genrec.training.policy_divergence import PolicyDivergence
from genrec.types import CatalogPolicy, Ranking, SequenceBatch

POLICY, SFT = torch.tensor([[0.2, 0.5, 0.3]]).log(), torch.tensor([[0.5, 0.3, 0.2]]).log()
ENTROPY, KL = 1.029653014, 0.193794198  # -(.2 ln .2 + .5 ln .5 + .3 ln .3), .2 ln .4 + .5 ln(5/3) + .3 ln 1.5


class Users:
    """Validation users with a history of one item."""

    def __init__(self, history: Tensor) -> None:
        self.history = history

    def __len__(self) -> int:
        return len(self.history)

    def batch(self, index: Tensor) -> SequenceBatch:
        return SequenceBatch(index + 1, self.history[index], torch.ones_like(index))


class ListsOnly(nn.Module):
    """A policy that is neither a `CatalogPolicy` nor a `DecodingPolicy`."""

    def __init__(self, inner: TablePolicy) -> None:
        super().__init__()
        self.inner = inner

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        return self.inner.level_log_prob(history, items)

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        return self.inner.log_prob(history, items)

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        return self.inner.recommend(history, n, exclude)


def measured(policy: Any, sft: Any, history: Tensor) -> dict[str, float]:
    return dict(PolicyDivergence(policy, FrozenCopy(sft), Users(history)).measure())


def test_a_catalog_policy_is_measured_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published vector of KL; two users with the same history, also one at a time."""
    history = torch.tensor([[1], [1]])
    for cells in (2**24, 3):
        monkeypatch.setattr(policy_divergence, "MAX_CELLS", cells)
        found = measured(TablePolicy(POLICY), TablePolicy(SFT), history)
        assert found == pytest.approx({"user_entropy": ENTROPY, "kl_to_sft": KL}, abs=1e-7)


def test_other_policies_have_lower_bounds_from_their_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of the whole catalog is exact. One item: .5 against .3, the rest .5 against .7: .5 ln(5/3) + .5 ln(5/7), and ln 2."""
    policy, sft = ListsOnly(TablePolicy(POLICY)), ListsOnly(TablePolicy(SFT))
    assert not isinstance(policy, CatalogPolicy)
    assert measured(policy, sft, torch.tensor([[1]])) == pytest.approx({"user_entropy": ENTROPY, "kl_to_sft": KL}, abs=1e-6)
    monkeypatch.setattr(policy_divergence, "LIST_LENGTH", 1)
    bound = 0.5 * math.log(5 / 3) + 0.5 * math.log(5 / 7)
    assert measured(policy, sft, torch.tensor([[1]])) == pytest.approx({"user_entropy": math.log(2), "kl_to_sft": bound}, abs=1e-6)


def test_a_policy_of_codes_equals_the_enumeration_of_one_level() -> None:
    """With one level the estimate has no sampling error."""
    ids = one_level(7)
    policy, sft = build(GPT, ids, 0), build(GPT, ids, 1)
    history = torch.tensor([[0, 3], [2, 5], [0, 1]])
    items = torch.arange(1, 8).expand(3, -1)
    p, q = (each.log_prob(history, items).double() for each in (policy, sft))
    expected = {"user_entropy": float(-(p.exp() * p).sum(1).mean()), "kl_to_sft": float((p.exp() * (p - q)).sum(1).mean())}
    assert measured(policy, sft, history) == pytest.approx(expected, abs=1e-5)
    assert measured(policy, copy.deepcopy(policy), history)["kl_to_sft"] == pytest.approx(0.0, abs=1e-9)


def test_nothing_is_measured_without_validation_users() -> None:
    policy = TablePolicy(POLICY)
    assert PolicyDivergence(policy, FrozenCopy(policy), None).measure() == {}


def test_the_sft_policy_stays_while_the_reference_is_refreshed(tmp_path: Path) -> None:
    """Both runs measure at every validation, 0 at step 0. With a refreshed reference the training is another one."""
    held_out = examples(corpus(), "validation", 8)
    for place, every in enumerate((0, 10)):
        built, entries, context = parts()
        outcome, *_ = align(built, entries, context, recipe(refresh_reference=every), 0, tmp_path / str(place), constant, held_out)
        rows = [row for row in outcome.curves if "validation_kl_to_sft" in row]
        assert [row["step"] for row in rows] == [0, 20, 40]
        assert rows[0]["validation_kl_to_sft"] == pytest.approx(0.0, abs=1e-9)
        assert rows[2]["validation_kl_to_sft"] > rows[1]["validation_kl_to_sft"] > 1e-4
        assert all(row["validation_user_entropy"] > 0 for row in rows)
        if every:  # the reference of step 30 is nearer than SFT
            assert rows[2]["validation_kl"] < rows[2]["validation_kl_to_sft"] / 2


def test_which_copy_serves_as_the_sft_policy() -> None:
    """The reference where it is the SFT policy and stays; else a copy that no refresh reaches, in a chain with the weights of SFT."""
    built, *_ = parts()
    start = {name: value.clone() for name, value in built.state_dict().items()}
    fixed = FrozenPolicies(built, None, 0)
    assert fixed.sft_copy(None) is fixed.reference
    weights = {name: value + 1 for name, value in start.items()}
    chained = FrozenPolicies(built, weights, 0)
    assert chained.sft_copy(weights) is chained.reference
    moving = FrozenPolicies(built, None, 5)
    copies = [moving.sft_copy(None), fixed.sft_copy(weights)]
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.5
    moving.begin(5)
    for found, expected in zip(copies, (start, weights), strict=True):
        module = found.policy
        assert isinstance(module, nn.Module)
        assert all(torch.equal(value, expected[name]) for name, value in module.state_dict().items())
