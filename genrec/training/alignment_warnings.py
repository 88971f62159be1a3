"""Warnings from the curves of an alignment, in plain words, each given once.

Each class is a `genrec.training.curves.Watcher`. A resumed training passes the saved rows first, so a watcher continues as it was. The
warning about falling positives is in `genrec.objectives.curve_warnings`.
"""

from __future__ import annotations

import re

from genrec.objectives.curve_warnings import OnceAfter
from genrec.training.curves import STANDARD_ERROR, VALIDATION, Row, Watcher
from genrec.training.policy_divergence import ENTROPY, KL

CHANGE = 0.05  # relative rise or fall that counts as one
GAINED = 0.2  # share of the way to 1 by which an accuracy must rise: from 0.5 to 0.6, four standard errors of 512 pairs
VALIDATIONS = 2  # consecutive validations that must show a change, because validation users are a sample
ROWS = 3  # consecutive rows (60 steps) that must show an empty gradient, because each row averages over different examples
MIN_SHARE = 0.05  # share of groups, or of rows with a preference, below which they hardly train the policy
COLLAPSED = 0.5  # share of the entropy at step 0 below which it has collapsed
MIN_LOSS = 0.5  # nats of entropy that must be lost too, so that a policy that was certain from the start gives no warning
MAX_KL = 2.0  # nats per Semantic ID: what the policy proposes is on average exp(2) = 7.4 times as likely as under SFT

REWARD = "reward"
SIGNALS = {  # columns that an objective raises by itself -> their names in words
    REWARD: "the mean reward of the candidates",
    f"{VALIDATION}preference_accuracy": "the preference accuracy on validation pairs",
    "accuracy": "the preference accuracy in training",
}


def alignment_watchers(selected: str, has_reference: bool = True) -> tuple[Watcher, ...]:
    """Return new watchers of one alignment.

    Args:
        selected: the validation metric that selects the best step, such as ndcg@10.
        has_reference: whether a beta or kl of the objective can hold the policy near its reference; not so for the likelihood alone.

    """
    return OverOptimization(selected), NarrowedLists(), EntropyCollapse(has_reference), FarFromSft(has_reference), EmptyGroups()


class OverOptimization:
    """Warns when a reward or a preference accuracy rises after the best step, while the validation metric falls.

    A fall exceeds 5 % of the best value and, where the curves have it, the standard error over users. A reward rises by more than
    5 %. An accuracy is 0.5 where policy and reference are equal, so every alignment raises it at first, and it is at most 1: it rises
    by more than `GAINED` of the way to 1.
    """

    def __init__(self, selected: str) -> None:
        self.selected, self.once = selected, OnceAfter(VALIDATIONS)
        self.best: tuple[int, float] | None = None  # step and value of the metric
        self.start: dict[str, float] = {}  # the first value of each signal from the best step on

    def __call__(self, row: Row) -> str | None:
        """Return a warning for this row of the curves, or None."""
        metric = row.get(f"{VALIDATION}{self.selected}")
        if metric is not None and (self.best is None or metric >= self.best[1]):
            self.best, self.start = (int(row["step"]), metric), {}
        for name in SIGNALS:
            if name in row:
                self.start.setdefault(name, row[name])
        if metric is None or self.best is None:
            return None
        rising = [name for name in SIGNALS if name in row and _rose(name, self.start[name], row[name])]
        error = row.get(f"{VALIDATION}{self.selected}{STANDARD_ERROR}", 0.0)
        fell = _fell(self.best[1], metric) and self.best[1] - metric > error
        if not self.once.reached(bool(rising) and fell):
            return None
        name, (step, before) = rising[0], self.best
        return (
            f"over-optimization: from step {step} to step {int(row['step'])} {SIGNALS[name]} rose from {self.start[name]:.3f} to "
            f"{row[name]:.3f}, but {self.selected} on validation users fell from {before:.4f} to {metric:.4f}. The policy learns what "
            "the objective measures, at the cost of the lists. What to try: fewer steps (--align.keep best keeps the best); a smaller "
            "learning rate; a larger beta, or kl of a policy gradient; more likelihood beside it, --align.likelihood, or "
            "Anchored(loss, alpha) in the file; another reward"
        )


class NarrowedLists:
    """Warns when recall at 1 rises while recall at the largest cut-off falls, both relative to step 0."""

    def __init__(self) -> None:
        self.start: Row | None = None
        self.once = OnceAfter(VALIDATIONS)

    def __call__(self, row: Row) -> str | None:
        """Return a warning for this row of the curves, or None."""
        found = (re.fullmatch(VALIDATION + r"recall@(\d+)", name) for name in row)
        cutoffs = sorted(int(match[1]) for match in found if match)
        if len(cutoffs) < 2:
            return None
        self.start = self.start or row
        first, last = (f"{VALIDATION}recall@{n}" for n in (cutoffs[0], cutoffs[-1]))
        before, now = (self.start[first], self.start[last]), (row[first], row[last])
        if not self.once.reached(now[0] > (1 + CHANGE) * before[0] and _fell(before[1], now[1])):
            return None
        return (
            f"the lists narrow: by step {int(row['step'])} recall@{cutoffs[0]} rose from {before[0]:.4f} to {now[0]:.4f}, but "
            f"recall@{cutoffs[-1]} fell from {before[1]:.4f} to {now[1]:.4f} on validation users. The policy sorts the best items "
            "better and loses targets further down. What to try: fewer steps; more likelihood beside the objective; candidates from "
            "deeper in the list; select the best step by recall, Experiment.selection=Selection('recall', ...)"
        )


class EntropyCollapse:
    """Warns when the entropy of the policy on validation users has fallen below half of that at step 0."""

    def __init__(self, has_reference: bool = True) -> None:
        self.has_reference, self.once = has_reference, OnceAfter(1)
        self.start: float | None = None  # the first entropy

    def __call__(self, row: Row) -> str | None:
        """Return a warning for this row of the curves, or None."""
        now = row.get(f"{VALIDATION}{ENTROPY}")
        if now is None:
            return None
        self.start = now if self.start is None else self.start
        if not self.once.reached(now < COLLAPSED * self.start and self.start - now > MIN_LOSS):
            return None
        return (
            f"entropy collapse: by step {int(row['step'])} the entropy of the policy on validation users fell from {self.start:.2f} "
            f"to {now:.2f} nats per Semantic ID. Its probability goes to few items, so rollouts repeat and lists lose variety. What "
            "to try: fewer steps or a smaller learning rate"
            f"{'; a larger beta or kl; a likelihood beside the objective' if self.has_reference else ''}"
        )


class FarFromSft:
    """Warns when the KL divergence from the SFT policy exceeds `MAX_KL`."""

    def __init__(self, has_reference: bool = True) -> None:
        self.has_reference, self.once = has_reference, OnceAfter(1)

    def __call__(self, row: Row) -> str | None:
        """Return a warning for this row of the curves, or None."""
        now = row.get(f"{VALIDATION}{KL}")
        if now is None or not self.once.reached(now > MAX_KL):
            return None
        return (
            f"the policy is far from SFT: by step {int(row['step'])} its KL divergence from the SFT policy is {now:.2f} nats per "
            f"Semantic ID on validation users, above {MAX_KL:g}. {self._advice()}"
        )

    def _advice(self) -> str:
        if not self.has_reference:
            return "The likelihood alone is bound to no reference. What to try: a smaller learning rate or fewer steps"
        return (
            "A reference that is refreshed, or the policy of the stage before, does not bound it. What to try: a larger beta or kl; "
            "--align.reference sft; refresh the reference less often; fewer steps"
        )


class EmptyGroups:
    """Warns when nearly no group has a hit, nearly no row has a preference, or nearly all groups have equal rewards."""

    def __init__(self) -> None:
        self.once = OnceAfter(ROWS)

    def __call__(self, row: Row) -> str | None:
        """Return a warning for this row of the curves, or None."""
        share = row.get("gradient_share", row.get("preference_share"))
        if share is None or not self.once.reached(share < MIN_SHARE):
            return None
        if "gradient_share" not in row:
            cause = f"only {share:.1%} of the rows have a preference"
        elif row.get("hit_share", 0.0) < MIN_SHARE:
            cause = f"only {row['hit_share']:.1%} of the groups hold the target, and {share:.1%} have a gradient"
        else:
            cause = f"only {share:.1%} of the groups have a gradient, because the rewards of the others are equal"
        return (
            f"hardly any gradient from the candidates: by step {int(row['step'])} {cause}. The others train the policy by the "
            "likelihood alone, or not at all if it is 0. What to try: more candidates or beams; a longer SFT; a reward that also "
            "tells other items apart; include_target or history items among the candidates"
        )


def _rose(signal: str, before: float, now: float) -> bool:
    """Return whether a reward has risen by 5 %, or an accuracy by a fifth of the way to 1."""
    return now - before > (CHANGE * abs(before) if signal == REWARD else GAINED * (1 - before))


def _fell(before: float, now: float) -> bool:
    return now < (1 - CHANGE) * before
