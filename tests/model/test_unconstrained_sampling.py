"""Statistics of unconstrained sampling, compared with an enumeration of all code sequences of a small policy."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from policies import POLICIES, build, catalog, histories
from torch import Tensor

from genrec.baselines import SASRec
from genrec.errors import UsageError
from genrec.model import unconstrained_sampling as module
from genrec.model.unconstrained_sampling import greedy_items, unconstrained_statistics
from genrec.semantic_ids import SemanticIds

NAMES = ["tiger", "gpt"]
SIZES, ITEMS = (5, 4, 6), 50


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(name: str) -> tuple[Any, Any, Tensor]:
    """Return a policy of 50 items, another policy of the same codes, and histories."""
    return (
        build(POLICIES[name], catalog(ITEMS)),
        build(POLICIES[name], catalog(ITEMS), seed=1),
        histories(3, 5, ITEMS),
    )


def log_probs(policy: Any, history: Tensor) -> Tensor:
    """Return log p of all 120 code sequences in lexicographic order, float32 [B, 120], with a catalog in which each is an item."""
    sequences = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))
    full = policy.specification.build(SemanticIds(sequences, SIZES)).eval()
    full.load_state_dict(policy.state_dict())
    place = policy.semantic_ids.codes @ torch.tensor([24, 6, 1])  # the same histories, with the item ids of the full catalog
    renamed = torch.cat([torch.zeros(1, dtype=torch.int64), place + 1])[history]
    return full.log_prob(renamed, torch.arange(1, 121).expand(len(history), -1)).detach()


@pytest.mark.parametrize("name", NAMES)
def test_it_agrees_with_exact_enumeration(name: str) -> None:
    """With 20,000 samples of each of 3 histories a share of about 0.4 has a standard error of 0.5 / sqrt(60,000) = 0.002.

    Those of entropy and divergence, in which only sums over prefixes vary (by some tenths), are similar: 0.01 is five of them.
    """
    policy, other, history = pair(name)
    ours, theirs = log_probs(policy, history), log_probs(other, history)
    assert ours.exp().sum(1).tolist() == pytest.approx([1.0] * 3, abs=1e-4)
    real = policy.semantic_ids.codes @ torch.tensor([24, 6, 1])
    found = unconstrained_statistics(policy, other, history, 20_000, seeded())
    assert found["valid_share"] == pytest.approx(float(ours.exp()[:, real].sum(1).mean()), abs=0.01)
    assert found["entropy"] == pytest.approx(float(-(ours.exp() * ours).sum(1).mean()), abs=0.01)
    exact = float((ours.exp() * (ours - theirs)).sum(1).mean())
    assert found["kl"] == pytest.approx(exact, abs=0.01 + 0.02 * exact)
    assert exact > 0.1


class ScriptedDecoding:
    """Two levels of 2 and 3 codes: 0.25 and 0.75; after 0 always code 1, after 1 codes 0 and 2 with probability 0.5 each."""

    def start(self) -> tuple[Tensor, Tensor]:
        return torch.tensor([[0.25, 0.75]]).log(), torch.zeros(1, 1)

    def advance(self, level: int, state: Tensor, beam: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]).log()[code], state.gather(1, beam)


class Scripted(torch.nn.Module):
    """A policy that ignores the history."""

    semantic_ids = SemanticIds(torch.tensor([[0, 1], [1, 2], [0, 0]]), (2, 3))

    def decoding(self, history: Tensor) -> ScriptedDecoding:
        return ScriptedDecoding()


def test_by_hand() -> None:
    """Sequences (0, 1) with probability 0.25, (1, 0) and (1, 2) with 0.375 each; all but (1, 0) are items.

    Entropy: -0.25 ln 0.25 - 0.75 ln 0.375 = 0.346574 + 0.735622 = 1.082196. With one sample it is 0.562335 (the first level's) or
    0.562335 + ln 2; a code of probability 0, with log p = -inf, adds nothing. 40,000 samples: a standard error of 0.0015.
    """
    found = unconstrained_statistics(Scripted(), Scripted(), torch.zeros(1, 1, dtype=torch.int64), 40_000, seeded())
    assert found["entropy"] == pytest.approx(1.082196, abs=0.01)
    assert found["valid_share"] == pytest.approx(0.625, abs=0.01)
    assert found["kl"] == 0
    one = unconstrained_statistics(Scripted(), None, torch.zeros(1, 1, dtype=torch.int64), 1, seeded())
    assert any(one["entropy"] == pytest.approx(value, abs=1e-5) for value in (0.562335, 0.562335 + 0.693147))


@pytest.mark.parametrize("name", NAMES)
def test_the_divergence_of_equal_models_is_zero(name: str) -> None:
    policy, _, history = pair(name)
    assert unconstrained_statistics(policy, copy.deepcopy(policy), history, 50, seeded())["kl"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_one_level_has_no_sampling_error(name: str) -> None:
    """Entropy and divergence of the first level are exact, whatever the number of samples."""
    policy, other = (build(POLICIES[name], catalog(50, sizes=(60,)), seed) for seed in (0, 1))
    history = histories(3, 5, 50)
    one, thousand = (unconstrained_statistics(policy, other, history, samples, seeded()) for samples in (1, 1000))
    assert one["entropy"] == pytest.approx(thousand["entropy"], rel=1e-9)
    assert one["kl"] == pytest.approx(thousand["kl"], rel=1e-9)
    assert one["kl"] > 0


def test_the_result_depends_on_the_generator_and_not_on_chunks() -> None:
    policy, other, history = pair("tiger")
    state = torch.get_rng_state()
    first = unconstrained_statistics(policy, other, history, 40, seeded())
    assert unconstrained_statistics(policy, other, history, 40, seeded()) == first
    assert unconstrained_statistics(policy, other, history, 40, seeded(1)) != first
    assert torch.equal(torch.get_rng_state(), state)
    with mock.patch.object(module, "MAX_PREFIXES", 40):
        in_chunks = unconstrained_statistics(policy, other, history, 40, seeded())
    assert in_chunks == {key: pytest.approx(value, abs=1e-5) for key, value in first.items()}


def test_dropout_is_off_and_the_mode_is_restored() -> None:
    policy, _, history = pair("tiger")
    frozen = copy.deepcopy(policy)
    policy.train()
    assert unconstrained_statistics(policy, frozen, history, 20, seeded())["kl"] == 0
    assert policy.training
    assert not frozen.training


def test_without_a_reference_there_is_no_divergence() -> None:
    policy, _, history = pair("gpt")
    assert set(unconstrained_statistics(policy, None, history, 5, seeded())) == {"valid_share", "entropy"}


def test_a_policy_without_decoding_has_no_statistics() -> None:
    policy = SASRec(d_model=8, d_ff=8, max_positions=6).build(SemanticIds(torch.arange(10).unsqueeze(1)))
    assert unconstrained_statistics(policy, None, histories(2, 4, 10), 5, seeded()) == {}


def test_errors() -> None:
    policy, _, history = pair("gpt")
    with pytest.raises(UsageError, match="at least 1 history and 1 sample"):
        unconstrained_statistics(policy, None, history, 0, seeded())
    with pytest.raises(UsageError, match=r"levels of \(5, 4, 6\), got \(60,\)"):
        unconstrained_statistics(policy, build(replace(POLICIES["gpt"]), catalog(50, sizes=(60,))), history, 3, seeded())


@pytest.mark.parametrize("name", NAMES)
def test_greedy_decoding_takes_the_best_code_of_each_level(name: str) -> None:
    """Compared with the most likely code given the codes before, from an enumeration of all 120 code sequences.

    The codes need not be those of an item: of 12 histories some give the item with these codes, and some give 0.
    """
    policy = build(POLICIES[name], catalog(ITEMS))
    history = histories(12, 5, ITEMS)
    probabilities = log_probs(policy, history).exp().view(-1, *SIZES)
    items = {tuple(codes): item for item, codes in enumerate(policy.semantic_ids.codes.tolist(), start=1)}
    expected = []
    for table in probabilities:
        first = int(table.sum((1, 2)).argmax())
        second = int(table[first].sum(1).argmax())
        expected.append(items.get((first, second, int(table[first, second].argmax())), 0))
    found = greedy_items(policy, history).tolist()
    assert found == expected
    assert min(found) == 0 < max(found)
    assert greedy_items(policy.train(), history).tolist() == found  # without dropout
    assert policy.training
    with mock.patch.object(module, "MAX_PREFIXES", 5):
        assert greedy_items(policy, history).tolist() == found
