"""A policy's own loss in SFT: by hand, in chunks, with one and all targets, resumed, chosen on the command line, and in the key."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from alignments import corpus
from torch import Tensor
from torch.nn import functional as F
from trainings import fine_tune
from worlds import cyclic

from genrec.baselines import GBCE, GRU4Rec, SampledSoftmax, SASRec, item_policy
from genrec.data.examples import Examples, Windows, examples, windows
from genrec.errors import Stopped
from genrec.experiment import SFT, Optimization, Validation
from genrec.objectives import Supervised
from genrec.objectives.supervised import own_loss, window_loss
from genrec.overrides import override
from genrec.pipeline import plan
from genrec.randomness import generator
from genrec.semantic_ids import SemanticIds
from genrec.store import describe
from genrec.training.checkpoint import weights
from genrec.training.sft import build_policy
from genrec.types import LossPolicy, SequenceBatch, WindowBatch

IDS = SemanticIds(torch.arange(40).unsqueeze(1), (40,))
SMALL = SASRec(d_model=8, d_ff=8, num_layers=1, dropout=0.1, max_positions=8)
POLICIES = {"sasrec": SMALL, "gru4rec": GRU4Rec(d_model=8, hidden_size=8, dropout=0.1)}
HISTORY, TARGET = torch.tensor([[0, 3, 4, 5], [7, 8, 9, 1]]), torch.tensor([[0, 0, 5, 6], [8, 9, 1, 2]])


@dataclass(frozen=True)
class NextItems:
    """Negatives that are the next items, and the loss |s+ - 2 mean(s-)|, so that a test can compute both."""

    def draw_items(self, targets: Tensor, num_items: int, generator: torch.Generator) -> Tensor:
        return torch.stack([targets + 1, targets + 2], 1)

    def item_loss(self, positive: Tensor, negatives: Tensor, num_items: int) -> Tensor:
        return (positive - 2 * negatives.mean(1)).abs()


def policy_of(name: str, loss: Any) -> Any:
    policy: Any = build_policy(replace(POLICIES[name], loss=loss), IDS, seed=1)
    with torch.no_grad():
        for key, weight in policy.named_parameters():
            if "norm" not in key:
                weight.normal_(std=0.4, generator=torch.Generator().manual_seed(len(key)))
    return policy.eval()


@pytest.mark.parametrize("name", POLICIES)
def test_the_mean_over_targets_of_dot_products(name: str) -> None:
    """The six targets have equal weight; a score is the dot product of the place's state and the item's embedding."""
    policy = policy_of(name, NextItems())
    states, table = policy.encode(HISTORY), policy.output_weights()
    expected = []
    for row, place in TARGET.nonzero().tolist():
        scores = table[int(TARGET[row, place]) :][:3] @ states[row, place]
        expected.append(abs(scores[0] - (scores[1] + scores[2])))
    assert len(expected) == 6
    found = policy.sequence_loss(HISTORY, TARGET, generator(0, "test"))
    torch.testing.assert_close(found, torch.stack(expected).mean())


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_without_a_loss_has_none(name: str) -> None:
    policy = policy_of(name, None)
    assert isinstance(policy, LossPolicy)
    batch = WindowBatch(torch.tensor([1, 2]), HISTORY, TARGET)
    assert own_loss(policy, batch, 0, 0) is None


@pytest.mark.parametrize("loss", [GBCE(5), SampledSoftmax(6, in_batch=0.5)], ids=["gbce", "mixed"])
def test_chunks_give_the_same_loss_and_gradient(loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negatives are drawn before the chunks, so recomputing a chunk in the backward pass draws none."""

    def gradient() -> tuple[Tensor, list[Tensor]]:
        policy = policy_of("sasrec", loss)
        found = policy.sequence_loss(HISTORY, TARGET, generator(0, "test"))
        return found, list(torch.autograd.grad(found, list(policy.parameters())))

    whole, of_whole = gradient()
    monkeypatch.setattr(item_policy, "MAX_LOGITS", 2 * 7 * 8)  # two of six targets at once, with 7 items of width 8 at most
    parts, of_parts = gradient()
    torch.testing.assert_close(parts, whole)
    for one, other in zip(of_whole, of_parts, strict=True):
        torch.testing.assert_close(one, other)


def test_one_target_per_history_is_the_last_place() -> None:
    """The loss of a prefix batch is that of windows whose last place alone has a target."""
    policy = policy_of("sasrec", GBCE(5))
    one = own_loss(policy, SequenceBatch(torch.tensor([1, 2]), HISTORY, TARGET[:, -1]), seed=3, step=7)
    last = own_loss(policy, WindowBatch(torch.tensor([1, 2]), HISTORY, TARGET * torch.tensor([0, 0, 0, 1])), seed=3, step=7)
    assert one is not None
    assert last is not None
    assert one.item() == last.item()


def test_negatives_depend_on_the_seed_and_the_step_alone() -> None:
    policy, batch = policy_of("gru4rec", GBCE(2)), WindowBatch(torch.tensor([1, 2]), HISTORY, TARGET)
    torch.manual_seed(0)
    losses: list[Any] = [own_loss(policy, batch, seed, step) for seed, step in ((3, 7), (3, 7), (3, 8), (4, 7))]
    first, again, other_step, other_seed = (loss.item() for loss in losses)
    assert first == again
    assert len({first, other_step, other_seed}) == 3


def test_a_sampled_softmax_over_everything_has_the_gradient_of_the_likelihood() -> None:
    """With all other items as negatives, the policy's own loss is the negative log-likelihood of the windows."""

    class Everything:
        def draw_items(self, targets: Tensor, num_items: int, generator: torch.Generator) -> Tensor:
            every = torch.arange(1, num_items).expand(len(targets), -1)
            return every + (every >= targets.unsqueeze(1))

        item_loss = SampledSoftmax.item_loss

    batch, policy = WindowBatch(torch.tensor([1, 2]), HISTORY, TARGET), policy_of("sasrec", Everything())
    own: Any = own_loss(policy, batch, 0, 0)
    likelihood = window_loss(policy, batch)
    torch.testing.assert_close(own, likelihood)
    for one, other in zip(*(torch.autograd.grad(loss, list(policy.parameters())) for loss in (own, likelihood)), strict=True):
        torch.testing.assert_close(one, other)


class StopsAt(torch.nn.Module):
    """A policy that gets SIGTERM when it computes a loss the n-th time."""

    def __init__(self, inner: Any, call: int) -> None:
        super().__init__()
        self.inner, self.call = inner, call
        self.level_log_prob, self.log_prob, self.recommend = inner.level_log_prob, inner.log_prob, inner.recommend

    def sequence_log_prob(self, history: Tensor, targets: Tensor) -> Tensor:
        raise AssertionError("SFT used the likelihood instead of the policy's own loss")

    def sequence_loss(self, history: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor | None:
        self.call -= 1
        if self.call == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        found: Tensor | None = self.inner.sequence_loss(history, targets, generator)
        return found


@pytest.mark.parametrize("every_target", [True, False], ids=["windows", "prefixes"])
def test_a_resumed_training_gives_the_same_weights(tmp_path: Path, every_target: bool) -> None:
    """Interrupted after step 14 and resumed, the weights are those of an uninterrupted training, bit for bit, with dropout."""
    data: Examples | Windows = windows(corpus(), 6) if every_target else examples(corpus(), "train", 6)
    recipe = SFT(
        objective=Supervised(targets="all" if every_target else "one"),
        optimization=Optimization(max_steps=30, batch_size=7, learning_rate=1e-2),
        validation=Validation(every=10),
    )

    def trained(folder: Path, call: int) -> dict[str, Tensor]:
        policy: Any = StopsAt(build_policy(replace(SMALL, loss=GBCE(3)), IDS, seed=1), call)

        def validate() -> dict[str, float]:
            return {"ndcg@10": float(policy.inner.embedding.weight.detach().abs().mean())}

        fine_tune(policy, data, recipe, 5, folder / "last", validate)
        return weights(policy)

    whole = trained(tmp_path / "whole", -1)
    with pytest.raises(Stopped, match="stopped at step 14, checkpoint saved"):
        trained(tmp_path / "parts", 14)
    resumed = trained(tmp_path / "parts", -1)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_the_default_of_sasrec_has_the_key_of_before() -> None:
    """`loss` came later: None is not described, so earlier artifacts keep their key; a loss changes it."""
    assert "loss" not in describe(SMALL, Path())
    described = describe(replace(SMALL, loss=GBCE(4)), Path())
    assert described["loss"] == {"class": "genrec.baselines.item_losses:GBCE", "num_negatives": 4, "t": 0.75}


def test_a_loss_is_chosen_on_the_command_line() -> None:
    base = replace(cyclic(), tokenize=None, policy=replace(SMALL, max_positions=20))
    (changed,) = override([base], ["--policy.loss", "GBCE", "--policy.loss.num-negatives", "8"])
    assert changed.policy == replace(base.policy, loss=GBCE(8))
    (mixed,) = override([base], ["--policy.loss", "SampledSoftmax", "--policy.loss.in-batch", "0.5"])
    assert mixed.policy == replace(base.policy, loss=SampledSoftmax(in_batch=0.5))
    keys = [{step.stage: step.key for step in plan(each)}["sft"] for each in (base, changed, mixed)]
    assert len(set(keys)) == 3


def test_the_scores_of_gbce_are_not_calibrated_log_probabilities() -> None:
    """The page on policies: many negatives drive a score to log(p / (1 - p)) + c, and the softmax then exceeds p for likely items.

    One history is followed by items 1, 2, 3 with p = 0.6, 0.3, 0.1; the scores are fitted to the expected loss. The odds are 3/2, 3/7
    and 1/9, so the softmax is 1.5 / (1.5 + 0.42857 + 0.11111) = 0.7354 for the first, and sigmoid(s) is p with t = 1.
    """
    p, loss = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64), GBCE(2, 1.0)
    scores = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15)
    others = torch.tensor([[1, 2], [0, 2], [0, 1]])  # both other items, each once: the expectation of two uniform draws

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = (p * loss.item_loss(scores, scores[others], 3)).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)
    torch.testing.assert_close(scores.detach().sigmoid(), p, atol=1e-6, rtol=0)
    odds = p / (1 - p)
    torch.testing.assert_close(F.softmax(scores.detach(), 0), odds / odds.sum(), atol=1e-6, rtol=0)
    assert F.softmax(scores.detach(), 0)[0].item() == pytest.approx(0.7354, abs=1e-4)
