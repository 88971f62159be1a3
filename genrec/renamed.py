"""Former names of modules, classes and fields. Files that still use them fail with a message that gives the present name."""

from __future__ import annotations

import re
from collections.abc import Mapping

_RECIPE = {
    "steps": "optimization.max_steps",
    "batch": "optimization.batch_size",
    "learning_rate": "optimization.learning_rate",
    "warmup": "optimization.warmup_steps",
    "weight_decay": "optimization.weight_decay",
    "clip": "optimization.max_grad_norm",
    "precision": "optimization.precision",
    "validate_every": "validation.every",
    "patience": "validation.patience",
    "validation_users": "validation.users",
}
FIELDS: dict[str, dict[str, str]] = {  # class -> former field -> present path, below the component that held the former field
    "SFT": _RECIPE | {"targets": "objective.targets", "padding": "objective.padding"},
    "Align": _RECIPE
    | {
        "loss": "objective.loss",
        "negatives": "objective.candidates.negatives",
        "num_negatives": "objective.candidates.num_negatives",
        "count": "objective.candidates.num_negatives",
        "normalise": "normalize",
        "rounds": "refresh_reference",
    },
    "Evaluate": {"beams": "num_beams", "users": "max_users", "batch": "batch_size"},
    "Tiger": {
        "width": "d_model",
        "inner": "d_ff",
        "heads": "num_heads",
        "head_width": "d_kv",
        "encoder_layers": "num_encoder_layers",
        "decoder_layers": "num_decoder_layers",
        "positions": "recency_positions",
        "beams": "num_beams",
    },
    "Gpt": {
        "width": "d_model",
        "inner": "d_ff",
        "heads": "num_heads",
        "head_width": "d_kv",
        "layers": "num_layers",
        "positions": "recency_positions",
        "beams": "num_beams",
    },
    "SASRec": {"width": "d_model", "inner": "d_ff", "layers": "num_layers", "heads": "num_heads", "positions": "max_positions"},
    "ItemKNN": {"neighbours": "num_neighbors", "last": "max_history"},
    "Archive": {"addresses": "urls"},
    "LeaveOneOut": {"minimum_rating": "min_rating"},
    "GlobalTemporal": {"minimum_rating": "min_rating"},
    "AmazonReviews2014": {"tolerated": "max_bad_rows"},
    "AmazonReviews2018": {"tolerated": "max_bad_rows"},
    "AmazonReviews2023": {"tolerated": "max_bad_rows"},
    "MovieLens": {"tolerated": "max_bad_rows", "tags": "num_tags"},
    "Frames": {"tolerated": "max_bad_rows"},
    "Cyclic": {"items": "num_items", "users": "num_users"},
    "Shop": {"items": "num_items", "users": "num_users", "shortest": "min_length", "longest": "max_length"},
    "TfidfSvd": {"width": "dim", "phrase": "max_ngram", "minimum_count": "min_df"},
    "Collaborative": {"width": "dim"},
    "Item2Vec": {"width": "dim", "negatives": "num_negatives"},
    "SentenceEncoder": {
        "normalise": "normalize",
        "width": "dim",
        "maximum_tokens": "max_seq_length",
        "batch": "batch_size",
        "chunk": "chunk_size",
    },
    "RQKMeans": {"levels": "num_levels", "codes": "codebook_size"},
    "RQVAE": {
        "levels": "num_levels",
        "codes": "codebook_size",
        "hidden": "hidden_dims",
        "latent": "latent_dim",
        "commitment": "commitment_weight",
        "batch": "batch_size",
        "codebooks": "codebook_update",
        "decay": "ema_decay",
    },
    "ProductQuantizer": {"levels": "num_levels", "codes": "codebook_size"},
    "RandomCodes": {"levels": "num_levels", "codes": "codebook_size"},
    "Tokenize": {"minimum_usage": "min_usage"},
    "Smoothed": {"epsilon": "label_smoothing"},
    "ConservativeDPO": {"epsilon": "label_smoothing"},
    "RobustDPO": {"epsilon": "label_smoothing"},
    "RosePO": {"epsilon": "label_smoothing"},
    "KTO": {"desirable": "desirable_weight", "undesirable": "undesirable_weight"},
    "FaissNeighbors": {"pool": "pool_size"},
    "ModelBeams": {"beams": "num_beams", "locked": "locked_levels"},
    "BestOf": {"candidates": "num_candidates"},
    "Disliked": {"at_most": "max_rating"},
    "NearDuplicates": {"codes": "num_codes"},
}
MOVED = {  # to another component
    ("Evaluate", "history_length"): "Experiment.history_length",
    ("Align", "round_sft"): "Rounds.steps",
    ("Align", "round_sft_steps"): "Rounds.steps",
    ("RosePO", "reward"): "Preference.reward",
    ("RecPO", "reward"): "Preference.reward",
}
_PREFERENCE = (
    "Align(objective=Preference(loss=..., candidates=Sampled(negatives=..., num_negatives=...))), with Preference from "
    "genrec.objectives and Sampled from genrec.preference.candidates"
)
_SUPERVISED = "SFT(objective=Supervised(targets=..., padding=...)), with Supervised from genrec.objectives"
_ROUNDS = (
    "Align(objective=Rounds(objectives=(Supervised(), Preference(...)), steps=(SFT steps of a round, its other steps))), with Rounds, "
    "Supervised and Preference from genrec.objectives"
)
CODE = {  # former field -> the code to write, where a new name alone does not tell it
    ("SFT", "targets"): _SUPERVISED,
    ("SFT", "padding"): _SUPERVISED,
    ("Align", "loss"): _PREFERENCE,
    ("Align", "negatives"): _PREFERENCE,
    ("Align", "num_negatives"): _PREFERENCE,
    ("Align", "count"): _PREFERENCE,
    ("Align", "rounds"): "Align(refresh_reference=steps of a round); without SFT steps in the rounds, else as for round_sft_steps",
    ("Align", "round_sft"): _ROUNDS,
    ("Align", "round_sft_steps"): _ROUNDS,
    ("RosePO", "reward"): "Preference(loss=RosePO(...), reward=...)",
    ("RecPO", "reward"): "Preference(loss=RecPO(...), reward=...)",
}
CLASSES = {
    "FaissNeighbours": "FaissNeighbors",
    "PrefixNeighbours": "PrefixNeighbors",
    "Learnt": "LearnedVectors",
    "Forbidden": "Exclusions",
    "Streams": "ExampleRandomness",
    "DrawNegatives": "Draw",
    "CatalogueQuantizer": "CatalogQuantizer",
}
FUNCTIONS = {"fetch": "download"}
METHODS = {"Exclusions": {"take": "take_allowed", "refused": "allowing_history", "elsewhere": "outside_history"}}
ATTRIBUTES = {  # protocol of a plug-in -> former attribute, which nothing reads any more -> what takes its place
    "PolicySpecification": {
        "beams": "num_beams",
        "items_are_codes": "a method check(experiment) that raises UsageError unless experiment.tokenize is None",
        "longest_history": "a method check(experiment) that compares it with experiment.history_length",
    },
    "Quantizer": {"fit_catalogue": "fit_catalog"},
    "Draw": {  # of the callable that `NegativeSampler.build` returned
        "by_example": "a field: Draw(draw=..., by_example=True)",
        "offers_history": "a field: Draw(draw=..., offers_history=True)",
        "refresh_every": "a field: Draw(draw=..., refresh=Refresh(every, unit))",
        "at": "a field: Draw(draw=..., at=...), which returns a Draw",
    },
}
MODULES = {  # modules, and members that moved to another module
    "genrec.baselines.ranking": "genrec.baselines.dense_ranking",
    "genrec.data.ahead": "genrec.data.prefetch",
    "genrec.data.arrays": "genrec.data.array_files",
    "genrec.data.batches": "genrec.data.examples",
    "genrec.data.catalogue": "genrec.data.catalog",
    "genrec.data.core": "genrec.data.k_core",
    "genrec.data.fetch": "genrec.data.download",
    "genrec.data.fetch.archives": "genrec.data.download.archives",
    "genrec.data.fetch.download": "genrec.data.download.http_download",
    "genrec.data.fetch.partial": "genrec.data.download.partial_files",
    "genrec.data.fetch.records": "genrec.data.download.file_records",
    "genrec.data.filters": "genrec.data.event_filters",
    "genrec.data.keep": "genrec.data.filtering",
    "genrec.data.log": "genrec.data.event_log",
    "genrec.data.picture": "genrec.data.data_plots",
    "genrec.data.pieces": "genrec.data.normalization",
    "genrec.data.prepare": "genrec.data.corpus_builder",
    "genrec.data.report": "genrec.data.data_report",
    "genrec.data.sources.files": "genrec.data.readers.upstream_files",
    "genrec.data.sources.ledger": "genrec.data.readers.bad_rows",
    "genrec.data.sources.logs": "genrec.data.readers.event_tables",
    "genrec.data.sources.quick": "genrec.data.readers.arrow_blocks",
    "genrec.data.sources.rows": "genrec.data.readers.line_rows",
    "genrec.data.sources.tables": "genrec.data.readers.raw_tables",
    "genrec.data.sources.text": "genrec.data.readers.item_text",
    "genrec.data.statistics": "genrec.data.corpus_statistics",
    "genrec.data.times": "genrec.data.timestamps",
    "genrec.data.worlds.common": "genrec.data.worlds.generated_log",
    "genrec.describing": "genrec.inspect_commands",
    "genrec.embeddings.checks": "genrec.embeddings.vector_checks",
    "genrec.embeddings.chunks": "genrec.embeddings.vector_chunks",
    "genrec.embeddings.contents": "genrec.embeddings.content_hashes",
    "genrec.embeddings.lacking": "genrec.embeddings.mean_fill",
    "genrec.embeddings.sentence": "genrec.embeddings.sentence_encoder",
    "genrec.embeddings.svd": "genrec.embeddings.truncated_svd",
    "genrec.evaluation.cold": "genrec.evaluation.cold_metrics",
    "genrec.evaluation.comparable": "genrec.evaluation.comparison.comparable",
    "genrec.evaluation.compared_metric": "genrec.evaluation.comparison.compared_metric",
    "genrec.evaluation.comparison_metric_tables": "genrec.evaluation.comparison.comparison_metric_tables",
    "genrec.evaluation.comparison_protocol": "genrec.evaluation.comparison.comparison_protocol",
    "genrec.evaluation.comparison_report": "genrec.evaluation.comparison.comparison_report",
    "genrec.evaluation.comparison_summary": "genrec.evaluation.comparison.comparison_summary",
    "genrec.evaluation.comparison_tables": "genrec.evaluation.comparison.comparison_tables",
    "genrec.evaluation.comparison_tests_table": "genrec.evaluation.comparison.comparison_tests_table",
    "genrec.evaluation.crossed_test": "genrec.evaluation.statistics.crossed_test",
    "genrec.evaluation.families": "genrec.evaluation.statistics.families",
    "genrec.evaluation.held_out_negatives": "genrec.evaluation.comparison.held_out_negatives",
    "genrec.evaluation.lists": "genrec.evaluation.scored_lists",
    "genrec.evaluation.paired_tests": "genrec.evaluation.statistics.paired_tests",
    "genrec.evaluation.report": "genrec.evaluation.comparison.comparison_report",
    "genrec.evaluation.run_environments": "genrec.evaluation.comparison.run_environments",
    "genrec.evaluation.seed_pairs": "genrec.evaluation.statistics.seed_pairs",
    "genrec.evaluation.significance": "genrec.evaluation.statistics.significance",
    "genrec.evaluation.table_cells": "genrec.evaluation.comparison.table_cells",
    "genrec.evaluation.terminal_table": "genrec.evaluation.comparison.terminal_table",
    "genrec.evaluation.ties": "genrec.evaluation.shared_id_ties",
    "genrec.model.branches": "genrec.model.shared_history_layers",
    "genrec.model.exact": "genrec.model.exact_search",
    "genrec.model.extension": "genrec.model.catalog_extension",
    "genrec.model.generation": "genrec.model.beam_search",
    "genrec.model.layers": "genrec.model.t5_layers",
    "genrec.model.leaves": "genrec.model.item_lists",
    "genrec.model.probe": "genrec.model.unconstrained_sampling",
    "genrec.pipeline.home": "genrec.workspace.home",
    "genrec.pipeline.store": "genrec.workspace.store",
    "genrec.preference.contract": "genrec.preference.draw_contract",
    "genrec.preference.drawn": "genrec.preference.negative_statistics",
    "genrec.preference.forbidden": "genrec.preference.exclusions",
    "genrec.preference.losses.compositions": "genrec.preference.losses.composed_losses",
    "genrec.preference.losses.scores": "genrec.preference.losses.log_ratios",
    "genrec.preference.losses.start": "genrec.preference.losses.starting_loss",
    "genrec.preference.negatives.beams": "genrec.preference.negatives.model_beams",
    "genrec.preference.negatives.chosen": "genrec.preference.negatives.selection",
    "genrec.preference.negatives.mixed": "genrec.preference.negatives.mixtures",
    "genrec.preference.negatives.neighbours": "genrec.preference.negatives.faiss_neighbors",
    "genrec.preference.negatives.simple": "genrec.preference.negatives.simple_samplers",
    "genrec.preference.negatives.successive": "genrec.preference.negatives.without_replacement",
    "genrec.preference.negatives.traits": "genrec.preference.negatives.capabilities",
    "genrec.preference.negatives.weighted": "genrec.preference.negatives.weighted_samplers",
    "genrec.preference.popularity": "genrec.preference.popularity_percentiles",
    "genrec.preference.prefixes": "genrec.preference.prefix_groups",
    "genrec.preference.ranges": "genrec.preference.range_checks",
    "genrec.preference.streams": "genrec.preference.example_randomness",
    "genrec.rows": "genrec.item_rows",
    "genrec.runs": "genrec.run_files",
    "genrec.testing.dispatch": "genrec.testing.component_checks",
    "genrec.testing.encoders": "genrec.testing.encoder_checks",
    "genrec.testing.filters": "genrec.testing.filter_checks",
    "genrec.testing.guards": "genrec.testing.plugin_watch",
    "genrec.testing.losses": "genrec.testing.loss_checks",
    "genrec.testing.policies": "genrec.testing.policy_checks",
    "genrec.testing.quantizers": "genrec.testing.quantizer_checks",
    "genrec.testing.rankings": "genrec.testing.ranking_checks",
    "genrec.testing.rewards": "genrec.testing.reward_checks",
    "genrec.testing.samplers": "genrec.testing.sampler_checks",
    "genrec.testing.sources": "genrec.testing.source_checks",
    "genrec.testing.specification": "genrec.testing.specification_checks",
    "genrec.testing.worlds": "genrec.testing.check_worlds",
    "genrec.tokenizer.balanced": "genrec.tokenizer.balanced_kmeans",
    "genrec.tokenizer.examples": "genrec.tokenizer.prefix_examples",
    "genrec.tokenizer.listed": "genrec.tokenizer.listed_codes",
    "genrec.tokenizer.picture": "genrec.tokenizer.semantic_id_plots",
    "genrec.tokenizer.product": "genrec.tokenizer.product_quantizer",
    "genrec.tokenizer.published": "genrec.tokenizer.published_ids",
    "genrec.tokenizer.report": "genrec.tokenizer.health_report",
    "genrec.tokenizer.residual": "genrec.tokenizer.residual_quantization",
    "genrec.tokenizer.transport": "genrec.tokenizer.optimal_transport",
    "genrec.training.batches": "genrec.training.batch_stream",
    "genrec.training.align.Alignment": "genrec.objectives.Preference",
    "genrec.training.align.as_module": "genrec.objectives.frozen_policy.as_module",
    "genrec.training.align.log_probs": "genrec.objectives.preferences.log_probs",
    "genrec.training.align.mismatched_items": "genrec.objectives.preferences.mismatched_items",
    "genrec.training.curve_warnings": "genrec.objectives.curve_warnings",
    "genrec.training.objective_state": "genrec.objectives.objective_state",
    "genrec.training.picture": "genrec.training.curve_plots",
    "genrec.training.plugin_errors": "genrec.plugin_errors",
    "genrec.training.plugins": "genrec.plugin_errors",
    "genrec.training.preference_logs": "genrec.objectives.preference_logs",
    "genrec.training.step_sampler": "genrec.preference.candidates.step_sampler",
    "genrec.training.tracking": "genrec.training.tensorboard_log",
    "genrec.training.validation_pairs": "genrec.objectives.validation_pairs",
    "genrec.training.watch": "genrec.objectives.curve_warnings",
}


def present_name(component: str, field: str) -> str | None:
    """Return the present name of a class's former field, or None if there was no such field."""
    return MOVED.get((component, field)) or FIELDS.get(component, {}).get(field) or METHODS.get(component, {}).get(field)


def code_for(component: str, field: str) -> str:
    """Return the code to write in place of a class's former field, after '; write ', or '' if the new name tells it."""
    code = CODE.get((component, field))
    return f"; write {code}" if code else ""


def former_attribute(protocol: str, plugin: object) -> str | None:
    """Return a sentence about a former attribute of a plug-in that implements this protocol, or None if it has none.

    A plug-in that also has the present name may use the former one for something else.
    """
    for former, present in ATTRIBUTES.get(protocol, {}).items():
        if hasattr(plugin, former) and not hasattr(plugin, present.partition("(")[0].removeprefix("a method ")):
            return f"the attribute {former!r} of a {protocol} is no longer read; it is now {present}"
    return None


def explain(error: BaseException) -> str | None:
    """Return a sentence with the present name if the error comes from a former name, else None."""
    message = str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in MODULES:
        return f"{error.name} is now {MODULES[error.name]}"
    imported = re.search(r"cannot import name '(\w+)' from '([\w.]+)'", message)
    if isinstance(error, ImportError) and imported:
        if imported[2] in MODULES:  # an empty folder of a former module is left in the checkout
            return f"{imported[2]} is now {MODULES[imported[2]]}"
        if f"{imported[2]}.{imported[1]}" in MODULES:
            return f"{imported[2]}.{imported[1]} is now {MODULES[f'{imported[2]}.{imported[1]}']}"
        name = (CLASSES | FUNCTIONS).get(imported[1])
        return f"{imported[1]} is now {name}" if name else None
    used = re.search(
        r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'|'(\w+)' object has no attribute '(\w+)'", message
    )
    if isinstance(error, TypeError | AttributeError) and used:
        component, field = used[1] or used[3], used[2] or used[4]
        name = present_name(component, field)
        if name is None:
            return None
        present = name if "." in name and name[0].isupper() else f"{component}.{name}"
        return f"{component}.{field} is now {present}{code_for(component, field)}"
    return None


def examples(configuration: Mapping[str, object], count: int = 3) -> str:
    """Return the first former key paths of a configuration with their present names, in parentheses, or '' if there are none."""
    found = []
    for path in configuration:
        parent, _, field = path.rpartition(".")
        component = str(configuration.get(f"{parent}.class", "")).rpartition(":")[2]
        name = present_name(component, field)
        if name:
            found.append(f"{path} is now {name.removeprefix('Experiment.') if name[0].isupper() else f'{parent}.{name}'}")
    return f" ({', '.join(found[:count])}{', ...' if len(found) > count else ''})" if found else ""
