"""Operations on rows of items, int64 [B, n] with 0 for no item: repetitions, membership, and the best n of a row.

Candidates are ordered by score; equal scores are ordered by number. Score and number are packed into one integer key, and keys of
different numbers are never equal. The selection therefore does not depend on how `topk` treats equal values, on the device or on the
batch. The bits of a float32, read as an integer, sort like its value once the bits of negative values are inverted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.types import EventHistory, Ranking
from genrec.types.event_history import as_tensor

HIGH = 2**32  # a key is HIGH x (bits of the negated score) + number


def repeated(items: Tensor) -> Tensor:
    """Return where an item has occurred earlier in its row: int64 [B, M] -> bool [B, M]."""
    ordered, order = items.sort(dim=1, stable=True)  # stable: equal items keep their order
    repeats = torch.zeros_like(items, dtype=torch.bool)
    repeats[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return torch.zeros_like(repeats).scatter(1, order, repeats)


def contains(rows: Tensor, items: Tensor) -> Tensor:
    """Return whether each item of int64 [B, M] occurs in the same row of int64 [B, E]: bool [B, M], false for item 0."""
    if rows.shape[1] == 0:
        return torch.zeros_like(items, dtype=torch.bool)
    ordered = rows.sort(dim=1).values
    place = torch.searchsorted(ordered, items.contiguous()).clamp(max=rows.shape[1] - 1)
    return (ordered.gather(1, place) == items) & (items > 0)


def prefixes(history: Tensor, places: Tensor) -> Tensor:
    """Return the history up to and including each place, int64 [X, T], left-padded with 0.

    `history` is int64 [B, T], `places` int64 [X, 2] holds (row of `history`, place in it). An `EventHistory` gives an `EventHistory`.
    """
    row, place = places.unbind(1)
    index = aligned(history.shape[1], place)
    if isinstance(history, EventHistory):
        return as_tensor(history.at(row, index))
    return history[row.unsqueeze(1), index.clamp(min=0)].masked_fill(index < 0, 0)


def aligned(length: int, place: Tensor) -> Tensor:
    """Return the places of each prefix, int64 [X, length], that end at `place` int64 [X]; negative where the prefix has no item."""
    return torch.arange(1 - length, 1, device=place.device) + place.unsqueeze(1)


def targets_follow_history(history: Tensor, targets: Tensor) -> bool:
    """Return whether every target but each row's last one is 0 or the history's next item; int64 [B, T] both."""
    return bool(((targets[:, :-1] == 0) | (targets[:, :-1] == history[:, 1:])).all())


def last_places(history: Tensor) -> Tensor:
    """Return the last place of every row of int64 [B, T], as int64 [B, 2]: (row, T - 1)."""
    row = torch.arange(len(history), device=history.device)
    return torch.stack([row, torch.full_like(row, history.shape[1] - 1)], 1)


def best_items(scores: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
    """Return the `n` best of all items by scores float32 [X, N], column i for item i + 1; equal scores are ordered by item id.

    Items of `exclude`, int64 [X, E] (0 = none), are left out. On a CPU the rows are selected by float first, which is several times
    faster than by key; rows with equal scores at the end of the selection are selected again by key.
    """
    count = scores.shape[1]
    taken = min(count, n + (0 if exclude is None else exclude.shape[1]))
    ids = torch.arange(1, count + 1, device=scores.device)
    if scores.device.type != "cpu" or taken == count:
        key, has_nan = best(keys(scores, ids), taken)[0], scores.isnan().any(1)
    else:
        value, place = scores.topk(taken + 1)
        key, has_nan = keys(value, place + 1).sort(1).values[:, :taken], value.isnan().any(1)
        ties = (value[:, -2] == value[:, -1]).nonzero().squeeze(1)
        if len(ties):
            key[ties] = best(keys(scores[ties], ids), taken)[0]
    if exclude is not None:
        key = key.masked_fill(contains(exclude, numbers(key)), torch.iinfo(torch.int64).max)
    return ranking(key, n, has_nan)


def keys(score: Tensor, number: Tensor) -> Tensor:
    """Return sorting keys, int64, lower is better, of float32 scores and int64 numbers in 0 .. 2^31 - 1; shapes are broadcast."""
    return torch.add(number, _sortable((0.0 - score).view(torch.int32)), alpha=HIGH)  # 0 - score is never -0


def scores(key: Tensor) -> Tensor:
    """Return the scores of keys, float32."""
    return 0.0 - _sortable((key >> 32).int()).view(torch.float32)


def numbers(key: Tensor) -> Tensor:
    """Return the numbers of keys, int64."""
    return key & (HIGH - 1)


def best(key: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the best keys of each row of int64 [B, X], sorted, and their places, int64 [B, min(count, X)] each."""
    lowest = key.topk(min(count, key.shape[1]), largest=False, sorted=True)
    return lowest.values, lowest.indices


def padded_keys(key: Tensor, count: int) -> Tensor:
    """Return keys int64 [B, X] with `count` columns, at least X: the further ones are keys of number 0 with the score -inf."""
    none = keys(torch.tensor(-torch.inf, device=key.device), key.new_zeros(()))
    return torch.cat([key, none.expand(len(key), count - key.shape[1])], 1)


def ranking(key: Tensor, n: int, has_nan: Tensor) -> Ranking:
    """Return the `n` best items of each row of keys int64 [B, X].

    Lists with fewer items end in item 0 with score -inf. All scores of a row are NaN where `has_nan`, bool [B], is true.
    """
    kept = padded_keys(best(key, n)[0], n)
    score = scores(kept)
    empty = ~(score > -torch.inf)
    score = score.masked_fill(empty, -torch.inf).masked_fill(has_nan.unsqueeze(1), torch.nan)
    return Ranking(numbers(kept).masked_fill(empty, 0), score)


def sample_columns(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Sample columns int64 [B, S] by inversion, from probabilities float64 [B, S or 1, C] and uniform numbers float64 [B, S]."""
    cumulative = probabilities.cumsum(-1)
    target = uniform.reshape(*probabilities.shape[:2], -1) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target, right=True).flatten(1).clamp(max=probabilities.shape[-1] - 1)


def _sortable(bits: Tensor) -> Tensor:
    """Map the bits of a float32 to an int32 that sorts like its value; the function is its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
