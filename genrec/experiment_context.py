"""The training data of an experiment, for the checks of `genrec.testing` on your own data."""

from __future__ import annotations

from typing import cast

from torch import nn

from genrec import pipeline
from genrec.data.corpus import Corpus
from genrec.errors import UsageError
from genrec.experiment import Experiment
from genrec.stage_inputs import load_semantic_ids, training_data
from genrec.training.sft import build_policy
from genrec.types import PolicySpecification, SamplerContext


def experiment_context(experiment: Experiment) -> SamplerContext:
    """Return what samplers, filters, rewards and item vectors read in an experiment, with an untrained policy.

    The stages data, embed and tokenize are built if they are missing. The training events and the catalog, with all columns of its
    source, are those of `genrec run`. Raises UsageError for an experiment that does not embed its items.
    """
    if "embed" not in experiment.stages:
        raise UsageError(
            f"{experiment.name} embeds no items, which the context of a sampler needs; name an experiment with Tiger(...)"
        )
    last = "tokenize" if "tokenize" in experiment.stages else "embed"
    artifacts = pipeline.run(experiment, last=last, alone=True)
    parents = {stage: artifact.folder for stage, artifact in artifacts.items()}
    corpus = Corpus.load(parents["data"])
    semantic_ids = load_semantic_ids(corpus, parents)
    context = training_data(corpus, semantic_ids, parents)
    policy = build_policy(cast(PolicySpecification, experiment.policy), semantic_ids, experiment.seed, lambda: context)
    return context._replace(policy=policy.eval().requires_grad_(False) if isinstance(policy, nn.Module) else policy)
