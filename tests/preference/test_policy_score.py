"""Another row's trained policy as a reward: its log-probabilities, and what is refused before a stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from preference_stages import stage
from worlds import cyclic

from genrec import pipeline
from genrec.baselines import SASRec
from genrec.data.corpus import Corpus
from genrec.errors import ArtifactError, UsageError
from genrec.experiment import Align, Experiment, Optimization, Validation
from genrec.objectives import PolicyGradient
from genrec.preference.candidates import Rollouts
from genrec.preference.losses import SoftmaxDPO
from genrec.preference.rewards import PolicyScore
from genrec.stage_inputs import load_policy, load_semantic_ids, sampler_context
from genrec.testing import Cyclic, check_reward
from genrec.types import SequenceBatch


@pytest.fixture(autouse=True)
def home(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(shared_folder / "policy score"))


def judge(align: Align | None = None) -> Experiment:
    """Return a row with SASRec over items, two steps long, with histories of three items."""
    base = cyclic(steps=2)
    return replace(base, name="judge", tokenize=None, policy=SASRec(d_model=8, d_ff=8), history_length=3, align=align)


def short(**fields: object) -> Align:
    optimization = Optimization(max_steps=2, batch_size=8, learning_rate=1e-3, warmup_steps=1)
    return stage(optimization=optimization, validation=Validation(every=2), **fields)


@pytest.mark.parametrize("aligned", [False, True])
def test_the_reward_is_the_log_probability_of_the_trained_policy(aligned: bool) -> None:
    row = judge(short(loss=SoftmaxDPO()) if aligned else None)
    last = row.stages[-2]
    made = pipeline.run(row, last=last)
    corpus = Corpus.load(made["data"].folder)
    ids = load_semantic_ids(corpus, {})
    policy = load_policy(row, ids, made[last].folder)
    history = torch.tensor([[1, 2, 3, 4], [0, 0, 7, 8]])
    items = torch.tensor([[5, 6, 0], [9, 1, 2]])
    context = sampler_context(corpus, torch.zeros(40, 2), ids)
    reward = PolicyScore(f"{last}/{made[last].key}")
    found = reward.rate(context).rate(SequenceBatch(torch.tensor([0, 1]), history, torch.tensor([5, 9])), items)
    with torch.no_grad():
        expected = policy.log_prob(history[:, -3:], items)
    assert torch.equal(found, expected)
    assert found[0, 2] == -torch.inf
    check_reward(reward, context)


def test_a_policy_over_semantic_ids_is_aligned_by_the_scores_of_another_row() -> None:
    """The judge is a SASRec policy, the aligned one Tiger; another judge is another artifact."""
    keys = []
    for seed in (0, 1):
        made = pipeline.run(replace(judge(), seed=seed), last="sft")
        objective = PolicyGradient(candidates=Rollouts(size=4), reward=PolicyScore(f"sft/{made['sft'].key}"), gate=False)
        keys.append(pipeline.run(replace(cyclic(steps=2), align=short(objective=objective)), last="align")["align"].key)
    assert keys[0] != keys[1]


def test_an_artifact_that_is_not_in_the_store_is_refused_with_the_experiment() -> None:
    objective = PolicyGradient(reward=PolicyScore("sft/0123456789abcdef"))
    with pytest.raises(
        ArtifactError, match=r"PolicyScore\.artifact sft/0123456789abcdef is not in .*; train the row that makes it first"
    ):
        replace(cyclic(), align=Align(objective))
    with pytest.raises(UsageError, match=r"PolicyScore\.artifact must be STAGE/KEY of a trained policy, .* got 'beauty'"):
        PolicyScore("beauty")


def test_a_judge_of_other_data_is_refused_after_the_data_stage(tmp_path: Path) -> None:
    made = pipeline.run(judge(), last="sft")
    reward = PolicyScore(f"sft/{made['sft'].key}")
    other = replace(cyclic(steps=2), source=Cyclic(num_items=40, num_users=90, length=10), align=Align(PolicyGradient(reward=reward)))
    with pytest.raises(UsageError, match=r"was trained on the data .* take a row with the same source and split"):
        pipeline.run(other)
