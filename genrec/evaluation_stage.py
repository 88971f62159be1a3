"""The stage evaluate: rank the test items, and count what the trainings before it have drawn of them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from genrec.data.corpus import Corpus
from genrec.data.examples import examples
from genrec.data.held_out_feedback import held_out_items
from genrec.data.splits import PARTS
from genrec.errors import counted
from genrec.evaluation.cold_metrics import cold_only_metrics
from genrec.evaluation.cold_quota import with_cold_quota
from genrec.evaluation.cold_ranking import evaluate_unseen
from genrec.evaluation.comparison.held_out_negatives import held_out_negatives
from genrec.evaluation.comparison.held_out_preferred import held_out_preferred
from genrec.evaluation.comparison.missing_negatives import missing_share
from genrec.evaluation.comparison.preference_shares import preference_share
from genrec.evaluation.comparison.reward_model_notes import reward_model_metrics
from genrec.evaluation.evaluate import evaluate, metrics_of
from genrec.evaluation.feedback_metrics import user_counts
from genrec.evaluation.measurement import evaluated_of, measure, with_users
from genrec.experiment import Experiment
from genrec.model.unconstrained_sampling import greedy_items
from genrec.objectives import Preference
from genrec.plugin_source import components
from genrec.policy_modules import device_of
from genrec.preference.candidates import Sampled
from genrec.progress import say
from genrec.stage_inputs import Parents, load_recommender, load_semantic_ids, popularity_of
from genrec.stage_names import align_stage, kind_of_stage
from genrec.store import write_json
from genrec.training.user_batches import batches, select_users
from genrec.training.validation import seen_items
from genrec.training.validation_feedback import disliked_without_target, users_without_target
from genrec.types import DecodingPolicy, Objective
from genrec.types.event_history import inputs_of


def build_evaluate(experiment: Experiment, parents: Parents, folder: Path) -> None:
    """Rank the test items with the policy or the baseline; write ranks, lists, metrics per user and their means.

    If some test items do not occur in training, their ranks among the unseen items alone are written too.
    """
    corpus = Corpus.load(parents["data"])
    spec, popularity = experiment.evaluate, popularity_of(corpus)
    recommender, shared = load_recommender(experiment, corpus, parents)
    if "sft" not in experiment.stages:
        spec = replace(spec, scoring="beam")  # `recommend` of a baseline is exact: it prunes nothing
    inputs = inputs_of(experiment.policy)
    tested = examples(corpus, "test", experiment.history_length, inputs=inputs)
    test = batches(select_users(tested, spec.max_users, "test"), spec.batch_size, device_of(recommender))
    seen_before = seen_items(corpus)
    seen = seen_before if spec.filter_seen else None
    quota = spec.cold_quota if "sft" in experiment.stages else None
    ranker = with_cold_quota(recommender, load_semantic_ids(corpus, parents), popularity, quota)
    result = evaluate(ranker, test, spec, seen, shared, corpus.own_ids)
    if result.excluded_targets:
        say(f"evaluate: {counted(result.excluded_targets, 'user')} had already taken the target; filter_seen counts this as a miss")
    result.ranks.to_parquet(folder / "ranks.parquet", index=False)
    result.recommendations.to_parquet(folder / "recommendations.parquet", index=False)
    metrics = metrics_of(result.ranks, result.recommendations, spec.cutoffs, corpus.item_count, popularity)
    if "cold_users" in metrics:
        cold = evaluate_unseen(recommender, test, spec, popularity, seen, shared, corpus.own_ids)
        cold.to_parquet(folder / "cold.parquet", index=False)
        metrics |= cold_only_metrics(cold, spec.cutoffs)
    metrics |= _held_out_shares(corpus, parents) | _preference_share(parents) | reward_model_metrics(parents.get("reward"))
    metrics |= _missing_share(experiment, parents)
    metrics["excluded_targets"] = float(result.excluded_targets)
    evaluated = evaluated_of(
        result,
        spec,
        popularity,
        lambda: corpus.part("train"),
        corpus.items,
        recommender,
        test,
        seen_before,
        shared,
        partial(greedy_items, recommender) if isinstance(recommender, DecodingPolicy) else None,
        held_out_items(corpus, "test"),
    )
    measured = measure(evaluated, spec.metrics, list(metrics))
    further = users_without_target(corpus, "test", experiment.history_length, len(tested), spec.max_users, inputs)
    disliked = disliked_without_target(ranker, corpus, "test", further, spec, seen)
    measured = measured if disliked is None else with_users(measured, *disliked)
    metrics |= user_counts(measured.counts)
    measured.per_user.to_parquet(folder / "user_metrics.parquet", index=False)
    write_json(folder / "user_counts.json", measured.counts)
    write_json(folder / "metrics.json", metrics | measured.means)


def _held_out_shares(corpus: Corpus, parents: Parents) -> dict[str, float]:
    """Return how many negatives and preferred items were held-out items of their users; empty without such counts."""
    drawn, preferred = (_counts(parents, name) for name in ("drawn_negatives.parquet", "preferred_items.parquet"))
    if drawn is None and preferred is None:
        return {}
    train, validation, test = (corpus.part(part) for part in PARTS)
    shares = {} if drawn is None else held_out_negatives(drawn, train, validation, test, corpus.item_count)
    return shares if preferred is None else shares | held_out_preferred(preferred, train, validation, test)


def _counts(parents: Parents, name: str) -> pd.DataFrame | None:
    """Return the counts by user and item of all alignments and of the reward model, columns user, item and count; None without any."""
    files = [parents[stage] / name for stage in parents if kind_of_stage(stage) in ("align", "reward")]
    found = [pd.read_parquet(file) for file in files if file.is_file()]
    return pd.concat(found).groupby(["user", "item"], as_index=False).sum() if found else None


def _preference_share(parents: Parents) -> dict[str, float]:
    """Return the share of rows of the last alignment that gave a preference; empty if there is none, or all rows did."""
    aligned = [stage for stage in parents if kind_of_stage(stage) == "align"]
    return preference_share(pd.read_parquet(parents[aligned[-1]] / "curves.parquet")) if aligned else {}


def _missing_share(experiment: Experiment, parents: Parents) -> dict[str, float]:
    """Return the share of requested negatives that alignments with a sampler could not draw; empty if there is none."""
    stages = [align_stage(place) for place, each in enumerate(experiment.alignments) if _is_sampled(each.objective)]
    files = [parents[stage] / "negatives.json" for stage in stages]
    return missing_share([json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()])


def _is_sampled(objective: Objective) -> bool:
    """Return whether a sampler gives the negatives of all preferences of an objective, so that an empty place was asked for."""
    found = [each for each in (objective, *components(objective)) if isinstance(each, Preference)]
    return bool(found) and all(isinstance(each.candidates, Sampled) for each in found)
