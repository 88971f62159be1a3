"""RPG: every digit of the next item is scored at once, with a softmax over the catalog or one for each digit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import build, catalog, histories, value_and_gradients
from proposals import rows_of_windows
from torch import Tensor
from torch.nn.functional import cosine_similarity

from genrec.baselines import GBCE, SampledSoftmax
from genrec.errors import UsageError
from genrec.experiment import Experiment, Tokenize
from genrec.item_rows import last_places
from genrec.model import RPG, DigitPolicy, ParallelPolicy, digit_policy, digit_sums, parallel, parallel_network
from genrec.preference.candidates.row_scores import scores_of
from genrec.semantic_ids import SemanticIds
from genrec.testing import Shop
from genrec.types import (
    CatalogPolicy,
    ConstrainedPolicy,
    ConstrainedWindowPolicy,
    ExactRecommender,
    LossPolicy,
    PolicySpecification,
    SequencePolicy,
    VectorPolicy,
    WholeItemSpecification,
    WindowBatch,
    WindowPolicy,
)

ITEMS = 30
SMALL = {"d_model": 16, "d_ff": 32, "num_heads": 2, "temperature": 0.3}
SPECIFICATIONS: dict[str, Any] = {
    "catalog": RPG(**SMALL),
    "items": RPG(**SMALL, item_embedding=True),
    "digits": RPG(**SMALL, normalization="digits"),
}
EVERY = pytest.mark.parametrize("name", SPECIFICATIONS)


def policy_of(name: str, seed: int = 0, **change: Any) -> Any:
    return build(replace(SPECIFICATIONS[name], **change), catalog(ITEMS, seed), seed)


def finite(log_probs: Tensor) -> Tensor:
    return log_probs.masked_fill(log_probs == -torch.inf, 1.0)


def every_item(rows: int) -> Tensor:
    return torch.arange(1, ITEMS + 1).expand(rows, -1)


def by_definition(policy: Any, history: Tensor) -> Tensor:
    """Return log p of all items after a history int64 [T] item by item and digit by digit, from the states of the encoder: [N]."""
    network, spec, ids = policy.network, SPECIFICATIONS["catalog"], policy.semantic_ids
    state = network.encode(history[None])[0, -1]
    weights = network.heads.weight.view(-1, 16, 16)
    heads = [state + torch.nn.functional.silu(weight @ state) for weight in weights]
    scores = []
    for item in range(1, ids.items + 1):
        tokens = ids.tokens(torch.tensor(item))
        digits = [cosine_similarity(head, network.embedding.weight[token], dim=0) for head, token in zip(heads, tokens, strict=False)]
        if network.item_embedding is not None:
            digits.append(cosine_similarity(heads[-1], network.item_embedding.weight[item], dim=0))
        scores.append(torch.stack(digits).sum() / spec.temperature)
    return torch.stack(scores).log_softmax(0)


@EVERY
def test_protocols(name: str) -> None:
    policy, by_item = policy_of(name), name != "digits"
    for protocol in (SequencePolicy, WindowPolicy, ExactRecommender, VectorPolicy):
        assert isinstance(policy, protocol)
    for protocol in (CatalogPolicy, ConstrainedPolicy, ConstrainedWindowPolicy, LossPolicy):
        assert isinstance(policy, protocol) == by_item
    assert isinstance(SPECIFICATIONS[name], PolicySpecification)
    assert isinstance(SPECIFICATIONS[name], WholeItemSpecification)
    assert SPECIFICATIONS[name].scores_whole_items() == by_item
    assert isinstance(policy, ParallelPolicy if by_item else DigitPolicy)


@pytest.mark.parametrize("name", ["catalog", "items"])
def test_log_probabilities_by_their_definition(name: str) -> None:
    policy, history = policy_of(name), histories(5, 6, ITEMS)
    expected = torch.stack([by_definition(policy, row) for row in history])
    torch.testing.assert_close(policy.log_prob(history, every_item(5)), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(policy.catalog_log_prob(history, last_places(history)), expected, atol=1e-5, rtol=1e-5)


def test_digits_by_the_vector_of_the_paper() -> None:
    """Heads (1, 0) and (.6, .8): x = (1, 0), W_1 = 0, and silu(b) = 4/3 gives h_2 = (1, 4/3), in the direction of (.6, .8)."""
    spec = RPG(d_model=2, d_ff=2, num_heads=1, temperature=0.5, normalization="digits")
    policy = spec.build(SemanticIds(torch.tensor([[0, 1], [2, 2], [1, 0]]), (3, 3)))
    low, high = 0.0, 4.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if torch.tensor(middle, dtype=torch.float64).sigmoid() * middle < 4 / 3 else (low, middle)
    with torch.no_grad():
        policy.network.embedding.weight[1:] = torch.tensor([[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6], [0, 1], [1, 0]])
        policy.network.embedding.weight[1:] *= torch.arange(1, 7).unsqueeze(1)  # a cosine does not depend on lengths
        policy.network.heads.weight.zero_()
        policy.network.heads.weight[3, 0] = low
    levels = policy._level_log_prob(torch.tensor([[1.0, 0.0]]), torch.tensor([[1, 2, 3]]))
    torch.testing.assert_close(levels.mean(-1), torch.tensor([[-0.787338505, -1.387338505, -1.627338505]]))


def test_the_digits_are_independent_and_add_up_to_one() -> None:
    """Over all 5 x 4 x 6 = 120 tuples the sum is 1, over 30 items it is less; renormalized, these are the catalog's softmax."""
    whole = build(SPECIFICATIONS["digits"], catalog(120), 0)
    history = histories(4, 6, ITEMS)
    torch.testing.assert_close(whole.log_prob(history, torch.arange(1, 121).expand(4, -1)).exp().sum(1), torch.ones(4))
    part, by_item = policy_of("digits"), policy_of("catalog")
    assert part.state_dict().keys() == by_item.state_dict().keys()
    by_item.load_state_dict(part.state_dict())
    log_probs = part.log_prob(history, every_item(4))
    assert (log_probs.exp().sum(1) < 1).all()
    torch.testing.assert_close(by_item.log_prob(history, every_item(4)), log_probs.log_softmax(1), atol=1e-5, rtol=1e-5)


def test_an_untrained_head_is_the_state_itself() -> None:
    """W is 0 at the beginning, so the first level scores cosines of the state with the embeddings, as the paper's heads do."""
    torch.manual_seed(0)
    policy = SPECIFICATIONS["catalog"].build(catalog(ITEMS)).eval()
    state = policy.network.encode(torch.tensor([[3, 7]]))[:, -1]
    scores, dense = policy.network.scores(state)
    expected = cosine_similarity(state, policy.network.embedding.weight[1:]) / 0.3
    torch.testing.assert_close(scores[0], expected)
    assert dense is None


@EVERY
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 7))
def test_one_pass_and_every_place_equal_every_prefix(name: str, seed: int, length: int) -> None:
    policy, history = policy_of(name), histories(4, length, ITEMS, seed)
    targets = torch.randint(0, ITEMS + 1, history.shape, generator=torch.Generator().manual_seed(seed))
    found = policy.sequence_log_prob(history, targets)
    assert torch.equal(found == -torch.inf, (targets == 0).unsqueeze(-1).expand_as(found))
    for place in range(length):
        expected = policy.level_log_prob(history[:, : place + 1], targets[:, place : place + 1])[:, 0]
        torch.testing.assert_close(finite(found[:, place]), finite(expected), atol=2e-5, rtol=1e-5)
        places = torch.stack([torch.arange(4), torch.full((4,), place)], 1)
        at_place = policy.place_level_log_prob(history, places, targets[:, place : place + 1])[:, 0]
        torch.testing.assert_close(finite(at_place), finite(expected), atol=2e-5, rtol=1e-5)


@EVERY
def test_padding_and_batch_change_nothing(name: str) -> None:
    policy = policy_of(name)
    alone = policy.log_prob(torch.tensor([[3, 7, 9]]), every_item(1))
    padded = torch.zeros(2, 60, dtype=torch.int64)
    padded[0, -3:] = torch.tensor([3, 7, 9])
    padded[1] = torch.arange(60) % ITEMS + 1
    torch.testing.assert_close(policy.log_prob(padded, every_item(2))[:1], alone, atol=1e-5, rtol=1e-5)
    empty = policy.log_prob(torch.zeros(1, 0, dtype=torch.int64), every_item(1))
    assert empty.isfinite().all()
    torch.testing.assert_close(policy.log_prob(torch.zeros(1, 4, dtype=torch.int64), every_item(1)), empty)


@EVERY
def test_the_order_of_a_history_matters(name: str) -> None:
    policy = policy_of(name)
    forward, backward = (policy.log_prob(torch.tensor([order]), every_item(1)) for order in ([3, 7, 9], [9, 7, 3]))
    assert (forward - backward).abs().max() > 1e-3


@EVERY
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, ITEMS + 3), st.integers(1, 9))
def test_lists_of_small_blocks_are_exact(name: str, seed: int, n: int, block: int) -> None:
    """Items are ranked by their log-probability in blocks of 1 to 9 items, without the history's items."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(digit_sums, "ITEMS_OF_BLOCK", block)
        policy, history = policy_of(name, seed), histories(4, 5, ITEMS, seed)
        for recommend in (policy.recommend, policy.recommend_exactly):
            found = recommend(history, n, history)
            expected = policy.log_prob(history, every_item(4)).gather(1, (found.items - 1).clamp(min=0)).detach()
            torch.testing.assert_close(finite(found.scores), finite(expected.masked_fill(found.items == 0, -torch.inf)))
            allowed = torch.nn.functional.pad(policy.log_prob(history, every_item(4)), (1, 0), value=-torch.inf)
            best = allowed.detach().scatter(1, history, -torch.inf).sort(1, descending=True).values
            best = torch.nn.functional.pad(best, (0, max(0, n - best.shape[1])), value=-torch.inf)[:, :n]
            torch.testing.assert_close(finite(found.scores), finite(best), atol=2e-5, rtol=1e-5)


@EVERY
def test_a_catalog_of_many_blocks_is_ranked_like_a_catalog_of_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """3,000 items in one block, and in blocks of 700: the same items and scores, some of which are excluded."""
    ids, history = catalog(3_000, 0, (16, 16, 16)), histories(3, 5, 3_000)
    exclude = torch.randint(0, 3_001, (3, 40), generator=torch.Generator().manual_seed(0))
    whole = build(SPECIFICATIONS[name], ids).recommend(history, 50, exclude)
    monkeypatch.setattr(digit_sums, "ITEMS_OF_BLOCK", 700)
    policy = build(SPECIFICATIONS[name], ids)
    assert len(policy.network.digits.blocks) == 5
    found = policy.recommend(history, 50, exclude)
    torch.testing.assert_close(found.scores, whole.scores, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.items, whole.items)


def test_a_ranking_normalizes_the_item_embeddings_of_one_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Item embeddings of 3,000 items in blocks of 700: no copy of all of them, and the scores of a copy of all of them."""
    ids, history = catalog(3_000, 0, (16, 16, 16)), histories(3, 5, 3_000)
    monkeypatch.setattr(digit_sums, "ITEMS_OF_BLOCK", 700)
    policy, rows, normalize = build(SPECIFICATIONS["items"], ids), [], parallel_network.normalize
    expected = policy.catalog_log_prob(history, torch.tensor([[0, 4], [1, 4], [2, 4]])).sort(1, descending=True)
    monkeypatch.setattr(parallel_network, "normalize", lambda table, dim: (rows.append(len(table)), normalize(table, dim=dim))[1])
    found = policy.recommend(history, 50)
    assert sorted(rows) == [3, 48, 200, 700, 700, 700, 700]  # heads of the places, values of the digits, items of each block
    assert torch.equal(found.items, expected.indices[:, :50] + 1)
    torch.testing.assert_close(found.scores, expected.values[:, :50])


def test_a_policy_without_a_trie_builds_none_of_its_tables() -> None:
    """16 digits of 10 million items have tables of about 1 GB, which only a trie reads."""
    ids = catalog(300, 0, (2,) * 16)
    build(SPECIFICATIONS["catalog"], ids).recommend(histories(2, 3, 300), 5)
    assert "tables" not in vars(ids)
    assert len(ids.tables) == 16
    assert ids.tables is vars(ids)["tables"]


@EVERY
def test_items_with_equal_digits_have_equal_scores_and_are_ordered_by_item(name: str) -> None:
    ids = SemanticIds(torch.tensor([[1, 0], [0, 1], [1, 0], [2, 2], [1, 0]]), (3, 3))
    spec = SPECIFICATIONS[name]
    if spec.item_embedding:
        with pytest.raises(UsageError, match=r"needs distinct Semantic IDs, but 3 of 5 items share theirs"):
            spec.build(ids)
        return
    policy = build(spec, ids)
    log_probs = policy.log_prob(torch.tensor([[4]]), torch.arange(1, 6)[None])[0]
    assert log_probs[0] == log_probs[2] == log_probs[4]
    assert [item for item in policy.recommend(torch.tensor([[4]]), 5).items[0].tolist() if item in (1, 3, 5)] == [1, 3, 5]


def test_the_probabilities_of_items_with_equal_digits_add_up_to_one() -> None:
    policy = build(SPECIFICATIONS["catalog"], SemanticIds(torch.tensor([[1, 0], [0, 1], [1, 0], [2, 2]]), (3, 3)))
    torch.testing.assert_close(policy.log_prob(torch.tensor([[4, 1]]), torch.arange(1, 5)[None]).exp().sum(), torch.tensor(1.0))


@EVERY
def test_many_places_are_scored_in_chunks_with_the_same_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, history = policy_of(name), histories(4, 6, ITEMS)
    gradients = []
    for scores in (2**25, 200):  # 200: one place at once
        for module in (parallel, digit_policy):
            monkeypatch.setattr(module, "MAX_SCORES", scores)
        gradients.append(value_and_gradients(policy, history, ITEMS))
    for whole, chunks in zip(*gradients, strict=True):
        torch.testing.assert_close(chunks, whole, atol=1e-6, rtol=1e-4)


@EVERY
def test_bf16_autocast_is_near(name: str) -> None:
    policy, history = policy_of(name), histories(4, 6, ITEMS)
    exact = policy.level_log_prob(history, every_item(4))
    with torch.autocast("cpu", torch.bfloat16):
        rough = policy.level_log_prob(history, every_item(4))
        listed = policy.recommend(history, 5)
    assert rough.dtype == listed.scores.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.2, rtol=0)


@EVERY
def test_item_vectors_are_the_means_of_digit_embeddings(name: str) -> None:
    policy = policy_of(name)
    vectors, table = policy.item_vectors(), policy.network.embedding.weight
    expected = table[policy.semantic_ids.tokens(torch.arange(1, ITEMS + 1))].mean(1)
    if policy.network.item_embedding is not None:
        expected = expected + policy.network.item_embedding.weight[1:]
    torch.testing.assert_close(vectors[1:], expected.detach())
    assert not vectors[0].any()
    assert not vectors.requires_grad


@pytest.mark.parametrize("loss", [SampledSoftmax(5), GBCE(5)])
@pytest.mark.parametrize("name", ["catalog", "items"])
def test_a_loss_with_sampled_negatives_by_its_definition(name: str, loss: Any) -> None:
    """The loss is that of the unnormalized scores, which differ from log-probabilities by a constant of the place."""
    policy, history = policy_of(name, loss=loss), histories(4, 6, ITEMS)
    targets = torch.where(history > 0, history.roll(-1, 1).clamp(min=1), 0)
    found = policy.sequence_loss(history, targets, torch.Generator().manual_seed(4))
    row, place = (targets > 0).nonzero(as_tuple=True)
    scored = targets[row, place]
    negatives = loss.draw_items(scored, ITEMS, torch.Generator().manual_seed(4))
    states = policy.network.encode(history)[row, place]
    scores, dense = policy.network.scores(states)
    catalog_of = policy.network.catalog()
    sums = torch.cat([digit_sums.block_scores(scores, dense, catalog_of.weights_of(block), block) for block in catalog_of.blocks], 1)
    expected = loss.item_loss(sums.gather(1, scored[:, None] - 1)[:, 0], sums.gather(1, negatives - 1), ITEMS).mean()
    torch.testing.assert_close(found, expected)
    assert policy_of(name).sequence_loss(history, targets, torch.Generator()) is None


@pytest.mark.parametrize("name", ["catalog", "items"])
def test_rows_of_windows_know_the_exact_rank_of_the_target(name: str) -> None:
    """What gated on-policy S-DPO reads: the best items of every place, the target's rank among all items, scores with a gradient."""
    policy, history = policy_of(name), histories(3, 5, ITEMS)
    batch = WindowBatch(torch.arange(3), history, torch.where(history > 0, history.roll(-1, 1).clamp(min=1), 0))
    places, rows = rows_of_windows(batch)
    scores = scores_of(policy, batch, places, rows, "codes")
    every = policy.log_prob(rows.history, every_item(len(rows.target)))
    rank = scores.rank(rows.target.unsqueeze(1))
    assert rank is not None
    own = every.gather(1, rows.target.unsqueeze(1) - 1)
    assert torch.equal(rank, (every > own + 1e-6).sum(1, keepdim=True))
    assert torch.equal(scores.top(4).items, every.topk(4).indices + 1)
    levels = scores.level_log_prob(rows.target.unsqueeze(1))
    assert levels.shape == (len(rows.target), 1, 1)
    assert levels.requires_grad


def test_without_a_temperature_it_follows_the_number_of_digits_that_a_score_sums() -> None:
    """Scores of 3 digits are sums of cosines over 0.06, and one digit's over the paper's 0.03 where digits have their own softmax."""
    ids = catalog(ITEMS)
    spec = RPG(**(SMALL | {"temperature": None}))
    assert spec.temperature_of(32) == pytest.approx(0.64)
    default, same = build(spec, ids), build(RPG(**(SMALL | {"temperature": 0.02 * ids.levels})), ids)
    history, items = histories(3, 5, ITEMS), every_item(3)
    assert torch.equal(default.log_prob(history, items), same.log_prob(history, items))
    own = RPG(**(SMALL | {"temperature": None}), normalization="digits")
    paper = build(replace(own, temperature=0.03), ids)
    assert torch.equal(build(own, ids).log_prob(history, items), paper.log_prob(history, items))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, r"policy\.num_heads must divide policy\.d_model, got 3 and 16"),
        ({"temperature": 0.0}, r"policy\.temperature must be above 0 and finite, got 0\.0"),
        ({"dropout": 1.0}, r"policy\.dropout must lie in \[0, 1\)"),
        ({"recency_positions": 0}, r"policy\.recency_positions must be at least 1"),
        ({"normalization": "items"}, r"policy\.normalization must be one of 'catalog', 'digits', got 'items'"),
        ({"normalization": "digits", "item_embedding": True}, r"policy\.item_embedding scores whole items.*set normalization catalog"),
        ({"normalization": "digits", "loss": SampledSoftmax()}, r"policy\.loss scores whole items"),
        ({"loss": SampledSoftmax}, r"policy\.loss must be None"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RPG(**(SMALL | change))


def test_an_experiment_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(UsageError, match=r"shop: RPG scores the digits of Semantic IDs, and tokenize=None.*or choose SASRec"):
        Experiment(name="shop", source=Shop(), policy=RPG(), tokenize=None)
    with pytest.raises(UsageError, match=r"shop: policy\.item_embedding tells items apart that share a Semantic ID"):
        Experiment(name="shop", source=Shop(), policy=RPG(item_embedding=True), tokenize=Tokenize(collisions="keep"))
    Experiment(name="shop", source=Shop(), policy=RPG(), tokenize=Tokenize(collisions="keep"))
