"""RosePO with a trained oracle: a BPR that is fitted on the training events smooths the labels that it doubts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genrec.baselines import BPR
from genrec.data.corpus_builder import prepare
from genrec.data.examples import examples
from genrec.data.splits import LeaveOneOut
from genrec.objectives import Preference
from genrec.preference.candidates import Sampled
from genrec.preference.candidates.row_scores import scores_of
from genrec.preference.losses import RosePO
from genrec.preference.losses.smoothing import flip_probability
from genrec.preference.negatives import Uniform
from genrec.preference.rewards import BaselineScore
from genrec.semantic_ids import SemanticIds
from genrec.stage_inputs import sampler_context
from genrec.testing import Taste, check_objective, objective_world

ORACLE = BaselineScore(BPR(epochs=20), reads="user")
ROSEPO = Preference(loss=RosePO(beta=0.5, label_smoothing=0.49), candidates=Sampled(Uniform(), 3), reward=ORACLE)


def test_the_loss_smooths_each_pair_by_the_probability_of_the_oracle() -> None:
    """e_k = min(0.49, 0.98 s(r_k - r_w)) with the oracle's scores r; the pair loss is softplus(-0.5 D_k) + e_k * 0.5 D_k."""
    world = objective_world()
    step = ROSEPO.build_step(world)
    assert step.prepare is not None
    prepared = step.prepare(step.examples.batch(torch.arange(16)), 0)
    loss, _ = step.loss(prepared, 0)
    rows, items = prepared.rows, prepared.candidates.items
    scores = ORACLE.rate(world.data()).rate(rows, items).double()
    assert world.reference is not None
    ours, theirs = (
        scores_of(each, rows, None, rows, "codes").level_log_prob(items) for each in (world.policy, world.reference.policy)
    )
    drift = (ours - theirs).sum(-1).double()
    margin = 0.5 * (drift[:, :1] - drift[:, 1:])
    smoothing = (0.98 / (1 + torch.exp(scores[:, :1] - scores[:, 1:]))).clamp(max=0.49)
    pairs = torch.log1p(torch.exp(-margin)) + smoothing * margin
    present = prepared.candidates.mask[:, 1:]
    expected = (torch.where(present, pairs, 0.0).sum(1) / present.sum(1)).mean().detach()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert float(smoothing[present].std()) > 0.01


def test_the_oracle_doubts_a_held_out_item_as_a_negative_more_than_a_random_one() -> None:
    """The user's next item is a wrong label, whatever the sampler knows; the oracle has not seen it."""
    corpus = prepare(Taste(num_users=300, chosen=1.0).load(Path()), LeaveOneOut())
    ids = SemanticIds(torch.arange(corpus.item_count)[:, None], (corpus.item_count,))
    rate = ORACLE.rate(sampler_context(corpus, torch.zeros(corpus.item_count, 2), ids)).rate
    users = torch.arange(300)
    trained, held_out = examples(corpus, "train", 20), examples(corpus, "validation", 20).batch(users)
    last = trained.batch(trained.cumulative_count - 1)
    assert torch.equal(last.user, held_out.user)
    drawn = torch.randint(1, corpus.item_count + 1, (300, 20), generator=torch.Generator().manual_seed(0))
    scores = rate(last, torch.cat([last.target.unsqueeze(1), held_out.target.unsqueeze(1), drawn], 1))
    doubt = flip_probability(scores[:, 0], scores[:, 1:], 0.49)
    assert float(doubt[:, 0].mean()) > float(doubt[:, 1:].mean()) + 0.02


def test_contract() -> None:
    check_objective(ROSEPO)
