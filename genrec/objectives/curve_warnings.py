"""Warnings from the curves of a preference objective: it lowers the probability of the positives, or its loss is saturated.

Warnings of every alignment are in `genrec.training.alignment_warnings`.
"""

from __future__ import annotations

Row = dict[str, float]  # a row of the training curves

MAX_FALL = 1.0  # nats per Semantic ID: at 1 nat the positive has lost 1 - 1/e = 63 % of its probability (geometric mean)
CONSECUTIVE_ROWS = 2  # rows (40 steps) that must show the fall, because each row averages over different examples

ADVICE = (
    "What to try: add an anchor on the positive, --align.likelihood 1, or Anchored(loss, alpha) in the file; use a smaller learning "
    "rate, --align.optimization.learning-rate; use a larger beta, which keeps the policy closer to the reference; train for fewer "
    "steps, --align.optimization.max-steps; use easier or different negatives. The control --align.objective Supervised shows the "
    "effect of the same steps without negatives."
)


MAX_GAP = 5.0  # mean implicit reward of the positives minus that of the negatives: the gradient of a pair is then s(-5) = 0.7 %
SATURATED_ACCURACY = 0.95  # share of pairs in the right order that a saturated loss has too, so that no few pairs make the mean


class OnceAfter:
    """Detect once that a condition has held for a number of consecutive rows."""

    def __init__(self, rows: int) -> None:
        self.rows, self.held, self.told = rows, 0, False

    def reached(self, holds: bool) -> bool:
        """Return whether the condition has now held for the number of rows, for the first time."""
        self.held = self.held + 1 if holds else 0
        if self.told or self.held < self.rows:
            return False
        self.told = True
        return True


class SaturatedLoss:
    """Warn when the implicit rewards are so far apart that a logistic or softmax loss has nearly no gradient."""

    def __init__(self) -> None:
        self.once = OnceAfter(CONSECUTIVE_ROWS)

    def __call__(self, row: Row) -> str | None:
        """Return a warning for this row of the curves, or None."""
        if "chosen_reward" not in row or "accuracy" not in row:
            return None
        gap = row["chosen_reward"] - row["rejected_reward"]
        if not self.once.reached(gap > MAX_GAP and row["accuracy"] > SATURATED_ACCURACY):
            return None
        return (
            f"the preference loss is saturated: by step {int(row['step'])} {row['accuracy']:.1%} of the pairs are in the right order, "
            f"and the mean reward of the positives is {gap:.1f} above that of the negatives. A pair has less than 1 % of the gradient "
            "that it can have, so further steps hardly learn from these negatives. What to try: harder or refreshed negatives; fewer "
            "steps; a smaller beta"
        )


class FallingPositives:
    """Warn once when the log-probability of the positives falls by more than `MAX_FALL` (a `genrec.training.curves.Watcher`).

    The log-probability is compared with its value before the first preference step, not with the reference: the drift
    (log-ratio to the reference) restarts at 0 whenever the reference is refreshed. The value before is
    `chosen_log_prob - chosen_drift` of the first row that has both. The reference then still is the policy from before the first
    preference step, and the examples are the same. Rows without these columns (validation at step 0, SFT steps) are skipped.

    With `dropout` the policy trains with dropout, which the reference never has. Dropout alone may lower log-probabilities by more
    than `MAX_FALL`, so the value before is `chosen_log_prob` of the first row. What falls within that row is not counted.
    """

    def __init__(self, dropout: bool = False) -> None:
        self.dropout = dropout
        self.start: tuple[float, float] | None = None  # log-probabilities before preference steps: positive, mean negative
        self.low_rows = 0  # consecutive rows below the limit
        self.warned = False

    def __call__(self, row: Row) -> str | None:
        """Return a warning for this row of the curves, or None."""
        if "chosen_log_prob" not in row or "chosen_drift" not in row:
            return None
        chosen, rejected = row["chosen_log_prob"], row["rejected_log_prob"]
        if self.start is None:
            before = (chosen - row["chosen_drift"], rejected - row["rejected_drift"])
            self.start = (chosen, rejected) if self.dropout else before
        self.low_rows = self.low_rows + 1 if self.start[0] - chosen > MAX_FALL else 0
        if self.warned or self.low_rows < CONSECUTIVE_ROWS:
            return None
        self.warned = True
        return _message(int(row["step"]), self.start, (chosen, rejected))


def _message(step: int, start: tuple[float, float], now: tuple[float, float]) -> str:
    """Return the warning; `start` and `now` are log-probabilities of the positive and the mean negative."""
    falls = start[0] - now[0], start[1] - now[1]
    moved = "fell" if falls[1] >= 0 else "rose"
    return (
        f"alignment lowers the probability of the positives: by step {step} their log-probability fell by {falls[0]:.2f} "
        f"nats per Semantic ID ({start[0]:.2f} -> {now[0]:.2f}), that of the negatives {moved} by {abs(falls[1]):.2f} "
        f"({start[1]:.2f} -> {now[1]:.2f}). {_margin(start[0] - start[1], now[0] - now[1], falls[1] >= 0)} {ADVICE}"
    )


def _margin(before: float, after: float, both_fell: bool) -> str:
    """Describe the change of the margin, the log-probability of the positive minus that of the negatives, and its meaning."""
    change = f"by {abs(after - before):.2f} ({before:.2f} -> {after:.2f})"
    if f"{before:.2f}" == f"{after:.2f}":
        return f"The margin between them stayed at {after:.2f}: both fall alike, which does not reduce a preference loss."
    if after > before:  # the positives fell, so the negatives fell further
        return (
            f"The margin between them grew {change} while both fell: a preference loss depends only on their difference, and the lost "
            "probability goes to items that no user chose."
        )
    cause = "the positives fell further than the negatives" if both_fell else "the positives fell and the negatives rose"
    return f"The margin between them shrank {change}, because {cause}: training moves against the loss, so its steps may be too large."
