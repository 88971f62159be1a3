"""TIGER compared with a transformers T5 of the same weights; the contract of all policies is tested in test_policies.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from policies import TIGER, build, catalog, histories
from torch import Tensor

from genrec.errors import UsageError
from genrec.model import Tiger, TigerPolicy, row_groups
from genrec.model.t5_layers import attention_mask, relative_buckets
from genrec.semantic_ids import SemanticIds


def policy_of(items: int = 50, specification: Tiger = TIGER) -> TigerPolicy:
    policy: TigerPolicy = build(specification, catalog(items))
    return policy


def test_relative_buckets_by_hand() -> None:
    """Causal, 32 buckets: 16 exact distances, then logarithmic up to 128; the future counts as distance 0."""
    buckets = relative_buckets(torch.tensor([200]), torch.tensor([200, 199, 185, 184, 100, 0, 201]), bidirectional=False)
    assert buckets.tolist() == [[0, 1, 15, 16, 16 + int(16 * torch.log(torch.tensor(100 / 16)) / torch.log(torch.tensor(8.0))), 31, 0]]
    both = relative_buckets(torch.tensor([10]), torch.tensor([9, 11]), bidirectional=True)
    assert both.tolist() == [[1, 17]]


def copy_into_t5(policy: TigerPolicy):
    """Return a transformers T5 with the policy's weights; the output layers are separate, since T5 ties them to the embedding."""
    transformers = pytest.importorskip("transformers")
    spec, ids = policy.specification, policy.semantic_ids
    config = transformers.T5Config(
        vocab_size=ids.vocabulary, d_model=spec.d_model, d_kv=spec.d_kv, d_ff=spec.d_ff, num_layers=spec.num_encoder_layers,
        num_decoder_layers=spec.num_decoder_layers, num_heads=spec.num_heads, dropout_rate=0.0, feed_forward_proj="relu",
        tie_word_embeddings=False, decoder_start_token_id=0, pad_token_id=0, use_cache=False,
    )  # fmt: skip
    t5 = transformers.T5Model(config).eval()
    with torch.no_grad():
        for module in (t5.shared, t5.encoder.embed_tokens, t5.decoder.embed_tokens):
            module.weight.copy_(policy.embedding.weight)
        inner = spec.num_heads * spec.d_kv

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


PAPER = Tiger(recency_positions=0, dropout=0.0)  # the paper's sizes, without extensions of T5
SIZES = (256, 256, 256, 256)
WIDE = SemanticIds(torch.randint(0, 256, (50, 4), generator=torch.Generator().manual_seed(0)), SIZES)


def t5_logits(policy: TigerPolicy, t5, history: Tensor, items: Tensor) -> Tensor:
    """Return the T5's logits over all tokens, [B, L, vocabulary], for histories int64 [B, T] and one item each, int64 [B]."""
    tokens, target = policy.semantic_ids.tokens(history).flatten(1), policy.semantic_ids.tokens(items)
    inputs = torch.cat([torch.zeros_like(target[:, :1]), target[:, :-1]], 1)
    states = t5(input_ids=tokens, attention_mask=(tokens > 0).long(), decoder_input_ids=inputs).last_hidden_state
    return states @ torch.cat([torch.zeros(1, states.shape[-1]), *(head.weight for head in policy.heads)]).T


def t5_levels(policy: TigerPolicy, t5, history: Tensor, items: Tensor) -> Tensor:
    """Return the T5's log-probabilities of the items' codes, each among the codes of its level: [B, L]."""
    logits, codes, ids = t5_logits(policy, t5, history, items), policy.trie.codes[items], policy.semantic_ids
    found = []
    for level, size in enumerate(ids.level_sizes):
        first = 1 + int(ids.offsets[level])
        found.append(logits[:, level, first : first + size].log_softmax(-1).gather(1, codes[:, level : level + 1]))
    return torch.cat(found, 1)


@pytest.mark.parametrize("paper", [False, True])
def test_a_t5_with_the_same_weights_gives_the_same_logits_and_log_probs(paper: bool) -> None:
    """Histories of different lengths with three candidates each; the T5 encodes the history once per candidate."""
    policy = build(PAPER, WIDE) if paper else policy_of(50, replace(TIGER, recency_positions=0))
    t5 = copy_into_t5(policy)
    history, items = histories(5, 7, 50), torch.randint(1, 51, (5, 3), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours, encoded = policy.level_log_prob(history, items), policy.encode(history)
        for place, candidates in enumerate(items.T):
            theirs = t5_levels(policy, t5, history, candidates)
            torch.testing.assert_close(ours[:, place], theirs, atol=1e-4, rtol=1e-4)
            tokens = policy.trie.tokens[candidates].unsqueeze(1)
            inputs = torch.cat([torch.zeros_like(tokens[..., :1]), tokens[..., :-1]], -1)
            states, _ = policy.decode(inputs, [encoded.states] * len(policy.decoder), None, attention_mask(encoded.empty))
            logits = torch.cat([states[:, 0] @ head.weight.T for head in policy.heads], -1)
            torch.testing.assert_close(logits, t5_logits(policy, t5, history, candidates)[..., 1:], atol=1e-4, rtol=1e-4)


def test_a_t5_with_the_same_weights_has_the_same_gradients() -> None:
    """The gradients of the training loss are equal."""
    policy = policy_of(50, replace(TIGER, recency_positions=0, dropout=0.0))
    t5 = copy_into_t5(policy)
    history, items = histories(9, 7, 50), torch.arange(1, 10)
    inner = policy.specification.num_heads * policy.specification.d_kv
    theirs = {
        "encoder_bias.table.weight": t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias,
        "decoder_bias.table.weight": t5.decoder.block[0].layer[0].SelfAttention.relative_attention_bias,
        "encoder.0.attention.query.weight": t5.encoder.block[0].layer[0].SelfAttention.q,
        "encoder.1.feed_forward.inner.weight": t5.encoder.block[1].layer[1].DenseReluDense.wi,
        "encoder.0.around_attention.norm.weight": t5.encoder.block[0].layer[0].layer_norm,
        "decoder.0.attention.output.weight": t5.decoder.block[0].layer[0].SelfAttention.o,
        "decoder.1.history_attention.query.weight": t5.decoder.block[1].layer[1].EncDecAttention.q,
        "decoder_norm.weight": t5.decoder.final_layer_norm,
    }
    ours = dict(policy.named_parameters())
    (-policy.level_log_prob(history, items.unsqueeze(1)).mean()).backward()
    with torch.no_grad():
        heads = [head.weight.grad.clone() for head in policy.heads]
    (-t5_levels(policy, t5, history, items).mean()).backward()
    for name, module in theirs.items():
        torch.testing.assert_close(
            ours[name].grad, module.weight.grad, atol=1e-5, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
    keys = t5.decoder.block[0].layer[1].EncDecAttention
    found = ours["decoder.0.history_attention.key_value.weight"].grad
    torch.testing.assert_close(found[:inner], keys.k.weight.grad, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(found[inner:], keys.v.weight.grad, atol=1e-5, rtol=1e-3)
    for level, head in enumerate(policy.heads):  # the T5's loss uses the same output layers, which doubles their gradient
        torch.testing.assert_close(head.weight.grad, 2 * heads[level], atol=1e-5, rtol=1e-3)


def test_bfloat16_against_float32() -> None:
    """At the paper's sizes, log-probabilities over four levels of 256 codes differ by less than 0.02 nats on average, 0.1 at most."""
    policy = build(PAPER, WIDE)
    history, items = histories(16, 20, 50), torch.arange(1, 51).expand(16, 50)
    with torch.no_grad():
        exact = policy.log_prob(history, items)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = policy.log_prob(history, items)
    assert rounded.dtype == torch.float32
    assert float((rounded - exact).abs().mean()) < 0.02
    assert float((rounded - exact).abs().max()) < 0.1
    assert not torch.equal(rounded, exact)


def test_a_bidirectional_policy_cannot_score_sequences() -> None:
    with pytest.raises(UsageError, match="causal"):
        policy_of().sequence_log_prob(histories(2, 4, 50), histories(2, 4, 50))


def test_rows_are_encoded_in_groups_of_similar_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten histories in groups of three give the same log-probabilities in the same order, and each group is as long as its longest."""
    policy, history = policy_of(), histories(10, 9, 50)
    items = torch.arange(1, 21).view(10, 2)
    whole = policy.level_log_prob(history, items)
    monkeypatch.setattr(row_groups, "GROUP_SIZE", 3)
    torch.testing.assert_close(policy.level_log_prob(history, items), whole, atol=1e-5, rtol=1e-5)
    groups = row_groups.length_groups(history)
    assert sorted(torch.cat([rows for rows, _ in groups]).tolist()) == list(range(10))
    lengths = (history > 0).sum(1)
    assert [longest for _, longest in groups] == [int(lengths[rows].max()) for rows, _ in groups]
    assert [longest for _, longest in groups] == sorted(longest for _, longest in groups)
