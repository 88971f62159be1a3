"""Former names of modules, classes and fields. Files that still use them fail with a message that gives the present name."""

from __future__ import annotations

import re
from collections.abc import Mapping

from genrec.former_modules import MODULES

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
