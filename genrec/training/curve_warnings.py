"""Stage 5, what watches the curves of an alignment, so that a person need not: rows in, words out."""

from __future__ import annotations

from genrec.training.curves import Row

FALL = 1.0  # nats a Semantic ID: the positive has lost 1 - 1/e = 63% of its probability, in the geometric mean
ROWS = 2  # rows in a row (40 steps) that must show it, since a row's mean is over other examples than the one before

REMEDIES = (
    "What helps: an anchor on the positive, align.loss = Anchored(loss, alpha); a smaller learning rate, or a larger beta, which "
    "allows less drift; fewer steps; easier or other negatives. align.loss = ContinuedSFT(), the control without negatives, says "
    "what the same steps are worth."
)


class FallingPositives:
    """A `genrec.training.curves.Watcher`: says once, in words, when alignment takes probability from the positives.

    What is compared is the positive's log-probability, not its drift, which starts at 0 again whenever the reference is refreshed.
    Before the first step of preferences it was `chosen_log_prob - chosen_drift` of the first row that has them: the reference is the
    policy as it was then, the SFT policy or, in self-play, that of the first round's SFT, and these are the same examples. Rows
    without these names (validation at step 0, steps of SFT) are passed over.
    """

    def __init__(self) -> None:
        self.start: tuple[float, float] | None = None  # log-probabilities before preferences, of the positive and the mean negative
        self.rows = 0  # rows in a row that lie too low
        self.said = False

    def __call__(self, row: Row) -> str | None:
        """A row of the curves -> what to say, or None."""
        if "chosen_log_prob" not in row or "chosen_drift" not in row:
            return None
        chosen, rejected = row["chosen_log_prob"], row["rejected_log_prob"]
        if self.start is None:
            self.start = (chosen - row["chosen_drift"], rejected - row["rejected_drift"])
        self.rows = self.rows + 1 if self.start[0] - chosen > FALL else 0
        if self.said or self.rows < ROWS:
            return None
        self.said = True
        return self._words(int(row["step"]), chosen, rejected)

    def _words(self, step: int, chosen: float, rejected: float) -> str:
        assert self.start is not None
        before, other = self.start
        return (
            f"alignment takes probability from the positives: by step {step} their log-probability fell by {before - chosen:.2f} nats "
            f"a Semantic ID ({before:.2f} -> {chosen:.2f}), the negatives' by {other - rejected:.2f} ({other:.2f} -> {rejected:.2f}). "
            "A preference loss sees only the difference of the two: the margin grows while both fall, and what they lose goes to "
            f"items that nobody chose. {REMEDIES}"
        )
