"""Label smoothing: by hand, and against `torch.nn.functional.cross_entropy(label_smoothing=e)` for every policy.

The oracle reads the log-probabilities of all codes, or of all items, from other methods of the policy: `code_level_log_prob`,
`level_log_prob` of other items, or `catalog_log_prob`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from policies import GPT, POLICIES, build, catalog, histories
from torch import Tensor
from torch.nn.functional import cross_entropy

from genrec.baselines import GRU4Rec, SASRec
from genrec.model import RPG, DigitPolicy, Gpt, Tiger, TigerPolicy, packed_windows
from genrec.objectives.supervised import negative_log_likelihood, window_loss
from genrec.repeat_score import RepeatScore
from genrec.semantic_ids import SemanticIds
from genrec.smoothed_log_probs import gather_smoothed
from genrec.testing import check_policy
from genrec.types import CatalogPolicy, LabelSmoothingSpecification, SequenceBatch, SequenceLabelSmoothing, WindowBatch

E = 0.3
ITEMS = 30
DIGITS: dict[str, Any] = {"d_model": 16, "d_ff": 32, "num_heads": 2, "num_layers": 1}
SPECIFICATIONS: dict[str, Any] = {
    **POLICIES,
    "tiger-catalog-codes": replace(POLICIES["tiger"], normalization="catalog"),
    "tiger-causal-distances": replace(POLICIES["tiger-causal"], history="items"),
    "gpt-no-distances": Gpt(**(vars(GPT) | {"recency_positions": 0})),
    "rpg": RPG(**DIGITS),
    "rpg-digits": RPG(**DIGITS, normalization="digits"),
    "rpg-items": RPG(**DIGITS, item_embedding=True),
    "rpg-repeat": RPG(**DIGITS, repeat_score=True),
    "rpg-items-repeat": RPG(**DIGITS, item_embedding=True, repeat_score=True),
    "sasrec": SASRec(d_model=16),
    "sasrec-repeat": SASRec(d_model=16, repeat_score=True),
    "gru4rec": GRU4Rec(d_model=16),
    "gru4rec-untied": GRU4Rec(d_model=8, tied=False),
}
CAUSAL = [name for name, each in SPECIFICATIONS.items() if each.causal]
SHAPES = {
    "sparse": (5, 90),
    "dense": (5, 4, 6),
    "full": (5, 6),
    "one-code": (30, 1),
}  # of the trie, see `test_the_branches_of_the_trie`


def test_three_codes_by_hand() -> None:
    """p = 1/2, 1/4, 1/4: the mean of -log p is (1 + 2 + 2) / 3 log 2, so code 0 has 0.7 log 2 + 0.3 * 5/3 log 2 = 1.2 log 2."""
    log_probs = torch.tensor([0.5, 0.25, 0.25]).log()
    found = gather_smoothed(log_probs, torch.arange(3), E)
    torch.testing.assert_close(found, -math.log(2) * torch.tensor([1.2, 1.9, 1.9]))


def test_missing_codes_are_not_in_the_mean_by_hand() -> None:
    """Of p = 1/2, 0, 1/2 two codes are possible: both have 0.7 log 2 + 0.3 log 2 = log 2. The gradient is finite."""
    scores = torch.zeros(3, requires_grad=True)
    missing = torch.tensor([False, True, False])
    log_probs = scores.masked_fill(missing, -torch.inf).log_softmax(0)
    found = gather_smoothed(log_probs, torch.tensor([0, 2]), E, missing)
    torch.testing.assert_close(found, torch.full((2,), -math.log(2)))
    found[0].backward()
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, torch.tensor([0.7 + 0.15 - 0.5, 0.0, 0.15 - 0.5]))  # weight minus probability


def test_the_mean_of_the_repeat_score_by_hand() -> None:
    """A score of 0.2 * 10 for two of eight items has the mean 0.5."""
    score = RepeatScore()
    torch.nn.init.constant_(score.weight, 0.2)
    torch.testing.assert_close(score.mean_added(torch.tensor([[0, 3, 5], [0, 0, 0]]), 8), torch.tensor([0.5, 0.0]))


def ids_for(name: str, shape: str = "dense") -> SemanticIds:
    return SemanticIds(torch.arange(ITEMS)[:, None]) if name.startswith(("sasrec", "gru")) else catalog(ITEMS, sizes=SHAPES[shape])


def made(name: str, shape: str = "dense") -> Any:
    return build(SPECIFICATIONS[name], ids_for(name, shape))


def by_cross_entropy(policy: Any, history: Tensor, item: int, label_smoothing: float) -> Tensor:
    """Return the mean over levels of torch's loss for one history int64 [1, T] and the item that follows it."""
    if isinstance(policy, CatalogPolicy):
        every = policy.catalog_log_prob(history, torch.tensor([[0, history.shape[1] - 1]]))
        return cross_entropy(every, torch.tensor([item - 1]), label_smoothing=label_smoothing)
    ids, losses = policy.semantic_ids, []
    own = ids.codes[item - 1]
    for level, size in enumerate(ids.level_sizes):
        if isinstance(policy, DigitPolicy):  # independent digits: an item with each value
            possible = sorted(set(ids.codes[:, level].tolist()))
            assert len(possible) == size
            others = torch.tensor([(ids.codes[:, level] == code).nonzero()[0, 0] + 1 for code in possible])
            scores = policy.level_log_prob(history, others[None])[0, :, level]
        elif isinstance(policy, TigerPolicy) and policy.specification.normalization == "catalog":  # an item below each child
            below = [i for i in range(ids.items) if torch.equal(ids.codes[i, :level], own[:level])]
            item_of_code = {int(ids.codes[i, level]): i + 1 for i in below}
            possible = list(item_of_code)
            scores = policy.level_log_prob(history, torch.tensor([list(item_of_code.values())]))[0, :, level]
        else:
            possible = list(range(size))
            codes = own.repeat(size, 1)
            codes[:, level] = torch.arange(size)
            scores = policy.code_level_log_prob(history, torch.tensor([[0, history.shape[1] - 1]]), codes[None])[0, :, level]
        target = torch.tensor(possible.index(int(own[level])))
        losses.append(cross_entropy(scores, target, label_smoothing=label_smoothing))
    return torch.stack(losses).mean()


def check_loss(policy: Any, found: Tensor, expected: Tensor) -> None:
    """Compare two losses and their gradients by all parameters."""
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    parameters = list(policy.parameters())
    own, torchs = (torch.autograd.grad(each, parameters, allow_unused=True, materialize_grads=True) for each in (found, expected))
    assert any(each.any() for each in own)
    for one, other in zip(own, torchs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("name", SPECIFICATIONS)
def test_one_target_per_history_has_the_loss_of_torch(name: str) -> None:
    policy, history = made(name, "full" if name == "rpg-digits" else "dense"), histories(4, 5, ITEMS)
    target = torch.tensor([1, 7, 30, 7])
    found = negative_log_likelihood(policy, SequenceBatch(target, history, target), E)
    rows = [by_cross_entropy(policy, history[row][history[row] > 0][None], int(target[row]), E) for row in range(4)]
    check_loss(policy, found, torch.stack(rows).mean())


def windows(padded: bool, follow: bool) -> tuple[Tensor, Tensor]:
    """Return windows and targets: all of them the next items if `follow`, others else; with padding a CPU packs those of TIGER."""
    history = torch.randint(1, ITEMS + 1, (3, 5), generator=torch.Generator().manual_seed(4))
    history[1, 3] = history[1, 1]  # an item that the history holds twice
    last = torch.tensor([[2], [3], [2]])
    targets = torch.cat([history[:, 1:], last], 1) if follow else history.flip(1)
    if padded:
        history[0, :3], targets[0, :3] = 0, 0
        history[2, :1], targets[2, :1] = 0, 0
        targets[1, 2] = 0
    return history, targets


@pytest.mark.parametrize(("padded", "follow"), [(True, True), (False, True), (True, False), (False, False)])
@pytest.mark.parametrize("name", CAUSAL)
def test_all_targets_of_windows_have_the_loss_of_torch(name: str, padded: bool, follow: bool) -> None:
    policy, (history, targets) = made(name, "full" if name == "rpg-digits" else "dense"), windows(padded, follow)
    assert packed_windows.packs(history, targets) == padded
    found = window_loss(policy, WindowBatch(torch.arange(3), history, targets), E)
    expected = [
        by_cross_entropy(policy, history[row, : place + 1][history[row, : place + 1] > 0][None], int(targets[row, place]), E)
        for row, place in (targets > 0).nonzero().tolist()
    ]
    check_loss(policy, found, torch.stack(expected).mean())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_branches_of_the_trie(shape: str) -> None:
    """The children of a prefix in a sparse, a dense and a full table, and a level of one code, which has the loss 0."""
    policy, history, target = made("tiger-catalog", shape), histories(4, 5, ITEMS), torch.tensor([1, 7, 30, 12])
    last = policy.trie.levels[-1]
    assert ("full" if last.full else "sparse" if last.child is None else "dense") == ("full" if shape == "one-code" else shape)
    smoothed = policy.smoothed_level_log_prob(history, target[:, None], E)
    assert smoothed.isfinite().all()
    if shape == "one-code":
        assert (smoothed[..., 1] == 0).all()
    found = negative_log_likelihood(policy, SequenceBatch(target, history, target), E)
    rows = [by_cross_entropy(policy, history[row][history[row] > 0][None], int(target[row]), E) for row in range(4)]
    check_loss(policy, found, torch.stack(rows).mean())


@pytest.mark.parametrize("name", SPECIFICATIONS)
def test_without_smoothing_the_loss_is_the_likelihood_bit_for_bit(name: str) -> None:
    policy, history = made(name), histories(4, 5, ITEMS)
    items = torch.tensor([[1, 0, 7]]).expand(4, 3)
    assert torch.equal(policy.smoothed_level_log_prob(history, items, 0.0), policy.level_log_prob(history, items))
    smoothed = policy.smoothed_level_log_prob(history, items, E)
    assert (smoothed[:, 1] == -torch.inf).all()
    assert not torch.equal(smoothed, policy.level_log_prob(history, items))
    if name in CAUSAL:
        history, targets = windows(True, True)
        assert torch.equal(policy.smoothed_sequence_log_prob(history, targets, 0.0), policy.sequence_log_prob(history, targets))
        assert (policy.smoothed_sequence_log_prob(history, targets, E)[targets == 0] == -torch.inf).all()


@pytest.mark.parametrize("name", ["rpg-items-repeat", "sasrec-repeat"])
def test_chunks_of_places_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, (history, targets) = made(name), windows(True, True)
    whole = policy.smoothed_sequence_log_prob(history, targets, E)
    monkeypatch.setattr("genrec.model.parallel.MAX_SCORES", 1)
    monkeypatch.setattr("genrec.baselines.item_policy.MAX_LOGITS", 1)
    torch.testing.assert_close(policy.smoothed_sequence_log_prob(history, targets, E), whole)


@pytest.mark.parametrize("specification", [Tiger(user_tokens=7), Gpt(**(vars(GPT) | {"user_tokens": 7, "time_buckets": 8}))])
def test_inputs_beside_the_items(specification: Any) -> None:
    """Every prefix has the smoothed log-probability of the pass, without the place of the user."""
    check_policy(replace(specification, d_model=16, d_ff=32, num_heads=2, d_kv=8))


@pytest.mark.parametrize("name", SPECIFICATIONS)
def test_the_specifications_announce_it(name: str) -> None:
    specification = SPECIFICATIONS[name]
    assert isinstance(specification, LabelSmoothingSpecification)
    assert specification.has_label_smoothing()
    assert isinstance(made(name), SequenceLabelSmoothing)
