"""What stages read from earlier artifacts: Semantic IDs, trained policies and fitted baselines, and the data of a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from pandas import DataFrame
from safetensors.torch import load_file
from torch import Tensor, nn

from genrec.baselines.fitted_parts import fitted_parts
from genrec.data.corpus import Corpus
from genrec.experiment import Experiment
from genrec.policy_modules import load_weights
from genrec.semantic_ids import SemanticIds
from genrec.training.validation import shared_numbers
from genrec.types import Baseline, Policy, Recommender, SamplerContext

Parents = dict[str, Path]  # stage -> folder of its artifact


def load_semantic_ids(corpus: Corpus, parents: Parents) -> SemanticIds:
    """Load the Semantic IDs of the tokenize stage. Without that stage, return one level in which item i has code i - 1."""
    if "tokenize" in parents:
        return SemanticIds.load(parents["tokenize"] / "codes.safetensors")
    return SemanticIds(torch.arange(corpus.item_count).unsqueeze(1), (corpus.item_count,))


def load_recommender(experiment: Experiment, corpus: Corpus, parents: Parents) -> tuple[Recommender, Tensor | None]:
    """Return the fitted baseline or the trained policy, and the numbers of shared Semantic IDs (see `shared_numbers`)."""
    if isinstance(experiment.policy, Baseline):
        return fitted_baseline(experiment.policy, corpus), None
    semantic_ids = load_semantic_ids(corpus, parents)
    trained = parents[experiment.stages[-2]]  # the stage before evaluation
    policy = load_policy(experiment, semantic_ids, trained, experiment.evaluate.num_beams)
    return on_device(policy), shared_numbers(semantic_ids)


def fitted_baseline(baseline: Baseline, corpus: Corpus) -> Recommender:
    """Return a baseline that is fitted on its parts of the corpus."""
    return baseline.fit(_interactions_of(baseline, corpus), corpus.item_count)


def _interactions_of(baseline: Baseline, corpus: Corpus) -> DataFrame:
    """Return the interactions that a baseline is fitted on, sorted by user and time."""
    parts = fitted_parts(baseline)
    if parts == ("train",):
        return corpus.part("train")
    events = corpus.interactions
    return events[events["part"].isin(parts)].reset_index(drop=True)


def load_policy(experiment: Experiment, semantic_ids: SemanticIds, folder: Path, num_beams: int = 0) -> Policy:
    """Load the trained policy of an sft or align artifact in evaluation mode. `num_beams` replaces the policy's own unless it is 0."""
    return build_trained(experiment.policy, semantic_ids, folder / "policy.safetensors", num_beams)


def build_trained(specification: Any, semantic_ids: SemanticIds, weights: Path, num_beams: int = 0) -> Policy:
    """Build a policy with the weights of a safetensors file in evaluation mode; see `load_policy`."""
    policy: Policy = (replace(specification, num_beams=num_beams) if num_beams else specification).build(semantic_ids)
    load_weights(policy, weights)
    return policy


def sampler_context(corpus: Corpus, vectors: Tensor, semantic_ids: SemanticIds) -> SamplerContext:
    """Return the data that a negative sampler may read. Row 0 of each table is padding."""
    padded = torch.cat([torch.zeros(1, vectors.shape[1]), vectors])
    train, popularity = corpus.part("train"), popularity_of(corpus)
    return SamplerContext(
        corpus.item_count,
        train,
        popularity,
        padded,
        semantic_ids,
        items=corpus.items,
        own_ids=corpus.own_ids,
        histories="all" if corpus.feedback is None else corpus.feedback.histories,
    )


def training_data(corpus: Corpus, semantic_ids: SemanticIds, parents: Parents) -> SamplerContext:
    """Return the training data of an objective, with the folder of the reward model if that stage is among the parents."""
    context = sampler_context(corpus, load_file(parents["embed"] / "vectors.safetensors")["vectors"], semantic_ids)
    return context._replace(reward_model=parents.get("reward"))


def held_out_events(corpus: Corpus) -> DataFrame:
    """Return the events of validation and test, for checks that refuse them: user and item, int64."""
    events = corpus.interactions
    return events.loc[events["part"] != "train", ["user", "item"]]


def popularity_of(corpus: Corpus) -> Tensor:
    """Return the number of training events of each item, int64 [N + 1]; entry 0 is padding."""
    return torch.from_numpy(corpus.popularity("train"))


def on_device(policy: Policy) -> Policy:
    """Return the policy on the GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return cast(Policy, cast(nn.Module, policy).to(device))
