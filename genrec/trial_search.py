"""The search of a tuning: Optuna proposes trials, and stops those that are behind.

Every proposal is a function of the tuning's seed, the trial's number, the trials whose results are known and the trials that were
proposed together with it.

Sources: J. Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (2011), for the tree-structured Parzen estimator; the median
rule is that of D. Golovin et al., "Google Vizier" (2017), section 3.2, with the best score so far instead of the running average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from genrec.errors import ResourceError
from genrec.randomness import seed_of
from genrec.tuning import Choice, Distribution, IntUniform, LogUniform, Tuning
from genrec.tuning_record import Trial, comparable, setting_of

NUM_RANDOM = 4  # trials, the first one included, before the search follows the scores, and before trials are pruned
FIRST_PRUNED = 2  # validations before the first one that can stop a trial; validation 0 is before the first step
NUM_REPLACEMENTS = 1_000  # random draws in place of a proposal that was tried before
DIGITS = 3  # significant digits of a proposed number


def is_below_median(scores: Sequence[float], others: Sequence[Trial]) -> bool:
    """Return whether the best of the scores so far is below the median of the finished trials' scores at the same validation.

    False before validation `FIRST_PRUNED` (they are counted from 0), or with fewer than `NUM_RANDOM` finished trials.
    """
    optuna = _optuna()
    pruner = optuna.pruners.MedianPruner(n_startup_trials=NUM_RANDOM, n_warmup_steps=FIRST_PRUNED)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    study.add_trials([_frozen(trial, {}) for trial in others if trial.state == "finished"])
    trial = study.ask()
    for place, score in enumerate(scores):
        trial.report(score, place)
    return bool(trial.should_prune())


def propose(tuning: Tuning, known: Sequence[Trial], waiting: Sequence[Trial] = ()) -> dict[str, Any]:
    """Return the values of the next trial: random ones at first, then those of the tree-structured Parzen estimator.

    `known` are the trials whose results the proposal follows, `waiting` the later ones, which were proposed together with it: the
    estimator keeps away from their values ("constant liar").
    A proposal with the values of an earlier trial is replaced by a random one, up to NUM_REPLACEMENTS times. The estimator is not
    asked again, because in a discrete space it proposes the same values again.
    """
    optuna, trials = _optuna(), [*known, *waiting]
    tried = {setting_of(trial.values) for trial in trials}
    distributions = {key: _distribution(values) for key, values in tuning.space.items()}
    seed = seed_of(tuning.seed, "trial", len(trials)) % 2**32
    sampler = optuna.samplers.TPESampler(n_startup_trials=NUM_RANDOM, seed=seed, constant_liar=bool(waiting))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials([_frozen(trial, distributions) for trial in trials if _fits(trial, tuning)])
    found = _rounded_values(study.ask(distributions).params, tuning)
    if setting_of(found) not in tried:
        return found
    others = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    replacements = (_rounded_values(others.ask(distributions).params, tuning) for _ in range(NUM_REPLACEMENTS))
    return next((values for values in replacements if setting_of(values) not in tried), found)


def is_exhausted(tuning: Tuning, trials: Sequence[Trial]) -> bool:
    """Return whether the trials have all settings of the space. A space with `Uniform` or `LogUniform` is never exhausted."""
    counts = [
        len({*map(comparable, values.values)}) if isinstance(values, Choice) else values.high - values.low + 1
        for values in tuning.space.values()
        if isinstance(values, Choice | IntUniform)
    ]
    tried = {setting_of(trial.values) for trial in trials if _fits(trial, tuning)}
    return len(counts) == len(tuning.space) and len(tried) >= math.prod(counts)


def _frozen(trial: Trial, distributions: dict[str, Any]) -> Any:
    """Return a trial as one of Optuna, an `optuna.trial.FrozenTrial`."""
    optuna = _optuna()
    states = optuna.trial.TrialState
    state = {"finished": states.COMPLETE, "pruned": states.PRUNED, "running": states.RUNNING}.get(trial.state, states.FAIL)
    parameters = {key: trial.values[key] for key in distributions}
    scores = dict(enumerate(trial.curve.values()))
    return optuna.trial.create_trial(
        state=state, value=trial.score, params=parameters, distributions=distributions, intermediate_values=scores
    )


def _fits(trial: Trial, tuning: Tuning) -> bool:
    """Return whether all values of a trial lie in the space. The experiment as it is may have others."""
    for key, values in tuning.space.items():
        value = trial.values[key]
        if isinstance(values, Choice):
            fits = comparable(value) in map(comparable, values.values)
        else:
            kind = int if isinstance(values, IntUniform) else int | float
            fits = isinstance(value, kind) and not isinstance(value, bool) and values.low <= value <= values.high
        if not fits:
            return False
    return True


def _distribution(values: Distribution) -> Any:
    """Return the values of a key path as one of Optuna's distributions."""
    distributions = _optuna().distributions
    if isinstance(values, Choice):
        return distributions.CategoricalDistribution(values.values)
    if isinstance(values, IntUniform):
        return distributions.IntDistribution(values.low, values.high)
    return distributions.FloatDistribution(values.low, values.high, log=isinstance(values, LogUniform))


def _rounded_values(found: dict[str, Any], tuning: Tuning) -> dict[str, Any]:
    return {key: _rounded(found[key], values) for key, values in tuning.space.items()}


def _rounded(value: Any, values: Distribution) -> Any:
    """Return a proposed number with few digits, within its bounds, so that it can be read and typed."""
    if isinstance(values, Choice | IntUniform):
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), float(values.low)), float(values.high))


def check_search() -> None:
    """Raise ResourceError if Optuna is not installed."""
    _optuna()


def _optuna() -> Any:
    """Return Optuna. Raises ResourceError if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise ResourceError("genrec tune needs optuna, which is not installed: pip install 'genrec[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
