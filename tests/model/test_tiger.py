"""TIGER against a transformers T5 of the same weights; what every policy owes is tested in test_policies.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from policies import TIGER, build, catalogue, histories

from genrec.model import Tiger, TigerPolicy
from genrec.model.layers import relative_buckets


def policy_of(items: int = 50, specification: Tiger = TIGER) -> TigerPolicy:
    policy: TigerPolicy = build(specification, catalogue(items))
    return policy


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
    policy = policy_of(50, replace(TIGER, positions=0))
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
