"""The policy against oracles: brute force over a small catalogue, step-by-step decoding, a transformers T5 of the same weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec.errors import UsageError
from genrec.model import Tiger, TigerPolicy
from genrec.model.layers import relative_buckets
from genrec.semantic_ids import SemanticIds
from genrec.types import Policy, PolicySpecification

SMALL = Tiger(width=32, inner=64, heads=2, head_width=16, encoder_layers=2, decoder_layers=2, dropout=0.1, beams=50)


def catalogue(items: int, seed: int = 0, sizes: tuple[int, ...] = (5, 4, 6)) -> SemanticIds:
    """Distinct random Semantic IDs."""
    total = int(torch.tensor(sizes).prod())
    flat = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:items]
    codes = torch.stack(torch.unravel_index(flat, sizes), 1)
    return SemanticIds(codes, sizes)


def policy_of(items: int = 50, specification: Tiger = SMALL, seed: int = 0) -> TigerPolicy:
    torch.manual_seed(seed)
    return specification.build(catalogue(items, seed)).eval()


def histories(batch: int, length: int, items: int, seed: int = 1) -> Tensor:
    """Random histories of different lengths, left-padded with 0."""
    generator = torch.Generator().manual_seed(seed)
    history = torch.randint(1, items + 1, (batch, length), generator=generator)
    padding = torch.randint(0, length, (batch, 1), generator=generator)
    return history.masked_fill(torch.arange(length) < padding, 0)


def test_protocols() -> None:
    assert isinstance(SMALL, PolicySpecification)
    assert isinstance(policy_of(), Policy)


def test_probabilities_of_all_codes_add_up_to_one() -> None:
    """Over every code sequence, real or not: with all 5*4*6 = 120 combinations as items, the sum of exp(log_prob) is 1."""
    policy = policy_of(120)
    history = histories(4, 6, 120)
    everything = torch.arange(1, 121).expand(4, 120)
    torch.testing.assert_close(policy.log_prob(history, everything).exp().sum(1), torch.ones(4))


def test_probabilities_of_a_catalogue_add_up_to_at_most_one() -> None:
    policy = policy_of(50)
    total = policy.log_prob(histories(4, 6, 50), torch.arange(1, 51).expand(4, 50)).exp().sum(1)
    assert (total < 1).all()
    assert (total > 0).all()


@pytest.mark.parametrize("history", ["codes", "items"])
@pytest.mark.parametrize("positions", [0, 5])
def test_every_reading_of_the_history_sees_its_order(history: str, positions: int) -> None:
    """The same items in another order give another distribution; and the beam stays exact."""
    policy = policy_of(50, replace(SMALL, history=history, positions=positions))
    if policy.recency is not None:
        torch.nn.init.normal_(policy.recency.weight)
    there, back = torch.tensor([[3, 7, 9, 11]]), torch.tensor([[11, 9, 7, 3]])
    items = torch.arange(1, 51).unsqueeze(0)
    assert (policy.log_prob(there, items) - policy.log_prob(back, items)).abs().max() > 1e-3
    torch.testing.assert_close(policy.recommend(there, 50).scores, brute_force(policy, there)[1], atol=1e-4, rtol=1e-4)


def test_padding_and_batch_change_nothing() -> None:
    """A history alone, and the same history padded by 9 beside others, give the same log-probabilities."""
    policy = policy_of()
    items = torch.arange(1, 51).unsqueeze(0)
    alone = policy.log_prob(torch.tensor([[3, 7, 9]]), items)
    padded = torch.zeros(2, 12, dtype=torch.int64)
    padded[0, -3:] = torch.tensor([3, 7, 9])
    padded[1] = torch.arange(1, 13)
    torch.testing.assert_close(policy.log_prob(padded, items.expand(2, 50))[:1], alone, atol=1e-5, rtol=1e-5)


def test_candidates_do_not_see_each_other() -> None:
    policy = policy_of()
    history = histories(3, 5, 50)
    together = policy.level_log_prob(history, torch.tensor([[1, 2, 3]] * 3))
    for place in range(3):
        apart = policy.level_log_prob(history, torch.full((3, 1), place + 1))
        torch.testing.assert_close(together[:, place : place + 1], apart, atol=1e-5, rtol=1e-5)


def test_no_candidate_is_minus_infinity_and_has_no_gradient() -> None:
    policy = policy_of()
    levels = policy.level_log_prob(histories(2, 4, 50), torch.tensor([[1, 0], [2, 3]]))
    assert (levels[0, 1] == -torch.inf).all()
    levels.masked_fill(levels == -torch.inf, 0.0).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters() if p.grad is not None)


def test_empty_history_is_finite() -> None:
    policy = policy_of()
    assert torch.isfinite(policy.log_prob(torch.zeros(1, 4, dtype=torch.int64), torch.tensor([[1, 2]]))).all()
    assert (policy.recommend(torch.zeros(1, 4, dtype=torch.int64), 5).items > 0).all()


def brute_force(policy: TigerPolicy, history: Tensor) -> tuple[Tensor, Tensor]:
    """All items by log-probability, equal ones by id."""
    scores = policy.log_prob(history, torch.arange(1, policy.semantic_ids.items + 1).expand(len(history), -1))
    order = scores.argsort(dim=1, descending=True, stable=True)
    return order + 1, scores.gather(1, order)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6))
def test_a_beam_as_wide_as_the_catalogue_is_brute_force(seed: int, length: int) -> None:
    """Step-by-step decoding with a key/value cache gives the teacher-forced log-probabilities of all 50 items."""
    policy = policy_of(50, seed=seed)
    history = histories(3, length, 50, seed)
    ranking = policy.recommend(history, 50)
    items, scores = brute_force(policy, history)
    torch.testing.assert_close(ranking.scores, scores, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(policy.log_prob(history, ranking.items), ranking.scores, atol=1e-4, rtol=1e-4)
    assert torch.equal(ranking.items.sort(1).values, items.sort(1).values)


def test_narrow_beams_are_real_and_unique() -> None:
    policy = policy_of(50, Tiger(width=32, inner=64, heads=2, head_width=16, encoder_layers=1, decoder_layers=1, beams=7))
    ranking = policy.recommend(histories(16, 8, 50), 7)
    assert ranking.items.min() >= 1
    assert ranking.items.max() <= 50
    assert all(len(set(row)) == 7 for row in ranking.items.tolist())
    assert (ranking.scores.diff(dim=1) <= 0).all()


def test_excluded_items_never_come_back() -> None:
    policy = policy_of(50)
    history = histories(6, 8, 50)
    ranking = policy.recommend(history, 50, exclude=history)
    for row, taken in zip(ranking.items.tolist(), history.tolist(), strict=True):
        allowed = set(range(1, 51)) - set(taken)
        assert {item for item in row if item} == allowed
        assert row[len(allowed) :] == [0] * (50 - len(allowed))


def test_excluding_items_loses_no_beam() -> None:
    """45 of 50 items excluded: even four beams find four of the five that are left, because no dead prefix is followed."""
    policy = policy_of(50, replace(SMALL, beams=4))
    exclude = torch.arange(1, 46).expand(3, 45)
    ranking = policy.recommend(histories(3, 5, 50), 4, exclude=exclude)
    assert ((ranking.items > 45) & (ranking.items <= 50)).all()


def test_fewer_items_than_asked_for() -> None:
    ranking = policy_of(4).recommend(histories(2, 3, 4), 10)
    assert (ranking.items[:, 4:] == 0).all()
    assert (ranking.scores[:, 4:] == -torch.inf).all()
    assert (ranking.items[:, :4].sort(1).values == torch.arange(1, 5)).all()


def test_equal_scores_are_ordered_by_item() -> None:
    """With all weights 0 every item of one level size is equally likely."""
    policy = policy_of(50)
    with torch.no_grad():
        for head in policy.heads:
            head.weight.zero_()
    assert policy.recommend(histories(1, 3, 50), 50).items[0].tolist() == list(range(1, 51))


def test_errors() -> None:
    with pytest.raises(UsageError, match="51 items need as many beams"):
        policy_of().recommend(histories(1, 3, 50), 51)
    with pytest.raises(UsageError, match=r"policy\.dropout"):
        Tiger(dropout=1.0)
    with pytest.raises(UsageError, match=r"policy\.width"):
        Tiger(width=0)


def test_relative_buckets_by_hand() -> None:
    """Causal, 32 buckets: 16 exact distances, then logarithmic up to 128; the future counts as distance 0."""
    buckets = relative_buckets(torch.tensor([200]), torch.tensor([200, 199, 185, 184, 100, 0, 201]), bidirectional=False)
    assert buckets.tolist() == [[0, 1, 15, 16, 16 + int(16 * torch.log(torch.tensor(100 / 16)) / torch.log(torch.tensor(8.0))), 31, 0]]
    both = relative_buckets(torch.tensor([10]), torch.tensor([9, 11]), bidirectional=True)
    assert both.tolist() == [[1, 17]]


def copy_into_t5(policy: TigerPolicy):
    """A transformers T5 with the policy's weights; the heads are applied outside, because T5 ties its own to the embedding."""
    transformers = pytest.importorskip("transformers")
    spec, ids = policy.specification, policy.semantic_ids
    config = transformers.T5Config(
        vocab_size=ids.vocabulary, d_model=spec.width, d_kv=spec.head_width, d_ff=spec.inner, num_layers=spec.encoder_layers,
        num_decoder_layers=spec.decoder_layers, num_heads=spec.heads, dropout_rate=0.0, feed_forward_proj="relu",
        tie_word_embeddings=False, decoder_start_token_id=0, pad_token_id=0, use_cache=False,
    )  # fmt: skip
    t5 = transformers.T5Model(config).eval()
    with torch.no_grad():
        for module in (t5.shared, t5.encoder.embed_tokens, t5.decoder.embed_tokens):
            module.weight.copy_(policy.embedding.weight)
        inner = spec.heads * spec.head_width

        def attention(theirs, ours) -> None:
            theirs.q.weight.copy_(ours.query.weight)
            theirs.k.weight.copy_(ours.key_value.weight[:inner])
            theirs.v.weight.copy_(ours.key_value.weight[inner:])
            theirs.o.weight.copy_(ours.output.weight)

        for theirs, ours in zip(t5.encoder.block, policy.encoder, strict=True):
            attention(theirs.layer[0].SelfAttention, ours.attention)
            theirs.layer[1].DenseReluDense.wi.weight.copy_(ours.feed_forward.inner.weight)
            theirs.layer[1].DenseReluDense.wo.weight.copy_(ours.feed_forward.output.weight)
        for theirs, ours in zip(t5.decoder.block, policy.decoder, strict=True):
            attention(theirs.layer[0].SelfAttention, ours.attention)
            attention(theirs.layer[1].EncDecAttention, ours.history_attention)
            theirs.layer[2].DenseReluDense.wi.weight.copy_(ours.feed_forward.inner.weight)
            theirs.layer[2].DenseReluDense.wo.weight.copy_(ours.feed_forward.output.weight)
        t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.copy_(policy.encoder_bias.table.weight)
        t5.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.copy_(policy.decoder_bias.table.weight)
    return t5


def test_a_t5_with_the_same_weights_gives_the_same_log_probs() -> None:
    policy = policy_of(50, replace(SMALL, positions=0))
    t5 = copy_into_t5(policy)
    history, items = histories(5, 7, 50), torch.tensor([[4], [9], [50], [1], [23]])
    ids = policy.semantic_ids
    tokens = ids.tokens(history).flatten(1)
    target = ids.tokens(items[:, 0])
    decoder_inputs = torch.cat([torch.zeros(5, 1, dtype=torch.int64), target[:, :-1]], 1)
    with torch.no_grad():
        states = t5(input_ids=tokens, attention_mask=(tokens > 0).long(), decoder_input_ids=decoder_inputs).last_hidden_state
        logits = states @ torch.cat([torch.zeros(1, 32), *(head.weight for head in policy.heads)]).T
        ours = policy.level_log_prob(history, items)[:, 0]
    for level, size in enumerate(ids.level_sizes):
        first = 1 + int(ids.offsets[level])
        theirs = logits[:, level, first : first + size].log_softmax(-1).gather(1, (target[:, level] - first).unsqueeze(1))
        torch.testing.assert_close(ours[:, level : level + 1], theirs, atol=1e-4, rtol=1e-4)
