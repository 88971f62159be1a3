"""SFT on windows: the loss over all targets, resuming, and policies that cannot train on windows."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from alignments import corpus
from torch import Tensor, nn
from trainings import fine_tune, train
from worlds import cyclic

from genrec import pipeline
from genrec.baselines import Popularity
from genrec.data.examples import examples, windows
from genrec.errors import Stopped, UsageError
from genrec.experiment import SFT, Optimization, Validation
from genrec.objectives import Supervised
from genrec.objectives.supervised import negative_log_likelihood, window_loss
from genrec.semantic_ids import SemanticIds
from genrec.training.sft import build_policy
from genrec.types import Padding, Ranking, SequencePolicy, WindowBatch

IDS = SemanticIds(torch.arange(40).unsqueeze(1), (40,))


@dataclass(frozen=True)
class Bigram:
    """The smallest causal policy: the next item depends on the last one alone."""

    causal: ClassVar[bool] = True

    def build(self, semantic_ids: SemanticIds) -> BigramPolicy:
        return BigramPolicy(semantic_ids.items)


class BigramPolicy(nn.Module):
    """A table of logits with dropout, so that a resume with other random numbers would be detected."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.table = nn.Embedding(items + 1, items + 1)
        self.dropout = nn.Dropout(0.1)

    def scores(self, history: Tensor) -> Tensor:
        logits = self.dropout(self.table(history)).clone()
        logits[..., 0] = -torch.inf
        return logits.log_softmax(-1)

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        return self.scores(history[:, -1]).gather(1, items).unsqueeze(-1)

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        return self.level_log_prob(history, items).sum(-1)

    def sequence_log_prob(self, history: Tensor, targets: Tensor) -> Tensor:
        return self.scores(history).gather(2, targets.unsqueeze(-1))

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        scores = self.scores(history[:, -1])
        if exclude is not None:
            scores = scores.scatter(1, exclude, -torch.inf)
        scores, items = scores.topk(n)
        return Ranking(items.masked_fill(scores == -torch.inf, 0), scores)


class PrefixPolicy(nn.Module):
    """A policy that scores one prefix at a time."""

    level_log_prob, log_prob, recommend = BigramPolicy.level_log_prob, BigramPolicy.log_prob, BigramPolicy.recommend


RECIPE = SFT(
    objective=Supervised(targets="all"),
    optimization=Optimization(max_steps=50, batch_size=7, learning_rate=1e-2, warmup_steps=10, weight_decay=0.035),
    validation=Validation(every=20, patience=15),
)


def policy() -> BigramPolicy:
    built = build_policy(Bigram(), IDS, seed=3)
    assert isinstance(built, BigramPolicy)
    assert isinstance(built, SequencePolicy)
    return built


def test_window_loss_by_hand() -> None:
    """The mean of -log p over the targets: two in the first row, one in the second."""
    built = policy().eval()
    history = torch.tensor([[1, 2, 3], [0, 0, 4]])
    target = torch.tensor([[0, 3, 4], [0, 0, 5]])
    table = built.scores(torch.arange(41))
    expected = -(table[2, 3] + table[3, 4] + table[4, 5]) / 3
    assert window_loss(built, WindowBatch(torch.tensor([1, 2]), history, target)).item() == pytest.approx(expected.item(), rel=1e-6)


def test_windows_and_prefixes_give_the_same_loss() -> None:
    """If no sequence is cut, the mean over all targets of all windows equals the mean over all prefixes, and so do the gradients."""
    built = policy().eval()
    prefix, cut = examples(corpus(), "train", 20), windows(corpus(), 20)
    one = negative_log_likelihood(built, prefix.batch(torch.arange(len(prefix))))
    every = window_loss(built, cut.batch(torch.arange(len(cut))))
    torch.testing.assert_close(one, every)
    (first,) = torch.autograd.grad(one, built.table.weight)
    (second,) = torch.autograd.grad(every, built.table.weight)
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize(("length", "padding"), [(4, "zero"), (12, "repeat")], ids=["zero", "repeat"])
def test_a_resumed_run_on_windows_gives_the_same_weights(tmp_path: Path, length: int, padding: Literal["zero", "repeat"]) -> None:
    """Batches of windows are functions of (seed, step) too: the weights are equal bit for bit, with dropout."""
    cut = windows(corpus(), length, padding)

    def training(built: BigramPolicy, folder: Path, stop: int | None) -> None:
        def objective(batch: WindowBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            if step == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return window_loss(built, batch), {}

        def validate() -> dict[str, float]:
            return {"ndcg@10": float(built.table.weight.detach().abs().mean())}

        built.train()
        train(built, objective, cut, RECIPE, 5, folder / "last", validate, "test")

    whole, resumed = policy(), policy()
    training(whole, tmp_path / "whole", None)
    with pytest.raises(Stopped, match="stopped at step 14, checkpoint saved"):
        training(policy(), tmp_path / "parts", 13)
    training(resumed, tmp_path / "parts", None)
    assert torch.equal(whole.table.weight, resumed.table.weight)


def test_windows_need_a_causal_policy(tmp_path: Path) -> None:
    """The experiment checks the specification; `fine_tune` checks the policy itself. A baseline trains nothing and passes."""
    with pytest.raises(UsageError, match=r"Supervised\.targets 'all' needs a policy that scores all positions.*got PrefixPolicy"):
        fine_tune(PrefixPolicy(), windows(corpus(), 4), RECIPE, 0, tmp_path / "last", lambda: {"ndcg@10": 0.0})
    with pytest.raises(UsageError, match=r"cyclic: Supervised\.targets 'all' needs a causal policy.*Tiger is bidirectional"):
        replace(cyclic(), sft=RECIPE)
    assert "sft" not in replace(cyclic(), sft=RECIPE, policy=Popularity()).stages


def test_repeated_padding_needs_windows() -> None:
    with pytest.raises(UsageError, match=r"Supervised\.padding 'repeat' pads windows"):
        Supervised(padding="repeat")


@pytest.mark.parametrize("padding", ["zero", "repeat"])
def test_a_causal_policy_learns_the_cyclic_world_from_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, padding: Padding
) -> None:
    """Through the pipeline, with one code per item."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    recipe = SFT(
        objective=Supervised(targets="all", padding=padding),
        optimization=Optimization(max_steps=150, batch_size=32, learning_rate=5e-2, warmup_steps=10, weight_decay=0.035),
        validation=Validation(every=50, patience=15),
    )
    artifacts = pipeline.run(replace(cyclic(), tokenize=None, policy=Bigram(), sft=recipe))
    assert json.loads((artifacts["evaluate"].folder / "metrics.json").read_text())["recall@1"] >= 0.95
