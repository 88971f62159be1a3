"""The probe against exact enumeration: every code sequence of a small policy, real or not, with its probability."""

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
from genrec.model.unconstrained_sampling import unconstrained_statistics
from genrec.semantic_ids import SemanticIds

NAMES = ["tiger", "gpt"]
SIZES, ITEMS = (5, 4, 6), 50


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(name: str) -> tuple[Any, Any, Tensor]:
    """A policy of 50 items, another one of the same codes, and histories."""
    return (
        build(POLICIES[name], catalog(ITEMS)),
        build(POLICIES[name], catalog(ITEMS), seed=1),
        histories(3, 5, ITEMS),
    )


def log_probs(policy: Any, history: Tensor) -> Tensor:
    """Of all 120 code sequences in lexicographic order, float32 [B, 120]: the same weights where every sequence is an item."""
    sequences = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))
    full = policy.specification.build(SemanticIds(sequences, SIZES)).eval()
    full.load_state_dict(policy.state_dict())
    place = policy.semantic_ids.codes @ torch.tensor([24, 6, 1])  # the same histories, as items of the full catalog
    renamed = torch.cat([torch.zeros(1, dtype=torch.int64), place + 1])[history]
    return full.log_prob(renamed, torch.arange(1, 121).expand(len(history), -1)).detach()


@pytest.mark.parametrize("name", NAMES)
def test_it_agrees_with_exact_enumeration(name: str) -> None:
    """20,000 samples of each of 3 histories. A share of about .4 then has a standard error of .5 / sqrt(60,000) = .002; entropy and
    divergence, of which only sums over prefixes vary (by some tenths), one of about the same size: a hundredth is five of them."""
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


class Written:
    """Two levels of 2 and 3 codes: .25 and .75; after 0 always code 1, after 1 the codes 0 and 2 with probability a half each."""

    def start(self) -> tuple[Tensor, Tensor]:
        return torch.tensor([[0.25, 0.75]]).log(), torch.zeros(1, 1)

    def advance(self, level: int, state: Tensor, beam: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]).log()[code], state.gather(1, beam)


class Scripted(torch.nn.Module):
    """A policy that reads nothing."""

    semantic_ids = SemanticIds(torch.tensor([[0, 1], [1, 2], [0, 0]]), (2, 3))

    def decoding(self, history: Tensor) -> Written:
        return Written()


def test_by_hand() -> None:
    """Sequences (0, 1) with .25, (1, 0) and (1, 2) with .375 each; all but (1, 0) are items.

    Entropy: -.25 ln .25 - .75 ln .375 = .346574 + .735622 = 1.082196. Of one sample it is either .562335 (the first level's) or that
    and ln 2; a code of probability 0, of which log p is -inf, adds nothing. 40,000 samples: a standard error of .0015 for the entropy.
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
    """Entropy and divergence of the first level need no sample: one is as good as a thousand."""
    policy, other = (build(POLICIES[name], catalog(50, sizes=(60,)), seed) for seed in (0, 1))
    history = histories(3, 5, 50)
    few, many = (unconstrained_statistics(policy, other, history, samples, seeded()) for samples in (1, 1000))
    assert few["entropy"] == pytest.approx(many["entropy"], rel=1e-9)
    assert few["kl"] == pytest.approx(many["kl"], rel=1e-9)
    assert few["kl"] > 0


def test_the_generator_decides_and_pieces_do_not() -> None:
    policy, other, history = pair("tiger")
    state = torch.get_rng_state()
    first = unconstrained_statistics(policy, other, history, 40, seeded())
    assert unconstrained_statistics(policy, other, history, 40, seeded()) == first
    assert unconstrained_statistics(policy, other, history, 40, seeded(1)) != first
    assert torch.equal(torch.get_rng_state(), state)
    with mock.patch.object(module, "MAX_PREFIXES", 40):
        apart = unconstrained_statistics(policy, other, history, 40, seeded())
    assert apart == {key: pytest.approx(value, abs=1e-5) for key, value in first.items()}


def test_dropout_is_off_and_the_mode_comes_back() -> None:
    policy, _, history = pair("tiger")
    frozen = copy.deepcopy(policy)
    policy.train()
    assert unconstrained_statistics(policy, frozen, history, 20, seeded())["kl"] == 0
    assert policy.training
    assert not frozen.training


def test_without_a_reference_there_is_no_divergence() -> None:
    policy, _, history = pair("gpt")
    assert set(unconstrained_statistics(policy, None, history, 5, seeded())) == {"valid_share", "entropy"}


def test_what_writes_no_codes_is_not_probed() -> None:
    policy = SASRec(d_model=8, d_ff=8, max_positions=6).build(SemanticIds(torch.arange(10).unsqueeze(1)))
    assert unconstrained_statistics(policy, None, histories(2, 4, 10), 5, seeded()) == {}


def test_errors() -> None:
    policy, _, history = pair("gpt")
    with pytest.raises(UsageError, match="at least 1 history and 1 sample"):
        unconstrained_statistics(policy, None, history, 0, seeded())
    with pytest.raises(UsageError, match=r"levels of \(5, 4, 6\), got \(60,\)"):
        unconstrained_statistics(policy, build(replace(POLICIES["gpt"]), catalog(50, sizes=(60,))), history, 3, seeded())
