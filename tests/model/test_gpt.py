"""The decoder-only policy compared with a plain transformer of the same weights, without cache and branches; and in the pipeline."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from policies import GPT, build, catalog, histories
from torch import Tensor
from worlds import cyclic

from genrec import pipeline
from genrec.errors import UsageError
from genrec.experiment import SFT, Optimization, Validation
from genrec.item_rows import targets_follow_history
from genrec.model import Gpt, GptPolicy, kernels
from genrec.model.t5_layers import Dropout, FeedForward
from genrec.semantic_ids import SemanticIds


def plain_logits(policy: GptPolicy, tokens: list[int]) -> list[Tensor]:
    """Return every place's final state of a transformer over one sequence without padding, computed head by head and key by key.

    The formulas are those of T5's decoder: h += O softmax(q k + bias) v, h += W2 relu(W1 h), each after a norm that divides by the
    root mean square; the bias of a distance is looked up explicitly.
    """
    spec, levels = policy.specification, policy.semantic_ids.levels
    width = spec.d_kv

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.pow(2).mean() + 1e-6).sqrt() * weight

    def bias(head: int, query: int, key: int) -> Tensor:
        near = query - key  # exact below 16 of the 32 buckets, then by logarithm up to 128
        bucket = near if near < 16 else min(31, 16 + int(math.log(near / 16) / math.log(8) * 16))
        items = min(query // levels - key // levels, spec.recency_positions - 1)
        return policy.token_bias.table.weight[bucket, head] + policy.item_bias.weight[items, head]

    states = [policy.embedding.weight[token] for token in tokens]
    for layer in policy.layers:
        split = layer.query_key_value.weight.view(3, spec.num_heads, width, -1)
        normed = [norm(state, layer.around_attention.norm.weight) for state in states]
        after = []
        for place, state in enumerate(states):
            mixed = []
            for head in range(spec.num_heads):
                query = split[0, head] @ normed[place]
                keys = torch.stack([query @ (split[1, head] @ normed[k]) + bias(head, place, k) for k in range(place + 1)])
                values = torch.stack([split[2, head] @ normed[k] for k in range(place + 1)])
                mixed.append(keys.softmax(0) @ values)
            state = state + layer.output.weight @ torch.cat(mixed)
            inner = (layer.feed_forward.inner.weight @ norm(state, layer.around_feed_forward.norm.weight)).relu()
            after.append(state + layer.feed_forward.output.weight @ inner)
        states = after
    return [norm(state, policy.norm.weight) for state in states]


@pytest.mark.parametrize(("sizes", "length"), [((5, 4, 6), 9), ((60,), 3)])
def test_a_plain_transformer_of_the_same_weights_gives_the_same_log_probs(sizes: tuple[int, ...], length: int) -> None:
    """9 items of 3 codes are 27 tokens, enough to use distant buckets; the policy's history is padded by 2 items."""
    policy = build(replace(GPT, recency_positions=4), catalog(50, sizes=sizes))
    ids = policy.semantic_ids
    history, items = torch.arange(1, length + 1), torch.tensor([[4, 0, 9, 50]])
    with torch.no_grad():
        ours = policy.level_log_prob(torch.nn.functional.pad(history, (2, 0))[None], items)[0]
        for place, item in enumerate(items[0]):
            if item == 0:
                continue
            tokens = torch.cat([ids.tokens(history).flatten(), ids.tokens(item)[:-1]]).tolist()
            states = plain_logits(policy, tokens)[-ids.levels :]
            codes = ids.codes[item - 1].tolist()
            theirs = [
                (head.weight @ state).log_softmax(0)[code] for head, state, code in zip(policy.heads, states, codes, strict=True)
            ]
            torch.testing.assert_close(ours[place], torch.stack(theirs), atol=1e-5, rtol=1e-4)


def test_one_pass_and_branches_agree() -> None:
    """Compare the pass for targets that follow the history with the pass with one branch per place, which takes any targets."""
    policy, history = build(GPT, catalog(50)), histories(6, 8, 50)
    targets = torch.cat([history[:, 1:], torch.tensor([[3], [4], [5], [6], [7], [0]])], 1)
    assert targets_follow_history(history, targets)
    one, branches = policy._one_pass(history, targets), policy._pass_and_branches(history, targets)
    assert torch.equal(one == -torch.inf, branches == -torch.inf)
    torch.testing.assert_close(one.clamp(min=-99), branches.clamp(min=-99), atol=1e-5, rtol=1e-5)


def test_targets_follow_history() -> None:
    """Targets are the next items, except for the last one, which is not in the history, and for zeros."""
    history = torch.tensor([[0, 1, 2, 3]])
    assert targets_follow_history(history, torch.tensor([[1, 2, 3, 9]]))
    assert targets_follow_history(history, torch.tensor([[0, 2, 0, 0]]))
    assert not targets_follow_history(history, torch.tensor([[0, 2, 4, 9]]))
    assert not targets_follow_history(history, torch.tensor([[5, 2, 3, 9]]))


def test_far_items_share_a_bias() -> None:
    """With 2 distances the item bias is one for the item itself and another for all earlier items."""
    policy = build(replace(GPT, recency_positions=2), catalog(50))
    bias = policy.bias(torch.tensor([9]), torch.arange(9))[0, :, 0] - policy.token_bias(torch.tensor([9]), torch.arange(9))[0, :, 0]
    assert torch.allclose(bias[:, :6], policy.item_bias.weight[1][:, None].expand(-1, 6))  # items 0 and 1, seen from item 3
    assert torch.allclose(bias[:, 6:], policy.item_bias.weight[1][:, None].expand(-1, 3))  # item 2


def test_a_history_without_columns() -> None:
    """A tensor without columns equals a history of padding."""
    policy, items = build(GPT, catalog(50)), torch.tensor([[1, 2]])
    found = policy.log_prob(torch.zeros(1, 0, dtype=torch.int64), items)
    torch.testing.assert_close(found, policy.log_prob(torch.zeros(1, 5, dtype=torch.int64), items), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("field", "value"), [("num_layers", 0), ("recency_positions", -1), ("num_beams", 0), ("dropout", -0.1)])
def test_errors(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"policy\.{field} must .*got {value}"):
        replace(GPT, **{field: value})


def test_memory_does_not_grow_with_candidates_times_history() -> None:
    """The history's keys are not copied per candidate: no tensor saved for the gradient is as large as such a copy."""
    policy, largest = build(replace(GPT, num_layers=1), catalog(50)), 0
    batch, candidates, length = 2, 40, 30

    def pack(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        policy.level_log_prob(histories(batch, length, 50), torch.randint(1, 51, (batch, candidates)))
    copy = batch * candidates * GPT.num_heads * length * 3 * GPT.d_kv
    attention = (
        batch * candidates * GPT.num_heads * 2 * (length * 3 + 2)
    )  # two codes a candidate attend to the history and to themselves
    assert attention <= largest < copy


def test_the_places_of_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout is on embeddings, after the last norm, and in each layer on both residual branches and between the feed-forward layers,
    for the history and for its branches."""
    policy, calls = build(GPT, catalog(50)).train(), 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    for module in policy.modules():
        if isinstance(module, Dropout | FeedForward):
            assert GPT.dropout == (module.rate if isinstance(module, Dropout) else module.dropout)
    for name in ("dropout", "add_dropout", "feed_forward"):
        original = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *arguments, original=original: (count(), original(*arguments))[1])
    policy.level_log_prob(histories(2, 4, 50), torch.tensor([[1], [2]]))
    assert calls == 2 * (2 + 3 * GPT.num_layers)


SOLVER = Gpt(d_model=64, d_ff=128, num_heads=4, d_kv=16, num_layers=2, dropout=0.0, num_beams=20)


def metrics(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "metrics.json").read_text())
    return found


@pytest.mark.slow
def test_the_cyclic_world_is_solved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every stage where the next item is a function of the last one; Recall@1 is at least 0.95."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    recipe = SFT(
        optimization=Optimization(max_steps=240, batch_size=64, learning_rate=3e-3, warmup_steps=50, weight_decay=0.035),
        validation=Validation(every=120, patience=15),
    )
    solved = replace(cyclic(), policy=SOLVER, sft=recipe)
    assert metrics(pipeline.run(solved)["evaluate"].folder)["recall@1"] >= 0.95


def test_alignment_after_sft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S-DPO after a short SFT loads the stored policy and does not lower NDCG@10 by more than 0.02."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    aligned = replace(cyclic(steps=60, align_steps=40), policy=replace(SOLVER, num_layers=1))
    before = metrics(pipeline.run(replace(aligned, align=None))["evaluate"].folder)
    after = metrics(pipeline.run(aligned)["evaluate"].folder)
    assert after["ndcg@10"] >= before["ndcg@10"] - 0.02


def test_names_and_shapes_of_stored_weights() -> None:
    """A change of names or shapes makes stored policies unreadable, and needs a new version of the stage."""
    policy = Gpt(d_model=8, d_ff=16, num_heads=2, d_kv=4, num_layers=1, recency_positions=3).build(
        SemanticIds(torch.tensor([[0, 0], [1, 2]]))
    )
    assert {name: tuple(value.shape) for name, value in policy.state_dict().items()} == {
        "embedding.weight": (6, 8), "token_bias.table.weight": (32, 2), "item_bias.weight": (3, 2), "norm.weight": (8,),
        "layers.0.query_key_value.weight": (24, 8), "layers.0.output.weight": (8, 8),
        "layers.0.feed_forward.inner.weight": (16, 8), "layers.0.feed_forward.output.weight": (8, 16),
        "layers.0.around_attention.norm.weight": (8,), "layers.0.around_feed_forward.norm.weight": (8,),
        "heads.0.weight": (2, 8), "heads.1.weight": (3, 8),
    }  # fmt: skip
