"""Extension of a policy to a larger catalog: the same weights, the old probabilities, and new items."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genrec.errors import ArtifactError
from genrec.model import Tiger, TigerPolicy
from genrec.semantic_ids import SemanticIds

SMALL = Tiger(d_model=16, d_ff=32, num_heads=2, d_kv=8, num_encoder_layers=1, num_decoder_layers=1, dropout=0.1, num_beams=20)
HISTORY = torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])
OLD = [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 1], [1, 2, 0], [2, 1, 0]]


def policy_of(codes: list[list[int]], sizes: tuple[int, ...], seed: int = 0) -> TigerPolicy:
    torch.manual_seed(seed)
    return SMALL.build(SemanticIds(torch.tensor(codes), sizes)).eval()


def all_items(policy: TigerPolicy, count: int, history: Tensor = HISTORY) -> Tensor:
    with torch.no_grad():
        return policy.level_log_prob(history, torch.arange(1, count + 1).expand(len(history), -1))


def test_without_a_new_code_old_probabilities_are_equal_bit_for_bit() -> None:
    policy = policy_of(OLD, (3, 3, 2))
    grown = policy.extended(policy.semantic_ids.extend(torch.tensor([[2, 2, 1], [0, 1, 1]])))
    assert grown.semantic_ids.level_sizes == (3, 3, 2)
    assert torch.equal(all_items(grown, 6), all_items(policy, 6))
    assert torch.equal(grown.trie.tokens[:7], policy.trie.tokens)


def test_a_larger_last_level_takes_the_same_share_from_all_codes() -> None:
    """Item 7 has the prefix 1 0, which is full: the last level grows. Earlier levels keep their probabilities; the last level's
    softmax has one more term, so that all codes of a prefix lose the same share."""
    policy = policy_of(OLD, (3, 3, 2))
    grown = policy.extended(policy.semantic_ids.extend(torch.tensor([[1, 0]])))
    assert grown.semantic_ids.level_sizes == (3, 3, 3)
    before, after = all_items(policy, 6), all_items(grown, 6)
    assert torch.equal(after[..., :2], before[..., :2])
    lost = before[..., 2] - after[..., 2]
    assert (lost > 0).all()
    torch.testing.assert_close(lost[:, 2], lost[:, 3], atol=1e-5, rtol=0)  # items 3 and 4 share a prefix
    level = policy.heads[2].weight
    torch.testing.assert_close(grown.heads[2].weight, torch.cat([level, level[-1:]]))
    torch.testing.assert_close(grown.embedding.weight[:-1], policy.embedding.weight)
    torch.testing.assert_close(grown.embedding.weight[-1], policy.embedding.weight[-1])  # the last level's last token


def test_probabilities_on_the_extended_trie_add_up_to_one() -> None:
    """After the extension all 2 x 2 x 3 code sequences are items."""
    old = [[a, b, c] for a in range(2) for b in range(2) for c in range(2)]
    policy = policy_of(old, (2, 2, 2))
    grown = policy.extended(policy.semantic_ids.extend(torch.tensor([[a, b] for a in range(2) for b in range(2)])))
    assert grown.semantic_ids.level_sizes == (2, 2, 3)
    torch.testing.assert_close(all_items(grown, 12).sum(-1).exp().sum(1), torch.ones(2))


def test_a_new_item_with_a_probable_prefix_is_recommended() -> None:
    """The first level prefers code 2, the second code 1, which is item 6. A new item with this prefix comes second, since its last
    code is as likely as that of item 6; before the extension it cannot be recommended."""
    policy = policy_of(OLD, (3, 3, 2))
    with torch.no_grad():
        tokens = torch.tensor([[[0, *policy.trie.tokens[6, :2].tolist()]]])
        states = policy.decode(tokens, [policy.encode(HISTORY[:1]).states] * len(policy.decoder), None, None)[0]
        for level, code in ((0, 2), (1, 1)):
            policy.heads[level].weight.zero_()
            policy.heads[level].weight[code] = 10 * states[0, 0, level] / states[0, 0, level].norm()
        policy.heads[2].weight.zero_()
    assert policy.recommend(HISTORY[:1], 6).items[0, 0] == 6
    assert 7 not in policy.recommend(HISTORY[:1], 20).items
    grown = policy.extended(policy.semantic_ids.extend(torch.tensor([[2, 1, 1]])))
    assert grown.recommend(HISTORY[:1], 7).items[0, :2].tolist() == [6, 7]
    assert grown.recommend(HISTORY[:1], 1, torch.tensor([[6]])).items.tolist() == [[7]]


@pytest.mark.parametrize("seed", range(4))
def test_beams_are_exact_on_the_extended_trie(seed: int) -> None:
    """The histories contain new items, too."""
    policy = policy_of(OLD, (3, 3, 2), seed)
    grown = policy.extended(policy.semantic_ids.extend(torch.tensor([[0, 2], [1, 0], [1, 0], [2, 1]])))
    history = torch.tensor([[7, 8, 10, 1], [0, 0, 9, 5]])
    scores = all_items(grown, 10, history).sum(-1)
    ranking = grown.recommend(history, 10)
    torch.testing.assert_close(ranking.scores, scores.sort(descending=True).values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores.gather(1, ranking.items - 1), ranking.scores, atol=1e-4, rtol=1e-4)


def test_new_items_may_share_a_semantic_id() -> None:
    policy = policy_of(OLD, (3, 3, 2))
    with pytest.warns(UserWarning, match="share their Semantic ID"):
        ids = policy.semantic_ids.extend(torch.tensor([[2, 1, 0]]))
    grown = policy.extended(ids)
    items = grown.recommend(HISTORY, 7).items.tolist()
    assert all(row.index(7) == row.index(6) + 1 for row in items)


def test_extending_changes_neither_the_policy_nor_global_randomness() -> None:
    policy = policy_of(OLD, (3, 3, 2)).train()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    state = torch.get_rng_state()
    grown = policy.extended(policy.semantic_ids.extend(torch.tensor([[1, 0]])))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert grown.training
    assert not grown.eval().encoder.training
    with torch.no_grad():
        grown.embedding.weight.zero_()
    assert torch.equal(policy.embedding.weight, before["embedding.weight"])


@pytest.mark.parametrize(
    ("codes", "sizes"),
    [
        ([[0, 0, 1], *OLD[1:]], (3, 3, 2)),  # another code for an old item
        (OLD[:-1], (3, 3, 2)),  # one item less
        (OLD, (4, 3, 2)),  # another level has grown, which moves tokens
        ([row[:2] for row in OLD], (3, 3)),  # one level less
    ],
)
def test_semantic_ids_that_do_not_extend_raise(codes: list[list[int]], sizes: tuple[int, ...]) -> None:
    policy = policy_of(OLD, (3, 3, 2))
    other = SemanticIds(torch.tensor(codes), sizes)
    with pytest.raises(
        ArtifactError, match=f"{other.fingerprint} do not extend those of the policy, {policy.semantic_ids.fingerprint}"
    ):
        policy.extended(other)
