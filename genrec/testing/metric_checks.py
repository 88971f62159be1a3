"""Contract checks for metrics of evaluation, and the small evaluation that they run on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from pandas import DataFrame
from torch import Tensor, nn
from torch.nn.functional import pad

from genrec.errors import InputError, UsageError
from genrec.evaluation.evaluate import Evaluate, evaluate, metrics_of
from genrec.evaluation.measurement import checked_figures, evaluated_of, shared_values
from genrec.evaluation.user_metrics import standard_metrics
from genrec.store import describe
from genrec.testing.check_worlds import sampler_context
from genrec.testing.plugin_watch import call_plugin, check_no_global_draws
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import Evaluated, EvaluationMetric, SequenceBatch
from genrec.unchanged_values import unchanged

GENRES = ("Action", "Comedy", "Drama")
BATCH_SIZE, OTHER_BATCH_SIZE = 16, 7  # users per batch, and for the check that batches do not matter


def check_metric(metric: EvaluationMetric, evaluated: Evaluated | None = None) -> None:
    """Raise ContractError if a metric breaks `genrec.types.EvaluationMetric`, on two small synthetic evaluations or on yours.

    The synthetic ones hold the lists of an untrained policy, with seen items kept and filtered; see `evaluated_world`. Checked:

    - it is a frozen dataclass with a stable description;
    - `measure` returns figures with valid names, float64 [U] or float64 [], finite or, for single users, NaN;
    - no figure has the name of a metric of every evaluation, at any cut-off;
    - a second call gives the same, and so do the same users in other batches;
    - the lists, the tables, the recommender and global random state stay unchanged.
    """
    check_specification(metric, EvaluationMetric, "measure(evaluated)")
    name = type(metric).__name__
    try:
        describe(metric, Path(), name)
    except UsageError as error:
        raise ContractError(str(error)) from None
    for each in [evaluated] if evaluated is not None else [evaluated_world(), evaluated_world(filter_seen=True)]:
        first = _measure(metric, each, check_random=False)  # imports may draw
        if not first:
            raise ContractError(f"{name}: measure returned no figure, so nothing was checked; pass data that it measures something on")
        _check_names(name, first, each)
        _check_same(
            name, first, _measure(metric, each), "a second call gives", "draw from a generator seeded by a field, keep no state"
        )
        other = replace(each, batches=_other_batches(each))
        _check_same(name, first, _measure(metric, other), "the same users in other batches give", "use evaluated.by_user")


def evaluated_world(seed: int = 0, filter_seen: bool = False) -> Evaluated:
    """Return the evaluation of an untrained policy on a small synthetic data set: 60 items, 40 users, genres, shared Semantic IDs.

    The target is each user's last item; the items before it are training data.
    """
    context = sampler_context(seed)
    table = context.interactions.assign(user=context.interactions["user"] + 1)  # users are numbered from 1
    last = ~table.duplicated("user", keep="last")
    train, targets = table[~last].reset_index(drop=True), table[last]
    policy, genres = context.policy, [GENRES[item % len(GENRES)] for item in range(context.item_count)]
    assert policy is not None
    assert context.items is not None
    taken = {user: torch.tensor(train["item"].to_numpy()[rows]) for user, rows in train.groupby("user").indices.items()}
    longest = max(map(len, taken.values()))
    histories = {user: pad(items, (longest - len(items), 0)) for user, items in taken.items()}

    def seen(users: Tensor) -> Tensor:
        return torch.stack([histories[user] for user in users.tolist()])

    user = torch.tensor(targets["user"].to_numpy())
    whole = SequenceBatch(user, seen(user), torch.tensor(targets["item"].to_numpy()))
    shared = pad(context.semantic_ids.leaf(torch.arange(1, context.item_count + 1)) + 1, (1, 0))
    popularity = torch.bincount(torch.tensor(train["item"].to_numpy()), minlength=context.item_count + 1)
    spec = Evaluate(cutoffs=(1, 5, 10), filter_seen=filter_seen)
    batches = _cut(whole, BATCH_SIZE)
    result = evaluate(policy, batches, spec, seen, shared)
    catalog = context.items.assign(genres=genres)
    return evaluated_of(result, spec, popularity, lambda: train, catalog, policy, batches, seen, shared)


def _cut(batch: SequenceBatch, size: int) -> list[SequenceBatch]:
    return [SequenceBatch(*(column[begin : begin + size] for column in batch)) for begin in range(0, len(batch.user), size)]


def _other_batches(evaluated: Evaluated) -> list[SequenceBatch]:
    """Return the users in the reverse order, in batches of another size."""
    longest = max(batch.history.shape[1] for batch in evaluated.batches)
    padded = [batch._replace(history=pad(batch.history, (longest - batch.history.shape[1], 0))) for batch in evaluated.batches]
    return _cut(SequenceBatch(*(torch.cat(column).flip(0) for column in zip(*padded, strict=True))), OTHER_BATCH_SIZE)


def _check_names(name: str, figures: dict[str, Tensor], evaluated: Evaluated) -> None:
    """Raise ContractError if a figure has a name that every evaluation uses."""
    rows, width = evaluated.items.shape
    listed = DataFrame(
        {
            "user": evaluated.user.repeat_interleave(width),
            "position": torch.arange(1, width + 1).repeat(rows),
            "item": evaluated.items.flatten(),
        }
    )
    item_count = len(evaluated.popularity) - 1
    taken = {*standard_metrics(evaluated), *metrics_of(evaluated.ranks, listed, evaluated.cutoffs, item_count, evaluated.popularity)}
    for key in figures:
        if key in taken or (key.partition("@")[0] in {each.partition("@")[0] for each in taken if "@" in each}):
            raise ContractError(f"{name}: measure returned {key!r}, the name of a metric of every evaluation; give it another name")


def _measure(metric: EvaluationMetric, evaluated: Evaluated, check_random: bool = True) -> dict[str, Tensor]:
    """Return the figures; raise ContractError if they break the contract or the call changes something.

    `check_random`: also check that global random state is unchanged.
    """
    name = type(metric).__name__
    watch = check_no_global_draws(name, "draw from your own generator, seeded by a field") if check_random else nullcontext()
    with _check_unchanged(name, evaluated), watch:
        try:
            return call_plugin(name, "measure(evaluated)", lambda: checked_figures(metric, evaluated))
        except ContractError:
            raise
        except InputError as error:
            raise ContractError(str(error)) from None


def _check_same(name: str, first: dict[str, Tensor], second: dict[str, Tensor], what: str, remedy: str) -> None:
    """Raise ContractError unless the figures are equal up to rounding."""
    if first.keys() != second.keys():
        raise ContractError(f"{name}: {what} other figures, {', '.join(second)} instead of {', '.join(first)}; {remedy}")
    for key, values in first.items():
        if not torch.allclose(values, second[key], rtol=1e-4, atol=1e-5, equal_nan=True):
            raise ContractError(f"{name}: {what} other values of {key}; {remedy}")


@contextmanager
def _check_unchanged(name: str, evaluated: Evaluated) -> Iterator[None]:
    """Raise ContractError if the body changes a tensor, a table or the recommender."""
    training = _is_training(evaluated)
    with unchanged(name, partial(_values, evaluated), "metrics", ContractError):
        yield
    if training != _is_training(evaluated):
        raise ContractError(f"{name}: evaluated.recommender was left in another mode (train or eval); leave it in eval mode")


def _values(evaluated: Evaluated) -> dict[str, Tensor | DataFrame]:
    """Return all that a metric can reach: `shared_values`, the training events, and the weights of the recommender."""
    found = {**shared_values(evaluated), "evaluated.train()": evaluated.train()}
    if evaluated.shared is not None:
        found["evaluated.shared"] = evaluated.shared
    if isinstance(evaluated.recommender, nn.Module):
        found |= {f"evaluated.recommender's {name}": tensor for name, tensor in evaluated.recommender.state_dict().items()}
    return found


def _is_training(evaluated: Evaluated) -> list[bool]:
    return [module.training for module in evaluated.recommender.modules()] if isinstance(evaluated.recommender, nn.Module) else []
