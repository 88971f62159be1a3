"""GRU4Rec: the contract of policies, its equations in plain torch, exact left padding, and a world that it must solve."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from preference_stages import stage
from torch.nn import functional as F
from worlds import cyclic

from genrec import pipeline
from genrec.baselines import GBCE, GRU4Rec, SampledSoftmax
from genrec.baselines.gru4rec import GRU4RecPolicy
from genrec.errors import UsageError
from genrec.experiment import SFT, Align, Optimization, Validation
from genrec.objectives import Supervised
from genrec.objectives.supervised import window_loss
from genrec.preference.losses import Anchored, SoftmaxDPO
from genrec.preference.negatives import Uniform
from genrec.semantic_ids import SemanticIds
from genrec.testing import check_policy
from genrec.training.sft import build_policy
from genrec.types import (
    ConstrainedPolicy,
    ExactRecommender,
    LossPolicy,
    PolicySpecification,
    SequencePolicy,
    VectorPolicy,
    WindowBatch,
)

ITEMS = 30
IDS = SemanticIds(torch.arange(ITEMS).unsqueeze(1), (ITEMS,))
SMALL = GRU4Rec(d_model=12, hidden_size=16, num_layers=2, dropout=0.3)
EVERY = torch.arange(1, ITEMS + 1).unsqueeze(0)


def build_large(specification: GRU4Rec = SMALL, spread: float = 0.4) -> GRU4RecPolicy:
    """Return a policy in evaluation mode with weights large enough that the order of the items matters."""
    policy = build_policy(specification, IDS, seed=1)
    assert isinstance(policy, GRU4RecPolicy)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            weight.normal_(std=spread, generator=torch.Generator().manual_seed(len(name)))
        policy.embedding.weight[0] = 7.0  # must have no effect: padding is not read
    return policy.eval()


def test_protocols() -> None:
    assert isinstance(SMALL, PolicySpecification)
    assert SMALL.causal
    for protocol in (SequencePolicy, ExactRecommender, ConstrainedPolicy, VectorPolicy, LossPolicy):
        assert isinstance(SMALL.build(IDS), protocol)


@pytest.mark.parametrize("change", [{}, {"tied": False}, {"num_layers": 1}, {"loss": GBCE(4)}], ids=str)
def test_it_keeps_the_contract_of_policies(change: dict[str, Any]) -> None:
    check_policy(replace(SMALL, **change))


@pytest.mark.parametrize("tied", [True, False])
def test_scores_by_the_papers_equations(tied: bool) -> None:
    """One layer, step by step: gates r and z, the candidate state n with the reset gate, h = (1 - z) n + z h, and dot products."""
    policy = build_large(replace(SMALL, num_layers=1, tied=tied))
    weights, history = policy.state_dict(), [4, 9, 2]
    state = torch.zeros(16)
    for item in history:
        from_input = weights["layers.0.weight_ih_l0"] @ weights["embedding.weight"][item] + weights["layers.0.bias_ih_l0"]
        from_state = weights["layers.0.weight_hh_l0"] @ state + weights["layers.0.bias_hh_l0"]
        (input_r, input_z, input_n), (state_r, state_z, state_n) = from_input.chunk(3), from_state.chunk(3)
        reset, update = torch.sigmoid(input_r + state_r), torch.sigmoid(input_z + state_z)
        state = (1 - update) * torch.tanh(input_n + reset * state_n) + update * state
    query = weights["query.weight"] @ state + weights["query.bias"]
    table = weights["embedding.weight" if tied else "output.weight"]
    expected = (table[1:] @ query).log_softmax(0)
    torch.testing.assert_close(policy.log_prob(torch.tensor([history]), EVERY)[0], expected)


@given(
    st.lists(st.lists(st.integers(1, ITEMS), min_size=1, max_size=6), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_zeros_before_and_between_items_change_no_state(rows: list[list[int]], gaps: list[int]) -> None:
    """The state after a prefix is that of its items alone, wherever zeros are, and at a zero it is the state before it."""
    policy = build_large()
    padded = [[0] * gaps[0] + row[:2] + [0] * gaps[1] + row[2:] + [0] * gaps[2] for row in rows]
    longest = max(map(len, padded)) + gaps[3]
    states = policy.encode(torch.tensor([[0] * (longest - len(row)) + row for row in padded]))
    empty = policy.query(torch.zeros(16))
    for row, together in zip(padded, states, strict=True):
        alone = policy.encode(torch.tensor([[item for item in row if item]]))[0]
        read = 0
        for place, item in enumerate([0] * (longest - len(row)) + row):
            read += item > 0
            torch.testing.assert_close(together[place], alone[read - 1] if read else empty, atol=1e-6, rtol=0)


@given(st.lists(st.integers(1, ITEMS), min_size=2, max_size=8), st.integers(0, 3), st.integers(1, ITEMS))
def test_every_place_equals_its_prefix_and_ignores_later_items(row: list[int], padding: int, other: int) -> None:
    policy, history = build_large(), F.pad(torch.tensor([row]), (padding, 0))
    target = torch.where(history > 0, other, 0)
    scores = policy.sequence_log_prob(history, target)
    for place in range(history.shape[1]):
        alone = policy.level_log_prob(history[:, : place + 1], target[:, place : place + 1])[:, 0]
        torch.testing.assert_close(scores[:, place], alone, atol=1e-5, rtol=0)
    changed = policy.encode(torch.cat([history[:, :-1], torch.tensor([[other]])], 1))
    torch.testing.assert_close(changed[:, :-1], policy.encode(history)[:, :-1], atol=1e-6, rtol=0)


def test_the_order_of_the_history_matters() -> None:
    one, other = (build_large().log_prob(torch.tensor([row]), EVERY) for row in ([3, 4, 5], [4, 3, 5]))
    assert (one - other).abs().max() > 0.01


def test_padding_gets_no_gradient() -> None:
    policy = build_large()
    batch = WindowBatch(torch.tensor([1]), torch.tensor([[0, 0, 5, 6]]), torch.tensor([[0, 0, 6, 7]]))
    window_loss(policy, batch).backward()
    gradient = policy.embedding.weight.grad
    assert gradient is not None
    assert gradient[0].abs().max() == 0
    assert torch.isfinite(gradient).all()
    assert policy.layers[0].weight_hh_l0.grad.abs().max() > 0  # type: ignore[union-attr]


def test_item_vectors_are_a_copy_of_the_embeddings() -> None:
    policy = replace(SMALL, tied=False).build(IDS)
    found = policy.item_vectors()
    assert torch.equal(found, policy.embedding.weight)
    assert not found[0].any()
    found += 1
    assert not torch.equal(found, policy.embedding.weight)


def test_bfloat16_is_near_and_its_probabilities_are_float32() -> None:
    policy, history, target = build_large(spread=0.1), torch.tensor([[0, 2, 5, 6]]), torch.tensor([[0, 0, 6, 7]])
    with torch.autocast("cpu", torch.bfloat16):
        scores = policy.sequence_log_prob(history, target)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, policy.sequence_log_prob(history, target), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GRU4Rec(hidden_size=0), r"policy\.hidden_size must be at least 1, got 0"),
        (lambda: GRU4Rec(dropout=1.0), r"policy\.dropout must lie in \[0, 1\), got 1\.0"),
        (lambda: GRU4Rec(tied="yes"), r"policy\.tied must be True or False, got 'yes'"),
        (
            lambda: SMALL.build(SemanticIds(torch.tensor([[0, 0], [0, 1]]))),
            r"GRU4Rec scores items, not Semantic IDs: expected one",
        ),
        (lambda: replace(cyclic(), policy=SMALL), r"cyclic: GRU4Rec scores items, not Semantic IDs; set tokenize=None"),
    ],
)
def test_wrong_values_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


ALL = SFT(
    objective=Supervised(targets="all"),
    optimization=Optimization(max_steps=200, batch_size=32, learning_rate=1e-2, warmup_steps=20),
    validation=Validation(every=50, patience=15),
)
ONE = replace(ALL, objective=Supervised(targets="one"), optimization=replace(ALL.optimization, batch_size=64))


def metrics(recipe: SFT, policy: GRU4Rec, align: Align | None = None) -> dict[str, float]:
    experiment = replace(cyclic(), name="gru4rec", tokenize=None, policy=policy, sft=recipe, align=align)
    found: dict[str, float] = json.loads((pipeline.run(experiment)["evaluate"].folder / "metrics.json").read_text())
    return found


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use one folder for the module, so that experiments share artifacts."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path_factory.getbasetemp() / "gru4rec"))


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("recipe", "change"),
    [
        (ALL, {}),
        (ALL, {"tied": False}),
        (ALL, {"loss": GBCE(8)}),
        (ALL, {"loss": SampledSoftmax(8, in_batch=0.25)}),
        (replace(ALL, objective=Supervised(targets="all", padding="repeat")), {"num_layers": 2}),
        (ONE, {}),
        (ONE, {"loss": GBCE(8)}),
    ],
    ids=["all", "untied", "gbce", "mixed", "repeat", "one", "one-gbce"],
)
def test_it_solves_the_cyclic_world(recipe: SFT, change: dict[str, Any]) -> None:
    """The next item is a function of the last one; every recipe, output and loss learns it."""
    assert metrics(recipe, replace(GRU4Rec(d_model=32, hidden_size=32, dropout=0.1), **change))["recall@1"] >= 0.95


@pytest.mark.usefixtures("home")
def test_alignment_improves_a_short_sft() -> None:
    """After 40 steps of SFT, 60 steps of anchored alignment raise NDCG@10 by more than 0.02."""
    policy = GRU4Rec(d_model=32, hidden_size=32, dropout=0.1)
    short = replace(ALL, optimization=replace(ALL.optimization, max_steps=40))
    align = stage(
        loss=Anchored(SoftmaxDPO()),
        negatives=Uniform(),
        num_negatives=3,
        optimization=Optimization(max_steps=60, batch_size=32, learning_rate=3e-3, warmup_steps=5),
        validation=Validation(every=20),
    )
    assert metrics(short, policy, align)["ndcg@10"] > metrics(short, policy)["ndcg@10"] + 0.02
