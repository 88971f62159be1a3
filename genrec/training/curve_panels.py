"""The panels of the pictures of training curves: which columns share a plot, its title, labels and smallest range.

A y axis never shows less than its `span` or its `range`, so that noise does not fill a panel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from genrec.objectives.column_parts import without_part
from genrec.training.curves import STANDARD_ERROR, VALIDATION

NATS = "nats per Semantic ID"
SHARES = (0.0, 1.0)  # range of shares, percentiles and cosines


class Axis(NamedTuple):
    """A y axis and its columns."""

    label: str  # with the unit
    names: str  # regular expression that matches the columns
    span: float = 0.0  # smallest height, in units of the axis
    range: tuple[float, float] | None = None  # always visible


class Panel(NamedTuple):
    """Columns that share a plot."""

    title: str
    left: Axis
    right: Axis | None = None  # a second y axis, for another unit; its curves are dashed


class Shown(NamedTuple):
    """A panel with the columns to plot."""

    panel: Panel
    left: list[str]
    right: list[str]

    @property
    def names(self) -> list[str]:
        """The columns of both axes."""
        return self.left + self.right


LOSS, SFT_LOSS, TOKENIZER_LOSS = (
    Panel("Training loss (lower is better)", Axis(label, "(sft_)?loss", span=0.1))
    for label in ("mean over examples", "mean over codes, nats", "squared errors per item")
)
RANKING = Panel(
    "Ranking quality on validation users (higher is better)",
    Axis("NDCG, mean over users", VALIDATION + r"ndcg@\d+(_\w+)?", span=0.02),
)
PREFERENCE = Panel(
    "Is the user's item preferred to the negatives?",
    Axis(f"margin, {NATS}", f"({VALIDATION})?margin", span=0.1),
    Axis("accuracy, share of pairs or users", f"accuracy(_all)?|{VALIDATION}(preference|likelihood)_accuracy", range=SHARES),
)
PROBABILITY = Panel(
    "Log-probability of the user's item and of the negatives",
    Axis(NATS, f"(chosen|rejected)_log_prob|{VALIDATION}chosen_log_prob", span=1.0),
)
REWARD = Panel(
    "Reward of the candidates: does it rise while validation falls?",
    Axis("reward, mean over candidates", f"({VALIDATION})?reward", span=0.01),
)
RECALL = Panel(
    "Recall at 1 and further down, on validation users (higher is better)",
    Axis("recall@1, share of users", VALIDATION + r"recall@1(_\w+)?", span=0.02),
    Axis("recall at other cut-offs", VALIDATION + r"recall@(?!1(_|$))\d+(_\w+)?", span=0.02),
)
SPREAD = Panel(
    "Spread of the policy, and distance to SFT, on validation users",
    Axis(f"entropy, {NATS}", VALIDATION + "user_entropy", span=1.0),
    Axis(f"KL divergence, {NATS}", VALIDATION + "kl_to_sft", span=0.01),
)
GROUPS = Panel(
    "What trains the policy",
    Axis("share of groups, rows or candidates", "(hit|gradient|clip|preference)_share|no_hit_gradient", range=SHARES),
)
SCHEDULES = Panel("Scheduled settings", Axis("value in force", r"scheduled_[\w.]+"))
NEGATIVES = Panel(
    "What was drawn as negatives",
    Axis("share, percentile or cosine", "drawn_(popularity|cosine|shortfall)", range=SHARES),
    Axis("codes shared with the user's item", "drawn_depth", range=(0.0, 1.0)),
)
TOKENIZER_ERROR = Panel(
    "What the codes lose (lower is better)",
    Axis("share of the variance, or of the items", "reconstruction|collided", range=SHARES),
)
TOKENIZER_TERMS = Panel(
    "Terms of LETTER, without their weights (lower is better)",
    Axis("alignment, nats per item", "alignment", span=0.1),
    Axis("diversity, nats per item, sum over levels", "diversity", span=0.1),
)
USAGE = Panel("Codes in use, by level", Axis("share of the codes", r"usage_level_\d+", range=SHARES))

DEFAULT = {  # stage -> the panels of its picture
    "align": (RANKING, REWARD, RECALL, SPREAD, PREFERENCE, PROBABILITY, GROUPS, NEGATIVES, SCHEDULES),
    "sft": (SFT_LOSS, RANKING),
    "tokenize": (TOKENIZER_LOSS, TOKENIZER_ERROR, TOKENIZER_TERMS, USAGE),
}
ALL = (
    RANKING,
    REWARD,
    RECALL,
    SPREAD,
    PREFERENCE,
    PROBABILITY,
    GROUPS,
    NEGATIVES,
    SCHEDULES,
    LOSS,
    Panel("Other ranking metrics on validation", Axis("mean over users", VALIDATION + r"mrr@\d+(_\w+)?", span=0.02)),
    Panel("Change of log-probability since the reference", Axis(NATS, "(chosen|rejected)_drift", span=1.0)),
    Panel("Rewards, as the loss defines them", Axis("reward", "(chosen|rejected)_reward", span=0.1)),
    Panel("Margin by level of the Semantic ID", Axis("nats per code", r"margin_level_\d+", span=1.0)),
    Panel(
        "Spread of the policy, and distance to the reference, on training examples", Axis(NATS, VALIDATION + "(entropy|kl)", span=1.0)
    ),
    Panel("Unconstrained samples that are an item", Axis("share of samples", VALIDATION + "valid_share", range=SHARES)),
    TOKENIZER_ERROR,
    TOKENIZER_TERMS,
    USAGE,
)

LABELS = {
    "chosen_log_prob": "user's item",
    "rejected_log_prob": "negatives",
    f"{VALIDATION}chosen_log_prob": "user's item, 256 fixed examples",
    "chosen_drift": "user's item",
    "rejected_drift": "negatives",
    "chosen_reward": "user's item",
    "rejected_reward": "negatives",
    "margin": "margin, training batches",
    f"{VALIDATION}margin": "margin, validation pairs",
    "accuracy": "accuracy, training batches",
    "accuracy_all": "all pairs right, training examples",
    f"{VALIDATION}preference_accuracy": "accuracy, validation pairs",
    f"{VALIDATION}likelihood_accuracy": "user's item more likely, validation pairs",
    f"{VALIDATION}user_entropy": "entropy",
    f"{VALIDATION}kl_to_sft": "KL divergence from SFT",
    "reward": "candidates, training batches",
    f"{VALIDATION}reward": "first 10 items, validation users",
    "hit_share": "groups with a hit",
    "gradient_share": "groups with a gradient",
    "no_hit_gradient": "gradient of groups without a hit",
    "clip_share": "clipped candidates",
    "preference_share": "rows with a preference",
    "drawn_popularity": "popularity, percentile",
    "drawn_cosine": "similarity to the user's item, cosine",
    "drawn_shortfall": "negatives that were not found, share",
    "drawn_depth": "shared codes",
    "reconstruction": "reconstruction error",
    "collided": "items with the codes of another item",
}
FILTERED = "_filter_seen"  # suffix of metrics of lists without seen items


def label(name: str) -> str:
    """Return the name of a column in a legend. That of one of several objectives ends in its number."""
    name, part = without_part(name)
    if part is not None:
        return f"{label(name)}, objective {part}"
    words = name.removeprefix(VALIDATION).replace("@10_", "@10, ").replace("_", " ")
    if name.endswith(FILTERED):
        words = f"{name.removeprefix(VALIDATION).removesuffix(FILTERED)}, seen items filtered"
    return LABELS.get(name, words)


def panels(columns: Iterable[str] | Mapping[str, object], stage: str = "", everything: bool = False) -> list[Shown]:
    """Return the panels with columns to plot: those of the stage, or all of them.

    Of an unknown stage, and with `everything`, a column that no panel names gets a panel of its own. Columns of several objectives
    (`margin_part_2`) stand where their name does, in place of the mean over the objectives.
    """
    of_objectives = {base for base, part in map(without_part, columns) if part is not None}
    left = [name for name in columns if name not in ("step", "epoch", *of_objectives) and not name.endswith(STANDARD_ERROR)]
    shown: list[Shown] = []
    complete = everything or stage not in DEFAULT
    for panel in ALL if complete else DEFAULT[stage]:
        on_right = [name for name in left if panel.right is not None and _matches(panel.right, name)]
        found = Shown(panel, [name for name in left if _matches(panel.left, name)], on_right)
        if found.names:
            shown.append(found)
        left = [name for name in left if name not in found.names]
    if shown and not complete:
        return shown
    return shown + [Shown(Panel(name, Axis("", re.escape(name))), [name], []) for name in left]


def _matches(axis: Axis, name: str) -> bool:
    """Return whether a column stands on an axis; the number of an objective does not matter."""
    return re.fullmatch(axis.names, without_part(name)[0]) is not None
