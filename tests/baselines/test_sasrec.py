"""SASRec: the contract of policies, its equations in plain torch, the full ranking, and a world that it must solve."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from preference_stages import stage
from torch import Tensor
from torch.nn import functional as F
from worlds import TINY, cyclic

from genrec import pipeline
from genrec.baselines import SASRec, item_policy
from genrec.baselines.item_policy import rank_all
from genrec.baselines.sasrec import SASRecPolicy
from genrec.errors import UsageError
from genrec.experiment import SFT, Align, Evaluate, Experiment, Optimization, Validation
from genrec.objectives import Supervised
from genrec.objectives.supervised import window_loss
from genrec.preference.losses import DPO, Anchored, SoftmaxDPO
from genrec.preference.negatives import FaissNeighbors, Uniform
from genrec.semantic_ids import SemanticIds
from genrec.testing import check_policy
from genrec.training.sft import build_policy
from genrec.types import ConstrainedPolicy, ExactRecommender, Policy, PolicySpecification, SequencePolicy, VectorPolicy, WindowBatch

ITEMS = 30
IDS = SemanticIds(torch.arange(ITEMS).unsqueeze(1), (ITEMS,))
SMALL = SASRec(d_model=16, d_ff=24, num_layers=2, num_heads=2, dropout=0.3, max_positions=12)


def build_large(specification: SASRec = SMALL, spread: float = 0.3) -> SASRecPolicy:
    """Return a policy in evaluation mode with weights large enough that positions and attention matter."""
    policy = build_policy(specification, IDS, seed=1)
    assert isinstance(policy, SASRecPolicy)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "norm" not in name:
                weight.normal_(std=spread, generator=torch.Generator().manual_seed(len(name)))
        policy.embedding.weight[0] = 7.0  # must have no effect: padding is masked
    return policy.eval()


def histories(rows: list[list[int]]) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[0] * (longest - len(row)) + row for row in rows])


def test_protocols() -> None:
    policy = build_large()
    assert isinstance(SMALL, PolicySpecification)
    assert SMALL.causal
    for protocol in (Policy, SequencePolicy, ExactRecommender, ConstrainedPolicy, VectorPolicy):
        assert isinstance(policy, protocol)


def test_every_code_is_an_item() -> None:
    """All codes of the one level are items: constrained log-probabilities are equal, and all 30 probabilities add up to 1."""
    policy, history = build_large(), histories([[3, 4], [5], [0]])
    items = torch.arange(ITEMS + 1).expand(3, -1)
    found = policy.constrained_level_log_prob(history, items)
    assert torch.equal(found, policy.level_log_prob(history, items))
    torch.testing.assert_close(found[:, 1:].exp().sum((1, 2)), torch.ones(3))


def test_item_vectors_are_a_copy_of_the_embeddings() -> None:
    policy = SMALL.build(IDS)
    found = policy.item_vectors()
    assert (tuple(found.shape), found.dtype, found.requires_grad) == ((ITEMS + 1, 16), torch.float32, False)
    assert torch.equal(found, policy.embedding.weight)
    assert not found[0].any()
    found += 1
    assert not torch.equal(found, policy.embedding.weight)


def test_it_keeps_the_contract_of_policies() -> None:
    check_policy(SMALL)


def test_scores_by_the_papers_equations() -> None:
    """One block with one head, written out: softmax(Q K^T / sqrt(d)) V, a feed-forward layer, dot products with the embeddings."""
    policy = build_large(SASRec(d_model=8, d_ff=8, num_layers=1, num_heads=1, max_positions=5))
    weights, history = policy.state_dict(), [4, 9, 2]

    def norm(states: Tensor, name: str) -> Tensor:
        return F.layer_norm(states, (8,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    def linear(states: Tensor, name: str) -> Tensor:
        return states @ weights[f"blocks.0.{name}.weight"].T + weights[f"blocks.0.{name}.bias"]

    x = weights["embedding.weight"][history] * math.sqrt(8) + weights["position.weight"][:3]
    query, key, value = linear(norm(x, "blocks.0.attention_norm"), "queries_keys_values").chunk(3, -1)
    attention = (query @ key.T / math.sqrt(8)).masked_fill(torch.ones(3, 3).triu(1).bool(), -torch.inf).softmax(-1)
    x = x + linear(attention @ value, "out")
    x = x + linear(linear(norm(x, "blocks.0.forward_norm"), "up").relu(), "down")
    logits = norm(x, "norm")[-1] @ weights["embedding.weight"][1:].T
    expected = logits.log_softmax(-1)
    scores = policy.level_log_prob(torch.tensor([history]), torch.arange(1, ITEMS + 1).unsqueeze(0))
    assert scores.dtype == torch.float32
    assert scores.shape == (1, ITEMS, 1)
    torch.testing.assert_close(scores[0, :, 0], expected)
    assert policy.log_prob(torch.tensor([history]), torch.tensor([[7, 0]]))[0].tolist() == [
        pytest.approx(expected[6].item()),
        -math.inf,
    ]


@given(
    st.lists(st.lists(st.integers(1, ITEMS), min_size=1, max_size=6), min_size=1, max_size=4),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_every_place_equals_its_prefix(rows: list[list[int]], padding: int, random: object) -> None:
    """One pass equals the scores of every prefix, also with padding and with a 0 inside the history (repeated padding)."""
    policy, history = build_large(), F.pad(histories(rows), (padding, 0))
    history = torch.cat([history, torch.zeros(len(rows), 1, dtype=torch.int64), history[:, :2]], 1)[:, -12:]
    target = torch.tensor([[random.randint(1, ITEMS) if item else 0 for item in row] for row in history.tolist()])  # type: ignore[attr-defined]
    scores = policy.sequence_log_prob(history, target)
    assert scores.shape == (*history.shape, 1)
    for place in range(history.shape[1]):
        alone = policy.level_log_prob(history[:, : place + 1], target[:, place : place + 1])[:, 0]
        torch.testing.assert_close(scores[:, place], alone, atol=1e-5, rtol=0)


def test_padding_changes_no_score() -> None:
    policy, rows = build_large(), [[3, 4, 5], [9]]
    items = torch.arange(1, ITEMS + 1).expand(2, -1)
    together = policy.log_prob(F.pad(histories(rows), (4, 0)), items)
    for row, alone in zip(rows, together, strict=True):
        torch.testing.assert_close(policy.log_prob(torch.tensor([row]), items[:1])[0], alone, atol=1e-5, rtol=0)


def test_chunked_logits_give_the_same_loss_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = WindowBatch(torch.tensor([1, 2]), torch.tensor([[1, 2, 3, 4], [0, 0, 5, 6]]), torch.tensor([[2, 3, 4, 5], [0, 0, 0, 7]]))

    def gradient() -> tuple[Tensor, list[Tensor]]:
        policy = build_large()
        loss = window_loss(policy, batch)
        return loss, list(torch.autograd.grad(loss, list(policy.parameters())))

    loss, whole = gradient()
    monkeypatch.setattr(item_policy, "MAX_LOGITS", 2 * (ITEMS + 1))  # two of five rows at once
    again, parts = gradient()
    torch.testing.assert_close(again, loss)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


def test_bfloat16_is_near_and_its_probabilities_are_float32() -> None:
    policy, history, target = build_large(spread=0.1), torch.tensor([[0, 2, 5, 6]]), torch.tensor([[0, 0, 6, 7]])
    with torch.autocast("cpu", torch.bfloat16):
        scores = policy.sequence_log_prob(history, target)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, policy.sequence_log_prob(history, target), atol=0.05, rtol=0)


def test_padding_gets_no_gradient() -> None:
    policy = build_large()
    history, target = torch.tensor([[0, 0, 5, 6]]), torch.tensor([[0, 0, 6, 7]])
    window_loss(policy, WindowBatch(torch.tensor([1]), history, target)).backward()
    assert policy.embedding.weight.grad is not None
    assert policy.embedding.weight.grad[0].abs().max() == 0
    assert torch.isfinite(policy.embedding.weight.grad).all()


@given(st.data())
def test_ranking_equals_a_sort_in_python(data: st.DataObject) -> None:
    """Items are ordered by score, equal scores by id; excluded and missing items are 0 with -inf at the end."""
    values = st.sampled_from([-9.5, -1.0, -0.25, -0.0, 0.0, 3.0, -math.inf])
    scores = data.draw(st.lists(values, min_size=1, max_size=9))
    n = data.draw(st.integers(1, 12))
    ranking = rank_all(torch.tensor([[-math.inf, *scores]]), n)
    order = sorted((item for item, score in enumerate(scores, 1) if score > -math.inf), key=lambda item: (-scores[item - 1], item))[:n]
    assert ranking.items[0].tolist() == order + [0] * (n - len(order))
    assert ranking.scores[0].tolist() == [scores[item - 1] for item in order] + [-math.inf] * (n - len(order))


def test_it_ranks_the_whole_catalog() -> None:
    policy, history = build_large(), histories([[3, 4, 5], [9]])
    everything = policy.recommend(history, ITEMS + 3)
    scores = policy.log_prob(history, torch.arange(1, ITEMS + 1).expand(2, -1))
    for row in range(2):
        assert everything.items[row, :ITEMS].tolist() == (scores[row].argsort(descending=True, stable=True) + 1).tolist()
    assert everything.items[:, ITEMS:].tolist() == [[0] * 3] * 2
    exclude = torch.tensor([[int(everything.items[0, 0]), 0], [0, 0]])
    left = policy.recommend(history, 5, exclude)
    assert left.items[0].tolist() == everything.items[0, 1:6].tolist()
    assert left.items[1].tolist() == everything.items[1, :5].tolist()
    assert torch.equal(policy.recommend_exactly(history, 5, exclude).items, left.items)


def test_a_history_longer_than_max_positions_raises() -> None:
    with pytest.raises(UsageError, match=r"a history of 13 items, but policy\.max_positions is 12"):
        build_large().log_prob(torch.ones(1, 13, dtype=torch.int64), torch.ones(1, 1, dtype=torch.int64))
    with pytest.raises(UsageError, match=r"sasrec: SASRec reads at most policy\.max_positions = 8 items, but history_length is 9"):
        replace(world(ALL), history_length=9, evaluate=Evaluate(cutoffs=(10,)))


@pytest.mark.parametrize("ids", [SemanticIds(torch.tensor([[1], [0]])), SemanticIds(torch.tensor([[0, 0], [0, 1]]))])
def test_semantic_ids_raise(ids: SemanticIds) -> None:
    with pytest.raises(UsageError, match=r"SASRec scores items, not Semantic IDs: expected one level .* set tokenize=None"):
        SMALL.build(ids)
    with pytest.raises(UsageError, match=r"cyclic: SASRec scores items, not Semantic IDs; set tokenize=None \(--tokenize None\)$"):
        replace(cyclic(), policy=SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 0}, r"policy\.d_model must be at least 1, got 0"),
        ({"num_heads": 3, "d_model": 16}, r"policy\.num_heads must divide policy\.d_model, got 3 and 16"),
        ({"dropout": 1.0}, r"policy\.dropout must lie in \[0, 1\), got 1\.0"),
    ],
)
def test_sizes_are_checked(change: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SASRec(**change)  # type: ignore[arg-type]


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use one folder for the module, so that experiments share artifacts."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path_factory.getbasetemp() / "sasrec"))


def world(recipe: SFT, align: Align | None = None) -> Experiment:
    policy = SASRec(d_model=32, d_ff=32, num_layers=1, dropout=0.1, max_positions=8)
    return replace(cyclic(), name="sasrec", tokenize=None, policy=policy, sft=recipe, align=align)


def metrics(experiment: Experiment) -> dict[str, float]:
    found: dict[str, float] = json.loads((pipeline.run(experiment)["evaluate"].folder / "metrics.json").read_text())
    return found


ALL = SFT(
    objective=Supervised(targets="all"),
    optimization=Optimization(max_steps=200, batch_size=32, learning_rate=1e-2, warmup_steps=20, weight_decay=0.035),
    validation=Validation(every=50, patience=15),
)


@pytest.mark.parametrize(
    "recipe",
    [
        ALL,
        replace(ALL, objective=Supervised(targets="all", padding="repeat")),
        replace(ALL, objective=Supervised(targets="one"), optimization=replace(ALL.optimization, batch_size=64)),
    ],
    ids=["all", "repeat", "one"],
)
@pytest.mark.usefixtures("home")
def test_it_solves_the_cyclic_world(recipe: SFT) -> None:
    """The next item is a function of the last one, and every training recipe learns it."""
    assert metrics(world(recipe))["recall@1"] >= 0.95


@pytest.mark.parametrize(
    "align",
    [
        stage(
            loss=Anchored(SoftmaxDPO()),
            negatives=FaissNeighbors(pool_size=10),
            num_negatives=3,
            optimization=Optimization(max_steps=60, batch_size=32, learning_rate=1e-4, warmup_steps=50),
            validation=Validation(every=20),
        ),
        stage(
            loss=Anchored(DPO(beta=0.5)),
            negatives=Uniform(),
            num_negatives=1,
            optimization=Optimization(max_steps=60, batch_size=32, learning_rate=1e-4, warmup_steps=50),
            validation=Validation(every=20),
        ),
    ],
    ids=["s-dpo", "dpo"],
)
@pytest.mark.usefixtures("home")
def test_alignment_improves_a_short_sft(align: Align) -> None:
    """After a short SFT, 60 steps of anchored alignment raise NDCG@10 by more than 0.02."""
    short = replace(ALL, optimization=replace(ALL.optimization, max_steps=25))
    before = metrics(world(short))
    after = metrics(world(short, replace(align, optimization=replace(align.optimization, learning_rate=3e-3, warmup_steps=5))))
    assert after["ndcg@10"] > before["ndcg@10"] + 0.02


def test_the_stages_of_sasrec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SASRec has no embed and tokenize stages, and shares the data artifact with TIGER."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    rows = {"sasrec": world(ALL), "tiger": replace(cyclic(), policy=TINY)}
    plans = {name: {step.stage: step.key for step in pipeline.plan(row)} for name, row in rows.items()}
    assert list(plans["sasrec"]) == ["data", "sft", "evaluate"]
    assert plans["sasrec"]["data"] == plans["tiger"]["data"]
