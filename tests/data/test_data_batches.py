"""Batches: one example per prefix, no item of the future in a history, padding on the left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.batches import Examples, epoch_order, examples
from genrec.data.corpus import Corpus
from genrec.data.splits import Part
from genrec.errors import InputError, UsageError


def corpus(sequences: list[list[int]], held: list[tuple[int, int]] | None = None) -> Corpus:
    """User u takes the items of sequences[u-1], of which the last held[u-1] are for (validation, test): one each by default."""
    end = np.cumsum([len(items) for items in sequences])
    validation, test = np.array([(1, 1)] * len(sequences) if held is None else held).T
    bounds = np.stack([np.append(0, end[:-1]), end - test - validation, end - test, end], axis=1)
    item = np.concatenate(sequences).astype(np.int32)
    return Corpus(Path(), item, np.arange(len(item)), None, bounds, {"items": int(item.max())})


SEQUENCES = [[1, 2, 3, 4, 5], [6, 7, 8]]


def whole(entries: Examples) -> list[tuple[int, list[int], int]]:
    batch = entries.batch(torch.arange(len(entries)))
    return [(int(u), h.tolist(), int(t)) for u, h, t in zip(*batch, strict=True)]


def test_training_has_one_example_per_prefix() -> None:
    # user 1 trains on 1, 2, 3; user 2 on 6 alone, a prefix without target
    assert whole(examples(corpus(SEQUENCES), "train", 20)) == [(1, [0, 1], 2), (1, [1, 2], 3)]


def test_validation_and_test_histories() -> None:
    assert whole(examples(corpus(SEQUENCES), "validation", 20)) == [(1, [1, 2, 3], 4), (2, [0, 0, 6], 7)]
    assert whole(examples(corpus(SEQUENCES), "test", 20)) == [(1, [1, 2, 3, 4], 5), (2, [0, 0, 6, 7], 8)]
    assert whole(examples(corpus(SEQUENCES), "test", 1)) == [(1, [4], 5), (2, [7], 8)]


def test_a_batch_is_as_long_as_its_longest_history() -> None:
    entries = examples(corpus(SEQUENCES), "test", 20)
    batch = entries.batch(torch.tensor([1]))
    assert batch.history.tolist() == [[6, 7]]
    assert all(part.dtype == torch.int64 for part in batch)
    none = entries.batch(torch.tensor([], dtype=torch.int64))
    assert none.history.shape == (0, 0)


def test_select_keeps_the_order_asked_for() -> None:
    entries = examples(corpus(SEQUENCES), "test", 20)
    chosen = entries.select(torch.tensor([1, 0, 1]))
    assert len(chosen) == 3
    assert chosen.batch(torch.arange(3)).target.tolist() == [8, 5, 8]
    assert chosen.select(torch.tensor([1])).batch(torch.arange(1)).target.tolist() == [5]


def test_a_split_in_time_gives_one_target_per_user_with_a_history() -> None:
    # user 1: two test events, only the first is a target; user 2: no validation; user 3: no history
    made = corpus([[1, 2, 3, 4], [5, 6], [7, 8]], [(1, 2), (0, 1), (0, 2)])
    assert whole(examples(made, "test", 20)) == [(1, [1, 2], 3), (2, [0, 5], 6)]
    assert whole(examples(made, "validation", 20)) == [(1, [1], 2)]
    with pytest.raises(InputError, match="'train' holds no example"):
        examples(made, "train", 20)


def test_settings_are_checked() -> None:
    with pytest.raises(UsageError, match="history_length"):
        examples(corpus(SEQUENCES), "train", 0)
    with pytest.raises(UsageError, match="a part is one of"):
        examples(corpus(SEQUENCES), "dev", 1)  # type: ignore[arg-type]


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=4, max_size=12), min_size=1, max_size=8),
    st.integers(1, 14),
    st.sampled_from(("train", "validation", "test")),
    st.randoms(use_true_random=False),
)
def test_batches_equal_slices(sequences: list[list[int]], length: int, part: Part, random: object) -> None:
    held = {"train": 2, "validation": 1, "test": 0}[part]
    expected = []
    for user, items in enumerate(sequences, 1):
        seen = items[: len(items) - held]
        places = range(1, len(seen)) if part == "train" else [len(seen) - 1]
        expected += [(user, seen[max(0, place - length) : place], seen[place]) for place in places]
    entries = examples(corpus(sequences), part, length)
    assert len(entries) == len(expected)
    order = list(range(len(entries)))
    random.shuffle(order)  # type: ignore[attr-defined]
    batch = entries.batch(torch.tensor(order))
    assert batch.history.shape[1] == max(len(history) for _, history, _ in expected)
    for row, place in enumerate(order):
        user, history, target = expected[place]
        assert (int(batch.user[row]), int(batch.target[row])) == (user, target)
        assert batch.history[row].tolist() == [0] * (batch.history.shape[1] - len(history)) + history


@given(st.lists(st.integers(4, 12), min_size=1, max_size=8))
def test_no_training_history_holds_an_item_of_the_future(lengths: list[int]) -> None:
    ends = np.cumsum(lengths)
    sequences = [list(range(end - length + 1, end + 1)) for end, length in zip(ends, lengths, strict=True)]  # items count up
    batch = (entries := examples(corpus(sequences), "train", 50)).batch(torch.arange(len(entries)))
    assert bool((batch.history < batch.target[:, None]).all())
    held_out = torch.tensor(np.concatenate([ends, ends - 1]))
    assert not torch.isin(batch.history, held_out).any()
    assert not torch.isin(batch.target, held_out).any()


def test_epoch_order_depends_on_seed_and_epoch_only() -> None:
    first = epoch_order(100, seed=1, epoch=0)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(first, epoch_order(100, seed=1, epoch=0))
    assert torch.equal(state, torch.get_rng_state())  # global state is not touched
    assert torch.equal(first.sort().values, torch.arange(100))
    assert not torch.equal(first, epoch_order(100, seed=1, epoch=1))
    assert not torch.equal(first, epoch_order(100, seed=2, epoch=0))
